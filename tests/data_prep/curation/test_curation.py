"""Curation against transformers' own features, brute force, and clouds of points whose order is known."""

import json

import discs
import pytest
import torch
from torch.nn import functional as F

from data_prep.curation import duplicates, feature_store, features, labelling, ranking, scene_index, selection
from data_prep.curation.__main__ import main
from data_prep.curation.feature_store import Features
from data_prep.curation.features import ImageEncoder
from data_prep.manifests import id_lists
from data_prep.manifests.id_lists import RankedScene
from instant3d.scenes import pack
from instant3d.stage1.grid_dataset import read_keep

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "teal": (0.0, 0.5, 0.5)}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A random CLIP that sees 16 x 16 pixels, as transformers saves one."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    place = tmp_path_factory.mktemp("clip")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words, pixels = {"vocab_size": 50, "max_position_embeddings": 8}, {"image_size": 16, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPConfig(text_config={**sizes, **words}, vision_config={**sizes, **pixels}, projection_dim=12)
        CLIPModel(config).save_pretrained(place)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("scenes")
    for name, colour in COLOURS.items():
        discs.write(place, name, colour)
    return place


def extended(path, place, encoder, **more) -> Features:
    subjects, _ = scene_index.find_scenes([place])
    return features.extend(path, subjects, encoder, frames=(0, 1, 2, 3), failed=pytest.fail, **more)


def cloud(count: int, views: int = 1, width: int = 8, seed: int = 0) -> Features:
    """Unit vectors in random directions."""
    drawn = torch.randn(count, views, width, generator=torch.Generator().manual_seed(seed))
    return Features(tuple(f"o{k:03d}" for k in range(count)), F.normalize(drawn, dim=-1), {})


def words_for(points: Features, count: int, good) -> dict[str, str]:
    return {points.ids[k]: "good" if good(points.vectors[k].mean(0)) else "bad" for k in range(count)}


@pytest.mark.slow
def test_features_are_those_of_transformers_whole_clip(clip):
    from transformers import CLIPImageProcessor, CLIPModel

    pictures = torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    levels = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    pixels = CLIPImageProcessor.from_pretrained(clip)(list(levels), return_tensors="pt")
    with torch.no_grad():
        expected = F.normalize(CLIPModel.from_pretrained(clip).get_image_features(**pixels).pooler_output, dim=-1)
    torch.testing.assert_close(ImageEncoder.from_pretrained(clip)(list(pictures)), expected, atol=1e-5, rtol=0)


def test_scenes_in_folders_and_in_tars_have_equal_features(clip, folder, tmp_path):
    pack.pack([folder], tmp_path / "shards", per_shard=3)
    encoder = ImageEncoder.from_pretrained(clip)
    loose = extended(tmp_path / "a.safetensors", folder, encoder)
    packed = extended(tmp_path / "b.safetensors", tmp_path / "shards", encoder)
    assert loose.ids == packed.ids == tuple(sorted(COLOURS))
    assert torch.equal(loose.vectors, packed.vectors)
    assert loose.vectors.shape == (4, 1, 12)


@pytest.mark.slow
def test_feature_mean_of_a_scene_is_the_direction_of_its_views_mean(clip, folder, tmp_path):
    encoder = ImageEncoder.from_pretrained(clip)
    mean = extended(tmp_path / "a.safetensors", folder, encoder).vectors.float()
    each = extended(tmp_path / "b.safetensors", folder, encoder, per_view=True).vectors.float()
    assert each.shape == (4, 4, 12)
    torch.testing.assert_close(F.normalize(each.sum(1), dim=-1), mean[:, 0], atol=2e-3, rtol=0)


def test_scene_images_are_on_white_and_padded_to_squares(folder):
    subject = next(subject for subject in scene_index.find_scenes([folder])[0] if subject.id == "blue")
    pictures = subject.on_white((0, 2))
    assert pictures.shape == (2, 3, 24, 24)
    assert pictures[:, :, 0, 0].eq(1).all()
    assert pictures[0, :, 12, 12].tolist() == [0, 0, 1]


@pytest.mark.slow
def test_features_resume_after_an_interruption_with_the_same_result(clip, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "PER_PART", 2)
    monkeypatch.setattr(features, "BATCH", 1)
    whole = extended(tmp_path / "whole.safetensors", folder, ImageEncoder.from_pretrained(clip))
    seen = []

    class InterruptedEncoder(ImageEncoder):
        def __call__(self, pictures):
            if len(seen) == 3:
                raise KeyboardInterrupt
            seen.append(len(pictures))
            return super().__call__(pictures)

    with pytest.raises(KeyboardInterrupt):
        extended(tmp_path / "cut.safetensors", folder, InterruptedEncoder.from_pretrained(clip))
    assert not (tmp_path / "cut.safetensors").exists()
    seen.clear()
    again = extended(tmp_path / "cut.safetensors", folder, InterruptedEncoder.from_pretrained(clip))
    assert len(seen) == 2  # the first part, of two scenes, was kept
    assert again.ids == whole.ids
    assert torch.equal(again.vectors, whole.vectors)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_features_of_other_weights_or_other_frames_are_not_mixed(clip, folder, tmp_path):
    encoder = ImageEncoder.from_pretrained(clip)
    extended(tmp_path / "f.safetensors", folder, encoder)
    subjects, _ = scene_index.find_scenes([folder])
    with pytest.raises(ValueError, match="made with other frames"):
        features.extend(tmp_path / "f.safetensors", subjects, encoder, frames=(0,), failed=pytest.fail)
    encoder.model.visual_projection.weight.data += 1
    with pytest.raises(ValueError, match="made with other weights"):
        extended(tmp_path / "f.safetensors", folder, encoder)


def test_features_in_a_damaged_file_are_refused_in_a_sentence(tmp_path):
    cloud(3).save(tmp_path / "f.safetensors")
    data = (tmp_path / "f.safetensors").read_bytes()
    (tmp_path / "f.safetensors").write_bytes(data[:-8])
    with pytest.raises(ValueError, match="no whole file of features"):
        feature_store.load(tmp_path / "f.safetensors")
    with pytest.raises(FileNotFoundError, match="curate features"):
        feature_store.load(tmp_path / "none.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("views", [1, 3])
def test_ranking_finds_the_direction_of_the_labels(views):
    points = cloud(400, views)
    labels = words_for(points, 150, lambda mean: mean[0] > 0)
    places, trust = ranking.rank(points, labels)
    truth = dict(zip(points.ids, points.vectors.mean(1)[:, 0].tolist(), strict=True))
    fresh = [place for place in places if place.label is None]
    right = [(place.score > 0) == (truth[place.id] > 0) for place in fresh]
    assert sum(right) / len(right) > 0.85
    best, middle, worst = (sum(truth[place.id] for place in fresh[k : k + 50]) / 50 for k in (0, 100, -50 % 250))
    assert best > middle + 0.1 > worst + 0.2
    assert trust.accuracy > 0.8
    assert (trust.good + trust.bad, [place.rank for place in places]) == (150, list(range(1, 401)))


@pytest.mark.slow
def test_ranking_confidence_is_low_for_random_labels():
    points = cloud(200)
    coin = torch.randint(2, (200,), generator=torch.Generator().manual_seed(1)).tolist()
    _, trust = ranking.rank(points, {name: ("good", "bad")[coin[k]] for k, name in enumerate(points.ids)})
    assert 0.35 < trust.balanced < 0.65
    assert trust.guess == pytest.approx(max(sum(coin), 200 - sum(coin)) / 200)


@pytest.mark.slow
def test_ranking_is_reversed_when_good_and_bad_are_exchanged():
    points = cloud(60)
    labels = words_for(points, 40, lambda mean: mean[1] > 0)
    turned = {name: {"good": "bad", "bad": "good"}[word] for name, word in labels.items()}
    ahead = {place.id: place.score for place in ranking.rank(points, labels)[0]}
    back = {place.id: place.score for place in ranking.rank(points, turned)[0]}
    assert ahead == pytest.approx({name: -score for name, score in back.items()}, abs=5e-3)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({f"o{k:03d}": "good" for k in range(20)}, "only 0 scenes are labelled bad"),
        ({f"o{k:03d}": ("good", "bad", "skip", "skip")[k % 4] for k in range(16)}, "only 4 scenes are labelled good"),
        ({"elsewhere": "good", "o001": "bad"}, "'elsewhere' of the labels"),
    ],
)
def test_labels_that_do_not_suffice_are_refused(labels, words):
    with pytest.raises(ValueError, match=words):
        ranking.rank(cloud(30), labels)


@pytest.mark.parametrize(("views", "threshold"), [(1, 0.6), (2, 0.45)])
def test_duplicates_found_in_blocks_are_all_pairs(monkeypatch, views, threshold):
    monkeypatch.setattr(duplicates, "BLOCK", 7)
    points = cloud(40, views)
    cosines = torch.einsum("ivd,jvd->ijv", points.vectors, points.vectors).mean(-1)
    expected = {(i, j) for i in range(40) for j in range(i + 1, 40) if cosines[i, j] >= threshold}
    found = duplicates._pairs(points.vectors.flatten(1), views, threshold, lambda *_: None)
    assert {(i, j) for i, j, _ in found} == expected != set()
    groups = duplicates.find(points, threshold)
    gone, row = {name for group in groups for name, _, _ in group.drop}, {n: k for k, n in enumerate(points.ids)}
    left = [k for k, name in enumerate(points.ids) if name not in gone]
    assert not any((i, j) in expected for i in left for j in left)  # nobody who stays is like another
    for group in groups:
        for name, like, cosine in group.drop:
            assert like in group.keep
            assert cosine == pytest.approx(float(cosines[row[name], row[like]]), abs=1e-5)
            assert cosine >= threshold


def on_a_circle(*degrees: float) -> Features:
    angles = torch.tensor(degrees).deg2rad()
    points = torch.stack([angles.cos(), angles.sin()], -1)[:, None]
    return Features(tuple("abcdefgh"[: len(degrees)]), points, {})


def test_duplicates_do_not_join_the_ends_of_a_chain_of_small_steps():
    groups = duplicates.find(
        on_a_circle(0, 8, 15, 90), threshold=0.985
    )  # cosines of 8, 7 and 15 degrees: 0.990, 0.993, 0.966
    assert [group.record() for group in groups] == [
        {"keep": ["a", "c"], "drop": [{"id": "b", "like": "c", "cosine": 0.9925}]}
    ]


def test_duplicates_keep_the_better_ranked_else_the_first_by_id():
    points = on_a_circle(0, 1, 90)
    assert duplicates.find(points, 0.99)[0].keep == ("a",)
    assert duplicates.find(points, 0.99, {"a": -0.5, "b": 0.7})[0].keep == ("b",)


def test_duplicates_refuse_a_threshold_with_too_many_pairs(monkeypatch):
    monkeypatch.setattr(duplicates, "MAX_PAIRS", 10)
    with pytest.raises(ValueError, match="choose a threshold above"):
        duplicates.find(on_a_circle(0, 1, 2, 3, 4, 5, 6), 0.5)
    with pytest.raises(ValueError, match="a threshold is a cosine"):
        duplicates.find(on_a_circle(0, 1), 1.5)


def test_labels_are_read_as_the_page_exports_them_and_the_last_one_counts(tmp_path):
    (tmp_path / "a.txt").write_text("# mine\nx y\tgood\n\nz\tskip\nx y\tbad\n")
    (tmp_path / "a.json").write_text(
        json.dumps({"format": id_lists.LABELS_FORMAT, "labels": [["x y", "good"], ["z", "skip"], ["x y", "bad"]]})
    )
    assert (
        id_lists.read_labels(tmp_path / "a.txt")
        == id_lists.read_labels(tmp_path / "a.json")
        == {"x y": "bad", "z": "skip"}
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x good\n", "line 1 should be an id, a tab"),
        ("x\tgood\ny\tfine\n", "calls 'y' 'fine'"),
        ('{"labels": [["x", "good"]]}', "holds no labels of the kind"),
        ('{"format"', "not valid JSON"),
        ('{"format": "instant3d-labels-1", "labels": [["x", 3]]}', "holds no labels"),
    ],
)
def test_labels_that_are_invalid_are_refused_in_a_sentence(tmp_path, text, words):
    (tmp_path / "labels").write_text(text)
    with pytest.raises(ValueError, match=words):
        id_lists.read_labels(tmp_path / "labels")


def test_rankings_come_back_as_they_were_written(tmp_path):
    places = [RankedScene(1, "a", 1.5, "good"), RankedScene(2, "b", -0.25)]
    id_lists.write_ranking(tmp_path / "r.jsonl", places)
    assert id_lists.read_ranking(tmp_path / "r.jsonl") == places
    (tmp_path / "r.jsonl").write_text('{"rank": 1, "id": "a", "score": NaN}\n')
    with pytest.raises(ValueError, match="line 1 is no place"):
        id_lists.read_ranking(tmp_path / "r.jsonl")


def test_selection_never_keeps_scenes_labelled_bad_or_dropped_as_duplicates():
    places = [RankedScene(k, name, 1.0 - k, "bad" if name == "b" else None) for k, name in enumerate("abcde", start=1)]
    assert [place.id for place in selection.top(places, 2, without={"a"})] == ["c", "d"]


def test_sample_keeps_its_order_when_scenes_are_added(folder, tmp_path):
    subjects, _ = scene_index.find_scenes([folder])
    names = [subject.id for subject in labelling.sample(subjects, None)]
    discs.write(tmp_path, "violet", (0.5, 0.0, 1.0))
    more, _ = scene_index.find_scenes([folder, tmp_path])
    assert [s.id for s in labelling.sample(more, None) if s.id != "violet"] == names != sorted(names)


def test_scenes_that_cannot_be_read_are_reported_and_the_others_taken(folder, tmp_path):
    (discs.write(tmp_path, "broken") / "transforms.json").write_text("{")
    discs.write(tmp_path, "twice", object_id="red")
    discs.write(tmp_path, "line", object_id="two\nlines")
    subjects, broken = scene_index.find_scenes([folder, tmp_path])
    assert [subject.id for subject in subjects] == sorted(COLOURS)
    assert sorted(where.rpartition("/")[2] for where, _ in broken) == ["broken", "line", "twice"]


@pytest.mark.slow
def test_curation_commands_lead_from_scenes_to_a_list_that_stage_1_reads(clip, tmp_path, capsys):
    place, dark = tmp_path / "scenes", 0.3
    for k in range(8):
        discs.write(place, f"good{k}", (1.0, 0.1 * k, 0.0))
        discs.write(place, f"bad{k}", (0.0, 0.1 * k, dark))
    discs.write(place, "twin", (1.0, 0.0, 0.0))  # good0 once more
    (discs.write(place, "hurt") / "images" / "0000.png").write_bytes(b"no picture")
    out = {name: str(tmp_path / name) for name in ("f.safetensors", "labels.txt", "r.jsonl", "d.jsonl", "keep.txt")}
    run = ["features", str(place), "-o", out["f.safetensors"], "--clip", str(clip), "--threads", "1"]
    assert main(run) == 1  # one was left out
    assert "hurt" in capsys.readouterr().err
    (tmp_path / "labels.txt").write_text("".join(f"good{k}\tgood\nbad{k}\tbad\n" for k in range(6)))
    assert main(["rank", out["f.safetensors"], out["labels.txt"], "-o", out["r.jsonl"], "--top", "9"]) == 0
    assert "12 labels (6 good, 6 bad), 5-fold" in capsys.readouterr().out
    assert main(["duplicates", out["f.safetensors"], "-o", out["d.jsonl"], "--threshold", "0.9999999"]) == 0
    groups = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert [(g["keep"], [d["id"] for d in g["drop"]]) for g in groups if "twin" in str(g)] == [(["good0"], ["twin"])]
    assert main(["select", out["r.jsonl"], "-o", out["keep.txt"], "--top", "4", "--without", out["d.jsonl"]]) == 0
    kept = read_keep(out["keep.txt"])
    assert len(kept) == 4
    assert all(name.startswith("good") for name in kept)
    assert main(["select", str(tmp_path / "none.jsonl"), "-o", out["keep.txt"]]) == 2
    assert "does not exist" in capsys.readouterr().err
