"""Prompt sets: as many prompts as in the papers, sentences with optional parts, splits without overlap."""

import re

import pytest

from instant3d.direct import prompt_sets
from instant3d.direct.prompt_sets import (
    Coloured,
    animals,
    coloured,
    daily_life,
    portraits,
    read_prompt_set,
    split_prompts,
)

ANIMAL = re.compile(
    "a (wolf|dog|panda|fox|civet|cat|red panda|teddy bear|rabbit|koala)"
    "( sitting (in a bathtub|on a stone|on books|on a table|on the lawn|in a basket))?"
    "(( and|) wearing (a tie|a cape|sunglasses|a scarf))?"
    "(( and|) wearing a (beret|beanie|cowboy hat|straw hat|baseball cap|tophat|party hat|sombrero))?"
)


def test_animals_are_3150_in_the_papers_words():
    found = animals()
    assert len(set(found)) == len(found) == 10 * 7 * 5 * 9
    assert all(ANIMAL.fullmatch(prompt) for prompt in found)
    assert {"a wolf wearing a scarf and wearing a party hat", "a koala", "a fox wearing a tophat"} <= set(found)


def test_animals_first_attribute_follows_without_and():
    for prompt in animals():
        things = len(re.findall("sitting|wearing", prompt))
        assert prompt.count(" and ") == max(0, things - 1), prompt
        assert " and " not in prompt[: re.search("sitting|wearing|$", prompt).start()]


def test_animals_lack_each_attribute_in_its_share():
    found = animals()
    assert sum("sitting" not in prompt for prompt in found) == 3150 / 7
    assert sum(not re.search("a tie|a cape|sunglasses|a scarf", prompt) for prompt in found) == 3150 / 5
    assert sum(not re.search(f" ({'|'.join(prompt_sets.HATS[:-1])})$", prompt) for prompt in found) == 3150 / 9
    assert sum(" sitting" not in prompt and " wearing" not in prompt for prompt in found) == 10


def test_portraits_are_320_and_none_of_a_real_person():
    found = portraits()
    assert len(set(found)) == len(found) == 320
    assert "an elderly woman wearing a steampunk hat is opening mouth wide in shock" in found
    assert all(prompt.startswith(("a ", "an ")) for prompt in found)
    assert not [prompt for prompt in found if re.search("obama|kobe", prompt, re.IGNORECASE)]


@pytest.mark.slow
def test_daily_life_has_more_than_17000_sentences_with_the_right_articles():
    found = daily_life()
    assert len(set(found)) == len(found) > 17_000
    assert not [prompt for prompt in found if re.search(r"\ban [^aeiou]|\ba [aeiou]|  | $", prompt)]


def test_coloured_leaves_out_what_is_held_out(tmp_path):
    (tmp_path / "objects").write_text("# a comment\nchair\napple tree\n")
    (tmp_path / "without").write_text("an orange chair\na red apple tree\n")
    found = read_prompt_set(Coloured(str(tmp_path / "objects"), str(tmp_path / "without"), ("red", "orange")))
    assert found == ["a red chair", "an orange apple tree"]
    plain = read_prompt_set(
        Coloured(str(tmp_path / "objects"), str(tmp_path / "without"), ("red", "orange"), plain=True)
    )
    assert plain == ["a chair", "an apple tree", *found]
    assert len(coloured(["chair", "boat"])) == 20


def test_split_prompts_shares_no_prompt_and_loses_none():
    train, test = split_prompts(animals(), 0.6)
    assert (len(train), len(test)) == (1890, 1260)
    assert not set(train) & set(test)
    assert set(train) | set(test) == set(animals())
    assert [len(part) for part in split_prompts(portraits(), 0.6)] == [192, 128]


def test_split_prompts_depends_on_its_seed():
    assert split_prompts(portraits(), 0.6, seed=3) == split_prompts(portraits(), 0.6, seed=3)
    assert split_prompts(portraits(), 0.6, seed=3) != split_prompts(portraits(), 0.6, seed=4)
    chosen = set(split_prompts(animals(), 0.6)[0])
    wolves = sum(prompt.startswith("a wolf") for prompt in chosen)
    assert 150 < wolves < 228, "drawn from all species, 189 are expected of each"
    assert split_prompts(portraits(), 1.0) == (portraits(), [])


def test_read_prompt_set_reads_a_file_line_by_line_and_drops_repetitions(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a red chair\n\na boat\na red chair\n")
    assert read_prompt_set(str(path)) == read_prompt_set(["a red chair", "a boat"]) == ["a red chair", "a boat"]
    assert read_prompt_set("portraits") == portraits()


@pytest.mark.parametrize(
    ("content", "message"),
    [("a chair\na \x07 boat\n", "line 2 holds control characters"), ("# nothing\n", "holds no prompt")],
)
def test_read_prompt_set_refuses_an_invalid_line_with_its_place(tmp_path, content, message):
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_prompt_set(str(tmp_path / "list.txt"))


def test_read_prompt_set_names_the_grammars_for_a_misspelt_one():
    with pytest.raises(FileNotFoundError, match="animals, portraits, daily_life"):
        read_prompt_set("animal")


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_split_prompts_refuses_a_share_out_of_range(share):
    with pytest.raises(ValueError, match="share"):
        split_prompts(["a", "b"], share)
