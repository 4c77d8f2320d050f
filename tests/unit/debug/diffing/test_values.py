"""Parsed values keep what was written, and nothing that walks them minds their depth."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.debug.diffing.values import (
    Json,
    Number,
    Repeated,
    canonical,
    count_marks,
    count_scalars,
    dumps,
    fits_double,
    has_inexact_number,
    is_deeper,
    is_same,
    parse,
    pointer,
    repeats,
    tokens,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def tower(core: Json, depth: int) -> Json:
    value = core
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@given(VALUES)
def test_what_is_written_reads_back(value: Any) -> None:
    text = dumps(parse(json.dumps(value)))
    assert json.loads(text) == value
    assert dumps(parse(text)) == text
    assert text.isascii()


@given(VALUES, VALUES)
def test_two_values_have_one_canonical_text_only_if_they_are_the_same(a: Any, b: Any) -> None:
    before, after = parse(json.dumps(a)), parse(json.dumps(b))
    assert (canonical(before) == canonical(after)) == is_same(before, after)
    assert canonical({"b": before, "a": after}) == canonical({"a": after, "b": before})


@given(st.lists(st.text() | st.integers(min_value=0)))
def test_a_pointer_keeps_every_token(path: list[str | int]) -> None:
    assert tokens(pointer("", *path)) == [str(token) for token in path]


def test_depth_is_no_matter() -> None:
    deep, same, other = (tower(core, 20_000) for core in (Number("1"), Number("1"), Number("1.0")))
    assert is_same(deep, same)
    assert not is_same(deep, other)
    assert count_scalars(deep) == 1
    assert not has_inexact_number(deep)
    assert is_deeper(deep, 19_999)
    assert not is_deeper(deep, 20_000)
    assert len(dumps(deep)) == 10_000 * len('{"a":[]}') + 1


@pytest.mark.parametrize("literal", ["0", "-0", "1", "9007199254740992", "9007199254740994", "0.1", "1e300", "1.50"])
def test_numbers_that_a_double_holds(literal: str) -> None:
    assert fits_double(Number(literal))


@pytest.mark.parametrize(
    "literal", ["9007199254740993", "0.1000000000000000055", "1e400", "NaN", "-Infinity", "1" * 10_000]
)
def test_numbers_that_a_double_does_not_hold(literal: str) -> None:
    assert not fits_double(Number(literal))


def test_repeated_keys_are_remembered_and_the_last_counts() -> None:
    value = parse('{"a": 1, "b": 2, "a": {"c": 3, "c": 4}}')
    assert isinstance(value, Repeated)
    assert value == {"a": {"c": Number("4")}, "b": Number("2")}
    assert repeats(value) == [["a", Number("1")], ["a", {"c": Number("4")}]]


def test_numbers_cannot_be_written_by_accident() -> None:
    with pytest.raises(TypeError):
        json.dumps(parse("[1]"))


@pytest.mark.parametrize(
    ("payload", "outside", "all_marks"),
    [
        (b"[1,2]", 2, 2),
        (b'["a,b","\\\\",",",1]', 4, 6),
        (b'{"a":[{}]}', 3, 3),
        (b'["unended,,', 1, 3),
        (b'"' + b'\\"' * 200_000 + b",[", 0, 2),
    ],
)
def test_commas_and_brackets_are_counted_outside_strings_if_there_are_many(
    payload: bytes, outside: int, all_marks: int
) -> None:
    assert count_marks(payload, all_marks) == all_marks
    assert count_marks(payload, all_marks - 1) == outside or outside == all_marks
    assert count_marks(payload, 0) == outside
