"""Where the weights lie that come with the source. Knows nothing of what is in them."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path("checkpoints")
STAGE1, STAGE2 = FOLDER / "stage1-demo", FOLDER / "stage2-demo"
DIRECT = FOLDER / "direct-demo"
JUDGE = FOLDER / "judge"


def weights_folder(demo: Path, named: str | Path | None = None, *, option: str = "--weights") -> str | Path:
    """What was named, or the bundled weights `demo`: beside the working folder or beside the source.

    option  where the user can name others, for the error's sake
    """
    if named is not None:
        if not str(named).strip():
            raise ValueError(f"{option} is empty; name a checkpoint folder or a Hub id, or leave it out")
        return named
    for place in (Path(), Path(__file__).parents[3]):
        if (place / demo).is_dir():
            return place / demo
    raise FileNotFoundError(f"there are no weights in {demo}; name a checkpoint folder or a Hub id by {option}")
