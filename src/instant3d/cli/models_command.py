"""The commands `instant3d models` and `instant3d fetch`: released checkpoints, listed and brought here."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from instant3d.pipelines import released_models
from instant3d.utils import atomic
from instant3d.utils.arg_types import nonempty_path
from instant3d.utils.errors import print_escaped


def add_models(command: argparse.ArgumentParser) -> None:
    """Declare `models`, which needs no network."""
    command.set_defaults(command=_models)


def add_fetch(command: argparse.ArgumentParser) -> None:
    """Declare the options of `fetch`."""
    command.add_argument("names", nargs="+", metavar="NAME", help="as `instant3d models` lists them")
    command.add_argument(
        "-o", "--output", type=nonempty_path, help="folder of one model (default checkpoints/NAME); resumes"
    )
    command.add_argument("--offline", action="store_true", help="open no connection; convert what is cached")
    command.set_defaults(command=_fetch)


def _models(_: argparse.Namespace) -> None:
    print_escaped("\n".join(released_models.table()))


def _fetch(arguments: argparse.Namespace) -> None:
    models = [released_models.find(name) for name in arguments.names]
    if arguments.output is not None and len(models) > 1:
        raise ValueError(f"-o names the folder of one model, but {len(models)} are fetched; leave it out")
    if arguments.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the Hub's client is imported
    from instant3d.pipelines.fetch import fetch

    for model in models:
        folder = arguments.output or Path(model.folder)
        atomic.check_writable(folder)
        print_escaped(f"instant3d: note: licence of {model.name}: {model.licence}", sys.stderr)
        print_escaped(fetch(model, folder))
