"""Checks of one scene: readable files, blank frames, alpha, maps, and cameras that agree with the silhouettes."""

from __future__ import annotations

import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import torch

from instant3d import scenes
from instant3d.scenes import frame_files, images, transforms
from instant3d.scenes.checks import blank_frames, silhouettes
from instant3d.scenes.checks.blank_frames import Thumbnail
from instant3d.scenes.checks.camera_checks import check_cameras
from instant3d.scenes.checks.decoding_memory import DEFAULT, ENOUGH, DecodingMemory
from instant3d.scenes.checks.finding import NOTE, Finding, SceneReport
from instant3d.scenes.geometry_maps import MapGrid
from instant3d.utils import file_listing
from instant3d.utils.errors import LIBRARY_ERRORS, shorten

UNSHARED = DecodingMemory(DEFAULT, DEFAULT)  # of a single process
ENDINGS = {".png", ".jpg", ".jpeg", ".webp"}
SHADES = {"black": "is black", "white": "is white", "empty": "shows nothing"}


def check_scene(path: Path, memory: DecodingMemory = UNSHARED) -> SceneReport:
    """Check one scene.

    Args:
        path: The scene folder or its `transforms.json`.
        memory: For decoding one image; one that needs more counts as unreadable.
    """
    where = str(path)
    try:
        document = scenes.document(path)
    except (ValueError, OSError) as error:
        return SceneReport(where, (_unreadable(where, [shorten(str(error))]),))
    root = (path.parent if path.suffix == ".json" else path).resolve()
    thumbnails, problems = read_frames(document, root, memory)
    findings = [_unreadable(where, list(problems.values()), tuple(problems), document.count)] if problems else []
    blank = blank_frames.blank(thumbnails)
    findings += [_blank(where, shade, blank, document, thumbnails) for shade in sorted(set(blank.values()))]
    findings += _maps(where, document, root, thumbnails, memory)
    findings += _alpha_sources(where, [thumbnail for thumbnail in thumbnails if thumbnail.number not in blank])
    findings += _unnamed(where, document, root) + _caption(where, document) + _reading(where, document, thumbnails)
    usable = [
        thumbnail for thumbnail in thumbnails if thumbnail.number not in blank and thumbnail.alpha_source != "none"
    ]
    findings += check_cameras(where, document, usable)
    fingerprint = blank_frames.fingerprint([thumbnail for thumbnail in thumbnails if thumbnail.number not in blank])
    return SceneReport(where, tuple(findings), document.count, document.text("id") or "", fingerprint)


def read_frames(
    document: transforms.Document, root: Path, memory: DecodingMemory = UNSHARED
) -> tuple[list[Thumbnail], dict[int, str]]:
    """Read all frames as thumbnails.

    Args:
        document: The scene's document.
        root: The scene folder, outside which no file is read.
        memory: For decoding one image; one that needs more counts as unreadable.

    Returns:
        The thumbnails of valid frames, and error messages by frame number for unreadable frames and those whose size
        is not the scene's most frequent one.
    """
    thumbnails: list[Thumbnail] = []
    problems: dict[int, str] = {}

    def load(name: str) -> bytes:
        return scenes.file_content(root, name)

    for number in range(document.count):
        try:
            frame = document.frame(number)
            with memory.reserved() as check:
                found = frame_files.read_image(frame, load, ENOUGH, check)
            height, width = found.full_size or found.alpha.shape
            frame.pinhole(width, height)
            thumbnails.append(_shrunk(number, found))
        except (ValueError, OSError) as error:
            problems[number] = shorten(str(error))
    usual = Counter(thumbnail.size for thumbnail in thumbnails).most_common(1)
    for thumbnail in thumbnails:
        if thumbnail.size != usual[0][0]:
            text = "frame {} is {} x {} pixels, but most of its scene are {} x {}; make them the same size"
            problems[thumbnail.number] = text.format(thumbnail.number, *thumbnail.size, *usual[0][0])
    return [thumbnail for thumbnail in thumbnails if thumbnail.number not in problems], problems


def _shrunk(number: int, found: images.DecodedImage) -> Thumbnail:
    """Reduce a frame to a thumbnail, so that of a hundred large images only small copies stay in memory."""
    height, width = found.full_size or found.alpha.shape
    rgb, alpha = torch.tensor(found.rgb).permute(2, 0, 1) / 255, torch.tensor(found.alpha)[None] / 255
    small = silhouettes.downsize(torch.cat([rgb * alpha, alpha])[None])[0]
    straight = (small[:3] / small[3:].clamp(min=1e-6)).clamp(0, 1)
    return Thumbnail(
        number,
        straight,
        small[3:],
        found.alpha_source,
        (width, height),
        int(found.alpha.max()),
        found.ignored_orientation,
        found.applied_orientation,
    )


def _unreadable(where: str, errors: list[str], frames: tuple[int, ...] = (), count: int = 0) -> Finding:
    share = f"{len(frames)} of {count} frames: " if frames else ""
    return Finding("unreadable", where, 1.0, share + errors[0], "repair or remove the named file", frames=frames)


def _blank(
    where: str, shade: str, blank: dict[int, str], document: transforms.Document, thumbnails: list[Thumbnail]
) -> Finding:
    frames = tuple(number for number, found in blank.items() if found == shade)
    one = len(frames) == 1
    evidence = f"frame {frames[0]} {SHADES[shade]}" if one else f"{len(frames)} frames: each {SHADES[shade]}"
    advice = "render them again, or drop the scene"
    if shade == "empty":
        greatest = max(thumbnail.greatest for thumbnail in thumbnails if thumbnail.number in frames)
        mask = document.frame(frames[0]).mask
        source = "the masks" if mask else "alpha"
        evidence += f" ({source}: {greatest} of 255 at most{f', such as {mask}' if mask else ''})"
        advice = "write the masks as 0 and 255, or as 0 and 1" if mask and greatest else advice
    return Finding(f"{shade} frame", where, 1.0, evidence, advice, frames=frames)


def _maps(
    where: str, document: transforms.Document, root: Path, thumbnails: list[Thumbnail], memory: DecodingMemory
) -> list[Finding]:
    """Check for depth and normal maps that training could not read."""
    problems: dict[int, str] = {}
    for thumbnail in thumbnails:
        try:
            frame, small = document.frame(thumbnail.number), thumbnail.alpha.shape
            grid = MapGrid(thumbnail.size[::-1], (small[1], small[2]), thumbnail.applied_orientation)
            with memory.reserved() as check:
                check(*thumbnail.size)
                frame_files.read_maps(frame, document, lambda name: scenes.file_content(root, name), grid)
        except (ValueError, OSError) as error:
            problems[thumbnail.number] = shorten(str(error))
    if not problems:
        return []
    evidence = f"{len(problems)} of {document.count} frames: {next(iter(problems.values()))}"
    advice = "write maps of the images' size, or drop their keys from transforms.json"
    return [Finding("depth or normals", where, 1.0, evidence, advice, frames=tuple(problems))]


def _alpha_sources(where: str, thumbnails: list[Thumbnail]) -> list[Finding]:
    none = tuple(thumbnail.number for thumbnail in thumbnails if thumbnail.alpha_source == "none")
    cut = tuple(thumbnail.number for thumbnail in thumbnails if thumbnail.alpha_source == "white")
    findings = []
    if none:
        evidence = f"{len(none)} frames have neither alpha, nor a mask, nor a white background"
        advice = "render with a transparent background or add masks: now all of the image counts as the object"
        findings.append(Finding("missing alpha", where, 1.0, evidence, advice, frames=none))
    if cut:
        evidence = f"{len(cut)} frames have no alpha; the object is cut from their white background"
        advice = "fine if the object has no white edges; render RGBA to be exact"
        findings.append(Finding("missing alpha", where, 1.0, evidence, advice, level=NOTE, frames=cut))
    return findings


def _unnamed(where: str, document: transforms.Document, root: Path) -> list[Finding]:
    """Check for images beside those of the frames that no frame refers to."""
    try:
        named = {root / document.frame(k).image for k in range(document.count)}
        places = {path.parent for path in named if path.parent != root}
        lying = [file for place in places for file in file_listing.visible_files(place, "*") if file.suffix in ENDINGS]
        stems = {_composed(path) for path in [*named, *(path.with_suffix("") for path in named)]}
    except (ValueError, OSError):  # an invalid file name, which `read_frames` has reported
        return []
    left = [file for file in lying if _composed(file.with_suffix("")) not in stems]
    if not left or len({path.parent for path in named}) > 1:
        return []
    evidence = f"{document.count} frames, but {len(lying)} images, such as {min(left).name}, which no frame names"
    return [Finding("frame count", where, 0.9, evidence, "was the rendering interrupted? Render the scene again")]


def _composed(path: Path) -> str:
    """Return a path with its accents composed (NFC), as macOS takes them apart in names of files."""
    return unicodedata.normalize("NFC", str(path))


def _reading(where: str, document: transforms.Document, thumbnails: list[Thumbnail]) -> list[Finding]:
    """Notes on how ambiguous values were read: scale and offset, lens distortion, EXIF orientation."""
    frames = [document.frame(thumbnail.number) for thumbnail in thumbnails]
    sizes = [thumbnail.size for thumbnail in thumbnails]
    notes = frame_files.reading_notes(frames, sizes, [thumbnail.ignored_orientation for thumbnail in thumbnails])
    notes += [document.world_note] if document.world_note else []
    advice = "right if the file means it so; otherwise change the file"
    return [Finding("ambiguous values", where, 1.0, note, advice, level=NOTE) for note in notes]


def _caption(where: str, document: transforms.Document) -> list[Finding]:
    if document.text("caption"):
        return []
    advice = "add a `caption` to transforms.json; stage 1 cannot be trained on the scene, stage 2 can"
    return [Finding("caption missing", where, 1.0, "no caption, or an empty one", advice, level=NOTE)]


def check_scene_quietly(path: Path, memory: DecodingMemory = UNSHARED) -> SceneReport:
    """Run `check_scene` on one thread without the reader's warnings, which the findings already contain."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return check_scene(path, memory)
        except LIBRARY_ERRORS as error:  # a faulty scene must not stop the check of the others
            text = f"it cannot be examined ({type(error).__name__}: {error})"
            return SceneReport(str(path), (_unreadable(str(path), [text]),))
