"""The command line as a user meets it: whole runs, one closing line, one sentence for bad input, nothing half done."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from sphere_network import sphere_network

from instant3d import scenes
from instant3d.cameras import orbit
from instant3d.cli import data
from instant3d.cli import main as cli
from instant3d.cli.main import parser
from instant3d.modules.diffusion import schedulers
from instant3d.nerf.asset import Asset
from instant3d.pipelines import text_to_3d
from instant3d.stage1.recommended_sampling import recommended_sampling
from instant3d.stage1.sampling_options import SAMPLERS
from instant3d.utils import arg_types, bundled
from instant3d.views import Views

RESULTS = ["mesh.glb", "result.json", "sheet.png", "triplane.safetensors", "turntable.mp4", "turntable.webp", "views"]


@pytest.fixture(autouse=True)
def small_images(monkeypatch) -> None:
    """Films and sheets of a few small images: what is tested here is not their size."""
    monkeypatch.setattr("instant3d.pipelines.results.SMALLEST", 48)
    monkeypatch.setattr("instant3d.pipelines.results.FRAMES", 6)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "sphere"
    sphere_network().save_pretrained(folder)
    return folder


def make_scene(folder: Path, count: int = 5) -> Path:
    """Images of the sphere that the network answers anyway, so that a look at the sheet makes sense."""
    cameras = orbit(torch.arange(count) * 360.0 / count, 20.0)
    asset = text_to_3d.ViewsTo3D(sphere_network())(
        Views(torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32), cameras[:1])
    )
    seen = asset.render(cameras, 40)
    scenes.write(folder, Views(seen.rgb, seen.alpha, cameras), caption="a sphere of many colours")
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return make_scene(tmp_path_factory.mktemp("scenes") / "sphere")


@pytest.fixture
def scene(original, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(original, tmp_path / "sphere"))


def change(scene: Path, frame: int, **fields: object) -> None:
    content = json.loads((scene / "transforms.json").read_text())
    content["frames"][frame] |= fields
    (scene / "transforms.json").write_text(json.dumps(content))


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def reconstruct(capsys, scene: Path, out: Path, weights: Path, *more: object) -> tuple[int, str, str]:
    cheap = ["--resolution", 24, "--texture", 64]
    return run(capsys, "reconstruct", scene, "-o", out, "--weights", weights, *cheap, *more)


@pytest.mark.slow
def test_reconstruct_writes_a_folder_of_results_and_one_line(capsys, scene, weights, tmp_path):
    code, out, err = reconstruct(capsys, scene, tmp_path / "out", weights, "--formats", "glb,ply")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*RESULTS, "mesh.ply"])
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["views"] == ["0000", "0001", "0002", "0003"]
    assert sorted(result["files"]) == sorted({*RESULTS, "mesh.ply"} - {"result.json"})
    with av.open(str(tmp_path / "out" / "turntable.mp4")) as film:
        assert film.streams.video[0].frames == 6
    asset = Asset.load(tmp_path / "out")
    assert len(asset.triplane.planes) == 3
    kept, given = asset.views, scenes.read(scene, frames=[0, 1, 2, 3]).views
    assert torch.equal(kept.rgb * (kept.alpha > 0), given.rgb * (given.alpha > 0))  # of 40 px, not the network's 32
    torch.testing.assert_close(kept.cameras.cam_to_world, given.cameras.cam_to_world)


@pytest.mark.slow
def test_result_record_names_the_weights_by_the_hash_of_their_file(capsys, scene, weights, tmp_path):
    reconstruct(capsys, scene, tmp_path / "out", weights)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    process = subprocess.run(["sha256sum", weights / "model.safetensors"], capture_output=True, text=True, check=True)
    assert result["weights"]["sha256"] == process.stdout.split()[0]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "views", "used"), [(1, None, 1), (3, "2", 1), (40, "all", 40), (5, "4,0", 2)])
def test_reconstruct_takes_one_view_and_forty_views(capsys, weights, tmp_path, count, views, used):
    more = ["--views", views] if views else []
    code, _, _ = reconstruct(capsys, make_scene(tmp_path / "s", count), tmp_path / "out", weights, *more)
    assert code == 0
    assert len(json.loads((tmp_path / "out" / "result.json").read_text())["views"]) == used


@pytest.mark.slow
def test_reconstruct_keeps_files_that_were_there(capsys, scene, weights, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "out" / "sheet.png").write_text("an older run's")
    assert reconstruct(capsys, scene, tmp_path / "out", weights)[0] == 0
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    Image.open(tmp_path / "out" / "sheet.png").load()


@pytest.mark.slow
def test_reconstruct_reports_scene_fields_that_are_guessed_in_a_line(capsys, scene, weights, tmp_path):
    Image.new("RGB", (40, 40), (10, 90, 10)).save(scene / "images" / "0002.png")
    code, out, err = reconstruct(capsys, scene, tmp_path / "out", weights)
    assert (code, out.count("\n")) == (0, 1)
    assert all(line.startswith("instant3d: note: ") for line in err.splitlines())
    assert "0002.png" in err
    assert "all of it counts as the object" in err


def broken(scene: Path, how: str) -> None:
    first = scene / "images" / "0000.png"
    matrix = json.loads((scene / "transforms.json").read_text())["frames"][0]["transform_matrix"]
    if how == "missing image":
        first.unlink()
    elif how == "corrupt image":
        first.write_bytes(first.read_bytes()[:100])
    elif how == "mixed sizes":
        Image.new("RGBA", (80, 80)).save(first)
    elif how == "looks away":
        change(scene, 0, transform_matrix=[[row[0], -row[1], -row[2], row[3]] for row in matrix])
    elif how == "singular matrix":
        change(scene, 0, transform_matrix=[[0.0, *row[1:]] for row in matrix])
    elif how == "NaN":
        change(scene, 0, transform_matrix=[[math.nan, *row[1:]] for row in matrix])
    elif how == "no document":
        (scene / "transforms.json").unlink()
    elif how == "outside":
        change(scene, 0, file_path="../../secret.png")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing image", "0000.png does not exist"),
        ("corrupt image", "not a readable image"),
        ("mixed sizes", "make all images of a scene the same size"),
        ("looks away", "looks away from the object"),
        ("singular matrix", "is singular"),
        ("NaN", "not finite"),
        ("no document", "has no transforms.json"),
        ("outside", "outside the scene folder"),
    ],
)
def test_reconstruct_answers_a_broken_scene_in_a_sentence_and_exit_code_two(
    capsys, scene, weights, tmp_path, how, message
):
    broken(scene, how)
    code, out, err = reconstruct(capsys, scene, tmp_path / "out", weights)
    assert (code, out) == (2, "")
    assert err.startswith("instant3d: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sphere"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--views", "0,7"], "frame 7 does not exist:"),
        (["--formats", "fbx"], "'fbx'; choose among glb, obj, ply, stl, 3mf, usdz"),
        (["--formats", "stl", "--size-mm", "nan"], "above 0 and at most 100000 mm, got nan"),
        (["--device", "abacus"], "'abacus' is not a device"),
        (["--weights", "nowhere"], "neither a checkpoint folder nor a Hub id"),
    ],
)
def test_option_that_is_wrong_is_one_sentence_and_exit_code_two(capsys, scene, weights, tmp_path, options, message):
    code, out, err = reconstruct(capsys, scene, tmp_path / "out", weights, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--views", "front"], ["--resolution", "0"], ["--max-memory", "lots"]])
def test_option_that_cannot_be_read_is_refused_by_name(capsys, option):
    with pytest.raises(SystemExit) as stop:
        run(capsys, "reconstruct", "scene", "-o", "out", *option)
    assert stop.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_reconstruct_explains_weights_of_another_architecture(capsys, scene, weights, tmp_path):
    other = Path(shutil.copytree(weights, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "channels": 5}))
    code, _, err = reconstruct(capsys, scene, tmp_path / "out", other)
    assert (code, err.count("\n")) == (2, 1)
    assert "does not hold the network its config.json describes" in err
    (other / "config.json").write_text(json.dumps({**config, "model": "stage1"}))
    assert "describes a stage1 model" in reconstruct(capsys, scene, tmp_path / "out", other)[2]
    assert not (tmp_path / "out").exists()


def test_reconstruct_explains_an_asset_without_a_surface(capsys, scene, tmp_path):
    network = sphere_network()
    network.decoder.last.bias[0] = -1e4
    network.save_pretrained(tmp_path / "weights")
    code, out, err = reconstruct(capsys, scene, tmp_path / "out", tmp_path / "weights")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the field is empty" in err
    assert not (tmp_path / "out").exists()


def test_output_in_a_folder_that_cannot_be_written_is_one_sentence(capsys, scene, weights, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        code, out, err = reconstruct(capsys, scene, place, weights)
        assert (code, out, err.count("\n")) == (2, "", 1)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.slow
@pytest.mark.parametrize(("error", "expected"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left"), 2)])
def test_reconstruct_leaves_nothing_half_written_when_interrupted(
    capsys, scene, weights, tmp_path, monkeypatch, error, expected
):
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(
        "instant3d.utils.visualization.write_contact_sheet", stop
    )  # by then mesh, triplane and film are written
    code, out, _ = reconstruct(capsys, scene, tmp_path / "out", weights)
    assert (code, out) == (expected, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sphere"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_reconstruct_leaves_nothing_half_written_when_terminated(
    capsys, scene, weights, tmp_path, monkeypatch, number, code
):
    monkeypatch.setattr(
        "instant3d.utils.visualization.write_contact_sheet", lambda *_, **__: os.kill(os.getpid(), number)
    )
    before = signal.signal(number, signal.SIG_DFL)  # `nohup` ignores SIGHUP, and so would the command
    try:
        with pytest.raises(SystemExit) as stop:
            reconstruct(capsys, scene, tmp_path / "out", weights)
    finally:
        signal.signal(number, before)
    assert stop.value.code == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sphere"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("words", "work"),
    [
        (["fit", "stage2"], "instant3d.training.fit.main"),
        (["data", "render", "objects", "-o", "out"], f"{data.package()}.rendering.render.render_all"),
    ],
)
def test_training_and_data_commands_end_by_a_signal_with_its_code_and_one_sentence(
    capsys, tmp_path, monkeypatch, number, words, work
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(Path(__file__).parents[2] / "examples" / "objects", "objects")
    monkeypatch.setattr(work, lambda *_, **__: os.kill(os.getpid(), number))
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
    finally:
        signal.signal(number, before)
    assert stop.value.code == 128 + number
    assert capsys.readouterr().err == f"instant3d: ended by {number.name}\n"


def test_output_that_cannot_be_written_is_refused_before_anything_is_computed(capsys, scene, tmp_path, monkeypatch):
    monkeypatch.setattr("instant3d.pipelines.reconstruct.reconstruct", lambda *_, **__: pytest.fail("computed"))
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        code, _, err = run(capsys, "reconstruct", scene, "-o", output)
        assert (code, err.count("\n")) == (2, 1)
        assert "is a file" in err


def test_debug_shows_where_an_error_came_from(capsys, tmp_path):
    with pytest.raises(FileNotFoundError):
        run(capsys, "--debug", "reconstruct", tmp_path / "nowhere", "-o", tmp_path / "out", "--weights", tmp_path)


def test_evaluation_without_held_out_views_is_refused(capsys, scene, weights, tmp_path):
    code, _, err = run(
        capsys, "evaluate", "reconstruction", scene, "-o", tmp_path / "out", "--weights", weights, "--views", "all"
    )
    assert code == 2
    assert "holds views back" in err


def test_evaluation_refuses_options_of_meshes_without_mesh(capsys, scene, weights, tmp_path):
    arguments = ["-o", tmp_path / "out", "--weights", weights, "--faces", 500]
    code, _, err = run(capsys, "evaluate", "reconstruction", scene, *arguments)
    assert code == 2
    assert "add --mesh" in err


@pytest.mark.slow
def test_evaluation_writes_its_metrics(capsys, scene, weights, tmp_path):
    arguments = ["-o", tmp_path / "out", "--weights", weights, "--resolution", 32]
    code, _, err = run(capsys, "evaluate", "reconstruction", scene, *arguments)
    assert (code, err) == (0, "")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["scenes"]["sphere"]["psnr"] == metrics["mean"]["psnr"]
    assert metrics["mean"]["psnr"] > 25  # the network's sphere is the one in the images


@pytest.mark.parametrize(("text", "expected"), [("512M", 2**29), ("2G", 2**31), ("1.5GiB", 3 * 2**29), ("7", 7)])
def test_memory_option_is_read_in_powers_of_two(text, expected):
    assert arg_types.byte_size(text) == expected


def test_help_is_instant_because_it_loads_nothing_heavy():
    heavy = "{'torch', 'numpy', 'av', 'PIL'}"
    code = f"import sys; from instant3d.cli import main; main.parser(); print(sorted({heavy} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_training_commands_are_handed_on_untouched(monkeypatch, capsys, command):
    seen: list[list[str]] = []
    monkeypatch.setattr("instant3d.training.fit.main", seen.append)
    assert run(capsys, command, "-c", "a.yaml", "--help")[0] == 0
    assert seen == [[command, "-c", "a.yaml", "--help"]]


def readme_options() -> dict[str, str]:
    """What the README's lines of `instant3d generate` offer: options with the word that stands behind each."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    usage = re.search(r'instant3d generate "a red fire hydrant" -o OUT \[.*?(?=\ninstant3d)', text, re.DOTALL)
    return dict(re.findall(r"\[(--[a-z0-9-]+) ([^\]]+)\]", usage.group()))


@pytest.mark.parametrize(("option", "value"), readme_options().items())
def test_generate_accepts_what_the_readme_offers(option, value):
    for word in value.split("|"):
        parsed = parser().parse_args(["generate", "a chair", "-o", "out", option, word])
        name = "purpose" if option == "--for" else option.strip("-").replace("-", "_")
        assert getattr(parsed, name) is not None


def test_readme_offers_every_sampler_and_the_default_steps():
    assert set(readme_options()["--sampler"].split("|")) == set(schedulers.SAMPLERS) == set(SAMPLERS)
    assert int(readme_options()["--steps"]) == recommended_sampling(bundled.STAGE1).steps
