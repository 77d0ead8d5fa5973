"""The line being typed at a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from hubbub.terminal.editor import LineEditor

LEFT, RIGHT, UP, DOWN = "\x1b[D", "\x1b[C", "\x1b[A", "\x1b[B"
HOME, END, DELETE, BACKSPACE = "\x01", "\x05", "\x1b[3~", "\x7f"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("hello", "hello"),
        ("helo" + LEFT + "l", "hello"),
        ("xhello" + HOME + DELETE, "hello"),
        ("hellox" + BACKSPACE, "hello"),
        ("hello all" + "\x17", "hello "),
        ("junk" + "\x15" + "hello", "hello"),
        ("hello you" + LEFT * 4 + "\x0b", "hello"),
        ("ello" + HOME + "h" + END + "!", "hello!"),
        ("hello" + "\x1b[15~" + "\x1b[1;5C" + "\x07\t", "hello"),  # keys that mean nothing here
        ("grüße 👍", "grüße 👍"),
    ],
)
def test_keys_do_what_they_do_in_a_shell(keys: str, text: str) -> None:
    """Nobody reads a manual to correct a typing error."""
    whole, one_by_one = LineEditor(), LineEditor()
    assert whole.feed(keys) == []
    for key in keys:
        one_by_one.feed(key)
    assert whole.text == one_by_one.text == text


def test_the_arrows_bring_lines_back_and_the_draft_too() -> None:
    """A message that went to the wrong conversation is soon typed again."""
    editor = LineEditor()
    assert editor.feed("first\nsecond\ndra") == ["first", "second"]
    editor.feed(UP)
    assert editor.text == "second"
    editor.feed(UP + UP)
    assert editor.text == "first"
    editor.feed(DOWN + DOWN)
    assert editor.text == "dra"
    assert editor.feed(UP + UP + "!\n") == ["first!"]


def test_a_secret_is_neither_shown_nor_remembered() -> None:
    """Who looks over a shoulder, or presses the up key later, learns no password."""
    editor = LineEditor()
    editor.is_secret = True
    editor.feed("pass")
    assert editor.visible(80) == ("", 0)
    assert editor.feed("word\n") == ["password"]
    editor.is_secret = False
    editor.feed(UP)
    assert editor.text == ""


def test_only_an_empty_line_is_ended_by_control_d() -> None:
    """A slip of the finger does not throw a half-written message away."""
    editor = LineEditor()
    editor.feed("text\x04")
    assert not editor.is_ended
    editor.feed("\x15\x04")
    assert editor.is_ended


@given(
    keys=st.lists(
        st.one_of(
            st.characters(),
            st.sampled_from([LEFT, RIGHT, UP, DOWN, HOME, DELETE, BACKSPACE, "\n", "漢", "👍", "e\u0301"]),
        ),
        max_size=60,
    ),
    width=st.integers(8, 40),
)
def test_whatever_is_typed_the_row_fits_and_the_cursor_is_in_it(keys: list[str], width: int) -> None:
    """A row that wraps would be redrawn over what others said."""
    editor = LineEditor()
    for key in keys:
        editor.feed(key)
        shown, cursor = editor.visible(width)
        assert 0 <= editor.cursor <= len(editor.text)
        assert 0 <= cursor <= cell_len(shown) < width
        assert "\x1b" not in shown
