"""Untrusted prompts: read line by line, each checked alone, and never used as a file name as they are."""

import io
import json
import re
import sys
from types import SimpleNamespace

import pytest

from instant3d.utils import prompts
from instant3d.utils.prompts import LONGEST, cut_off, drop_words, from_arguments, prompt_error, read_prompts, slug

RESERVED = [*("con", "prn", "aux", "nul"), *(f"{port}{k}" for port in ("com", "lpt") for k in range(1, 10))]


def written(tmp_path, data: bytes):
    (tmp_path / "list.txt").write_bytes(data)
    return read_prompts(tmp_path / "list.txt")


def test_read_prompts_reads_a_list_as_windows_writes_it_like_any_other(tmp_path):
    lines = "a red chair", "", "# not this", "  ein grünes Fass  ", "a red chair"
    plain = written(tmp_path, "\n".join(lines).encode())
    assert [prompt.text for prompt in plain] == ["a red chair", "ein grünes Fass", "a red chair"]
    assert [prompt.where for prompt in plain] == [f"list.txt line {k}" for k in (1, 4, 5)]
    assert written(tmp_path, "\r\n".join(lines).encode("utf-8-sig")) == plain


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"red\x00chair", "U+0000"),
        (b"red\x1b[31mchair", "U+001B"),
        ("red\u2028chair".encode(), "U+2028"),
        (b"gr\xfcn", "not UTF-8"),
        (b"x" * (LONGEST + 1), "1,001 characters"),
    ],
)
def test_read_prompts_names_the_broken_line_and_loses_no_other(tmp_path, bad, message):
    first, wrong, last = written(tmp_path, b"a chair\n" + bad + b"\na bench\n")
    assert (first.text, last.text) == ("a chair", "a bench")
    assert (first.error, last.error, wrong.text) == ("", "", "")
    assert wrong.where == "list.txt line 2"
    assert message in wrong.error


def test_prompt_error_allows_a_thousand_characters_not_bytes():
    assert prompt_error("é" * 1000) == ""
    assert "1,001" in prompt_error("é" * 1001)


@pytest.mark.parametrize("text", ["", "   ", "\t\n"])
def test_prompt_error_refuses_an_empty_prompt(text):
    (prompt,) = from_arguments([text])
    assert (prompt.where, prompt.text) == ("the prompt", "")
    assert "is empty" in prompt.error


@pytest.mark.parametrize("text", ["a 赤い椅子", "👩‍🚀 on a chair", "fauteuil d'été", "tab\tand tab"])
def test_prompt_error_refuses_no_script(text):
    assert from_arguments([text])[0].error == ""


def test_prompts_make_two_spellings_of_one_letter_one_prompt():
    composed, apart = from_arguments(["été", "e\u0301te\u0301"])
    assert composed.text == apart.text


def test_read_prompts_reads_standard_input_too(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a chair\n\na bench")))
    assert [(prompt.text, prompt.where) for prompt in read_prompts("-")] == [
        ("a chair", "standard input line 1"),
        ("a bench", "standard input line 3"),
    ]


def test_read_prompts_does_not_read_an_endless_list_to_its_end(monkeypatch):
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            assert 0 < size <= 2 * prompts.MAX_LIST_BYTES
            return b"y\n" * (size // 2 + 1)

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Endless()))
    with pytest.raises(ValueError, match="split the list"):
        read_prompts("-")


def test_read_prompts_names_a_list_in_utf_16_as_such(tmp_path):
    with pytest.raises(ValueError, match=r"UTF-16; save .* UTF-8"):
        written(tmp_path, "a chair".encode("utf-16"))


def test_read_prompts_of_a_folder_or_a_missing_list_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="one prompt a line"):
        read_prompts(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="is a folder"):
        read_prompts(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "../../etc/passwd",
        "..",
        "/",
        "C:\\autoexec.bat",
        "a\0b",
        "-rf *",
        "~",
        "赤い椅子",
        "…",
        "x" * 999,
        " ",
        "a" + "-b" * 500,
        *RESERVED,
    ],
)
def test_slug_is_a_plain_name_whatever_the_prompt(text):
    name = slug(text)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert len(name) <= 48


def test_slug_still_shows_the_prompt():
    assert slug("A Red, fire-hydrant!") == "a-red-fire-hydrant"
    assert slug("un fauteuil d'été") == "un-fauteuil-d-ete"
    assert (
        slug("a very long description of a chair that goes on and on")
        == "a-very-long-description-of-a-chair-that-goes-on"
    )


@pytest.mark.parametrize(("window", "lost"), [(0, "a red fire hydrant"), (2, "fire hydrant"), (3, "hydrant"), (4, "")])
def test_cut_off_begins_with_the_first_word_that_does_not_fit(window, lost):
    assert cut_off("a red  fire hydrant", lambda text: len(text.split()) <= window) == lost


def test_cut_off_counts_a_word_that_is_cut_in_its_middle():
    assert cut_off("a red fire hydrant", lambda text: len(text) <= len("a red fi")) == "fire hydrant"


CHAIR_AND_BOAT = ["a red chair", "a blue boat, big"]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(CHAIR_AND_BOAT, indent=1),
        json.dumps({"dreamfusion": CHAIR_AND_BOAT}),
        json.dumps([{"id": 1, "prompt": "a red chair"}, {"id": 2, "prompt": "a blue boat, big"}]),
        '{"prompt": "a red chair"}\n{"prompt": "a blue boat, big"}\n',
        'id,prompt\n1,a red chair\n2,"a blue boat, big"\n',
        'Prompt\tid\na red chair\t1\n"a blue boat, big"\t2\n',
    ],
    ids=["json", "library", "objects", "jsonl", "csv", "tsv"],
)
def test_read_prompts_reads_json_and_tables_as_the_prompts_that_they_hold(tmp_path, content):
    assert [prompt.text for prompt in written(tmp_path, content.encode())] == CHAIR_AND_BOAT


def test_read_prompts_counts_the_rows_of_a_table_as_a_spreadsheet_does(tmp_path):
    (chair, boat) = written(tmp_path, b'id,prompt\n\n1,"a red\nchair"\n2,a blue boat\n')
    assert (chair.text, chair.where.split()[-2:]) == ("a red chair", ["row", "3"])
    assert (boat.text, boat.where.split()[-2:]) == ("a blue boat", ["row", "4"])


def test_read_prompts_reads_a_line_with_a_comma_as_one_prompt(tmp_path):
    assert [prompt.text for prompt in written(tmp_path, b"text, on a sign\na text, blue\n")] == [
        "text, on a sign",
        "a text, blue",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'["a red chair",', "is not valid"),
        ("a.json", b'{"a": 1}', "with 0 lists"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b"[" + b"7" * 5000 + b"]", "is not valid"),
        ("a.csv", b"id,name\n1,a red chair\n", "without a column of prompts"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt\n', "JSON lines"),
    ],
)
def test_read_prompts_refuses_a_list_without_prompts_in_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / name)


def test_read_prompts_reports_an_entry_that_is_no_text_and_loses_no_other(tmp_path):
    first, number, nothing, last = written(tmp_path, b'["a chair", 7, {"id": 1}, "a bench"]')
    assert (first.text, last.text, number.where) == ("a chair", "a bench", "list.txt entry 2")
    assert "is not a text" in number.error
    assert "is not a text" in nothing.error


def test_read_prompts_reports_the_comments_that_it_leaves_out(tmp_path):
    with pytest.warns(UserWarning, match=r"list\.txt: line 1, which begins with # left out"):
        assert [prompt.text for prompt in written(tmp_path, b"#1 dad mug\na red chair\n")] == ["a red chair"]
    with pytest.warns(UserWarning, match="2 lines that begin"):
        written(tmp_path, b"#1 dad mug\n#2\na red chair\n")


def test_drop_words_leaves_each_word_out_with_the_given_probability_in_order():
    text = "one two three four"
    found = [drop_words(text, 0.25, str(key)) for key in range(2000)]
    kept = sum(len(some.split()) for some in found) / len(found)
    assert kept == pytest.approx(3, abs=0.08)  # four standard deviations of the mean are 0.077
    assert all(some.split() == [word for word in text.split() if word in some.split()] for some in found)
    assert found[0] == drop_words(text, 0.25, "0")


def test_drop_words_keeps_a_word_and_never_invents_one():
    assert drop_words("cat", 1.0, "a") == "cat"
    assert drop_words("", 0.5, "a") == ""
