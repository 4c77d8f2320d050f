"""The word-level diff of two strings is exact, bounded, and cut where words are."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.debug.diffing import words
from luthien.debug.diffing.words import Budget, Segments, diff_words

TEXTS = st.one_of(
    st.text(max_size=40),
    st.text("ab ,\n_", max_size=60),
    st.lists(st.sampled_from(["the ", "fox", " ", "\n", "日本", "\ud800", "e\u0301"]), max_size=20).map("".join),
)


def before_of(segments: Segments) -> str:
    return "".join(text for tag, text in segments if tag != "+")


def after_of(segments: Segments) -> str:
    return "".join(text for tag, text in segments if tag != "-")


@given(TEXTS, TEXTS, st.sampled_from([0, 3, 30, 10**6]))
def test_the_segments_are_exactly_both_strings_whatever_the_budget(before: str, after: str, steps: int) -> None:
    segments, _ = diff_words(before, after, Budget(steps))
    assert before_of(segments) == before
    assert after_of(segments) == after
    assert all(text for _, text in segments)
    tags = [tag for tag, _ in segments]
    assert all(pair in ("=-", "=+", "-=", "+=", "-+") for pair in map("".join, pairwise(tags)))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("same", "same", [("=", "same")]),
        ("", "new", [("+", "new")]),
        ("old", "", [("-", "old")]),
        ("good morning", "good mornings", [("=", "good "), ("-", "morning"), ("+", "mornings")]),
        ("key: abc, ok", "key: xyz, ok", [("=", "key: "), ("-", "abc"), ("+", "xyz"), ("=", ", ok")]),
        ("a b", "a b c", [("=", "a b"), ("+", " c")]),
        ("日本語です", "日本人です", [("=", "日本"), ("-", "語"), ("+", "人"), ("=", "です")]),
    ],
)
def test_changes_are_cut_where_words_are(before: str, after: str, expected: list[tuple[str, str]]) -> None:
    assert diff_words(before, after, Budget()) == (tuple(expected), False)


def test_a_word_without_end_is_cut_rather_than_repeated() -> None:
    before, after = "x" * 1000 + "1" + "y" * 1000, "x" * 1000 + "2" + "y" * 1000
    assert diff_words(before, after, Budget())[0][1:3] == (("-", "1"), ("+", "2"))


def test_over_the_budget_the_middle_is_one_block_and_the_ends_stay() -> None:
    before = "start " + " ".join(map(str, range(2000))) + " end"
    after = "start " + " ".join(map(str, range(2000, 0, -1))) + " end"
    segments, degraded = diff_words(before, after, Budget(1000))
    assert degraded
    assert [tag for tag, _ in segments] == ["=", "-", "+", "="]


def test_what_is_too_much_by_word_is_tried_by_line_first() -> None:
    lines = [f"line {n} " + "word " * 50 + "\n" for n in range(3000)]
    edited = [*lines[:10], "line ten changed\n", *lines[11:2000], *lines[2001:]]
    segments, degraded = diff_words("".join(lines), "".join(edited), Budget())
    assert len("".join(lines)) > words.MAX_WORD_CHARS
    assert not degraded
    assert (before_of(segments), after_of(segments)) == ("".join(lines), "".join(edited))
    assert sum(len(text) for tag, text in segments if tag != "=") < 1000


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ab ba " * 6_500, "ba cd ab ab " * 4_500),
        ("a b c " * 9_000, "c a a b " * 7_000),
        ("".join(random.Random(1).choices("ab \n", k=50_000)), "".join(random.Random(2).choices("ab \n", k=50_000))),
    ],
)
def test_no_string_costs_more_than_the_budget(before: str, after: str) -> None:
    budget = Budget()
    segments, degraded = diff_words(before, after, budget)
    assert degraded
    assert budget.steps >= 0
    assert (before_of(segments), after_of(segments)) == (before, after)


def test_words_that_only_one_side_has_cost_no_search() -> None:
    budget = Budget()
    segments, degraded = diff_words("a cow and " * 5_000, "a big horse and " * 5_000, budget)
    assert (degraded, segments[:4]) == (False, (("=", "a "), ("-", "cow "), ("+", "big horse "), ("=", "and a ")))
    assert Budget().steps - budget.steps < 150_000
    assert not diff_words("a b " * 10_000, "c d " * 10_000, budget)[1]


def test_short_strings_that_were_seen_before_cost_nothing() -> None:
    budget = Budget()
    first = diff_words("a needle here", "a pin here", budget)
    left = budget.steps
    assert diff_words("a needle here", "a pin here", budget) == first
    assert budget.steps == left


def test_what_differs_little_costs_little() -> None:
    budget = Budget(1000)
    assert not diff_words("a b c d", "a x c y", budget)[1]
    assert 900 < budget.steps < 1000


def test_one_word_against_very_many_costs_no_more_than_these() -> None:
    budget = Budget(20_000)
    assert words._diff_tokens(["a"], [str(n) for n in range(5000)], budget) is not None


def test_a_spent_budget_still_gives_an_exact_answer() -> None:
    assert diff_words("a b c", "x b y", Budget(0)) == ((("-", "a b c"), ("+", "x b y")), True)
