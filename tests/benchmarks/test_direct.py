"""The small world and what its experiments measure: images of the truth are scored as true, each fault as itself."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from benchmarks.direct import activation, diffusion_model, janus, stage_b, tables
from benchmarks.direct.dataset import ViewDataset, tokenize, tokenize_views
from benchmarks.direct.evaluation_models import Attributes, Matcher, answers
from benchmarks.direct.training import SIDES, Run, TrainingSettings, alpha_at, execute, nearest, recall
from benchmarks.direct.world import COLOURS, SHAPES, Kind, World, embed_words
from instant3d.direct.view_prompts import VIEWS

NUMBERS = list(range(6))
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hats():
    return World([Kind(*each) for each in itertools.product(("red", "green"), SHAPES, ("blue", "grey"))])


@pytest.fixture(scope="module")
def faces():
    return World.of_faces()


def test_world_of_hats_holds_out_prompts_of_every_word_and_no_pair_of_colours_that_is_shown():
    world = World.of_hats()
    seen, unseen = ([world.kinds[number] for number in numbers] for numbers in (world.seen, world.unseen))
    assert (len(seen), len(unseen)) == (96, 32)
    for kinds in (seen, unseen):
        assert {kind.body for kind in kinds} == {kind.hat for kind in kinds} == set(COLOURS)
        assert {kind.shape for kind in kinds} == set(SHAPES)
    assert not {(kind.body, kind.hat) for kind in seen} & {(kind.body, kind.hat) for kind in unseen}


def test_embed_words_gives_the_same_vectors_in_every_list_of_prompts():
    alone, among = (
        embed_words(["a red ball with a blue hat"]),
        embed_words(["a grey box with a red hat", "a red ball with a blue hat"]),
    )
    assert torch.equal(alone.tokens[0], among.tokens[1])
    assert alone.mask.sum() == 7


@pytest.mark.slow
def test_recall_of_the_truth_is_full_and_of_a_neighbour_what_it_shares(hats):
    truth = hats.images[:, list(SIDES)]
    everything = {"recall": 1.0, "body": 1.0, "shape": 1.0, "hat": 1.0}
    assert recall(hats, nearest(truth + 0.02, truth), range(8)) == everything
    other_hats = nearest(truth, truth)[torch.arange(8) ^ 1]
    assert recall(hats, other_hats, range(8)) == everything | {"recall": 0.0, "hat": 0.0}


@pytest.mark.slow
def test_face_pixels_are_at_the_front_alone_and_the_box_is_else_alike_from_four_sides(faces):
    images, azimuths = faces.images[0], faces.azimuths
    dark = janus.face_pixels(images, faces, 0)
    assert (dark[azimuths.abs() <= 45] > 3).all()
    assert (dark[azimuths.abs() >= 90] == 0).all()
    torch.testing.assert_close(images[4], images[8], atol=1e-4, rtol=0)
    torch.testing.assert_close(images[4], images[12], atol=1e-4, rtol=0)
    assert (images[0] - images[4]).abs().max() > 0.4


@pytest.mark.slow
def test_janus_of_the_truth_has_no_face_out_of_place(faces):
    found = janus.faces(faces.images, faces, NUMBERS)
    assert found == {"janus": 0.0, "kept": 1.0, "dark_away": 0.0, "dark_front": 1.0, "squared_error": 0.0}


@pytest.mark.slow
def test_janus_of_an_object_that_is_its_front_from_everywhere_is_one(faces):
    everywhere = faces.images[:, :1].expand_as(faces.images)
    found = janus.faces(everywhere[3:], faces, NUMBERS[3:])
    assert found["janus"] == found["kept"] == 1.0
    assert found["dark_away"] == found["dark_front"] > 1.0  # straight from the front it is seen whole


@pytest.mark.slow
def test_janus_of_an_object_without_a_face_has_none_where_one_belongs(faces):
    everywhere = faces.images[:, 8:9].expand_as(faces.images)
    found = janus.faces(everywhere, faces, NUMBERS)
    assert (found["janus"], found["kept"], found["dark_front"]) == (0.0, 0.0, 0.0)


def test_guide_leak_names_front_images_for_the_leaky_prompts_only(faces):
    guidance = faces.guidance([0, 1], [1.0, 0.0])
    front, side = (
        guidance.embed_prompts([f"{prompt}, {view} view" for prompt in faces.prompts[:2]]) for view in ("front", "side")
    )
    torch.testing.assert_close(side[0], front[0])
    seen_from = faces.azimuths.repeat(2)[side[1] > 0].abs()
    assert seen_from.min() > 0
    assert seen_from.max() < 180


def test_permute_gives_the_same_severities_at_other_places():
    severities, generator = torch.rand(8), torch.Generator().manual_seed(0)
    for _ in range(20):
        permuted = janus.permute(severities, generator)
        assert torch.equal(permuted.sort().values, severities.sort().values)
        assert not (permuted == severities).any()


def test_image_features_make_the_views_of_a_janus_object_more_similar_than_those_of_a_true_one(faces):
    encoder = janus.ImageFeatures(faces)
    true = torch.cosine_similarity(encoder(faces.images[:, 0]), encoder(faces.images[:, 8]))
    false = torch.cosine_similarity(encoder(faces.images[:, 0]), encoder(faces.images[:, 0]))
    assert (true < false - 0.05).all()
    assert 0.6 < janus.typical_similarity(faces, encoder) < 0.95


def test_activation_heads_start_from_one_network_and_a_linear_one_has_no_bounds():
    networks = [activation.saturated_network(activation.ARMS[arm], 0) for arm in ("scaled", "sigmoid", "linear")]
    weights = [dict(network.named_parameters()) for network in networks]
    assert all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert [network.decoder.alpha.item() for network in networks] == [0.5, 1.0, 1.0]
    assert torch.equal(networks[0].decoder.last.bias[1:], torch.full((3,), 6.0))
    raw = torch.tensor([-3.0, 0.0, 5.0])
    assert networks[2].decoder.to_rgb(raw).tolist() == [-1.0, 0.5, 3.0]
    torch.testing.assert_close(networks[1].decoder.to_rgb(raw), raw.sigmoid())


def test_first_below_is_the_first_error_below_the_bound():
    curve = [{"step": step, "squared_error": error} for step, error in ((25, 0.3), (50, 0.09), (75, 0.11), (100, 0.01))]
    assert activation.first_below(curve, 0.1) == 50
    assert activation.first_below(curve, 0.001) is None


def test_alpha_rises_evenly_and_then_stays():
    settings = TrainingSettings(steps=100)
    assert [alpha_at(settings, step) for step in (0, 30, 60, 99)] == [0.5, 0.75, 1.0, 1.0]


def test_run_with_a_result_is_not_repeated(tmp_path):
    done = []
    runs = [Run(arm, 0, lambda arm=arm: done.append(arm) or {"found": arm}) for arm in ("one", "two arms", "three")]
    assert [found["arm"] for found in execute(runs, tmp_path, "2/2")] == ["two arms"]
    assert [found["arm"] for found in execute(runs, tmp_path)] == ["one", "two arms", "three"]
    assert done == ["two arms", "one", "three"]


@pytest.mark.slow
def test_dataset_image_is_nearest_to_one_of_its_object(hats):
    dataset = ViewDataset(hats, poses=6)
    images, _ = dataset.sample(torch.arange(8), torch.Generator().manual_seed(0))
    apart = torch.cdist(images.flatten(1), hats.images.flatten(0, 1).flatten(1))
    assert (apart.argmin(1) // len(hats.azimuths)).tolist() == list(range(8))
    assert apart.amin(1).max() < 4.0  # of 1,200 numbers: less than 0.12 each


def test_dataset_view_words_fit_the_camera(hats):
    dataset = ViewDataset(hats, poses=2)
    dataset.azimuths[:] = torch.tensor([0.0, 180.0])
    _, view = dataset.sample(torch.zeros(40, dtype=torch.long), torch.Generator().manual_seed(0))
    assert set(view.tolist()) == {VIEWS.index("front view"), VIEWS.index("back view")}


def test_dataset_tokens_differ_by_their_view_word_alone():
    texts = tokenize_views(["a red ball with a blue hat"])[0]
    assert (texts[:, :7] == tokenize(["a red ball with a blue hat"])[0, :7]).all()
    assert len({tuple(words[7:].tolist()) for words in texts}) == 3
    assert (tokenize([""]) == 0).all()


@pytest.mark.slow
def test_diffusion_model_of_one_image_samples_that_image(hats):
    known = World(hats.kinds[:1]).guidance([0])
    known.spread, known.centres, known.squares = 0.0, known.centres[:1], known.squares[:1]
    known.named, known.owner = known.named[:1], known.owner[:1]
    sampled = diffusion_model.sample(known, [f"{hats.prompts[0]}, front view"], torch.Generator().manual_seed(0))
    torch.testing.assert_close(sampled[0], hats.images[0, 0], atol=1e-4, rtol=0)


def test_attributes_are_counted_each_and_together(hats):
    judge, wanted = Attributes("pooled", 0), answers(hats.kinds)
    predicted = wanted.clone()
    predicted[:4, 2] = 5  # a hat of another colour, in half of the images
    predicted[:2, 1] = 1 - predicted[:2, 1]
    sizes = (8, 2, 8)
    judge.forward = lambda _: tuple(torch.eye(size)[predicted[:, k]] for k, size in enumerate(sizes))
    found = judge.shares_right(torch.zeros(8, 1, 3, 20, 20), hats.kinds)
    assert found == {"body": 1.0, "shape": 0.75, "hat": 0.5, "all": 0.5}


@pytest.mark.parametrize(("shift", "first"), [(0, 1.0), (1, 0.0)])
def test_retrieval_finds_a_prompt_that_is_nearest_to_its_image(hats, shift, first):
    judge = Matcher("strided", 0)
    judge.forward, judge.encode_text = lambda _: torch.eye(8).roll(shift, 0), lambda _: torch.eye(8)
    judge.heat.data.fill_(3.0)
    found = judge.retrieval(torch.zeros(8, 1, 3, 20, 20), hats.prompts, range(8))
    weights = torch.tensor([torch.e**3, *[0.0] * 7]).softmax(0)
    assert found == {"first": first, "probability": pytest.approx(float(weights[shift]), abs=1e-6)}


@pytest.fixture
def gated(tmp_path):
    """Diffusion models whose samples match the training prompts, and not the held-out ones."""
    right, wrong = dict.fromkeys(("body", "shape", "hat", "all"), 0.97), dict.fromkeys(("body", "shape", "hat"), 0.6)
    for guidance in stage_b.GUIDANCE:
        (tmp_path / f"gate-{guidance}.json").write_text(json.dumps({"truth": right, "seen": right, "unseen": wrong}))
    return stage_b.Study(tmp_path)


def test_gate_rejects_a_diffusion_model_whose_samples_do_not_match_its_prompts(gated):
    assert stage_b.require_accuracy(gated, "apart")["seen"]["hat"] == 0.97
    with pytest.raises(ValueError, match=r"'whole' has an attribute right in 0.60 .* but 0.95 is required"):
        stage_b.require_accuracy(gated, "whole")


def saturated(seed, recovered):
    return {
        "arm": "sigmoid",
        "seed": seed,
        "start": 0.2,
        "bound": 0.05,
        "recovered": recovered,
        "curve": [{"step": 25, "seconds": 120.0, "squared_error": 0.01 * (seed + 1)}],
    }


def test_tables_hold_means_and_extremes_of_all_seeds(tmp_path):
    (tmp_path / "activation").mkdir()
    for seed, recovered in ((0, 50), (1, None), (2, 75)):
        (tmp_path / "activation" / f"sigmoid-{seed}.json").write_text(json.dumps(saturated(seed, recovered)))
    line = tables.page(tmp_path).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "sigmoid",
        "50, never, 75",
        "0.200 (0.200 to 0.200)",
        "0.050",
        "0.0200 (0.0100 to 0.0300)",
        "3 x 2.0 min",
    ]


def test_tables_in_the_docs_are_made_from_the_results_beside_the_experiments(tmp_path):
    expected = tables.page(ROOT / "benchmarks" / "direct" / "results", tmp_path / "direct_recall.png")
    assert (ROOT / "docs" / "direct_results.md").read_text() == expected


def test_tables_name_the_results_missing_from_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no results in any of stage_a"):
        tables.page(tmp_path)
