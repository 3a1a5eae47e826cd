"""Locate the bundled weights: in the working folder, the checkout, or the installed package of demo weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path("checkpoints")
STAGE1, STAGE2 = FOLDER / "stage1-demo", FOLDER / "stage2-demo"
FEW_STEPS = FOLDER / "stage1-demo-4-steps"  # LoRA weights for STAGE1
DIRECT = FOLDER / "direct-demo"
JUDGE = FOLDER / "judge"
PACKAGE, DISTRIBUTION = "instant3d_demo_weights", "instant3d-demo-weights"


def weights_folder(demo: Path, named: str | Path | None = None, *, option: str = "--weights") -> str | Path:
    """Return the weights that the user named, or else the bundled weights `demo`.

    Args:
        demo: One of the folders above, such as `STAGE1`.
        named: Folder or Hub id from the user, if any.
        option: The command-line option with which the user can name others; appears in the error.

    Raises:
        FileNotFoundError: The bundled weights are not installed; the message names both ways to get them.
        ValueError: `named` is empty.
    """
    if named is not None:
        if not str(named).strip():
            raise ValueError(f"{option} is empty; name a checkpoint folder or a Hub id, or leave it out")
        return named
    found = look_up(demo)
    if found is None:
        raise FileNotFoundError(
            f"the demo weights {demo.name} are not installed: `pip install {DISTRIBUTION}` (or its wheel, which `make "
            f"wheels` builds), or work in a clone of the repository, which holds them in {demo}; or name a checkpoint "
            f"folder or a Hub id by {option}"
        )
    return found


def look_up(demo: str | Path) -> Path | None:
    """Return an existing folder, or a bundled one such as `checkpoints/stage1-demo`; None if it is neither."""
    path = Path(demo)
    if path.is_dir() or path.parts[:1] != (str(FOLDER),):
        return path if path.is_dir() else None
    places = (place / path.relative_to(FOLDER) for place in _homes())
    return next((place for place in places if place.is_dir()), None)


def _homes() -> Iterator[Path]:
    yield Path(__file__).parents[3] / FOLDER
    spec = importlib.util.find_spec(PACKAGE)
    yield from map(Path, (spec and spec.submodule_search_locations) or ())
