"""Every value that is in both documents is found in the other, whatever came, went and moved around it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from luthien.debug.diff import diff_payloads
from luthien.debug.diffing.ops import Op, apply
from luthien.debug.diffing.places import Places
from luthien.debug.diffing.values import Json, parse, pointer
from tests.unit.debug.json_values import PAIRS, encoded, resolve


def pointers(value: Json, ptr: str = "") -> Iterator[str]:
    yield ptr
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for token, child in inner:
        yield from pointers(child, pointer(ptr, token))


def move(before: int, after: int, value: Json) -> Op:
    return Op(f"r{before}", "move", "text", f"/{before}", f"/{after}", value, value)


class TestProperties:
    @given(PAIRS)
    def test_a_partner_is_the_same_value_unless_an_operation_is_at_it_or_within(self, pair: tuple[Any, Any]) -> None:
        before, after = (parse(encoded(value).decode()) for value in pair)
        ops = diff_payloads(*map(encoded, pair)).ops
        touched = [ptr for op in ops if op.touches_value for ptr in (op.before_ptr, op.after_ptr) if ptr is not None]
        places = Places(ops, before)
        for ptr in pointers(before):
            partner = places.after(ptr)
            if partner is not None and not any(
                f"{other}/".startswith(f"{place}/") for other in touched for place in (ptr, partner)
            ):
                assert resolve(before, ptr) == resolve(after, partner)

    @given(PAIRS)
    def test_there_and_back_is_where_one_was(self, pair: tuple[Any, Any]) -> None:
        before, after = (parse(encoded(value).decode()) for value in pair)
        places = Places(diff_payloads(*map(encoded, pair)).ops, before)
        there = [places.after(ptr) for ptr in pointers(before)]
        assert [places.before(ptr) for ptr in there if ptr is not None] == [
            ptr for ptr, partner in zip(pointers(before), there, strict=True) if partner is not None
        ]
        back = [places.before(ptr) for ptr in pointers(after)]
        assert sum(ptr is not None for ptr in back) == sum(ptr is not None for ptr in there)

    @given(PAIRS)
    def test_each_operation_names_partners(self, pair: tuple[Any, Any]) -> None:
        before = parse(encoded(pair[0]).decode())
        ops = diff_payloads(*map(encoded, pair)).ops
        places = Places(ops, before)
        for op in ops:
            if op.touches_value:
                assert op.before_ptr is None or places.after(op.before_ptr) == op.after_ptr
                assert op.after_ptr is None or places.before(op.after_ptr) == op.before_ptr

    @given(st.lists(st.integers(0, 9), max_size=12), st.integers())
    def test_any_order_of_any_list_is_told_by_moves_removals_and_additions(
        self, given_list: list[int], seed: int
    ) -> None:
        chance = random.Random(seed)
        before: list[Json] = [str(number) for number in given_list]
        kept = [index for index in range(len(before)) if chance.random() < 0.7]
        order = chance.sample(kept, len(kept))
        after = [f"new {n}" if chance.random() < 0.3 else index for n, index in enumerate(order)]
        survivors = [index for index in after if isinstance(index, int)]
        still: list[int] = []
        for index in survivors:
            if (not still or index > still[-1]) and chance.random() < 0.7:
                still.append(index)
        ops = [
            Op("", "remove", "text", f"/{i}", None, before[i], None) for i in range(len(before)) if i not in survivors
        ]
        for place, item in enumerate(after):
            if isinstance(item, str):
                ops.append(Op("", "add", "text", None, f"/{place}", None, item))
            elif item not in still:
                ops.append(move(item, place, before[item]))
        chance.shuffle(ops)
        assert apply(ops, before) == [before[item] if isinstance(item, int) else item for item in after]
        places = Places(ops, before)
        for place, item in enumerate(after):
            assert places.before(f"/{place}") == (f"/{item}" if isinstance(item, int) else None)
        for index in range(len(before)):
            assert places.after(f"/{index}") == (f"/{after.index(index)}" if index in after else None)


def test_the_rest_of_a_list_closes_up_and_makes_room() -> None:
    before: list[Json] = list("abcdef")
    ops = [
        move(4, 0, "e"),
        Op("", "remove", "text", "/1", None, "b", None),
        Op("", "add", "text", None, "/2", None, "new"),
    ]
    assert apply(ops, before) == ["e", "a", "new", "c", "d", "f"]
    places = Places(ops, before)
    assert [places.after(f"/{index}") for index in range(7)] == ["/1", None, "/3", "/4", "/0", "/5", None]
    assert [places.before(f"/{index}") for index in range(7)] == ["/4", "/0", None, "/2", "/3", "/5", None]


def test_what_changes_in_an_element_that_moves_goes_along() -> None:
    before = parse('[{"a": [1, 2]}, "x", "y"]')
    ops = [
        Op("", "move", "object", "/0", "/2", None, None),
        Op("", "remove", "number", "/0/a/0", None, None, None),
        Op("", "add", "text", None, "/2/a/1", None, "new"),
        Op("", "change", "text", "/1", "/0", "x", "X"),
    ]
    assert apply(ops, before) == parse('["X", "y", {"a": [2, "new"]}]')
    places = Places(ops, before)
    assert (places.after("/0/a/1"), places.before("/2/a/1"), places.before("/2/a/0")) == ("/2/a/0", None, "/0/a/1")


def test_a_key_that_looks_like_an_index_is_none() -> None:
    ops = diff_payloads(b'{"0": 1, "1": 2}', b'{"1": 2}').ops
    places = Places(ops, parse('{"0": 1, "1": 2}'))
    assert (places.after("/0"), places.after("/1"), places.after("")) == (None, "/1", "")


def test_what_leads_nowhere_or_into_a_value_changed_whole_has_no_partner() -> None:
    before = parse('{"a": "text", "b": [1]}')
    places = Places(diff_payloads(b'{"a": "text", "b": [1]}', b'{"a": ["text"], "b": [1]}').ops, before)
    assert places.after("/a") == "/a"
    for ptr in ("/a/0", "/c", "/b/1", "/b/-", "/b/01", "/b/x", f"/b/{'9' * 5000}", "/b/0/x"):
        assert places.after(ptr) is None
        assert places.before(ptr) is None


def test_an_absent_document_has_no_partner() -> None:
    assert Places(diff_payloads(None, b"[1]").ops, None).before("/0") is None
    assert Places(diff_payloads(b"[1]", None).ops, parse("[1]")).after("") is None
