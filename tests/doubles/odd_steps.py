"""A command for the runner of steps: files in its folder tell it to wait, to hang or to fail."""

import os
import sys
import time
from pathlib import Path


def main(arguments: list[str]) -> int:
    name, folder = arguments[0], Path(arguments[1])
    if (folder / f"fail-{name}").exists():
        print("no luck", file=sys.stderr)
        return 3
    while (folder / f"wait-{name}").exists() and not (folder / "order").exists():
        time.sleep(0.02)
    if (folder / f"hang-{name}").exists():
        (folder / "hanging").write_text(str(os.getpid()))
        time.sleep(600)
    with (folder / "order").open("a") as file:
        file.write(f"{name}\n")
    return 0
