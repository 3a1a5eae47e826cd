"""The latent cache holds what the encoders give, whatever interrupted its making."""

import io
import json

import pytest
import torch
from balls import ball_views, write_balls
from safetensors import safe_open
from tiny_sdxl import tiny_sdxl_folder

from instant3d import scenes
from instant3d.cli import main as cli
from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.text import encode
from instant3d.scenes import shards
from instant3d.stage1 import cache_builder
from instant3d.stage1.cache import LatentCache
from instant3d.utils.progress import Progress

pytestmark = pytest.mark.slow

WHITE = 1.0


def quiet(line):
    """Print nothing."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sdxl_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    return write_balls(tmp_path_factory.mktemp("balls"))


def contents(folder):
    """The index and all shards; their files differ in the order of the metadata."""
    found = {"index": json.loads((folder / "index.json").read_text())}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as shard:
            tensors = {name: shard.get_tensor(name).tolist() for name in shard.keys()}  # noqa: SIM118
            found[path.name] = (shard.metadata(), tensors)
    return found


def test_cache_holds_the_latents_and_embeddings_of_the_models_own_encoders(model, balls, tmp_path):
    cache_builder.build_cache([balls], model, tmp_path / "cache", batch=2, report=quiet)
    made, parts = LatentCache(tmp_path / "cache"), Components.load(model)
    assert [grid["caption"] for grid in made.grids] == ["a blue ball", "a green ball", "a red ball"]
    views = scenes.read(balls / "green", size=32).views
    over_white = views.rgb * views.alpha + WHITE * (1 - views.alpha)
    top, bottom = torch.cat([*over_white[:2]], dim=-1), torch.cat([*over_white[2:]], dim=-1)
    with torch.no_grad():
        found = parts.vae.encode(2 * torch.cat([top, bottom], dim=-2)[None] - 1).latent_dist
    item, scale = made.item(1, example_index=5), parts.vae.config.scaling_factor
    torch.testing.assert_close(item.mean, found.mean[0] * scale, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(item.std, found.std[0] * scale, atol=2e-3, rtol=2e-3)
    text = encode(parts, ["a green ball"])
    torch.testing.assert_close(item.text.tokens, text.tokens[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(item.text.pooled, text.pooled[0], atol=2e-3, rtol=2e-3)
    assert (int(item.size), int(item.example_index)) == (64, 5)


def test_cache_that_was_interrupted_ends_as_an_uninterrupted_one(model, balls, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_builder, "MAX_SHARD_ITEMS", 1)
    cache_builder.build_cache([balls], model, tmp_path / "whole", batch=1, report=quiet)

    def interrupt(line):
        if line.startswith("grids: 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_builder.build_cache([balls], model, tmp_path / "broken", batch=1, report=interrupt)
    with pytest.raises(FileNotFoundError, match="interrupted"):
        LatentCache(tmp_path / "broken")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "broken").glob("grids-*")}
    lines = []
    shown = io.StringIO()
    cache_builder.build_cache(
        [balls], model, tmp_path / "broken", batch=1, report=lines.append, progress=Progress(shown)
    )
    assert [line for line in shown.getvalue().splitlines() if " of " not in line] == [
        "instant3d: grids",
        "instant3d: texts",
    ]
    assert len(kept) == 2
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert sum(line.startswith("grids") for line in lines) == 1
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


@pytest.mark.parametrize("workers", [1, 3])
def test_cache_is_the_same_with_worker_processes(model, balls, tmp_path, workers):
    shards.write(sorted(balls.iterdir()), tmp_path / "shards", per_shard=1)
    for source in (balls, tmp_path / "shards"):
        made = []
        for count in (0, workers):
            folder = tmp_path / f"{source.name}-{count}"
            cache_builder.build_cache([source], model, folder, batch=2, workers=count, report=quiet)
            made.append(contents(folder))
        assert made[0] == made[1]


def test_cache_that_was_interrupted_is_continued_with_worker_processes(model, balls, tmp_path):
    cache_builder.build_cache([balls / "blue"], model, tmp_path / "broken", workers=2, report=quiet)
    (tmp_path / "broken" / "index.json").unlink()
    cache_builder.build_cache([balls], model, tmp_path / "broken", workers=2, report=quiet)
    made = LatentCache(tmp_path / "broken")
    assert [grid["id"] for grid in made.grids] == ["blue", "green", "red"]
    assert len(list((tmp_path / "broken").glob("grids-*"))) == 2


def test_cache_shares_embeddings_between_equal_captions_but_not_grids_between_equal_ids(model, tmp_path):
    for k, colour in enumerate([(0.9, 0.1, 0.1), (0.6, 0.0, 0.0)]):
        scenes.write(tmp_path / f"source{k}" / "ball", ball_views(colour), caption="a red ball", object_id="ball")
    cache_builder.build_cache([tmp_path / "source0", tmp_path / "source1"], model, tmp_path / "cache", report=quiet)
    made = LatentCache(tmp_path / "cache")
    assert made.index["prompts"] == ["a red ball"]
    assert [grid["id"] for grid in made.grids] == ["ball", "ball"]
    assert not torch.equal(made.item(0, 0).mean, made.item(1, 0).mean)


def test_cache_templates_are_drawn_in_turn(model, balls, tmp_path):
    cache_builder.build_cache([balls], model, tmp_path, templates=["{}", "a toy: {}"], report=quiet)
    made, parts = LatentCache(tmp_path), Components.load(model)
    wanted = encode(parts, ["a red ball", "a toy: a red ball"]).pooled
    drawn = [int((made.item(2, k).text.pooled - wanted).norm(dim=-1).argmin()) for k in range(200)]
    assert 70 < sum(drawn) < 130


def test_cache_with_word_dropout_has_a_second_prompt_of_some_of_the_words(model, balls, tmp_path):
    for name, probability in (("half", 0.5), ("all", 1.0)):
        cache_builder.build_cache([balls], model, tmp_path / name, word_dropout=probability, report=quiet)
    half, alone = LatentCache(tmp_path / "half").index, LatentCache(tmp_path / "all").index
    for grid in half["grids"]:
        whole, dropped = (half["prompts"][row] for row in grid["texts"])
        assert whole == grid["caption"]
        assert set(dropped.split()) <= set(whole.split())
    assert all(len(alone["prompts"][grid["texts"][1]].split()) == 1 for grid in alone["grids"])


def test_cache_of_shards_is_the_cache_of_scene_folders(model, balls, tmp_path):
    shards.write(sorted(balls.iterdir()), tmp_path / "shards", per_shard=2)
    for source, name in ((balls, "one"), (tmp_path / "shards", "two")):
        cache_builder.build_cache([source], model, tmp_path / name, report=quiet)
    one, two = LatentCache(tmp_path / "one"), LatentCache(tmp_path / "two")
    assert [grid["id"] for grid in one.grids] == [grid["id"] for grid in two.grids]
    for k in range(3):
        torch.testing.assert_close(one.item(k, 0).mean, two.item(k, 0).mean)


def test_cache_takes_only_the_ids_to_keep(model, balls, tmp_path):
    (tmp_path / "keep.txt").write_text("# the good ones\nred\n\nmissing\n")
    cache_builder.build_cache([balls], model, tmp_path / "cache", keep=tmp_path / "keep.txt", report=quiet)
    assert [grid["id"] for grid in LatentCache(tmp_path / "cache").grids] == ["red"]
    (tmp_path / "keep.txt").write_text("missing\n")
    with pytest.raises(FileNotFoundError, match="1 to keep"):
        cache_builder.build_cache([balls], model, tmp_path / "none", keep=tmp_path / "keep.txt", report=quiet)


def test_cache_of_another_model_is_not_continued(model, balls, tmp_path):
    cache_builder.build_cache([balls], model, tmp_path / "cache", report=quiet)
    other = tiny_sdxl_folder(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="another model"):
        cache_builder.build_cache([balls], other, tmp_path / "cache", report=quiet)


def test_cache_of_other_scenes_is_not_continued(model, balls, tmp_path):
    cache_builder.build_cache([balls / "red", balls / "blue"], model, tmp_path, report=quiet)
    with pytest.raises(ValueError, match="other scenes"):
        cache_builder.build_cache([balls / "red"], model, tmp_path, report=quiet)


def test_cache_refuses_a_scene_without_a_caption_or_with_other_views_by_name(model, tmp_path):
    views = ball_views((0.5, 0.5, 0.5))
    scenes.write(tmp_path / "mute" / "ball", views)
    with pytest.raises(ValueError, match="ball has no caption"):
        cache_builder.build_cache([tmp_path / "mute"], model, tmp_path / "cache", report=quiet)
    scenes.write(tmp_path / "turned" / "ball", views[[1, 2, 3, 0]], caption="a ball")
    with pytest.raises(ValueError, match="not the structured views"):
        cache_builder.build_cache([tmp_path / "turned"], model, tmp_path / "cache", report=quiet)


def test_cache_counts_the_captions_that_are_cut_off_and_quotes_an_end(model, tmp_path):
    views, long = ball_views((0.5, 0.5, 0.5)), " ".join(["ball"] * 2000) + " zebra"
    scenes.write(tmp_path / "scenes" / "long", views, caption=long)
    scenes.write(tmp_path / "scenes" / "short", views, caption="a ball")
    lines = []
    cache_builder.build_cache([tmp_path / "scenes"], model, tmp_path / "cache", report=lines.append)
    (note,) = [line for line in lines if line.startswith("note: ")]
    assert "1 of 2 prompts are longer" in note
    assert note.endswith("zebra'")


def test_cache_shard_cut_short_or_lost_is_named(model, balls, tmp_path):
    cache_builder.build_cache([balls], model, tmp_path, report=quiet)
    path = tmp_path / "texts-00000.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"texts-00000\.safetensors is not a whole safetensors file"):
        LatentCache(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="0 prompts"):
        LatentCache(tmp_path)
    cache_builder.build_cache([balls], model, tmp_path, report=quiet)
    assert len(LatentCache(tmp_path)) == 3


def test_cache_command_writes_a_cache_and_reports_errors_in_one_line(model, balls, tmp_path, capsys):
    words = ["cache-stage1", str(balls), "--model", str(model), "-o", str(tmp_path / "cache"), "--device", "cpu"]
    assert cli.main(words) == 0
    assert "3 grids of 64 pixels, 3 prompts" in capsys.readouterr().out
    scenes.write(tmp_path / "mute" / "ball", ball_views((0.5, 0.5, 0.5)))
    mute = ["cache-stage1", str(tmp_path / "mute"), *words[2:5], str(tmp_path / "none"), "--workers", "1"]
    assert cli.main(mute) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"instant3d: error: {tmp_path / 'mute' / 'ball'} has no caption")
    words[1] = str(tmp_path / "nowhere")
    assert cli.main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
