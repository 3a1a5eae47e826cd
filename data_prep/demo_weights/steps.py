"""The steps from objects to demo weights: render, variants, recolour, base, cache, train, export, evaluate.

Stage 1 needs only the recoloured objects themselves, so on a machine with a GPU it trains while the variants of stage 2
are still rendered; there both stages share the GPU, elsewhere one follows the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from instant3d.utils import bundled

from ..manifests.object_manifest import TRAIN
from .recipe import CONFIGS, FEW_STEPS, HELD_OUT, PARTS, Recipe, system_of
from .running import PACKAGE, Step

JUDGED = CONFIGS / "prompts" / "judged_objects.txt"
CAPTIONS = CONFIGS / "data" / "captions.jsonl"
DIRECT_OBJECTS = CONFIGS / "direct" / "demo_objects.txt"
VAE_SHARE, TEXT_SHARE = 0.15, 0.03  # of stage 1's time; the UNet has the rest
RENDERED, PAINTED = (0, 1), (0, 1)  # exit codes: a broken object costs one object
BEFORE_FEW_STEPS = 0.75  # share of stage 1's time on a GPU if it is distilled afterwards
FEW_STEPS_RANK = 16
SEED_STEP = 1000  # between the first seeds of two evaluations


def plan_steps(recipe: Recipe) -> list[Step]:
    """All steps, in an order in which they could run one after the other; without a GPU they do."""
    found = [
        step for part in (_data, _stage1, _few_steps, _stage2, _direct, _judge, _evaluations) for step in part(recipe)
    ]
    if recipe.parallel:
        return found
    in_turn = sorted(found, key=lambda step: step.lane != "data")  # all data first: training gets the time that is left
    return [replace(step, lane="cpu") for step in in_turn]


def _data(recipe: Recipe) -> Iterator[Step]:
    """Scenes of the objects themselves, first: stage 1 waits for them."""
    if {"stage1", "stage2"} & set(recipe.parts):
        yield _render(recipe, "real", recipe.objects, "small", split=TRAIN)
        yield _correct_captions(recipe, "real")
    if "stage2" in recipe.parts and recipe.held_out:
        yield _render(recipe, "dev", recipe.held_out, "evaluation", split=HELD_OUT)
    if "judge" in recipe.parts:
        yield _render(recipe, "grids", recipe.objects, "grids", split=TRAIN)
        yield _correct_captions(recipe, "grids")
    if "direct" in recipe.parts:
        yield _render(recipe, "rings", recipe.objects, "rings", "--keep", str(DIRECT_OBJECTS))
        yield _correct_captions(recipe, "rings")


def _stage1(recipe: Recipe) -> Iterator[Step]:
    if "stage1" not in recipe.parts:
        return
    lane, base, cache = ("stage1" if recipe.parallel else "train"), str(recipe.out / "base"), str(recipe.out / "cache")
    share = _share(recipe, "stage1")
    yield _paint(recipe, "painted", ["real"], "--frames", "4", lane=lane)

    def make_base(left: float) -> list[str]:
        lengths = {"--vae-seconds": VAE_SHARE, "--text-seconds": TEXT_SHARE}
        config = ["--config", str(recipe.configs / "stage1" / f"{recipe.size}_base.yaml"), "--device", _device(recipe)]
        timed = [word for name, part in lengths.items() for word in (name, f"{max(part * share * left, 0.1):.1f}")]
        return [recipe.scenes("painted"), "-o", base, *config, *timed, "--workers", str(recipe.workers)]

    yield Step("base", "instant3d.stage1.train_tiny_sdxl", make_base, ("paint-painted",), lane)
    machine = ["--device", _device(recipe), "--workers", str(recipe.workers)]
    caching = ["cache-stage1", recipe.scenes("painted"), "--model", base, "-o", cache, *machine]
    yield Step("cache", "instant3d.cli.main", lambda _: caching, ("base",), lane)
    more = [f"--model.base={base}", f"--data.train={json.dumps([cache])}", "--trainer.limit_val_batches=0"]
    yield _fit(recipe, "stage1", more, ("cache",), lane)
    yield _export(recipe, "stage1", lane)


def _few_steps(recipe: Recipe) -> Iterator[Step]:
    """Stage 1 distilled to four steps without guidance, as LoRA weights."""
    if FEW_STEPS not in recipe.parts:
        return
    lane = "stage1" if recipe.parallel else "train"
    cache = json.dumps([str(recipe.out / "cache")])
    more = [f"--model.base={recipe.weights('stage1')}", f"--data.train={cache}", "--trainer.limit_val_batches=0"]
    yield _fit(recipe, FEW_STEPS, more, ("export-stage1",), lane)
    yield _export(recipe, FEW_STEPS, lane, "--lora", "--rank", str(FEW_STEPS_RANK))


def _stage2(recipe: Recipe) -> Iterator[Step]:
    if "stage2" not in recipe.parts:
        return
    lane, train = ("stage2" if recipe.parallel else "train"), ["real", "real_painted"]
    added = list(_added(recipe))
    yield from added
    if added:
        made = [str(recipe.out / "objects" / step.name) for step in added]
        yield _render(recipe, "added", made, "small", after=[step.name for step in added])
        train.append("added")
    yield _paint(recipe, "real_painted", ["real"], "--colours", "1")
    folders = json.dumps([recipe.scenes(name) for name in train])
    more = [f"--data.train={folders}"]
    if recipe.held_out:
        more.append(f"--data.val={json.dumps([recipe.scenes('dev')])}")
    else:
        more.append("--trainer.limit_val_batches=0")
    after = ["render-real", "paint-real_painted", "render-added"] if added else ["render-real", "paint-real_painted"]
    yield _fit(recipe, "stage2", more, after, lane)
    yield _export(recipe, "stage2", lane)


def _added(recipe: Recipe) -> Iterator[Step]:
    """Objects beside the given ones; each step writes the folder OUT/objects/NAME of its name."""
    folder, workers = recipe.out / "objects", ["--workers", str(recipe.workers)]
    if recipe.variants:
        chosen = ["--count", str(recipe.variants), *_chosen(recipe)]
        words = [*recipe.objects, "-o", str(folder / "variants"), *chosen, *workers]
        yield Step("variants", f"{PACKAGE}.variants", lambda _: words, accepted=RENDERED)
    if recipe.procedural:
        seeds = ["--count", str(recipe.procedural), "--first-seed", "2000"]
        made = ["-o", str(folder / "procedural"), *seeds, *workers]
        yield Step("procedural", f"{PACKAGE}.procedural.__main__", lambda _: made)


def _direct(recipe: Recipe) -> Iterator[Step]:
    if "direct" not in recipe.parts:
        return
    lane = "direct" if recipe.parallel else "train"
    yield _paint(recipe, "direct", ["rings"], "--only", str(JUDGED), lane=lane)
    guidance = f"--model.guidance.init_args.scenes={recipe.scenes('direct')}"
    yield _fit(recipe, "direct", [guidance], ("paint-direct",), lane)
    yield _export(recipe, "direct", lane)


def _judge(recipe: Recipe) -> Iterator[Step]:
    if "judge" not in recipe.parts:
        return
    yield _paint(recipe, "judge", ["grids"], "--only", str(JUDGED), without=False)
    words = ["train-judge", recipe.scenes("judge"), "-o", str(recipe.weights("judge"))]
    yield Step("judge", "instant3d.cli.main", lambda _: words, ("paint-judge",))


def _evaluations(recipe: Recipe) -> Iterator[Step]:
    """Figures for the cards, by the commands that anybody can run on the weights."""
    stage1, stage2 = (
        str(recipe.weights(part) if part in recipe.parts else bundled.weights_folder(place))
        for part, place in (("stage1", bundled.STAGE1), ("stage2", bundled.STAGE2))
    )
    exported = [f"export-{part}" for part in ("stage1", "stage2") if part in recipe.parts]
    two_stage = ["--stage1", stage1, "--stage2", stage2]
    if "stage2" in recipe.parts and recipe.held_out:
        words = ["evaluate", "reconstruction", recipe.scenes("dev"), "-o", _evaluation(recipe, "reconstruction")]
        yield _evaluate("evaluate-reconstruction", [*words, "--weights", stage2], ["export-stage2"], recipe)
    evaluated = [("two-stage", "two-stage", two_stage, exported)] if exported else []
    if FEW_STEPS in recipe.parts:
        fused = [*two_stage, "--lora", str(recipe.weights(FEW_STEPS))]
        evaluated.append((FEW_STEPS, "two-stage", fused, [*exported, f"export-{FEW_STEPS}"]))
    if "direct" in recipe.parts:
        evaluated.append(("direct", "direct", ["--direct", str(recipe.weights("direct"))], ["export-direct"]))
    for label, system, weights, after in evaluated:
        for first in range(0, SEED_STEP * recipe.seeds, SEED_STEP):
            name = f"text-{label}-{first}"
            words = ["evaluate", "text", "--prompts", str(recipe.prompts), "-o", _evaluation(recipe, name)]
            words += ["--system", system, "--seed", str(first), *weights]
            yield _evaluate(f"evaluate-{name}", words, after, recipe)


def _render(
    recipe: Recipe,
    name: str,
    objects: Sequence[str],
    plan: str,
    *more: str,
    split: str = "",
    after: Sequence[str] = (),
) -> Step:
    settings = ["--plan", str(recipe.configs / "render" / f"{plan}.yaml"), "--workers", str(recipe.workers)]
    chosen = _chosen(recipe) if split == TRAIN else ["--split", split] if split else []
    words = [*objects, "-o", recipe.scenes(name), *settings, *chosen, *more]
    return Step(f"render-{name}", f"{PACKAGE}.render", lambda _: words, after, accepted=RENDERED)


def _chosen(recipe: Recipe) -> list[str]:
    """Options that choose the objects to train on."""
    return ["--split", TRAIN, *([] if recipe.licences == "all" else ["--licenses", recipe.licences])]


def _correct_captions(recipe: Recipe, name: str) -> Step:
    """Better captions for objects whose name means two things."""
    words = ["manifest", str(CAPTIONS), recipe.scenes(name), "--overwrite"]
    return Step(f"captions-{name}", f"{PACKAGE}.captions.__main__", lambda _: words, [f"render-{name}"])


def _paint(recipe: Recipe, name: str, of: Sequence[str], *more: str, lane: str = "data", without: bool = True) -> Step:
    held_out = ["--without", str(recipe.prompts)] if without else []
    words = [*map(recipe.scenes, of), "-o", recipe.scenes(name), "--workers", str(recipe.workers), *held_out, *more]
    after = [f"captions-{each}" for each in of]
    return Step(f"paint-{name}", f"{PACKAGE}.recolour", lambda _: words, after, lane, accepted=PAINTED)


def _fit(recipe: Recipe, part: str, more: Sequence[str], after: Sequence[str], lane: str) -> Step:
    run, share = recipe.out / "runs" / part, _share(recipe, part)

    def command(left: float) -> list[str]:
        length = ["--trainer.max_steps=-1", f"--trainer.max_time={_duration(share * left)}"]
        log = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={run}", "--trainer.logger.name=log"]
        where = [f"--trainer.default_root_dir={run}", f"--data.workers={_loaders(recipe, part)}"]
        return ["fit", system_of(part), *recipe.config(part), *where, *log, *length, *more]

    return Step(f"train-{part}", "instant3d.cli.main", command, after, lane, checkpoints=run)


def _export(recipe: Recipe, part: str, lane: str, *more: str) -> Step:
    words = ["export", str(recipe.out / "runs" / part), "-o", str(recipe.weights(part)), *more]
    return Step(f"export-{part}", "instant3d.cli.main", lambda _: words, (f"train-{part}",), lane)


def _evaluate(name: str, words: list[str], after: Sequence[str], recipe: Recipe) -> Step:
    return Step(name, "instant3d.cli.main", lambda _: [*words, "--device", _device(recipe)], after, lane=name)


def _evaluation(recipe: Recipe, name: str) -> str:
    return str(recipe.out / "evaluation" / name)


def _share(recipe: Recipe, part: str) -> float:
    """Share of the seconds left that a training takes: equal parts for it and those that follow."""
    if recipe.parallel:
        return BEFORE_FEW_STEPS if part == "stage1" and FEW_STEPS in recipe.parts else 1.0
    order = [name for name in PARTS if name in recipe.parts and name != "judge"]
    return 1 / (len(order) - order.index(part))


def _loaders(recipe: Recipe, part: str) -> int:
    """Processes that read for a training: most for stage 2's scenes, few for latents, none for prompts."""
    if not recipe.parallel:
        return int(part == "stage2")
    return {"stage1": min(2, recipe.workers), "stage2": max(recipe.workers - 3, 1)}.get(part, 0)


def _device(recipe: Recipe) -> str:
    return "cpu" if recipe.trainer == "cpu" else "cuda"


def _duration(seconds: float) -> str:
    """As Lightning writes it: days, hours, minutes, seconds."""
    whole = max(1, round(seconds))
    return f"{whole // 86400:02d}:{whole // 3600 % 24:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
