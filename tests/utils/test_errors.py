"""What reaches the terminal: one sentence, in which foreign text cannot act."""

import pytest

from instant3d.utils.arg_types import nonempty_path
from instant3d.utils.errors import escape_control, print_escaped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\rb\nc", r"a\x0db\x0ac"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb", r"a\u202eb"),
        ("a\udc80", r"a\udc80"),
        ("möbel 椅子 …", "möbel 椅子 …"),
    ],
)
def test_escape_control_escapes_only_what_could_act_on_a_terminal(text, shown):
    assert escape_control(text) == shown


def test_print_escaped_keeps_lines(capsys):
    print_escaped("one\x1b]0;title\x07\ntwo")
    assert capsys.readouterr().out == "one\\x1b]0;title\\x07\ntwo\n"


def test_nonempty_path_refuses_an_empty_text():
    with pytest.raises(Exception, match="it is empty"):
        nonempty_path("")
