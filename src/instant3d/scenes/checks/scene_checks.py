"""One scene folder to findings: is it readable, do its pictures show something, do its cameras fit them.

Knows nothing of other scenes, and writes nothing.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from pathlib import Path

import torch

from instant3d import scenes
from instant3d.cameras import Cameras
from instant3d.scenes import images, scene_folder, transforms
from instant3d.scenes.checks import blank_frames, camera_hypotheses, conventions, silhouettes
from instant3d.scenes.checks.blank_frames import Thumbnail
from instant3d.scenes.checks.finding import NOTE, Finding, SceneReport
from instant3d.utils import file_listing
from instant3d.utils.errors import LIBRARY_ERRORS, shorten

VIEWS = 12  # of a scene that are compared; more tell little more
ENDINGS = {".png", ".jpg", ".jpeg", ".webp"}
SHADES = {"black": "is black", "white": "is white", "empty": "shows nothing"}


def check_scene(path: Path) -> SceneReport:
    """All that is found in the scene at `path`, a folder or its document."""
    where = str(path)
    try:
        document = scenes.document(path)
    except (ValueError, OSError) as error:
        return SceneReport(where, (_unreadable(where, [shorten(str(error))]),))
    root = (path.parent if path.suffix == ".json" else path).resolve()
    shown, problems = read_frames(document, root)
    findings = [_unreadable(where, list(problems.values()), tuple(problems), document.count)] if problems else []
    blank = blank_frames.blank(shown)
    findings += [_blank(where, shade, blank, document, shown) for shade in sorted(set(blank.values()))]
    findings += _maps(where, document, root, shown)
    findings += _alpha_sources(where, [picture for picture in shown if picture.number not in blank])
    findings += _unnamed(where, document, root) + _caption(where, document)
    usable = [picture for picture in shown if picture.number not in blank and picture.alpha_source != "none"]
    findings += cameras(where, document, usable)
    fingerprint = blank_frames.fingerprint([picture for picture in shown if picture.number not in blank])
    return SceneReport(where, tuple(findings), document.count, document.text("id") or "", fingerprint)


def read_frames(document: transforms.Document, root: Path) -> tuple[list[Thumbnail], dict[int, str]]:
    """The frames that can be read, and what is wrong with the others by number."""
    shown: list[Thumbnail] = []
    problems: dict[int, str] = {}
    for number in range(document.count):
        try:
            frame = document.frame(number)
            mask = scenes.file_content(root, frame.mask) if frame.mask else None
            found = images.decode(scenes.file_content(root, frame.image), mask, frame.where, scene_folder.ENOUGH)
            height, width = found.full_size or found.alpha.shape
            frame.intrinsics(width, height)
        except (ValueError, OSError) as error:
            problems[number] = shorten(str(error))
            continue
        shown.append(_shrunk(number, found))
    usual = Counter(picture.size for picture in shown).most_common(1)
    for picture in shown:
        if picture.size != usual[0][0]:
            text = "frame {} is {} x {} pixels, but most of its scene are {} x {}; make them the same size"
            problems[picture.number] = text.format(picture.number, *picture.size, *usual[0][0])
    return [picture for picture in shown if picture.number not in problems], problems


def _shrunk(number: int, found: images.DecodedImage) -> Thumbnail:
    """A frame at the size that suffices: of a hundred large ones, only the small copies stay in memory."""
    height, width = found.full_size or found.alpha.shape
    rgb, alpha = torch.tensor(found.rgb).permute(2, 0, 1) / 255, torch.tensor(found.alpha)[None] / 255
    small = silhouettes.downsize(torch.cat([rgb * alpha, alpha])[None])[0]
    straight = (small[:3] / small[3:].clamp(min=1e-6)).clamp(0, 1)
    return Thumbnail(number, straight, small[3:], found.alpha_source, (width, height), int(found.alpha.max()))


def _unreadable(where: str, errors: list[str], frames: tuple[int, ...] = (), count: int = 0) -> Finding:
    share = f"{len(frames)} of {count} frames: " if frames else ""
    return Finding("unreadable", where, 1.0, share + errors[0], "mend or remove what is named", frames=frames)


def _blank(
    where: str, shade: str, blank: dict[int, str], document: transforms.Document, shown: list[Thumbnail]
) -> Finding:
    frames = tuple(number for number, found in blank.items() if found == shade)
    one = len(frames) == 1
    evidence = f"frame {frames[0]} {SHADES[shade]}" if one else f"{len(frames)} frames: each {SHADES[shade]}"
    advice = "render them again, or drop the scene"
    if shade == "empty":
        greatest = max(picture.greatest for picture in shown if picture.number in frames)
        mask = document.frame(frames[0]).mask
        source = "the masks" if mask else "alpha"
        evidence += f" ({source}: {greatest} of 255 at most{f', such as {mask}' if mask else ''})"
        advice = "write the masks as 0 and 255, or as 0 and 1" if mask and greatest else advice
    return Finding(f"{shade} frame", where, 1.0, evidence, advice, frames=frames)


def _maps(where: str, document: transforms.Document, root: Path, shown: list[Thumbnail]) -> list[Finding]:
    """Depth and normal maps that training could not read."""
    problems: dict[int, str] = {}
    for picture in shown:
        try:
            frame, size = document.frame(picture.number), picture.size[::-1]
            scene_folder.read_maps(frame, document, lambda name: scenes.file_content(root, name), size)
        except (ValueError, OSError) as error:
            problems[picture.number] = shorten(str(error))
    if not problems:
        return []
    evidence = f"{len(problems)} of {document.count} frames: {next(iter(problems.values()))}"
    advice = "write maps of the pictures' size, or drop their keys from transforms.json"
    return [Finding("depth or normals", where, 1.0, evidence, advice, frames=tuple(problems))]


def _alpha_sources(where: str, shown: list[Thumbnail]) -> list[Finding]:
    none = tuple(picture.number for picture in shown if picture.alpha_source == "none")
    cut = tuple(picture.number for picture in shown if picture.alpha_source == "white")
    findings = []
    if none:
        evidence = f"{len(none)} frames have neither alpha, nor a mask, nor a white background"
        advice = "render with a transparent background or add masks: now all of the picture counts as the object"
        findings.append(Finding("missing alpha", where, 1.0, evidence, advice, frames=none))
    if cut:
        evidence = f"{len(cut)} frames have no alpha; the object is cut from their white background"
        advice = "fine if the object has no white edges; render RGBA to be exact"
        findings.append(Finding("missing alpha", where, 1.0, evidence, advice, level=NOTE, frames=cut))
    return findings


def _unnamed(where: str, document: transforms.Document, root: Path) -> list[Finding]:
    """Pictures that lie beside those of the frames, but are no frame's."""
    try:
        named = {root / document.frame(k).image for k in range(document.count)}
        places = {path.parent for path in named if path.parent != root}
        lying = [file for place in places for file in file_listing.visible_files(place, "*") if file.suffix in ENDINGS]
        stems = {path.with_suffix("") for path in named} | named
    except (ValueError, OSError):  # of a name that is no file's, which `read` has told of
        return []
    left = [file for file in lying if file.with_suffix("") not in stems]
    if not left or len({path.parent for path in named}) > 1:
        return []
    evidence = f"{document.count} frames, but {len(lying)} pictures, such as {min(left).name}, which no frame names"
    return [Finding("frame count", where, 0.9, evidence, "was the rendering interrupted? Render the scene again")]


def _caption(where: str, document: transforms.Document) -> list[Finding]:
    if document.text("caption"):
        return []
    advice = "add a `caption` to transforms.json; stage 1 cannot learn from the scene, stage 2 can"
    return [Finding("caption missing", where, 1.0, "no caption, or an empty one", advice, level=NOTE)]


def cameras(where: str, document: transforms.Document, usable: list[Thumbnail]) -> list[Finding]:
    """What is wrong with the cameras of pictures that show something, and with the object's place before them."""
    if len(usable) < camera_hypotheses.LEAST_VIEWS:
        return []
    picks = torch.linspace(0, len(usable) - 1, min(VIEWS, len(usable))).round().long().tolist()
    chosen = [usable[k] for k in picks]
    alpha = torch.stack([picture.alpha for picture in chosen])
    shapes, given = silhouettes.silhouettes(alpha), cameras_of(document, chosen)
    now = camera_hypotheses.contradiction(shapes, given)
    scores = {conventions.GIVEN: now}
    if now > camera_hypotheses.WRONG:
        for reading in conventions.READINGS.keys() - scores.keys():
            turned = cameras_of(conventions.reread(document, reading), chosen)
            scores[reading] = camera_hypotheses.contradiction(shapes, turned)
    ill = _disagreement(where, shapes, given, scores) if now > camera_hypotheses.CLEAR else None
    return ([ill] if ill else _extent(where, shapes, given)) + _cut(where, chosen, alpha)


def cameras_of(document: transforms.Document, chosen: list[Thumbnail]) -> Cameras:
    """The cameras of the chosen pictures, as the document has them."""
    frames = [document.frame(picture.number) for picture in chosen]
    matrices = torch.tensor([frame.cam_to_world.tolist() for frame in frames], dtype=torch.float32)
    lenses = [frame.intrinsics(*picture.size) for frame, picture in zip(frames, chosen, strict=True)]
    return Cameras(matrices, torch.tensor(lenses, dtype=torch.float32))


def _disagreement(
    where: str, shapes: silhouettes.Silhouettes, given: Cameras, scores: dict[str, float]
) -> Finding | None:
    """Why the given cameras contradict the pictures: another convention, another lens, or nothing that is known."""
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
    told = (
        f"outlines contradict each other by {now:.2f} px as given ({conventions.GIVEN}), by {hypothesis.score:.2f} px"
    )
    evidence = f"{told} as {hypothesis.name}, by {hypothesis.runner_up:.2f} px as the next best"
    if hypothesis.sure >= camera_hypotheses.SURE:
        advice = f"the matrices are {hypothesis.name}; `--fix` writes them as the format asks"
        return Finding("camera convention", where, hypothesis.sure, evidence, advice, fix=hypothesis.name)
    advice = (
        f"the matrices are not what the format asks for, but {' or '.join(alternatives)}; see how they were written"
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
    said, meant, low, high = (2 * math.degrees(math.atan(0.5 / focal / factor)) for factor in factors)
    left = f"by {lens.score:.2f} px between {low:.0f} and {high:.0f}"
    evidence = f"outlines contradict each other by {now:.2f} px at {said:.0f} degrees, {left}"
    advice = f"a field of view of about {meant:.0f} degrees fits the pictures; check fl_x or camera_angle_x"
    return Finding("field of view", where, camera_hypotheses.confidence(lens.score, now), evidence, advice)


def _extent(where: str, shapes: silhouettes.Silhouettes, given: Cameras) -> list[Finding]:
    outside = camera_hypotheses.share_outside(shapes, given)
    if outside > camera_hypotheses.OUTSIDE_SHARE:
        evidence = f"{outside:.0%} of the rays along the outlines meet nothing inside the cube [-1, 1]^3"
        advice = "scale or move the object, or all camera positions, so that it fits the unit sphere"
        return [Finding("leaves the box", where, 0.95, evidence, advice)]
    extent = camera_hypotheses.half_extent(shapes, given)
    if extent < camera_hypotheses.TINY:
        evidence = f"the object reaches {extent:.2f} from its middle at most, where 1 is expected"
        return [Finding("tiny object", where, 0.95, evidence, "scale the object so that it just fits the unit sphere")]
    return []


def _cut(where: str, chosen: list[Thumbnail], alpha: torch.Tensor) -> list[Finding]:
    cut = [picture.number for picture, off in zip(chosen, camera_hypotheses.cut_off(alpha), strict=True) if off]
    if not cut:
        return []
    evidence = f"{len(cut)} of {len(chosen)} pictures show it cut by their frame"
    advice = "move the cameras back, or scale the object: what leaves the frame is taken for empty"
    return [Finding("leaves the frame", where, 1.0, evidence, advice, frames=tuple(cut))]


def check_scene_quietly(path: Path) -> SceneReport:
    """`examine` without the reader's own warnings, which the findings hold already; on one thread."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return check_scene(path)
        except LIBRARY_ERRORS as error:  # one scene, whatever it holds, ends nothing
            text = f"it cannot be examined ({type(error).__name__}: {error})"
            return SceneReport(str(path), (_unreadable(str(path), [text]),))
