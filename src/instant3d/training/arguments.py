"""Arguments of `instant3d fit|validate|test|predict SYSTEM ...` before Lightning's command line parses them."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from instant3d.utils import shipped

SYSTEMS = ("stage1", "stage2", "direct")
CONFIG = ("-c", "--config")
SHORT = {
    "stage1": {"--prompts": "--data.prompts", "-o": "--scenes.output", "--output": "--scenes.output"},
    "direct": {"--prompts": "--data.prompts", "-o": "--triplanes.output", "--output": "--triplanes.output"},
}
USAGE = "instant3d {command} {system} [-c CONFIG] ... [OPTION] ..."
HELP = """usage: {usage}

SYSTEM is one of {systems}. CONFIG is a YAML file, or the name of a shipped one such as demo or cpu.
A config changes what those before it set, and an option changes what configs set.
`instant3d {command} SYSTEM --help` lists all options."""
# first words of Lightning's warnings on which a user of our commands cannot act
NOT_FOR_USERS = (
    "LightningCLI's args parameter is intended to run from within Python",
    "You're using the WeightAveraging callback, but loading a checkpoint outside the 'fit' stage",
    "The dirpath has changed from",
    "You're using the WeightAveraging callback with a model that overrides the configure_model",
)


def usage(command: str, system: str = "SYSTEM") -> str:
    """Usage line of a training command."""
    return USAGE.format(command=command, system=system)


def help_text(command: str) -> str:
    """Help of a training command without a system."""
    return HELP.format(command=command, usage=usage(command), systems=", ".join(SYSTEMS))


def system_of(command: str, words: Sequence[str]) -> str:
    """The system that a command is for, its first argument.

    Raises:
        ValueError: The first argument names no system.
    """
    if words and words[0] in SYSTEMS:
        return words[0]
    got = repr(words[0]) if words else "nothing"
    raise ValueError(f"expected {', '.join(SYSTEMS[:-1])} or {SYSTEMS[-1]} after `instant3d {command}`, got {got}")


def expand_options(words: Sequence[str], system: str) -> list[str]:
    """Replace short options by full ones, and names of shipped configs by their paths.

    Args:
        words: Arguments after the system.
        system: One of SYSTEMS; a name is looked for in `configs/SYSTEM`, `configs/trainer` and `configs`.

    Raises:
        FileNotFoundError: There is neither a file nor a shipped config of that name.
    """
    found, short = [], SHORT.get(system, {})
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=")
        if before in CONFIG:
            word = str(shipped.find(word, [system, "trainer"]))
        elif option in CONFIG and equals:
            word = f"{option}={shipped.find(value, [system, 'trainer'])}"
        else:
            word = short.get(option, option) + equals + value
        found.append(word)
    return found


def error_sentence(message: str, command: str, system: str) -> str:
    """Shorten jsonargparse's message about an argument to one sentence, and name the option that lists all options.

    Args:
        message: The message, which may have several lines.
        command: The command, such as "fit".
        system: Its system, such as "stage2".
    """
    plain = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message).replace("typing.", "")
    return f"{' '.join(plain.split())} (`instant3d {command} {system} --help` lists all options)"


@contextmanager
def without_library_notes() -> Iterator[None]:
    """Suppress Lightning's advertisements and the warnings in NOT_FOR_USERS; all others are shown."""
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    log.addFilter(_is_not_tip)
    try:
        with warnings.catch_warnings():
            for message in NOT_FOR_USERS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        log.removeFilter(_is_not_tip)


def _is_not_tip(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in record.getMessage()
