"""Commands of data preparation, `instant3d data COMMAND ...`; each is the `main` of its module."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

COMMANDS = {  # name: (module of the data side, what it does)
    "sources": ("sources.__main__", "objects of Objaverse, Sweet Home 3D, folders or the generator to one manifest"),
    "procedural": ("procedural.generate", "objects made from seeds to a folder of GLB files"),
    "variants": ("procedural.variants", "objects turned, stretched and mirrored"),
    "render": ("rendering.render", "objects to scene folders, by a rendering plan"),
    "caption": ("captions.captions", "captions of Cap3D, a manifest or BLIP-2 into scenes"),
    "names": ("captions.names", "objects with ambiguous names"),
    "recolour": ("captions.recolour", "scenes painted in named colours, with captions that name them"),
    "curate": ("curation.__main__", "features, labels, a ranking, near-duplicates and a selection of scenes"),
    "report": ("report.report", "a page with images of what a set of scenes holds"),
    "attribution": ("manifests.attribution", "authors and licences of what scenes and caches show, for a model card"),
    "demo-weights": ("demo_weights.__main__", "from objects to trained demo weights and their model cards"),
}


def main(arguments: list[str]) -> int:
    """Run one command of data preparation.

    Args:
        arguments: The words after `instant3d data`: the command, and its own words.

    Returns:
        The command's exit code.

    Raises:
        ValueError: The first word is missing or no command.
    """
    name, rest = arguments[0] if arguments else "", arguments[1:]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        got = f"got {name!r}" if arguments else "got nothing"
        raise ValueError(f"expected a command after `instant3d data`, {got}; choose among {', '.join(COMMANDS)}")
    return int(importlib.import_module(f"{package()}.{COMMANDS[name][0]}").main(rest))


def usage() -> str:
    """Return the help text: all commands with a line each."""
    lines = [f"  {name:14}{about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: instant3d data COMMAND ...",
            "",
            "Objects, images of them, captions, curation: what training needs.",
            "",
            *lines,
            "",
            "`instant3d data COMMAND --help` lists a command's options.",
        ]
    )


def package() -> str:
    """Return the import name of data preparation: `instant3d.data_prep`, or `data_prep` in a checkout.

    In a checkout its root is added to `sys.path`.
    """
    if importlib.util.find_spec("instant3d.data_prep") is not None:
        return "instant3d.data_prep"
    checkout = str(Path(__file__).parents[3])
    if checkout not in sys.path:
        sys.path.insert(0, checkout)
    return "data_prep"
