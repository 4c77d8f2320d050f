"""How payloads are laid out for people."""

from __future__ import annotations

import pytest
from markupsafe import escape

from luthien.calls.ink import plain as in_terminal
from luthien.debug.showing.invisible import is_visible
from luthien.debug.showing.shown import html_chars, plain, pretty, visible


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{\n  "a": [],\n  "b": {}\n}', '{\n  "a": "[ ]"\n}', '[\n  "{ } [",\n  []\n]']
)
def test_what_is_laid_out_is_left_as_it_is(text: str) -> None:
    assert pretty(text.encode()).unescape() == text


def test_nothing_stands_between_the_brackets_of_what_is_empty() -> None:
    assert pretty(b'{"a":[ ],"b":[{\n}],"c":1.50}').unescape() == (
        '{\n  "a": [],\n  "b": [\n    {}\n  ],\n  "c": 1.50\n}'
    )


def test_a_page_a_text_and_a_terminal_agree_on_what_cannot_be_seen() -> None:
    """Of every plane where there are such characters, all; a terminal is not given a carriage return either."""
    for code in [*range(0x3200), *range(0xD7F0, 0xE010), *range(0xFD00, 0x10000), *range(0xE0000, 0xE0200)]:
        character, name = chr(code), f"U+{code:04X}"
        is_named = name in visible(character)
        assert (name in plain(character)) is is_named, name
        assert is_visible(character) is not is_named, name
        assert (html_chars(character) > len(escape(character))) is is_named, name
        assert (name in in_terminal(character)) is (is_named or character == "\r"), name
