"""Elements of two lists find their partners before anything in them is compared."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.debug import align
from luthien.debug.align import Aligner, Alignment, by_position, out_of_order
from luthien.debug.diff import diff_payloads
from luthien.debug.diffing import compare, similar
from luthien.debug.diffing.identity import Identities
from luthien.debug.diffing.ops import Diff, Op, Summary, apply
from luthien.debug.diffing.values import Json, parse
from tests.unit.debug.json_values import VALUES, encoded

ELEMENTS = st.sampled_from(
    [
        1,
        "a",
        "some words of a text",
        "some other words of a text",
        True,
        None,
        [],
        [1, [2]],
        {},
        {"role": "user", "content": "one"},
        {"role": "user", "content": "the first of two questions"},
        {"role": "user", "content": "the second of two questions"},
        {"role": "system", "content": "one"},
        {"role": "tool", "tool_call_id": "c1", "content": "result"},
        {"role": "tool", "tool_call_id": "c1", "content": "another result"},
        {"role": "tool", "tool_call_id": "c2", "content": "result"},
        {"type": "function", "function": {"name": "search", "description": "finds"}},
        {"type": "function", "function": {"name": "search", "description": "finds it all"}},
        {"type": "text", "text": "one"},
        {"type": "text", "text": ["one", {"id": 1}]},
    ]
)
LISTS = st.lists(ELEMENTS | VALUES, max_size=12)
STEPS = st.sampled_from([0, 10, 100, 10**6])


def parsed(value: Any) -> Any:
    return parse(json.dumps(value))


def diff(before: Any, after: Any) -> Diff:
    found = diff_payloads(encoded(before), encoded(after))
    assert apply(found.ops, parsed(before)) == parsed(after)
    back = diff_payloads(encoded(after), encoded(before)).summary
    assert found.summary == Summary(back.same, back.removed, back.added, back.changed, back.moved)
    return found


def told(before: Any, after: Any) -> list[tuple[str, str | None, str | None]]:
    found = diff(before, after)
    assert not found.degraded
    return [(op.op, op.before_ptr, op.after_ptr) for op in found.ops]


def said(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def messages(count: int) -> list[dict[str, Any]]:
    chance = random.Random(count)
    words = [f"word{number}" for number in range(500)]
    return [said("user" if n % 2 == 0 else "assistant", " ".join(chance.choices(words, k=30))) for n in range(count)]


class TestProperties:
    @given(LISTS, LISTS, STEPS)
    def test_every_index_occurs_once_whatever_the_budget(
        self, before: list[Any], after: list[Any], steps: int
    ) -> None:
        found = Aligner(Identities(), steps)("", parsed(before), parsed(after)).pairs
        assert sorted(i for i, _ in found if i is not None) == list(range(len(before)))
        assert sorted(j for _, j in found if j is not None) == list(range(len(after)))
        assert (None, None) not in found

    @given(LISTS, LISTS, STEPS)
    def test_the_pairs_are_the_same_from_the_other_side(
        self, before: list[Any], after: list[Any], steps: int
    ) -> None:
        there = Aligner(Identities(), steps)("", parsed(before), parsed(after))
        back = Aligner(Identities(), steps)("", parsed(after), parsed(before))
        assert {(j, i) for i, j in there.pairs} == set(back.pairs)
        assert there.degraded == back.degraded

    @given(
        st.lists(st.sampled_from("abc"), min_size=5, max_size=5),
        st.lists(st.sampled_from("abc"), min_size=5, max_size=5),
    )
    def test_so_are_those_of_lists_as_long_that_repeat_themselves(self, before: list[Any], after: list[Any]) -> None:
        there, back = Aligner(Identities())("", before, after), Aligner(Identities())("", after, before)
        assert {(j, i) for i, j in there.pairs} == set(back.pairs)

    @given(LISTS, LISTS)
    def test_diffs_apply_and_are_the_same_from_the_other_side(self, before: list[Any], after: list[Any]) -> None:
        diff(before, after)

    @given(LISTS, st.randoms(use_true_random=False))
    def test_another_order_is_told_by_moves_alone(self, before: list[Any], chance: random.Random) -> None:
        after = chance.sample(before, len(before))
        assert {op.op for op in diff(before, after).ops if op.touches_value} <= {"move"}

    @given(LISTS, LISTS, LISTS)
    def test_what_is_put_in_is_added_and_nothing_else(
        self, first: list[Any], second: list[Any], new: list[Any]
    ) -> None:
        found = diff([*first, *second], [*first, *new, *second])
        assert [op.op for op in found.ops if op.touches_value] == ["add"] * len(new)

    @given(LISTS, LISTS, STEPS)
    def test_no_more_steps_are_taken_than_there_are(self, before: list[Any], after: list[Any], steps: int) -> None:
        aligner = Aligner(Identities(), steps)
        aligner("", parsed(before), parsed(after))
        assert aligner.steps >= -2 * similar.MAX_CHARS

    @given(st.lists(st.integers(0, 20), unique=True), st.randoms(use_true_random=False))
    def test_as_few_as_possible_are_out_of_order(self, columns: list[int], chance: random.Random) -> None:
        pairs = list(enumerate(columns))
        strays = out_of_order(chance.sample(pairs, len(pairs)))
        rest = [j for i, j in pairs if i not in strays]
        assert rest == sorted(rest)


class TestMessages:
    def test_a_system_message_on_top_of_a_long_conversation_is_one_addition(self) -> None:
        before = messages(300)
        assert told({"messages": before}, {"messages": [said("system", "be kind"), *before]}) == [
            ("add", None, "/messages/0")
        ]

    def test_one_of_three_equal_messages_dropped_is_one_removal(self) -> None:
        same = said("user", "again")
        found = told([said("system", "x"), same, same, same], [said("system", "x"), same, same])
        assert [op for op, _, _ in found] == ["remove"]

    def test_a_message_that_moved_is_one_move(self) -> None:
        before = messages(20)
        after = [*before[:3], *before[4:15], before[3], *before[15:]]
        assert told(before, after) == [("move", "/3", "/14")]

    def test_a_move_has_the_element_that_moved(self) -> None:
        op = diff(["a", "b", {"c": 1}], [{"c": 1}, "a", "b"]).ops[0]
        assert (op.op, op.kind, op.before, op.after) == ("move", "object", parsed({"c": 1}), parsed({"c": 1}))

    def test_the_scalars_of_what_moved_are_the_same(self) -> None:
        assert diff(["a", "b", {"c": 1}], [{"c": 1}, "a", "b"]).summary == Summary(same=3, moved=1)

    def test_a_message_that_moved_and_changed_a_little_is_a_move_and_a_change_within(self) -> None:
        before = messages(8)
        changed = {**before[6], "content": before[6]["content"] + " besides"}
        found = told(before, [before[0], changed, *before[1:6], before[7]])
        assert sorted(found) == [("change", "/6/content", "/1/content"), ("move", "/6", "/1")]

    def test_two_that_changed_places_and_changed_a_little_are_told_apart(self) -> None:
        first, second = messages(2)
        second["role"] = first["role"]
        edited = [{**each, "content": each["content"] + " besides"} for each in (second, first)]
        assert sorted(op for op, _, _ in told([first, second], edited)) == ["change", "change", "move"]

    def test_a_total_rewrite_keeps_the_messages_apart(self) -> None:
        before = [said("user", "one"), said("assistant", "two"), said("user", "three")]
        after = [said("user", "aaa"), said("assistant", "bbb"), said("user", "ccc")]
        assert told(before, after) == [("change", f"/{n}/content", f"/{n}/content") for n in range(3)]

    def test_a_message_put_in_among_rewritten_ones_is_the_one_that_fits_none(self) -> None:
        before = [said("user", "one"), said("assistant", "two")]
        after = [said("system", "new"), said("user", "aaa"), said("assistant", "bbb")]
        assert sorted(told(before, after)) == [
            ("add", None, "/0"),
            ("change", "/0/content", "/1/content"),
            ("change", "/1/content", "/2/content"),
        ]

    def test_a_message_of_another_role_is_another_message(self) -> None:
        found = told([said("user", "what I ask")], [said("assistant", "what I say")])
        assert [op for op, _, _ in found] == ["remove", "add"]

    def test_a_role_that_alone_changed_is_a_change(self) -> None:
        assert told([said("user", "x")], [said("assistant", "x")]) == [("change", "/0/role", "/0/role")]
        assert told([said("system", "x")], [said("developer", "y")]) == [
            ("change", "/0/role", "/0/role"),
            ("change", "/0/content", "/0/content"),
        ]

    def test_of_several_similar_messages_the_most_similar_belong_together(self) -> None:
        before = [said("user", f"please translate sentence number {n} into French") for n in range(6)]
        after = [{**each, "content": each["content"] + ", now"} for each in before[2:]]
        found = told(before, [*after, said("user", "thanks")])
        assert sorted(found) == [
            ("add", None, "/4"),
            *(("change", f"/{n}/content", f"/{n - 2}/content") for n in range(2, 6)),
            ("remove", "/0", None),
            ("remove", "/1", None),
        ]

    def test_within_some_that_moved_and_changed_no_other_is_told_whole_again(self) -> None:
        one, other = "the innermost of some texts", "the innermost of some texts, changed"
        before: Any = [one]
        after: Any = [other]
        for level in range(10):
            before, after = (
                [["words to know it by", before], f"rest {level}"],
                [f"rest {level}", ["words to know it by", after]],
            )
        found = diff(before, after)
        assert compare.MAX_MOVES <= found.summary.moved <= compare.MAX_MOVES + 1
        assert found.degraded
        assert len(found.to_json()) < 12 * len(json.dumps(before))


class TestNames:
    @pytest.mark.parametrize(
        "result",
        [
            lambda name, text: said("tool", text, tool_call_id=name),
            lambda name, text: {"type": "function_call_output", "call_id": name, "output": text},
            lambda name, text: {"type": "tool_result", "tool_use_id": name, "content": text},
            lambda name, text: said("user", [{"type": "tool_result", "tool_use_id": name, "content": text}]),
            lambda name, text: {"id": name, "type": "tool_use", "name": "search", "input": {"query": text}},
            lambda name, text: {"type": "function", "function": {"name": name, "description": text}},
            lambda name, text: {"name": name, "description": text},
        ],
    )
    def test_rewritten_and_in_another_order_each_belongs_to_its_name(self, result: Any) -> None:
        before, after = [result("a", "one"), result("b", "two")], [result("b", "three"), result("a", "four")]
        changes = {(op.before, op.after) for op in diff(before, after).ops if op.op == "change"}
        assert changes == {("one", "four"), ("two", "three")}
        assert diff(before, after).summary.moved == 1

    def test_a_call_and_its_result_share_an_id_and_are_not_one(self) -> None:
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        output = {"type": "function_call_output", "call_id": "c", "output": "done"}
        assert [op for op, _, _ in told([call], [output])] == ["remove", "add"]

    def test_the_name_of_who_speaks_is_no_name_of_the_message(self) -> None:
        before = [said("user", "one", name="bob"), said("user", "two", name="eve")]
        after = [said("user", "ONE", name="bob"), said("user", "and", name="eve"), said("user", "TWO", name="eve")]
        assert next(op for op in diff(before, after).ops if op.op == "add").after_ptr == "/1"

    def test_elements_that_share_one_name_are_paired_in_order(self) -> None:
        before = [{"id": "x", "v": n} for n in range(4)]
        after = [{"id": "x", "v": n + 10} for n in range(3)]
        assert diff(before, after).summary == Summary(same=3, removed=1, changed=3)


class TestManyAndHostile:
    def ops(self, before: Sequence[Any], after: Sequence[Any]) -> tuple[Op, ...]:
        found = diff({"messages": before}, {"messages": after})
        assert not found.degraded
        return found.ops

    def test_one_put_in_among_two_thousand(self) -> None:
        before = messages(2000)
        ops = self.ops(before, [*before[:700], said("user", "new"), *before[700:]])
        assert [(op.op, op.after_ptr) for op in ops] == [("add", "/messages/700")]

    def test_two_thousand_all_changed(self) -> None:
        before = messages(2000)
        ops = self.ops(before, [{**each, "content": f"As agreed: {each['content']}"} for each in before])
        assert [op.before_ptr for op in ops] == [f"/messages/{n}/content" for n in range(2000)]
        assert [op.after_ptr for op in ops] == [f"/messages/{n}/content" for n in range(2000)]

    def test_two_thousand_in_another_order(self) -> None:
        before = messages(2000)
        ops = self.ops(before, random.Random(1).sample(before, 2000))
        assert {op.op for op in ops} == {"move"}
        assert len(ops) < 2000

    def test_what_a_budget_cuts_short_is_degraded_and_right(self) -> None:
        chance = random.Random(1)
        before, after = ([chance.choice("abcdef") for _ in range(3000)] for _ in range(2))
        found = diff(before, after)
        assert found.degraded
        assert any(op.degraded for op in found.ops)

    def test_coarse_pairs_without_an_operation_of_their_own_make_the_diff_degraded(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(align, "STEPS_PER_LIST", 0)
        found = diff(["same", "x", "y", "same"] * 3, ["z", "same", "same", "v"] * 3)
        assert found.degraded

    def test_too_much_text_to_look_for_similar_elements_is_degraded(self) -> None:
        found = Aligner(Identities(), 1000)(
            "", parsed(messages(40)), parsed([said("user", f"{n}") for n in range(50)])
        )
        assert found.degraded

    def test_the_same_operations_in_every_process(self) -> None:
        """Hashes of strings differ between processes."""
        program = """
import random, sys, json
from luthien.debug.diff import diff_payloads
chance = random.Random(3)
words = [f"w{n}" for n in range(60)]
def one(): return {"role": "user", "content": " ".join(chance.choices(words, k=9)), "b": dict.fromkeys(words)}
def some(): return [one() for _ in range(60)]
before, after = some(), some()
after[10:30] = [{**each, "content": each["content"] + " x"} for each in chance.sample(before, 20)]
sys.stdout.write(diff_payloads(json.dumps(before).encode(), json.dumps(after).encode()).to_json())
"""
        outputs = {
            subprocess.run(
                [sys.executable, "-c", program],
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
                capture_output=True,
                check=True,
            ).stdout
            for seed in ("1", "2", "3")
        }
        assert len(outputs) == 1


def test_by_position_pairs_what_is_left_with_nothing() -> None:
    empty: list[Json] = []
    assert by_position("", ["a"], ["b", "c"]) == Alignment([(0, 0), (None, 1)])
    assert by_position("", empty, empty) == Alignment([])
