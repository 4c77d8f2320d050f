"""How many bytes operations took out and put in, and whose they were."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luthien.debug.diff import diff_payloads
from luthien.debug.diffing.ops import Blame, Op
from luthien.debug.search.amounts import Amount, amount_of, shares_of

ONE, TWO = Blame("one", "1", "", 1), Blame("two", "1", "", 2)
AUTHORS = [("one", "1"), ("two", "1")]


def amount(before: Any, after: Any) -> Amount:
    ops = diff_payloads(json.dumps(before).encode(), json.dumps(after).encode()).ops
    amounts = [amount_of(op) for op in ops if op.touches_value]
    return Amount(sum(each.removed for each in amounts), sum(each.added for each in amounts))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"text": "the code is classified"}, {"text": "the code is hidden"}, (10, 6)),
        ({"text": "Straße"}, {"text": ""}, (7, 0)),
        ({"a": 1}, {"a": 1, "tools": [{"name": "shell", "strict": True}]}, (0, len("nameshellstrict"))),
        ({"a": 1, "b": [{"c": 1.50}]}, {"a": 1}, (len("c1.5"), 0)),
        ({"n": 12}, {"n": 345}, (2, 3)),
        ({"n": 12}, {"n": "twelve"}, (2, len('"twelve"'))),
        ({"arguments": '{"city": "Bonn"}'}, {"arguments": '{"city": "Rome"}'}, (4, 4)),
        ({"arguments": '{"city": "Bonn"}'}, {"arguments": '{"city":"Bonn"}'}, (0, 0)),
        ({"list": ["a long one", "b", "c"]}, {"list": ["c", "a long one", "b"]}, (0, 0)),
    ],
)
def test_counts_what_differs(before: Any, after: Any, expected: tuple[int, int]) -> None:
    assert amount(before, after) == expected


def test_a_lone_surrogate_costs_no_more_than_its_mark() -> None:
    assert amount({"text": "\ud800"}, {"text": ""}) == (1, 0)


def op(**values: Any) -> Op:
    given: dict[str, Any] = {"before": "", "after": "", "by": (ONE, TWO)} | values
    return Op("r1", "change", "text", "/a", "/a", **given)


def test_each_author_has_what_is_known_to_be_its_own() -> None:
    text = (("=", "a "), ("-", "bb"), ("+", "ccc"), ("-", "dddd"), ("+", "eeeee"))
    known = op(text=text, authors=(None, 0, 0, 1, 1))
    assert shares_of(known, AUTHORS) == [(2, 3), (4, 5)]
    assert shares_of(op(text=text, authors=(None, 0, None, 1, None)), AUTHORS) == [(2, 0), (4, 8)]


def test_what_nobody_is_known_to_have_made_is_the_last_one_s() -> None:
    text = (("-", "bb"), ("+", "ccc"))
    assert shares_of(op(text=text), AUTHORS) == [(0, 0), (2, 3)]
    assert shares_of(op(text=text, by=(ONE,)), AUTHORS[:1]) == [(2, 3)]
