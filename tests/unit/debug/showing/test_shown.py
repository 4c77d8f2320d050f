"""How payloads are laid out for people."""

from __future__ import annotations

import pytest

from luthien.debug.showing.shown import pretty


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{\n  "a": [],\n  "b": {}\n}', '{\n  "a": "[ ]"\n}', '[\n  "{ } [",\n  []\n]']
)
def test_what_is_laid_out_is_left_as_it_is(text: str) -> None:
    assert pretty(text.encode()).unescape() == text


def test_nothing_stands_between_the_brackets_of_what_is_empty() -> None:
    assert pretty(b'{"a":[ ],"b":[{\n}],"c":1.50}').unescape() == (
        '{\n  "a": [],\n  "b": [\n    {}\n  ],\n  "c": 1.50\n}'
    )
