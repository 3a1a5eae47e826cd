"""Prompt sets that one network is trained on: grammars that expand to all their sentences, and files of prompts.

Every list is in a fixed order without repetition, so the index of a prompt identifies it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from instant3d.utils import prompts, shipped
from instant3d.utils.data_order import generator_from_key

SPECIES = ("wolf", "dog", "panda", "fox", "civet", "cat", "red panda", "teddy bear", "rabbit", "koala")
PLACES = ("in a bathtub", "on a stone", "on books", "on a table", "on the lawn", "in a basket", "")
GADGETS = ("a tie", "a cape", "sunglasses", "a scarf", "")
HATS = ("beret", "beanie", "cowboy hat", "straw hat", "baseball cap", "tophat", "party hat", "sombrero", "")

# the paper has two more, who are real people
FIGURES = ("a white man", "a white woman", "a boy", "a girl", "an elderly man", "an elderly woman", "a black woman",
           "a black man")  # fmt: skip
HEADGEAR = ("Santa hat", "peaked cap", "steampunk hat", "crown")
EXPRESSIONS = ("laughing", "crying", "grinning", "singing", "shouting", "looking ahead with a very serious expression",
               "opening mouth wide in shock", "angry", "talking", "feeling sad")  # fmt: skip

PEOPLE = ("a man", "a woman", "a young man", "a young woman", "an elderly man", "an elderly woman", "a tall man",
          "a tall woman")  # fmt: skip
HAIR = ("short hair", "long hair", "curly hair", "grey hair", "red hair", "a ponytail")
CLOTHES = ("a raincoat", "a suit", "a red sweater", "a white shirt", "blue overalls", "a leather jacket", "a tracksuit",
           "a winter coat", "a kimono", "a chef's apron", "a lab coat", "a striped T-shirt", "a denim jacket",
           "a green hoodie", "a long scarf", "a safety vest")  # fmt: skip
ACTIVITIES = ("reading a book", "riding a bicycle", "riding a motorcycle", "playing the guitar", "playing the violin",
              "playing the drums", "walking a dog", "watering flowers", "cooking a meal", "baking bread",
              "drinking coffee", "eating a sandwich", "painting a picture", "taking a photo", "talking on the phone",
              "typing on a laptop", "carrying a backpack", "pushing a shopping cart", "sweeping the floor",
              "washing the dishes", "folding laundry", "lifting weights", "practising yoga", "jogging",
              "kicking a football", "throwing a basketball", "swinging a tennis racket", "rowing a boat", "fishing",
              "chopping wood", "repairing a car", "waiting for a bus", "holding an umbrella", "feeding pigeons",
              "building a sandcastle")  # fmt: skip

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "grey")


@dataclass(frozen=True)
class Coloured:
    """Every object in every colour, as "a COLOUR OBJECT".

    Attributes:
        objects: Text file of names, one a line.
        without: Text file of prompts that are left out, to test on unseen pairs.
        colours: The colours.
        plain: Whether every object also occurs without a colour, as "a OBJECT".
    """

    objects: str
    without: str | None = None
    colours: tuple[str, ...] = COLOURS
    plain: bool = False


Source = str | list[str] | Coloured


def animals() -> list[str]:
    """The paper's 3,150 prompts: an animal, where it sits, and what it wears; all parts but the animal are optional."""
    found = []
    for species, place, gadget, hat in itertools.product(SPECIES, PLACES, GADGETS, HATS):
        parts = [
            f"sitting {place}" if place else "",
            f"wearing {gadget}" if gadget else "",
            f"wearing a {hat}" if hat else "",
        ]
        found.append(f"a {species} {' and '.join(part for part in parts if part)}".strip())
    return found


def portraits() -> list[str]:
    """320 prompts: the paper's 400 without those of two real people."""
    several = itertools.product(FIGURES, HEADGEAR, EXPRESSIONS)
    return [f"{figure} wearing a {hat} is {expression}" for figure, hat, expression in several]


def daily_life() -> list[str]:
    """26,880 prompts of people, their looks and what they do.

    They replace the paper's 17,000 answers of a language model to the same question, which were not published.
    """
    several = itertools.product(PEOPLE, HAIR, CLOTHES, ACTIVITIES)
    return [f"{who} with {hair} wearing {clothes} is {doing}" for who, hair, clothes, doing in several]


GRAMMARS = {"animals": animals, "portraits": portraits, "daily_life": daily_life}


def coloured(objects: Iterable[str], colours: Iterable[str] = COLOURS, without: Iterable[str] = ()) -> list[str]:
    """Prompts such as "a red chair" and "an orange chair".

    Args:
        objects: Names of objects.
        colours: Names of colours.
        without: Prompts to leave out.
    """
    held = set(without)
    several = [f"{_article(colour)} {colour} {thing}" for thing in objects for colour in colours]
    return [prompt for prompt in several if prompt not in held]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def read_prompt_set(source: Source) -> list[str]:
    """Read the prompts of a source, without repetitions.

    Args:
        source: Name of a grammar, text file with one prompt a line, coloured objects, or a list of prompts.

    Raises:
        FileNotFoundError: It is neither a grammar nor a file.
        ValueError: A prompt is invalid, or there is none.
    """
    if isinstance(source, Coloured):
        without = [] if source.without is None else _in_file(source.without)
        names = _in_file(source.objects)
        found = [f"{_article(name)} {name}" for name in names if source.plain]
        found += coloured(names, source.colours, without)
    elif isinstance(source, str):
        found = GRAMMARS[source]() if source in GRAMMARS else _in_file(source)
    else:
        found = _valid_texts(prompts.from_arguments(source))
    if not found:
        raise ValueError(
            f"{source} holds no prompt; give {', '.join(GRAMMARS)}, a text file with one a line, or a list"
        )
    return list(dict.fromkeys(found))


def split_prompts(texts: Sequence[str], share: float = 0.6, seed: int = 0) -> tuple[list[str], list[str]]:
    """Split prompts at random into those to train on and the others; the paper trains on 60 %.

    Args:
        texts: Prompts.
        share: Share to train on, in (0, 1].
        seed: Random seed of the choice.

    Returns:
        Training prompts and held-out prompts, both in the order of `texts`.

    Raises:
        ValueError: `share` is out of range, or so small that it leaves no prompt.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of prompts to train on must be above 0 and at most 1, got {share}")
    chosen = set(torch.randperm(len(texts), generator=generator_from_key(seed))[: round(share * len(texts))].tolist())
    if not chosen:
        raise ValueError(f"a share of {share} of {len(texts)} prompts is none; raise it or give more prompts")
    return [text for k, text in enumerate(texts) if k in chosen], [t for k, t in enumerate(texts) if k not in chosen]


def _in_file(path: str | Path) -> list[str]:
    if shipped.look_up(path, ["prompts"], ".txt") is None:
        raise FileNotFoundError(
            f"{path} is neither a prompt set ({', '.join(GRAMMARS)}) nor a text file with one prompt a line"
        )
    return _valid_texts(prompts.read_prompts(path))


def _valid_texts(found: Iterable[prompts.Prompt]) -> list[str]:
    """Texts of all prompts; refuses an invalid one, since leaving it out would shift the indices of the others."""
    found = list(found)
    for prompt in found:
        if prompt.error:
            raise ValueError(f"{prompt.where} {prompt.error}")
    return [prompt.text for prompt in found]
