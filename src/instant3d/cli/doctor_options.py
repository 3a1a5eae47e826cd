"""Options and output of `instant3d doctor`; heavy modules are imported when the command runs."""

from __future__ import annotations

import argparse
import json

from instant3d.utils.arg_types import byte_size, nonempty_path, positive_int
from instant3d.utils.errors import print_escaped
from instant3d.utils.progress import Progress

EPILOG = """Exit code 0: no scene has a fault, or all were repaired; 1: some have one. A note is not a fault."""


def add(command: argparse.ArgumentParser) -> None:
    """Declare the options of `doctor`."""
    command.epilog = EPILOG
    command.add_argument("scenes", type=nonempty_path, nargs="+", help="scene folders, or folders of such at any depth")
    command.add_argument("-o", "--output", type=nonempty_path, metavar="FILE", help="all findings, as JSON")
    command.add_argument(
        "--fix", action="store_true", help="repair camera conventions where certain; the old file is kept"
    )
    command.add_argument(
        "--frames", type=positive_int, help="frames that each scene should have (default: what most scenes have)"
    )
    command.add_argument("--jobs", type=positive_int, help="processes of one thread each (default: one for each core)")
    command.add_argument(
        "--max-memory",
        type=byte_size,
        default=2**32,
        help="for decoding images, of all processes together (default 4G); each takes 0.3G for itself",
    )
    command.set_defaults(command=run, output_is_file=True)


def run(arguments: argparse.Namespace) -> int:
    """Check scenes, repair them with --fix, and print and write the findings.

    Args:
        arguments: The parsed options.

    Returns:
        The exit code: 0 if all scenes are healthy, else 1.

    Raises:
        FileNotFoundError: There are no such scenes, or no folder for the report.
    """
    from instant3d.scenes.checks import check
    from instant3d.utils.atomic import write_bytes

    if arguments.output is not None and not arguments.output.resolve().parent.is_dir():
        raise FileNotFoundError(f"{arguments.output.parent} is no folder; create it, or name another for the report")
    patients, findings = check.check_scenes(
        arguments.scenes,
        jobs=arguments.jobs,
        frames=arguments.frames,
        max_memory=arguments.max_memory,
        progress=Progress.to_user(),
    )
    findings = check.fix_scenes(findings) if arguments.fix else findings
    report = check.report(patients, findings)
    print_escaped("\n".join(check.lines(patients, findings)))
    if arguments.output is not None:
        write_bytes(arguments.output, (json.dumps(report, indent=1) + "\n").encode())
    return 0 if report["healthy"] == report["scenes"] else 1
