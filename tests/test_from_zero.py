"""docs/from_zero.md: its laptop's commands run in the order written; its GPU's are the same but for what is said here.

One walk through the whole page, in this process and a folder of its own; then what each command left is looked at.
"""

import contextlib
import io
import json
import re
import shlex
import sys

import pytest
import torch
from balls import ball_views
from direct_runs import clip_folder
from docs_walk import ROOT, changed, commands, entry, expanded, run
from objaverse_stand_in import Dataset, glb, served, uid

from instant3d import mesh, scenes
from instant3d.cli import main as cli
from instant3d.modules.diffusion.components import Components
from instant3d.stage1.cache import LatentCache
from instant3d.stage2.network import Reconstructor
from instant3d.training import fit

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "from_zero.md"
ON_GPU, ON_LAPTOP = "On one GPU", "The same on a laptop"
LINKED = ("configs", "examples", *(f"checkpoints/{name}" for name in ("stage1-demo", "stage2-demo", "judge")))

# What stands in the GPU's commands, what in the laptop's, and why; a whole command may be left out.
DIFFERENCES = (
    (" render-env", "", "the fast renderer needs no Blender"),
    ("objaverse --lvis all --count 20000 --seed 0", "procedural --count 14", "made objects need no network"),
    ("-n 200 ", "-n 2 ", "fewer objects"),
    ("-n +201 ", "-n +3 ", "fewer objects"),
    ("render/one_gpu.yaml", "render/small.yaml", "24 views of 128 px by the fast renderer: a second an object"),
    (r"curl .*", "", "made objects have captions"),
    ("cap3d data/cap3d.csv", "manifest data/objects/train.jsonl", "made objects have captions"),
    ("--device cuda", "--clip openai/clip-vit-base-patch32", "a smaller CLIP, on the CPU"),
    (" --top 10000 --without data/duplicates.jsonl", " --top 4", "of twelve objects; made ones look much alike"),
    ("MODEL=stabilityai/stable-diffusion-xl-base-1.0", "MODEL=checkpoints/stage1-demo", "the bundled SDXL, 13 M"),
    (
        "SIZE=one_gpu_lora TRAINER=one_gpu CACHE=data/cache/train",
        "SIZE=one_gpu_lora TRAINER=cpu CACHE=data/cache/train "
        "ARGS='--model.base=checkpoints/stage1-demo --trainer.max_steps=2'",
        "the bundled SDXL, two steps, no GPU",
    ),
    (
        "SIZE=one_gpu TRAINER=one_gpu DATA=data/shards VAL=data/held_out",
        "SIZE=demo TRAINER=cpu DATA=data/shards VAL=data/held_out "
        "ARGS='--model.start=checkpoints/stage2-demo --trainer.max_steps=2'",
        "on from the bundled network, two steps, no GPU",
    ),
    ("export runs/one_gpu", "export runs/cpu", "the trainer's folder"),
    ("--resolution 256", "--resolution 128", "what the small network was trained with"),
    (
        "alignment_100.txt --judge none --clip openai/clip-vit-large-patch14",
        "held_out.txt --limit 2",
        "the bundled attribute classifier has other prompts and needs no download",
    ),
)
# What stands in the laptop's commands and what is run here in its place.
HERE = (
    ("openai/clip-vit-base-patch32", "clip", "no network: a CLIP with random weights"),
    (
        "configs/render/small.yaml",
        "configs/render/evaluation.yaml --workers 1",
        "12 views for 24, and a process takes seconds to start",
    ),
    ("--fix", "--fix --jobs 1", "likewise"),
    ("ARGS='--model.base", "ARGS='--data.workers=0 --trainer.accumulate_grad_batches=1 --model.base", "2 grids for 16"),
    ("ARGS='--model.start", "ARGS='--data.workers=0 --data.batch_size=1 --model.start", "one object for four"),
    ("--resolution 128", "--resolution 64", "a quarter of the pixels"),
    ("--limit 2", "--limit 1 --steps 4", "a seventh of the drawing"),
    ("-o out/hydrant", "-o out/hydrant --steps 4 --resolution 96", "likewise, and a coarser mesh"),
)
NOT_RUN = {
    "make demo render-env": "installs packages from the network",
    "make demo": "installs packages from the network; then `instant3d generate`, which the last command runs",
    ". .venv/bin/activate": "the tests run in it",
    "curl -L -o data/cap3d.csv https://huggingface.co/datasets/tiange/Cap3D/resolve/main/"
    "Cap3D_automated_Objaverse_full.csv": "needs the network; a file of the same form stands in",
}


def label(folder):
    """Stands for the user and the browser: every second scene is good."""
    names = sorted(path.parent.name for path in folder.glob("scenes/*/transforms.json"))
    pairs = [[name, ("good", "bad")[k % 2]] for k, name in enumerate(names)]
    (folder / "labels.json").write_text(json.dumps({"format": "instant3d-labels-1", "labels": pairs}))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """The folder in which the laptop's commands were run, and what each printed."""
    root, output = tmp_path_factory.mktemp("zero"), {}
    for name in LINKED:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(ROOT / name)
    clip_folder(root / "clip")
    with contextlib.chdir(root), pytest.MonkeyPatch.context() as patch:
        patch.setattr("instant3d.pipelines.results.FRAMES", 4)  # of a turntable, which nothing below looks at
        for command in commands(PAGE, ON_LAPTOP):
            if command in NOT_RUN:
                continue
            if "curation rank" in command:
                label(root / "data")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                code = run(changed(command, HERE))
            assert code == 0, f"{command} ended with exit code {code}: {out.getvalue()}"
            output[command] = out.getvalue()
    return root, output


def test_from_zero_gpu_commands_are_the_laptops_but_for_the_listed_differences():
    on_gpu, on_laptop = commands(PAGE, ON_GPU), commands(PAGE, ON_LAPTOP)
    assert [new for new in (changed(command, DIFFERENCES) for command in on_gpu) if new] == on_laptop
    for old, _, _ in DIFFERENCES:
        assert any(re.search(old if old.endswith(".*") else re.escape(old), command) for command in on_gpu), old
    for old, _, _ in HERE:
        assert any(old in command for command in on_laptop), old
    assert set(NOT_RUN) <= {*on_gpu, *on_laptop}


@pytest.mark.filterwarnings("ignore:LightningCLI's args")
def test_from_zero_gpu_commands_name_options_and_files_that_exist(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    left = [line for line in commands(PAGE, ON_GPU) if line not in NOT_RUN]
    for command in [one for line in left for one in (expanded(line) if line.startswith("make") else [line])]:
        for name in re.findall(r"configs/[\w/.]+", command):
            assert (ROOT / name).is_file(), name
        match shlex.split(command):
            case ["instant3d", "fit", *rest]:
                with pytest.raises(SystemExit) as stopped:
                    fit.main(["fit", *rest, "--print_config"])
                assert stopped.value.code == 0, capsys.readouterr().err
            case ["instant3d", *rest]:
                cli.parser().parse_args(rest)
            case ["python", "-m", module, *rest]:
                sys.modules[entry(module).main.__module__]._parser().parse_args(rest)
            case words:
                assert words[0] in ("head", "tail"), command


def test_from_zero_objaverse_and_cap3d_give_objects_and_captions_by_the_very_commands(tmp_path, monkeypatch):
    data, about = Dataset(), {"user": {"username": "ann"}, "name": "Thing"}
    objects = {
        uid(k): (glb(tmp_path / f"{k}.glb", 0.2 * k + 0.1), {**about, "license": licence})
        for k, licence in enumerate(["by", "by-nc", "cc0", "by-sa"])
    }
    data.objaverse(objects, {"coffee_table": [uid(0), uid(1)], "mug": [uid(2), uid(3)]})
    monkeypatch.chdir(tmp_path)
    with served(data) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        objaverse = next(command for command in commands(PAGE, ON_GPU) if "data_prep.sources objaverse" in command)
        assert run(objaverse) == 0
    rows = {row["id"]: row for row in lines(tmp_path / "data" / "objects" / "objects.jsonl")}
    assert {name: row["captions"] for name, row in rows.items()} == {
        uid(0): ["coffee table"],
        uid(2): ["mug"],
        uid(3): ["mug"],
    }, "the second may not be passed on"
    for name, row in rows.items():
        views = ball_views((0.2, 0.4, 0.9), 0.5)
        scenes.write(tmp_path / "data" / "scenes" / name, views, caption=row["captions"][0], object_id=name)
    (tmp_path / "data" / "cap3d.csv").write_text(f'{uid(0)},"A low table, of oak"\n{uid(2)},A red mug\n{uid(9)},Else\n')
    assert run(next(command for command in commands(PAGE, ON_GPU) if "captions cap3d" in command)) == 0
    found = [scenes.document(tmp_path / "data" / "scenes" / uid(k)).text("caption") for k in (0, 2, 3)]
    assert found == ["A low table, of oak", "A red mug", "mug"]


def test_from_zero_objects_are_split_without_one_in_both(walk):
    folder = walk[0] / "data" / "objects"
    every, train, held_out = (
        {row["id"] for row in lines(folder / f"{name}.jsonl")} for name in ("objects", "train", "held_out")
    )
    assert (len(every), len(train), len(held_out)) == (14, 12, 2)
    assert train | held_out == every


def test_from_zero_every_object_becomes_a_scene_with_its_own_words(walk):
    for split, place in (("train", "scenes"), ("held_out", "held_out")):
        rows = lines(walk[0] / "data" / "objects" / f"{split}.jsonl")
        folders = {path.name: scenes.document(path) for path in scenes.below(walk[0] / "data" / place)}
        assert {name: document.text("caption") for name, document in folders.items()} == {
            row["id"]: row["captions"][0] for row in rows
        }
        assert {document.count for document in folders.values()} == {12}


def test_from_zero_doctor_finds_no_fault_in_what_was_rendered(walk):
    report = json.loads((walk[0] / "data" / "doctor.json").read_text())
    assert [finding for finding in report["findings"] if finding["level"] == "fault"] == []
    assert "14 of 14 scenes have no fault" in next(out for command, out in walk[1].items() if "doctor" in command)


def test_from_zero_kept_ones_are_the_best_ranked_that_nobody_called_bad(walk):
    data = walk[0] / "data"
    ranking = lines(data / "ranking.jsonl")
    assert sorted(place["id"] for place in ranking) == sorted(path.name for path in scenes.below(data / "scenes"))
    assert [place["score"] for place in ranking] == sorted((place["score"] for place in ranking), reverse=True)
    kept = [line for line in (data / "keep.txt").read_text().splitlines() if not line.startswith("#")]
    assert kept == [place["id"] for place in ranking if place["label"] == "good"][:4]


def test_from_zero_report_shows_an_image_of_every_scene_and_needs_no_other_file(walk):
    page = (walk[0] / "data" / "report.html").read_text()
    assert all(path.name in page for path in scenes.below(walk[0] / "data" / "scenes"))
    assert page.count("data:image/webp") >= 12
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)


def test_from_zero_shards_hold_every_scene_and_the_cache_the_kept_ones(walk):
    data = walk[0] / "data"
    index = json.loads((data / "shards" / "index.json").read_text())
    assert sum(shard["scenes"] for shard in index["shards"]) == 12
    kept = [line for line in (data / "keep.txt").read_text().splitlines() if not line.startswith("#")]
    assert sorted(grid["id"] for grid in LatentCache(data / "cache" / "train").grids) == sorted(kept)


@pytest.mark.parametrize(("run_folder", "trained"), [("stage1_lora", "lora"), ("cpu", "network")])
def test_from_zero_both_stages_were_trained_for_two_steps(walk, run_folder, trained):
    content = torch.load(fit.newest_checkpoint(walk[0] / "runs" / run_folder), weights_only=True)
    assert content["global_step"] == 2
    weights = {name: tensor for name, tensor in content["state_dict"].items() if name.startswith(trained)}
    assert weights
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    if trained == "lora":  # half of them begin at zero
        assert any(bool(tensor.any()) for name, tensor in weights.items() if "lora_B" in name)


def test_from_zero_exports_open_and_are_of_the_bundled_models_shape(walk):
    mine, bundled = (Components.load(walk[0] / "checkpoints" / name).unet for name in ("my-stage1", "stage1-demo"))
    assert {name: tensor.shape for name, tensor in mine.state_dict().items()} == {
        name: tensor.shape for name, tensor in bundled.state_dict().items()
    }
    mine, bundled = (
        Reconstructor.from_pretrained(walk[0] / "checkpoints" / name) for name in ("my-stage2", "stage2-demo")
    )
    assert mine.architecture == bundled.architecture
    assert any(not torch.equal(a, b) for a, b in zip(mine.parameters(), bundled.parameters(), strict=True))


def test_from_zero_two_steps_on_the_bundled_network_rebuild_better_than_the_nearest_view(walk):
    metrics = json.loads((walk[0] / "out" / "evaluation" / "metrics.json").read_text())
    assert set(metrics["scenes"]) == {row["id"] for row in lines(walk[0] / "data" / "objects" / "held_out.jsonl")}
    assert metrics["mean"]["psnr"] > metrics["baselines"]["nearest_view"]["psnr"] + 1
    assert metrics["mean"]["mask_iou"] > metrics["baselines"]["nearest_view"]["mask_iou"]


def test_from_zero_attribute_classifier_finds_the_colour_of_the_prompt(walk):
    held_out = json.loads((walk[0] / "out" / "alignment" / "metrics.json").read_text())["lists"]["held_out"]
    for row in held_out["rows"]:
        assert row["renders"]["sees"][0] == row["prompt"].split()[1]


def test_from_zero_last_command_makes_an_asset_by_the_weights_of_this_walk(walk):
    folder = walk[0] / "out" / "hydrant"
    record = json.loads((folder / "result.json").read_text())
    assert [record["weights"][stage]["name"] for stage in ("stage1", "stage2")] == [
        "checkpoints/my-stage1",
        "checkpoints/my-stage2",
    ]
    assert sum(len(part.faces) for part in mesh.load(folder / "mesh.glb")) == record["mesh"]["faces"] > 100
    red, green, blue = scenes.read(folder / "views").views.rgb.mean(dim=(0, 2, 3))
    assert red > green
    assert red > blue
