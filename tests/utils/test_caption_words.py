"""Words of captions, counted by hand; prompts that use others; and files that are not to be trusted."""

from pathlib import Path

import pytest

from instant3d.cli import main as cli
from instant3d.stage1.grid_dataset import read_keep
from instant3d.utils import bundled, caption_words, prompts
from instant3d.utils.caption_words import FILE, MAX_BYTES, CaptionWords, split

ROOT = Path(__file__).parents[2]
CAPTIONS = {
    "a red fire hydrant": 4,
    "a blue fire hydrant": 2,
    "a fire hydrant": 1,
    "a red chair": 3,
    "an open sci-fi crate": 1,
    "a jack-o'-lantern": 1,
}
KNOWN = CaptionWords(
    dict.fromkeys(("chair", "carts", "cat", "house", "berry", "pumpkin", "sci-fi", "wood", "red", "fire hydrant"), 1)
)


def test_caption_words_count_words_and_names_by_how_often_their_captions_are_shown():
    expected = {
        "fire": 7,
        "fire hydrant": 7,  # behind "red", "blue" and "a"
        "hydrant": 7,
        "red": 7,
        "chair": 3,  # "red chair" stands behind "a" alone
        "blue": 2,
        "crate": 1,
        "jack-o'-lantern": 1,
        "open": 1,
        "sci-fi": 1,
    }
    assert list(CaptionWords.of(CAPTIONS).counts.items()) == list(expected.items())


def test_caption_words_keep_the_most_frequent_words_of_bearable_length(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_words, "MAX_TERMS", 2)
    CaptionWords.of({"rare": 1, "often": 3, "sometimes": 2, "x" * 51: 9}).write(tmp_path)
    assert (tmp_path / FILE).read_text() == "often\t3\nsometimes\t2\n"
    largest = 100_000 * len(("\U00020000" * 50 + "\t999999999999\n").encode())
    assert largest <= MAX_BYTES, "what can be written can be read"


def test_caption_words_do_not_round_rare_words_away():
    assert CaptionWords.of({"a red hat": 0.2, "a red coat": 2.6}).counts == {"coat": 3, "red": 3, "hat": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The king’s T-shirt, 2 crowns!", ["the", "king", "t-shirt", "2", "crowns"]),
        ("well -- a half-timbered_house 🏠", ["well", "a", "half-timbered", "house"]),
        ("Cafe\u0301", ["caf\xe9"]),
        ("🪑 ...", []),
    ],
)
def test_split_gives_the_words_of_a_text(text, words):
    assert split(text) == words


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("A RED chair with a cat on it", []),
        ("two red chairs and a dragon, a dragon", ["two", "chairs", "dragon"]),
        ("a fi sci", []),  # parts of a word with a hyphen
        ("a red-hot sci-fi chair", ["hot"]),
        ("a hydrant", ["hydrant"]),  # a name is no word by itself
        ("ein roter Stuhl", ["ein", "roter", "stuhl"]),
        ("一只红色的椅子", ["一只红色的椅子"]),
    ],
)
def test_unknown_words_are_found_in_the_prompts_order(prompt, unknown):
    assert KNOWN.unknown(prompt) == unknown


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("chairs", "chair"),
        ("cats", "cat"),  # its plural, though "carts" is spelt more alike
        ("berries", "berry"),
        ("wooden", "wood"),
        ("pumkin", "pumpkin"),
        ("farmhouse", "house"),
        ("armchair", "chair"),
        ("dragon", None),
        ("x" * 900, None),
    ],
)
def test_nearest_known_word_differs_in_ending_or_beginning_or_spelling(word, known):
    assert KNOWN.nearest(word) == known


def test_unknown_words_message_is_one_line_however_many_words_are_unknown():
    assert KNOWN.unknown_words_message("a red cat") == ""
    assert KNOWN.unknown_words_message("a dragon of chairs").endswith(": dragon, chairs (nearest known: chair)")
    long = KNOWN.unknown_words_message(" ".join(f"word{chr(97 + k)}" for k in range(26)))
    assert long.endswith("wordh, 18 more")
    assert "\n" not in long


def test_caption_words_joined_keep_the_larger_counts():
    joined = CaptionWords({"red": 5, "chair": 1}).joined(CaptionWords({"chair": 7, "boat": 2}))
    assert list(joined.counts.items()) == [("chair", 7), ("red", 5), ("boat", 2)]


def test_caption_words_file_is_a_word_a_tab_and_a_number_on_each_line(tmp_path):
    CaptionWords({"chair": 3, "fire hydrant": 7}).write(tmp_path)
    assert (tmp_path / FILE).read_bytes() == b"fire hydrant\t7\nchair\t3\n"
    (tmp_path / FILE).write_bytes("thé\t2\r\n椅子\t10\r\n".encode())
    assert CaptionWords.read(tmp_path) == CaptionWords({"椅子": 10, "thé": 2})
    assert CaptionWords.read(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"red\t1\nch\x1b[31mair\t2\n", r"line 2 holds control characters \(U\+001B\)"),
        (b"red\n", "line 1 should be a word, a tab and a whole number"),
        (b"re\rd\t1\n", "line 1 should be"),
        (b"red\t-1\n", "line 1 should be"),
        ("red\t\u0661\n".encode(), "line 1 should be"),
        (b"\t1\n", "line 1 is empty"),
        (b"r\xe9d\t1\n", "not UTF-8"),
        (b"x" * 1001 + b"\t1\n", "line 1 has 1,001 characters"),
    ],
)
def test_caption_words_refuse_a_file_that_is_no_list_of_words_in_a_sentence(tmp_path, content, message):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        CaptionWords.read(tmp_path)


def test_caption_words_do_not_read_a_file_that_is_too_large(tmp_path):
    with (tmp_path / FILE).open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ValueError, match="larger than"):
        CaptionWords.read(tmp_path)


@pytest.mark.parametrize("folder", [bundled.STAGE1, bundled.DIRECT])
def test_caption_words_of_the_bundled_weights_have_every_word_of_the_prompts_that_measure_them(folder):
    words = CaptionWords.read(ROOT / folder / "tokenizer")
    asked = prompts.read_prompts(ROOT / "configs" / "prompts" / "held_out.txt")
    assert len(asked) == 100
    assert [prompt.text for prompt in asked if words.unknown(prompt.text)] == []
    assert read_keep(ROOT / "configs/prompts/judged_objects.txt") <= words.counts.keys()
    assert words.unknown("a crimson dragon") == ["crimson", "dragon"]


def test_words_command_lists_words_the_most_often_shown_first(tmp_path, capsys):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / FILE).write_text("chair\t3\nfire hydrant\t7\n")
    assert cli.main(["words", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "fire hydrant\t7\nchair\t3\n"


def test_words_command_explains_why_a_folder_has_no_list(tmp_path, capsys):
    assert cli.main(["words", str(tmp_path)]) == 2
    assert "no folder with a tokenizer/" in capsys.readouterr().err
    (tmp_path / "tokenizer").mkdir()
    assert cli.main(["words", str(tmp_path)]) == 2
    assert "only weights that were trained from nothing" in capsys.readouterr().err
