"""`instant3d generate` as a user meets it: whole runs on a tiny random stage 1 and a stage 2 that answers a sphere."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sphere_network import RADIUS, sphere_network
from tiny_lora import lora_file
from tiny_sdxl import tiny_sdxl_folder

from instant3d import scenes
from instant3d.cameras import structured_cameras
from instant3d.cli import main as cli
from instant3d.nerf.asset import Asset
from instant3d.pipelines import generate
from instant3d.pipelines.generation_plan import GenerationRequest, plan
from instant3d.pipelines.text_to_3d import Sampling, TextTo3D
from instant3d.pipelines.two_stage_generator import TwoStageGenerator
from instant3d.utils import prompts, visualization

pytestmark = pytest.mark.slow

MADE = {"grid.png", "views", "mesh.glb", "triplane.safetensors", "turntable.mp4", "turntable.webp", "sheet.png"}


@pytest.fixture(autouse=True)
def small_images(monkeypatch) -> None:
    """Films and sheets of a few small images: what is tested here is not their size."""
    small(monkeypatch)


def small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("instant3d.pipelines.results.SMALLEST", 16)
    patch.setattr("instant3d.pipelines.results.LARGEST", 16)
    patch.setattr("instant3d.pipelines.results.FRAMES", 4)


@pytest.fixture(scope="module")
def stage1(tmp_path_factory) -> Path:
    return tiny_sdxl_folder(tmp_path_factory.mktemp("weights") / "stage1")


@pytest.fixture(scope="module")
def stage2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "stage2"
    sphere_network().save_pretrained(folder)
    return folder


@pytest.fixture
def make(capsys, stage1, stage2, tmp_path):
    """Runs the command into tmp_path/out, quickly; what is given comes after the usual options and beats them."""

    def run(*arguments: object, out: Path = tmp_path / "out") -> tuple[int, str, str]:
        usual = ["-o", out, "--stage1", stage1, "--stage2", stage2, "--device", "cpu"]
        usual += ["--steps", 1, "--resolution", 16, "--texture", 64]
        code = cli.main([str(argument) for argument in ["generate", *usual, *arguments]])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def hat(stage1, stage2, tmp_path_factory) -> Path:
    """What `make("a hat")` writes."""
    folder = tmp_path_factory.mktemp("hat") / "out"
    words = ["generate", "a hat", "-o", folder, "--stage1", stage1, "--stage2", stage2, "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        assert cli.main([str(word) for word in [*words, "--steps", 1, "--resolution", 16, "--texture", 64]]) == 0
    return folder


@pytest.fixture
def finished(hat, tmp_path) -> Path:
    """The output folder, in which `make("a hat")` is finished."""
    return shutil.copytree(hat, tmp_path / "out")


def listed(tmp_path, *lines: str) -> Path:
    (tmp_path / "list.txt").write_text("\n".join(lines))
    return tmp_path / "list.txt"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def errors(err: str) -> list[str]:
    return [line.removeprefix("instant3d: error: ") for line in err.splitlines() if "error:" in line]


def test_generate_writes_a_folder_of_results_and_one_line(make, tmp_path):
    code, out, err = make("a red fire hydrant", "--formats", "glb,ply", "--seed", 5)
    assert (code, out.count("\n"), errors(err)) == (0, 1, [])
    assert set(names(tmp_path / "out")) == {*MADE, "mesh.ply", "result.json"}
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["prompt"], result["seed"], result["system"]) == ("a red fire hydrant", 5, "two-stage")
    assert set(result["files"]) == {*MADE, "mesh.ply"}
    of_mesh = {"surface", "simplify", "unwrap", "texture", "write"}
    assert set(result["seconds"]) == {"load", "text", "denoise", "decode", "reconstruct", "video"} | of_mesh
    assert result["sampling"]["steps"] == 1
    vertices = Asset.load(tmp_path / "out").surface.vertices
    assert abs(np.linalg.norm(vertices, axis=1) - RADIUS).max() < 0.03  # the network's sphere


def test_generate_writes_views_as_a_scene_that_holds_the_tiles_of_the_grid(make, tmp_path):
    make("a red chair")
    grid = np.asarray(Image.open(tmp_path / "out" / "grid.png").convert("RGB")) / 255
    scene = scenes.read(tmp_path / "out" / "views")
    assert (scene.caption, len(scene.names)) == ("a red chair", 4)
    torch.testing.assert_close(scene.views.cameras.cam_to_world, structured_cameras().cam_to_world, atol=1e-5, rtol=0)
    side = len(grid) // 2
    tiles = [grid[row : row + side, column : column + side] for row in (0, side) for column in (0, side)]
    shown = scene.views.composite(1.0).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(shown, np.stack(tiles), atol=0.02)


def test_reconstruct_reads_the_views_that_generate_wrote(make, capsys, stage2, tmp_path):
    make("a red chair")
    again = tmp_path / "again"
    arguments = ["reconstruct", tmp_path / "out" / "views", "-o", again, "--weights", stage2, "--resolution", 16]
    arguments += ["--texture", 64]
    assert cli.main([str(argument) for argument in arguments]) == 0
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "out", again))
    assert second["mesh"] == first["mesh"]


def test_record_names_the_weights_by_the_hashes_of_their_files(make, stage1, stage2, tmp_path):
    import hashlib

    make("a chair")
    recorded = json.loads((tmp_path / "out" / "result.json").read_text())["weights"]
    for stage, folder in (("stage1", stage1), ("stage2", stage2)):
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.safetensors")}
        assert recorded[stage]["sha256"] == {
            name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
        }


def test_prompt_list_with_a_bad_line_lacks_only_its_folder(make, tmp_path):
    file = listed(tmp_path, "# hats", "a red hat", "a\x07bell", "", "x" * 2000, "a red hat")
    code, out, err = make("--prompts", file)
    assert code == 1
    assert names(tmp_path / "out") == ["001-a-red-hat", "004-a-red-hat"]
    assert out.count("\n") == 2
    assert [line.split(" ")[:3] for line in errors(err)] == [["list.txt", "line", "3"], ["list.txt", "line", "5"]]
    same = [(tmp_path / "out" / name / "grid.png").read_bytes() for name in names(tmp_path / "out")]
    assert same[0] == same[1]


def test_seeds_of_one_prompt_each_have_a_folder(make, tmp_path):
    assert make("a hat", "--n", 2, "--seed", 9)[0] == 0
    assert names(tmp_path / "out") == ["001-a-hat-10", "001-a-hat-9"]
    make("a hat", "--seed", 10, out=tmp_path / "alone")
    together, alone = (tmp_path / "out" / "001-a-hat-10", tmp_path / "alone")
    first, second = (np.asarray(Image.open(folder / "grid.png")).astype(int) for folder in (together, alone))
    assert abs(first - second).max() <= 3  # of 255: bfloat16 products of other batches


@pytest.mark.parametrize("arguments", [[""], ["  "], ["a\x00b", "c\x1b"], ["x" * 10_000]])
def test_generate_writes_nothing_where_no_prompt_is_valid(make, tmp_path, arguments):
    code, out, err = make(*arguments)
    assert (code, out) == (2, "")
    assert len(errors(err)) == len(arguments)
    assert names(tmp_path) == []


def test_prompt_that_is_missing_gives_an_error_that_says_how_to_give_one(make, tmp_path):
    code, _, err = make()
    assert code == 2
    assert "--prompts" in err
    code, _, err = make("--prompts", listed(tmp_path, "# nothing but remarks"))
    assert code == 2


@pytest.mark.parametrize("text", ["../../etc/passwd", "a/b", "con", "NUL", "aux.txt", "..", "赤い椅子", "C:\\x", "-rf"])
@pytest.mark.parametrize("count", [1, 2])
def test_folder_of_a_prompt_is_below_the_output_and_not_reserved_by_windows(tmp_path, text, count):
    for item in plan(prompts.from_arguments([text, "other"]), tmp_path, GenerationRequest(count=count)):
        assert item.folder.parent == tmp_path
        assert re.fullmatch(r"00[12]-[a-z0-9-]+", item.folder.name)


def test_plan_numbers_prompts_by_their_place_in_the_list_valid_or_not(tmp_path):
    broken = plan(prompts.from_arguments(["a hat", "b\x00d", "a shoe"]), tmp_path, GenerationRequest())
    mended = plan(prompts.from_arguments(["a hat", "bed", "a shoe"]), tmp_path, GenerationRequest())
    assert [item.folder for item in broken] == [mended[0].folder, mended[2].folder]


def test_resume_neither_generates_finished_assets_again_nor_loads_weights_for_them(make, finished, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    monkeypatch.setattr(TextTo3D, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    code, out, err = make("a hat")
    assert (code, out, err.count("is finished with the same settings")) == (0, "", 1)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize(
    "change",
    [
        ["--seed", 1],
        ["--steps", 2],
        ["--guidance", 2],
        ["--negative", "blue"],
        ["--resolution", 20],
        ["--start", "noise"],
        ["--sampler", "ddim"],
        ["--formats", "glb,obj"],
        ["--formats", "3mf"],
    ],
)
def test_resume_generates_an_asset_again_with_another_setting(make, finished, change):
    code, out, _ = make("a hat", *change)
    assert (code, out.count("\n")) == (0, 1)


def test_resume_generates_an_asset_again_with_a_lost_file_or_other_weights(make, finished, tmp_path):
    (finished / "mesh.glb").unlink()
    assert make("a hat")[1].count("\n") == 1
    network = sphere_network()
    network.tokens.mul_(0.99)
    network.save_pretrained(tmp_path / "other")
    assert make("a hat", "--stage2", tmp_path / "other")[1].count("\n") == 1


def test_resume_takes_the_same_weights_in_another_folder_for_the_same(make, finished, stage1, tmp_path):
    shutil.copytree(stage1, tmp_path / "copy")
    assert make("a hat", "--stage1", tmp_path / "copy")[1] == ""


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weights": {"name": "x", "sha256": "y"}}', "\x00"])
def test_resume_takes_a_record_of_another_kind_for_no_finished_asset(make, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text(content)
    assert make("a hat")[0] == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["prompt"] == "a hat"


def fails_at(monkeypatch, turn: int, error: BaseException) -> None:
    """The sheet of the `turn`-th asset cannot be written; by then its mesh, triplane and film are."""
    real, turns = visualization.write_contact_sheet, iter(range(1, 100))

    def sheet(*args, **kwargs):
        if next(turns) == turn:
            raise error
        real(*args, **kwargs)

    monkeypatch.setattr("instant3d.utils.visualization.write_contact_sheet", sheet)


def test_resume_after_an_interrupt_keeps_what_is_finished_and_continues(make, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fails_at(patch, 2, KeyboardInterrupt())
        code, out, _ = make("a hat", "a shoe", "a tie")
    assert (code, out.count("\n")) == (130, 1)
    assert names(tmp_path / "out") == ["001-a-hat"]
    code, out, err = make("a hat", "a shoe", "a tie")
    assert (code, out.count("\n"), err.count("is finished")) == (0, 2, 1)


def test_full_disk_ends_a_list_with_one_sentence_and_keeps_what_is_finished(make, tmp_path, monkeypatch):
    fails_at(monkeypatch, 2, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    code, out, err = make("a hat", "a shoe", "a tie", "--batch", 1)
    assert (code, out.count("\n")) == (1, 1)
    assert names(tmp_path / "out") == ["001-a-hat"]
    assert len(errors(err)) == 2
    assert "No space left on device" in errors(err)[0]
    assert "was not begun" in errors(err)[1]


def test_full_disk_in_a_batch_names_every_line_that_was_not_begun(make, monkeypatch):
    fails_at(monkeypatch, 2, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    _, _, err = make("a hat", "a shoe", "a tie", "a cup", "a bed", "--batch", 3)
    assert [line.count("was not begun") for line in errors(err)] == [0, 1, 1, 1]


def test_prompt_list_continues_after_an_asset_that_fails(make, tmp_path, monkeypatch):
    fails_at(monkeypatch, 1, ValueError("there is nothing to see"))
    code, out, err = make("a hat", "a shoe")
    assert (code, out.count("\n"), len(errors(err))) == (1, 1, 1)
    assert names(tmp_path / "out") == ["002-a-shoe"]


def test_debug_shows_where_an_asset_failed(make, monkeypatch):
    fails_at(monkeypatch, 1, ValueError("there is nothing to see"))
    with pytest.raises(ValueError, match="nothing to see"):
        make("a hat", "a shoe", "--debug")


def test_generate_explains_an_asset_without_a_surface(make, tmp_path):
    network = sphere_network()
    network.decoder.last.bias[0] = -1e4
    network.save_pretrained(tmp_path / "empty")
    code, _, err = make("a hat", "--stage2", tmp_path / "empty")
    assert code == 2
    assert "the field is empty" in errors(err)[0]
    assert names(tmp_path) == ["empty"]


def test_gpu_out_of_memory_is_one_sentence_with_a_remedy(make, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB ...")

    monkeypatch.setattr(TextTo3D, "denoise", full)
    code, _, err = make("a hat")
    assert code == 2
    assert errors(err)[0].startswith("the GPU has not enough memory; use --batch 1")


def halved(stage1: Path, tmp_path: Path) -> Path:
    """A copy whose UNet stopped half-way."""
    copy = Path(shutil.copytree(stage1, tmp_path / "half"))
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return copy


def test_weights_that_are_invalid_are_one_sentence_each(make, stage1, stage2, tmp_path):
    partless = Path(shutil.copytree(stage1, tmp_path / "partless"))
    shutil.rmtree(partless / "vae")
    cases = [
        (["--stage1", stage2], "use it as --stage2"),
        (["--stage2", stage1], "use it as --stage1"),
        (["--stage1", tmp_path / "nowhere"], "nowhere"),
        (["--stage2", tmp_path / "nowhere"], "nowhere"),
        (["--stage1", halved(stage1, tmp_path)], "not a whole safetensors file"),
        (["--stage1", partless], "vae"),
    ]
    for options, message in cases:
        code, out, err = make("a hat", *options)
        assert (code, out, len(errors(err))) == (2, "", 1), message
        assert message in errors(err)[0]
        assert "--debug" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--stage1", "--stage2"])
def test_hub_that_cannot_be_reached_is_one_sentence(make, tmp_path, monkeypatch, option):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    code, out, err = make("a hat", option, "somebody/some-weights")
    assert (code, out, len(errors(err))) == (2, "", 1)
    assert "somebody/some-weights" in errors(err)[0]
    assert "--debug" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "abacus"], "'abacus' is not a device"),
        (["--formats", "fbx"], "choose among glb, obj, ply, stl, 3mf, usdz"),
        (["--formats", "stl", "--size-mm", "0"], "above 0 and at most 100000 mm, got 0"),
        (["--steps", "5000"], "5000 steps"),
        (["--rescale", "7"], "between 0 and 1"),
    ],
)
def test_option_that_is_wrong_is_one_sentence_and_leaves_nothing(make, tmp_path, options, message):
    code, out, err = make("a hat", *options)
    assert (code, out, len(errors(err))) == (2, "", 1)
    assert message in errors(err)[0]
    assert names(tmp_path) == []


@pytest.mark.parametrize("option", [["--seed", "-1"], ["--n", "0"], ["--sampler", "magic"], ["--start", "ink"]])
def test_option_that_cannot_be_read_is_refused_by_name(make, capsys, option):
    with pytest.raises(SystemExit) as stop:
        make("a hat", *option)
    assert stop.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_prompt_too_long_for_the_encoders_is_reported_with_the_words_that_are_cut(make):
    code, _, err = make("a red fire hydrant " * 8 + "with a tin whistle")
    (note,) = [line for line in err.splitlines() if "note:" in line]
    assert code == 0
    assert note.endswith("with a tin whistle'")


def test_words_unknown_to_training_are_reported_in_a_line_for_each_prompt_and_recorded(make, stage1, tmp_path):
    listing = shutil.copytree(stage1, tmp_path / "listing") / "tokenizer" / "caption_words.txt"
    listing.write_text("red\t3\nfire hydrant\t2\nfire\t2\nhydrant\t2\nchair\t1\n")
    file = listed(tmp_path, "a red fire hydrant", "red chairs with a dragon", "a chair")
    code, _, err = make("--prompts", file, "--stage1", tmp_path / "listing")
    notes = [line for line in err.splitlines() if "note:" in line]
    assert (code, len(notes)) == (0, 1)
    assert "list.txt line 2" in notes[0]
    assert notes[0].endswith(": chairs (nearest known: chair), dragon")
    results = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*/result.json"))]
    assert [result.get("unknown_words") for result in results] == [None, ["chairs", "dragon"], None]


def test_words_are_not_reported_where_the_weights_list_none(make, tmp_path):
    _, _, err = make("a dragon of obsidian")
    assert "note:" not in err
    assert "unknown_words" not in json.loads((tmp_path / "out" / "result.json").read_text())


def test_words_list_that_is_broken_is_one_sentence(make, stage1, tmp_path):
    listing = shutil.copytree(stage1, tmp_path / "listing") / "tokenizer" / "caption_words.txt"
    listing.write_text("red\n")
    code, out, err = make("a hat", "--stage1", tmp_path / "listing")
    assert (code, out, len(errors(err))) == (2, "", 1)
    assert "caption_words.txt, line 1 should be a word" in errors(err)[0]


def test_prompts_are_sampled_in_batches_of_limited_size(make, monkeypatch):
    sizes: list[int] = []
    real = TextTo3D.encode
    monkeypatch.setattr(
        TextTo3D, "encode", lambda self, some, away: (sizes.append(len(some)), real(self, some, away))[1]
    )
    assert make("a", "b", "c", "--batch", 2)[0] == 0
    assert sizes == [2, 1]


def test_progress_in_a_log_is_plain_lines(make):
    _, _, err = make("a hat")
    assert err.splitlines() == ["instant3d: the prompt: generating the views", "instant3d: the prompt: building"]


def test_generate_yields_each_result_before_the_next_is_begun(stage1, stage2, tmp_path):
    maker = TwoStageGenerator(stage1, stage2, sampling=Sampling(steps=1), device="cpu", at_once=1)
    outcomes = generate.generate(prompts.from_arguments(["a", "b"]), tmp_path, maker, GenerationRequest(resolution=16))
    assert next(outcomes).record["prompt"] == "a"
    assert names(tmp_path) == ["001-a"]
    outcomes.close()


def test_generate_with_a_lora_samples_other_views_and_notices_another_one(make, tmp_path):
    import hashlib

    grid, record = tmp_path / "out" / "grid.png", tmp_path / "out" / "result.json"
    make("a chair")
    plain = grid.read_bytes()
    file = lora_file(tmp_path / "a.safetensors", 1.0)
    assert make("a chair", "--lora", file)[0] == 0
    first = grid.read_bytes()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    expected = {"name": str(file), "sha256": {"a.safetensors": digest}, "weight": 1.0}
    assert json.loads(record.read_text())["weights"]["lora1"] == expected
    assert "left as it is" in make("a chair", "--lora", file)[2]
    assert "left as it is" not in make("a chair", "--lora", f"{file}:0.5")[2]
    half = grid.read_bytes()
    lora_file(file, 0.7)  # the same name with other content
    assert "left as it is" not in make("a chair", "--lora", f"{file}:0.5")[2]
    assert "left as it is" not in make("a chair")[2]
    assert grid.read_bytes() == plain
    assert len({plain, first, half}) == 3


@pytest.mark.parametrize(
    ("lora", "complaint"),
    [
        ("nothing.safetensors", "there is no LoRA file nothing.safetensors"),
        ("a.safetensors:inf", "must be a finite number"),
        ("./weights.bin", "never opened"),
    ],
)
def test_generate_refuses_a_lora_in_one_sentence(make, tmp_path, lora, complaint):
    code, out, err = make("a chair", "--lora", lora)
    assert (code, out, len(errors(err))) == (2, "", 1)
    assert complaint in errors(err)[0]
    assert not (tmp_path / "out").exists()


def test_generate_refuses_a_lora_for_the_direct_system(make):
    code, _, err = make("a chair", "--system", "direct", "--lora", "a.safetensors")
    assert code == 2
    assert "belongs to the two-stage system" in err
