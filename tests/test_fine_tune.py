"""docs/fine_tune.md: its commands run in the order written, at toy size, but for what is said here."""

import contextlib
import json
from itertools import pairwise

import pytest
import torch
from docs_walk import ROOT, changed, commands, expanded, run
from objaverse_stand_in import glb

from instant3d import mesh, scenes
from instant3d.modules.diffusion.components import Components
from instant3d.stage2.network import Reconstructor

pytestmark = pytest.mark.slow

PAGE, HEADING = ROOT / "docs" / "fine_tune.md", "The evening"
NOT_RUN = {"instant3d fetch grm-instant3d instantmesh-large": "needs the network and a GPU; bundled weights stand in"}
HERE = (
    ("-n 4 ", "-n 1 ", "fewer objects"),
    ("-n +5 ", "-n +2 ", "fewer objects"),
    ("configs/render/one_gpu.yaml", "configs/render/evaluation.yaml --workers 1", "small images by the fast renderer"),
    ("--fix", "--fix --jobs 1", "a process takes seconds to start"),
    ("checkpoints/grm-instant3d", "checkpoints/stage1-demo", "the bundled SDXL"),
    ("checkpoints/instantmesh-large", "checkpoints/stage2-demo", "the bundled network"),
    ("SIZE=from_instantmesh", "SIZE=demo", "the bundled network's settings"),
    ("TRAINER=one_gpu", "TRAINER=cpu", "no GPU"),
    ("runs/one_gpu", "runs/cpu", "the trainer's folder"),
    (
        "--trainer.max_steps=600",
        "--model.half_base=false --data.workers=0 --trainer.accumulate_grad_batches=1 --trainer.max_steps=1",
        "a step",
    ),
    (
        "--trainer.max_steps=2000",
        "--data.workers=0 --data.batch_size=1 --data.view_sampling.targets=1 --trainer.max_steps=1",
        "a step",
    ),
    ("-o out/evaluation", "-o out/evaluation --resolution 32", "coarser meshes"),
    ("-o out/zork", "-o out/zork --steps 1 --resolution 32 --texture none", "a coarser mesh"),
)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """The folder in which the commands were run."""
    root = tmp_path_factory.mktemp("evening")
    for name in ("configs", "checkpoints/stage1-demo", "checkpoints/stage2-demo"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(ROOT / name)
    (root / "my_things").mkdir()
    for k in range(4):
        glb(root / "my_things" / f"thing_{k}.glb", 0.2 * k + 0.2)
    rows = [{"id": f"thing_{k}", "caption": f"a zork with {k} legs"} for k in (1, 2, 3)]
    (root / "my_things" / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with contextlib.chdir(root), pytest.MonkeyPatch.context() as patch:
        for name, value in (("SMALLEST", 16), ("LARGEST", 16), ("FRAMES", 4)):  # of the turntable and the sheet
            patch.setattr(f"instant3d.pipelines.results.{name}", value)
        for command in commands(PAGE, HEADING):
            if command not in NOT_RUN:
                assert run(changed(command, HERE)) == 0, command
    return root


def test_fine_tune_replaces_only_what_the_page_says():
    written = commands(PAGE, HEADING)
    assert set(NOT_RUN) <= set(written)
    for old, _, _ in HERE:
        assert any(old in command for command in written), old
    for command in written:
        for line in expanded(command) if command.startswith("make") else [command]:
            for name in [word for word in line.split() if word.startswith("configs/")]:
                assert (ROOT / name).is_file(), name


def test_fine_tune_scenes_have_the_captions_of_the_list(walk):
    found = {path.name: scenes.document(path).text("caption") for path in scenes.below(walk / "data" / "scenes")}
    assert found == {f"thing_{k}": f"a zork with {k} legs" for k in (1, 2, 3)}


def test_fine_tune_changes_attention_alone_in_stage_1_and_all_of_stage_2(walk):
    mine, bundled = (Components.load(walk / "checkpoints" / name).unet for name in ("my-stage1", "stage1-demo"))
    differing = {
        name for name, value in mine.state_dict().items() if not torch.equal(value, bundled.state_dict()[name])
    }
    assert differing
    assert all(name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")) for name in differing)
    mine, bundled = (
        Reconstructor.from_pretrained(walk / "checkpoints" / name) for name in ("my-stage2", "stage2-demo")
    )
    assert any(not torch.equal(a, b) for a, b in zip(mine.parameters(), bundled.parameters(), strict=True))


def test_fine_tune_ends_with_an_asset_by_the_new_weights(walk):
    record = json.loads((walk / "out" / "zork" / "result.json").read_text())
    names = [record["weights"][stage]["name"] for stage in ("stage1", "stage2")]
    assert names == ["checkpoints/my-stage1", "checkpoints/my-stage2"]
    assert sum(len(part.faces) for part in mesh.load(walk / "out" / "zork" / "mesh.glb")) > 0


def test_fine_tune_hours_are_the_counted_work_over_two_fifths_of_each_cards_peak():
    """195 and 54 PFLOP; peaks in TFLOP/s as docs/speed.md lists them."""
    text = PAGE.read_text()
    peaks = [71, 121, 165, 312, 989]
    for stage, work in (("stage 1, 195 PFLOP", 600 * 16 * 3 * 6.76), ("stage 2, 54 PFLOP", 2000 * 2 * 13.5)):
        row = next(line for line in text.splitlines() if stage in line)
        hours = [float(cell.split()[0]) for cell in row.split("|")[2:-1]]
        assert hours == pytest.approx([work / (0.4 * peak) / 3600 for peak in peaks], rel=0.1, abs=0.006)
        assert all(slow > fast for slow, fast in pairwise(hours))
