"""Words and facets: what is asked finds what was indexed, and nothing else spells a facet."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from itertools import chain, combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.exchange import Side
from luthien.store.call_filter import CallFilter, Decided, Mode, Part
from luthien.store.facets import asked_facets, change_facets, decision_facets, facet, tsquery
from luthien.store.lexemes import MAX_WORD_CHARS, asked_words, words_of


@pytest.mark.parametrize(
    ("text", "asked", "is_found"),
    [
        ("Hello, World", "hello", True),
        ("Hello, World", "WORLD hello", True),
        ("Hello, World", "hell", False),
        ("call get_weather now", "weather", True),
        ("call get_weather now", "get_weather", True),
        ("call get_weather now", "weather_get", False),
        ("mail alice@example.org", "alice@example.org", True),
        ("/etc/passwd", "etc/passwd", True),
        ("Straße", "STRASSE", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("cafe\u0301", "caf\u00e9", True),
        ("caf\u00e9", "cafe", False),
        ("\u6211\u7684\u6570\u636e\u5e93\u5f88\u5927", "\u6570\u636e\u5e93", True),
        ("\u6211\u7684\u6570\u636e\u5e93\u5f88\u5927", "\u5e93", True),
        ("\u6211\u7684\u6570\u636e\u5e93\u5f88\u5927", "\u5e93\u6570", False),
        ("\u6771\u4eactower", "tower", True),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e", "\u092d\u093e\u0937\u093e", True),
        ("x" * 500, "x" * 500, True),
        ("nul\0l and \ud800 alone", "alone", True),
        ("12345 67", "12345", True),
    ],
)
def test_a_word_is_found_where_it_stands(text: str, asked: str, is_found: bool) -> None:
    words = asked_words(asked)
    assert words
    assert (set(words) <= set(words_of(text))) is is_found


@given(st.text())
def test_every_text_is_found_by_itself(text: str) -> None:
    assert set(asked_words(text)) <= set(words_of(text))


@given(st.text())
def test_a_word_is_short_and_plain_and_never_a_facet(text: str) -> None:
    for word in words_of(text):
        assert 0 < len(word) <= MAX_WORD_CHARS
        assert not word.startswith("=")
        assert "\0" not in word
        assert unicodedata.is_normalized("NFC", word) or len(word) <= 2
        word.encode()


@given(st.text())
def test_a_facet_is_one_lexeme_that_postgres_takes(value: str) -> None:
    assert len(facet("session", value).encode()) <= 512
    assert "\0" not in facet("session", value)


def test_long_values_are_told_apart() -> None:
    assert facet("session", "s" * 1000) != facet("session", "s" * 1001)


def test_whatever_is_asked_of_a_change_is_one_of_its_facets() -> None:
    change = set(change_facets("request", "tool_arguments", "/tools/*", "redact", "1"))
    other = set(change_facets("response", "message", "/input/*", "judge", "2"))
    for names in _some_of("changed_by", "version", "side", "part", "path"):
        if set(names) & {"changed_by", "part", "path"} and ("version" not in names or "changed_by" in names):
            [asked] = asked_facets(_wanted(names))
            assert len(change & set(asked)) == 1, names
            assert not other & set(asked)


def test_what_is_not_known_of_a_change_can_be_asked_for_and_is_no_value() -> None:
    unknown = {*change_facets("request", "other", "", None, None)}
    known = {*change_facets("request", "other", "/tools/*", "redact", "1")}
    capped = {*change_facets("request", "other", None, None, None)}
    for names in (("changed_by",), ("path",), ("changed_by", "path"), ("changed_by", "version")):
        for part in (None, Part.OTHER):
            [asked] = asked_facets(CallFilter(without=names, part=part))
            assert len(unknown & {*asked}) == 1, names
            assert not known & {*asked}, names
            assert len(capped & {*asked}) == ("path" not in names), names
    [asked] = asked_facets(CallFilter(path="/tools/*", without=("changed_by",)))
    assert not {*known, *unknown} & {*asked}


def test_no_value_is_taken_for_another_one_or_for_any() -> None:
    change = set(change_facets("request", "tool_arguments", "/tools/*", "of two", "1"))
    decision = set(decision_facets("request", "block", "of two", "1", is_shadow=True, is_changing=False))
    for wanted in (
        CallFilter(path="*"),
        CallFilter(changed_by="*"),
        CallFilter(changed_by="of two", version="*"),
        CallFilter(changed_by="two", version="1 of"),
        CallFilter(changed_by="1 of two", path="/tools/*"),
        CallFilter(path="/tools/* *"),
        CallFilter(policy="of two", version="*"),
        CallFilter(policy="two", version="1 of"),
        CallFilter(policy="two", version="* of"),
    ):
        [asked] = asked_facets(wanted)
        assert not {*change, *decision} & {*asked}, wanted
    [asked] = asked_facets(CallFilter(policy="of two", version="1"))
    assert len(decision & {*asked}) == 1


def test_whatever_is_asked_of_a_decision_is_one_of_its_facets() -> None:
    decision = {*decision_facets("request", "block", "redact", "1", is_shadow=True, is_changing=False)}
    other = {*decision_facets("request", "modify", "redact", "2", is_shadow=True, is_changing=True)}
    for names in _some_of("version", "side", "decided", "mode"):
        if names:
            [asked] = asked_facets(_wanted(("policy", *names)))
            assert len(decision & set(asked)) == 1, names
            assert bool(other & set(asked)) is not bool({"version", "decided"} & set(names))
    [asked] = asked_facets(CallFilter(policy="redact", decided=Decided.CHANGE))
    assert len(other & set(asked)) == 1
    assert not decision & set(asked)


def _some_of(*names: str) -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(names, count) for count in range(len(names) + 1))


def _wanted(names: Iterable[str]) -> CallFilter:
    values: dict[str, Any] = {
        "policy": "redact",
        "changed_by": "redact",
        "version": "1",
        "side": Side.REQUEST,
        "decided": Decided.BLOCK,
        "mode": Mode.SHADOW,
        "part": Part.TOOL_ARGUMENTS,
        "path": "/tools/*",
    }
    return CallFilter(**{name: values[name] for name in names})


def test_a_text_without_a_word_asks_for_what_is_nowhere() -> None:
    assert tsquery(CallFilter(text="?!", model="m")) == ""


def test_quotes_and_backslashes_stay_inside_a_lexeme() -> None:
    assert tsquery(CallFilter(model="a'b\\c")) == "'=model:a''b\\\\c'"
