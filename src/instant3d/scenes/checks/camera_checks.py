"""Checks of a scene's cameras: their agreement with the silhouettes, and the object's size and position."""

from __future__ import annotations

import math

import torch

from instant3d.cameras import Cameras
from instant3d.scenes import transforms
from instant3d.scenes.checks import camera_hypotheses, conventions, silhouettes
from instant3d.scenes.checks.blank_frames import Thumbnail
from instant3d.scenes.checks.finding import Finding

VIEWS = 12  # views compared per scene; more add little
LARGE = 1.5  # half the extent of an object that is certainly too large, not only out of place


def check_cameras(where: str, document: transforms.Document, usable: list[Thumbnail]) -> list[Finding]:
    """Check the cameras of frames against their silhouettes, and the size and position of the object.

    Args:
        where: The scene, for messages.
        document: The scene's document.
        usable: Thumbnails of frames that show an object cut out; too few of them are not checked.
    """
    if len(usable) < camera_hypotheses.LEAST_VIEWS:
        return []
    picks = torch.linspace(0, len(usable) - 1, min(VIEWS, len(usable))).round().long().tolist()
    chosen = [usable[k] for k in picks]
    alpha = torch.stack([thumbnail.alpha for thumbnail in chosen])
    shapes, given = silhouettes.silhouettes(alpha), cameras_of(document, chosen)
    now = camera_hypotheses.contradiction(shapes, given)
    scores = {conventions.GIVEN: now}
    if now > camera_hypotheses.WRONG:
        for reading in conventions.READINGS.keys() - scores.keys():
            turned = cameras_of(conventions.reread(document, reading), chosen)
            scores[reading] = camera_hypotheses.contradiction(shapes, turned)
    fault = _disagreement(where, shapes, given, scores) if now > camera_hypotheses.CLEAR else None
    return ([fault] if fault else extent_findings(where, shapes, given)) + _cut(where, chosen, alpha)


def cameras_of(document: transforms.Document, chosen: list[Thumbnail]) -> Cameras:
    """Return the cameras of the chosen frames as the document defines them."""
    frames = [document.frame(thumbnail.number) for thumbnail in chosen]
    matrices = torch.tensor([frame.cam_to_world.tolist() for frame in frames], dtype=torch.float32)
    lenses = [frame.pinhole(*thumbnail.size) for frame, thumbnail in zip(frames, chosen, strict=True)]
    return Cameras(matrices, torch.tensor(lenses, dtype=torch.float32))


def _disagreement(
    where: str, shapes: silhouettes.Silhouettes, given: Cameras, scores: dict[str, float]
) -> Finding | None:
    """Explain why the cameras contradict the silhouettes: another convention, another focal length, or unknown."""
    now = scores[conventions.GIVEN]
    if len(scores) > 1:
        choice = camera_hypotheses.best(scores)
        if (
            choice.name != conventions.GIVEN
            and camera_hypotheses.confidence(choice.score, now) >= camera_hypotheses.SURE
        ):
            return _convention(where, choice, now, camera_hypotheses.alternatives(scores))
    lens = camera_hypotheses.focal(shapes, given)
    plain = max(lens.middle, 1 / lens.middle) > camera_hypotheses.FOCAL_LEAST
    if plain and camera_hypotheses.confidence(lens.score, now) > 0.5 and lens.score < now / 3:
        return _fov(where, given, lens, now)
    if now <= camera_hypotheses.WRONG:
        return None
    evidence = f"outlines contradict each other by {now:.2f} px; neither another convention nor another lens helps"
    advice = "are the frames in the order of their cameras, and is it one unmoving object?"
    return Finding("cameras", where, camera_hypotheses.confidence(0, now), evidence, advice)


def _convention(
    where: str, hypothesis: camera_hypotheses.Hypothesis, now: float, alternatives: tuple[str, ...]
) -> Finding:
    as_given = (
        f"outlines contradict each other by {now:.2f} px as given ({conventions.GIVEN}), by {hypothesis.score:.2f} px"
    )
    evidence = f"{as_given} as {hypothesis.name}, by {hypothesis.runner_up:.2f} px as the next best"
    if hypothesis.sure >= camera_hypotheses.SURE:
        advice = f"the matrices are {hypothesis.name}; `--fix` writes them in the format's convention"
        return Finding("camera convention", where, hypothesis.sure, evidence, advice, fix=hypothesis.name)
    advice = (
        f"the matrices are not in the format's convention, but {' or '.join(alternatives)}; check how they were written"
    )
    return Finding(
        "camera convention",
        where,
        camera_hypotheses.confidence(hypothesis.score, now),
        evidence,
        advice,
        fits=alternatives,
    )


def _fov(where: str, given: Cameras, lens: camera_hypotheses.Focal, now: float) -> Finding:
    focal = float(given.intrinsics[:, 0].mean())
    factors = (1.0, lens.middle, lens.high, lens.low)
    given_fov, fitted_fov, low, high = (2 * math.degrees(math.atan(0.5 / focal / factor)) for factor in factors)
    left = f"by {lens.score:.2f} px between {low:.0f} and {high:.0f}"
    evidence = f"outlines contradict each other by {now:.2f} px at {given_fov:.0f} degrees, {left}"
    advice = f"a field of view of about {fitted_fov:.0f} degrees fits the images; check fl_x or camera_angle_x"
    return Finding("field of view", where, camera_hypotheses.confidence(lens.score, now), evidence, advice)


def extent_findings(where: str, shapes: silhouettes.Silhouettes, given: Cameras) -> list[Finding]:
    """Check the size and position of the object against the cube [-1, 1]^3.

    Args:
        where: The scene's path.
        shapes: Outlines of V images.
        given: Their cameras (V,), which agree with the outlines.
    """
    outside = camera_hypotheses.share_outside(shapes, given)
    extent = camera_hypotheses.half_extent(shapes, given)
    scaling = f"multiply all camera positions by about {1 / max(extent, 1e-6):.2g}"
    if outside > camera_hypotheses.OUTSIDE_SHARE:
        evidence = f"{outside:.0%} of the rays along the outlines meet nothing inside the cube [-1, 1]^3"
        advice = scaling if extent > LARGE else "scale or move the object, or all camera positions"
        return [Finding("leaves the box", where, 0.95, evidence, f"{advice}, so that it fits the unit sphere")]
    if extent < camera_hypotheses.TINY:
        evidence = f"the object reaches {extent:.2f} from its middle at most, where 1 is expected"
        return [Finding("tiny object", where, 0.95, evidence, f"{scaling}, so that it just fits the unit sphere")]
    return []


def _cut(where: str, chosen: list[Thumbnail], alpha: torch.Tensor) -> list[Finding]:
    cut = [thumbnail.number for thumbnail, off in zip(chosen, camera_hypotheses.cut_off(alpha), strict=True) if off]
    if not cut:
        return []
    evidence = f"{len(cut)} of {len(chosen)} images show it cut off by their border"
    advice = "move the cameras back, or scale the object: what lies outside the frame is trained as empty space"
    return [Finding("leaves the frame", where, 1.0, evidence, advice, frames=tuple(cut))]
