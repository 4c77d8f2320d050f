"""What may reach a terminal, and how wide it is there."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.calls.ink import Ink, cut, ink_for, one_line, plain, width_of
from luthien.debug.showing.invisible import is_visible


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(st.text(st.characters()))
def test_nothing_hidden_or_active_is_left(text: str) -> None:
    shown = plain(text)
    assert is_visible(shown)
    assert "\r" not in shown
    assert "\x1b" not in shown
    assert not set(one_line(text)) & set("\n\t\r\x1b")
    shown.encode()


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"])))
def test_what_is_plain_stays_as_it_is(text: str) -> None:
    assert plain(text) == text


def test_what_is_not_shown_is_named() -> None:
    assert plain("a\x1b[2J\u202eb\r\n\tc") == "a<U+001B>[2J<U+202E>b<U+000D>\n\tc"
    assert one_line("a\n\tb") == "a<U+000A><U+0009>b"


@given(st.text(), st.integers(min_value=1, max_value=30))
def test_a_cut_text_fits(text: str, width: int) -> None:
    text = one_line(text)
    assert width_of(cut(text, width)) <= width
    assert cut(text, width_of(text)) == text


@pytest.mark.parametrize(
    ("stream", "environment", "is_coloured"),
    [
        (Tty(), {}, True),
        (Tty(), {"TERM": "xterm"}, True),
        (Tty(), {"TERM": "dumb"}, False),
        (Tty(), {"NO_COLOR": "1"}, False),
        (Tty(), {"NO_COLOR": ""}, True),
        (Tty(), {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (io.StringIO(), {}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"FORCE_COLOR": "0"}, False),
        (io.StringIO(), {"NO_COLOR": "", "FORCE_COLOR": "", "TERM": ""}, False),
        (Tty(), {"TERM": "dumb", "FORCE_COLOR": "3"}, True),
    ],
)
def test_colour(stream: io.StringIO, environment: dict[str, str], is_coloured: bool) -> None:
    assert ink_for(stream, environment).coloured is is_coloured


def test_without_colour_there_is_no_escape() -> None:
    assert Ink(coloured=False)("x", "bad") == "x"
    assert Ink(coloured=True)("x", "bad") == "\x1b[31mx\x1b[0m"
