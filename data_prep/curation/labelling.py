"""An HTML page for labelling scenes good or bad by single keys.

It is one HTML file that works from the disk, without a server or downloads. Captions and ids are untrusted, so they
travel as JSON that cannot end its script and are shown as text; the page's policy runs no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from urllib.parse import quote

from instant3d.utils.atomic import write_bytes
from instant3d.utils.progress import OnStep

from ..manifests.id_lists import LABELS_FORMAT
from ..manifests.thumbnails import data_uri, script_data, webp
from .scene_index import Broken, SceneRef, montage

WIDTH = 384  # pixels of the image of all views
HERE = Path(__file__).parent


def sample(subjects: Sequence[SceneRef], count: int | None, seed: int = 0) -> list[SceneRef]:
    """Choose scenes in a random order by hashes of their ids, so that more scenes do not change the order.

    Args:
        subjects: Scenes to choose from.
        count: How many to choose; None for all.
        seed: Seed of the order.
    """

    def turn(subject: SceneRef) -> bytes:
        return hashlib.sha256(f"{seed}/{subject.id}".encode()).digest()

    return sorted(subjects, key=turn)[:count]


def write(
    path: Path,
    subjects: Sequence[SceneRef],
    *,
    frames: Sequence[int],
    labels: Mapping[str, str] | None = None,
    embed: bool = True,
    on_step: OnStep = lambda *_: None,
) -> Broken:
    """Write the page with `subjects` in this order.

    Args:
        path: The HTML file.
        subjects: Scenes.
        frames: Indices of the views to show.
        labels: Labels with which the page starts, by id.
        embed: Put images into the page; otherwise into a folder beside it.
        on_step: Called with the progress.

    Returns:
        The scenes that cannot be read, with the reasons.
    """
    rows: list[dict[str, str | None]] = []
    failures: Broken = []
    folder = path.with_name(f"{path.stem}_pictures")
    if not embed:
        folder.mkdir(parents=True, exist_ok=True)
    aspect = 1.0
    for number, subject in enumerate(subjects, start=1):
        try:
            scene = montage(subject.on_white(frames))
            caption = subject.document().text("caption")
        except (ValueError, OSError) as error:
            failures.append((subject.where, str(error)))
            continue
        aspect = scene.shape[-1] / scene.shape[-2]
        image = webp(scene, WIDTH)
        rows.append({"id": subject.id, "caption": caption, "picture": _place(image, subject, folder, embed)})
        on_step(number, len(subjects))
    if not rows:
        raise ValueError(f"not one of {len(subjects)} scenes could be read; no page was written")
    start_labels = [[name, label] for name, label in (labels or {}).items()]
    key = "instant3d-labels:" + hashlib.sha256("\n".join(sorted(row["id"] or "" for row in rows)).encode()).hexdigest()
    write_bytes(
        path, _page({"format": LABELS_FORMAT, "key": key, "subjects": rows, "labels": start_labels}, aspect).encode()
    )
    return failures


def _place(image: bytes, subject: SceneRef, folder: Path, embed: bool) -> str:
    """URL of an image on the page; its file is named by the hash of the id, which may be no file name."""
    if embed:
        return data_uri(image)
    file = folder / f"{hashlib.sha256(subject.id.encode()).hexdigest()[:32]}.webp"
    write_bytes(file, image)
    return f"{quote(folder.name)}/{file.name}"


def _page(content: Mapping[str, object], aspect: float) -> str:
    script = (HERE / "labelling_page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data: 'self' file:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    page = Template((HERE / "labelling_page.html").read_text("utf-8"))
    return page.substitute(policy=policy, aspect=f"{aspect:.4f}", data=script_data(content), script=script)
