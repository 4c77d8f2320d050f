"""Diffs of two payloads: nothing that differs is called the same, and the operations lead from one to the other."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.debug import diff as diff_module
from luthien.debug.align import Alignment, Pairing
from luthien.debug.diff import Diff, Op, Summary, apply, diff_payloads
from luthien.debug.diffing import compare
from luthien.debug.diffing.ops import MAX_DEPTH
from luthien.debug.diffing.values import Json, Number, canonical, count_scalars, parse, pointer, tokens
from tests.unit.debug.json_values import PAIRS, encoded, resolve


def diff(before: Any, after: Any) -> Diff:
    return diff_payloads(encoded(before), encoded(after))


def only_op(before: bytes | None, after: bytes | None) -> Op:
    found = diff_payloads(before, after)
    assert len(found.ops) == 1
    return found.ops[0]


@st.composite
def pairings(draw: st.DrawFn) -> Pairing:
    """A pairing of no rhyme or reason."""
    chance = random.Random(draw(st.integers()))

    def pairing(_ptr: str, before: Sequence[Json], after: Sequence[Json]) -> Alignment:
        both = chance.randint(0, min(len(before), len(after)))
        rows, columns = chance.sample(range(len(before)), both), chance.sample(range(len(after)), both)
        pairs: list[tuple[int | None, int | None]] = [*zip(rows, columns, strict=True)]
        pairs += ((i, None) for i in range(len(before)) if i not in rows)
        pairs += ((None, j) for j in range(len(after)) if j not in columns)
        return Alignment(pairs)

    return pairing


class TestProperties:
    @given(PAIRS)
    def test_the_operations_lead_from_before_to_after(self, pair: tuple[Any, Any]) -> None:
        before, after = map(encoded, pair)
        found = diff_payloads(before, after)
        assert apply(found.ops, parse(before.decode())) == parse(after.decode())

    @given(PAIRS, pairings())
    def test_they_do_so_with_any_pairing_of_list_elements(self, pair: tuple[Any, Any], pairing: Pairing) -> None:
        before, after = map(encoded, pair)
        found = diff_payloads(before, after, pairing=pairing)
        assert apply(found.ops, parse(before.decode())) == parse(after.decode())

    @given(PAIRS)
    def test_applying_leaves_the_document_before_as_it_was(self, pair: tuple[Any, Any]) -> None:
        before, after = map(encoded, pair)
        document = parse(before.decode())
        apply(diff_payloads(before, after).ops, document)
        assert canonical(document) == canonical(parse(before.decode()))

    @given(PAIRS, pairings())
    def test_each_pointer_leads_to_its_value_in_its_own_document(
        self, pair: tuple[Any, Any], pairing: Pairing
    ) -> None:
        before, after = map(encoded, pair)
        for op in diff_payloads(before, after, pairing=pairing).ops:
            if op.touches_value and op.op != "add":
                assert resolve(parse(before.decode()), op.before_ptr) == op.before
            if op.touches_value and op.op != "remove":
                assert resolve(parse(after.decode()), op.after_ptr) == op.after
            assert (op.before_ptr is None) == (op.op == "add")
            assert (op.after_ptr is None) == (op.op == "remove")

    @given(PAIRS)
    def test_there_are_no_operations_only_if_the_bytes_are_the_same(self, pair: tuple[Any, Any]) -> None:
        before, after = map(encoded, pair)
        assert (not diff_payloads(before, after).ops) == (before == after)

    @given(PAIRS)
    def test_seen_from_the_other_side_added_is_removed_and_the_rest_stays(self, pair: tuple[Any, Any]) -> None:
        there, back = diff(*pair).summary, diff(*reversed(pair)).summary
        assert (there.added, there.removed) == (back.removed, back.added)
        assert (there.same, there.changed, there.moved) == (back.same, back.changed, back.moved)

    @given(PAIRS)
    def test_every_scalar_of_either_side_is_the_same_or_in_an_operation(self, pair: tuple[Any, Any]) -> None:
        before, after = map(encoded, pair)
        found = diff_payloads(before, after)
        ops = [op for op in found.ops if op.touches_value and op.op != "move"]
        gone = sum(count_scalars(op.before) for op in ops if op.op != "add")
        come = sum(count_scalars(op.after) for op in ops if op.op != "remove")
        assert found.summary.same + gone == count_scalars(parse(before.decode()))
        assert found.summary.same + come == count_scalars(parse(after.decode()))

    @given(PAIRS)
    def test_the_text_of_a_changed_string_is_both_strings(self, pair: tuple[Any, Any]) -> None:
        for op in diff(*pair).ops:
            if op.kind == "text" and op.op == "change":
                assert "".join(text for tag, text in op.text if tag != "+") == op.before
                assert "".join(text for tag, text in op.text if tag != "-") == op.after

    @given(PAIRS)
    def test_as_json_it_reads_back_as_it_was(self, pair: tuple[Any, Any]) -> None:
        found = diff(*pair)
        text = found.to_json()
        assert json.dumps(json.loads(text, parse_constant=pytest.fail))
        read: Any = parse(text)
        assert [op["id"] for op in read["ops"]] == [f"r{n}" for n in range(1, len(found.ops) + 1)]
        for op, given_op in zip(read["ops"], found.ops, strict=True):
            if "NaN" not in text and "Infinity" not in text:
                assert (op["before"], op["after"]) == (given_op.before, given_op.after)
            assert [tuple(segment) for segment in op["text"]] == list(given_op.text)

    @given(st.binary() | st.none(), st.binary() | st.none())
    def test_no_bytes_make_it_raise(self, before: bytes | None, after: bytes | None) -> None:
        found = diff_payloads(before, after)
        assert bool(found.ops) == (before != after)
        json.loads(found.to_json())

    @given(st.text('[]{}",:01.eE-+ \\untrf', max_size=30), st.text('[]{}",:01.eE-+ \\untrf', max_size=30))
    def test_no_text_that_is_nearly_json_makes_it_raise(self, before: str, after: str) -> None:
        found = diff_payloads(before.encode(), after.encode())
        assert bool(found.ops) == (before != after)


class TestTypesAndNumbers:
    @pytest.mark.parametrize(
        ("before", "after", "kind"),
        [
            ("true", "1", "type"),
            ("false", "0", "type"),
            ("true", "1.0", "type"),
            ("true", "false", "boolean"),
            ("null", "false", "type"),
            ("null", '""', "type"),
            ("1", '"1"', "type"),
            ("[]", "{}", "type"),
            ("1", "1.0", "number"),
            ("100", "1e2", "number"),
            ("0.0", "-0.0", "number"),
            ("0", "-0", "number"),
            ("9007199254740992", "9007199254740993", "number"),
            ("0.1", "0.10000000000000000001", "number"),
            ("1e400", "1e401", "number"),
            ("1e400", "Infinity", "number"),
            ("NaN", "Infinity", "number"),
            ("1e999999999999999999999", "1e999999999999999999998", "number"),
            ("1" + "0" * 5000, "1" + "0" * 4999 + "1", "number"),
            ("1e" + "9" * 5000, "1e" + "9" * 4999 + "8", "number"),
            ("1.0", "1.00", "encoding"),
            ("1e2", "100.0", "encoding"),
            ("1e5", "1E+05", "encoding"),
            ("0.0", "0e0", "encoding"),
            ('"a"', '"b"', "text"),
        ],
    )
    @pytest.mark.parametrize("template", ['{"a": %s}', '{"a": {"b": %s}}', '{"a": [%s]}', "[[%s]]", "%s"])
    def test_what_python_may_call_equal_is_a_change(self, template: str, before: str, after: str, kind: str) -> None:
        op = only_op((template % before).encode(), (template % after).encode())
        assert (op.op, op.kind) == ("change", kind)
        assert (op.before, op.after) == (parse(before), parse(after))
        assert not op.degraded

    @pytest.mark.parametrize("literal", ["NaN", "1e400", "1" * 5000, "-0", "1.00"])
    def test_a_number_is_the_same_as_itself(self, literal: str) -> None:
        found = diff_payloads(b'{"a": %s}' % literal.encode(), b'{"a": %s, "b": 1}' % literal.encode())
        assert [op.after_ptr for op in found.ops] == ["/b"]

    def test_null_is_not_absent(self) -> None:
        op = only_op(b'{"a": null}', b"{}")
        assert (op.op, op.kind, op.before_ptr, op.after_ptr) == ("remove", "null", "/a", None)

    def test_a_changed_number_tells_its_literals_to_readers_that_round(self) -> None:
        found = diff_payloads(b"[9007199254740992]", b"[9007199254740993]")
        assert found.ops[0].text == (("-", "9007199254740992"), ("+", "9007199254740993"))
        assert '"before":9007199254740992,"after":9007199254740993' in found.to_json()

    def test_an_added_value_with_a_number_that_readers_round_tells_its_text(self) -> None:
        assert only_op(b"{}", b'{"a": {"id": 9007199254740993}}').text == (("+", '{"id":9007199254740993}'),)
        assert only_op(b"{}", b'{"a": {"id": 900719925474099, "t": 0.1}}').text == ()

    def test_tokens_that_are_not_json_become_strings_in_json_and_stay_in_the_text(self) -> None:
        found = diff_payloads(b'{"a": NaN}', b'{"a": -Infinity}')
        op = json.loads(found.to_json())["ops"][0]
        assert (op["before"], op["after"]) == ("NaN", "-Infinity")
        assert op["text"] == [["-", "NaN"], ["+", "-Infinity"]]


class TestPointers:
    @pytest.mark.parametrize("key", ["", "a/b", "a~b", "~1", "a.b", "0", "-", "\ud800", "é\u202e"])
    def test_any_key_has_its_own_pointer(self, key: str) -> None:
        op = only_op(encoded({key: {"": 1}, "z": 1}), encoded({key: {"": 2}, "z": 1}))
        assert op.before_ptr == op.after_ptr == pointer("", key, "")
        assert tokens(op.before_ptr) == [key, ""]

    def test_escapes_are_those_of_rfc_6901(self) -> None:
        assert pointer("", "a/b~c", 0, "~1") == "/a~1b~0c/0/~01"

    def test_the_empty_key_is_not_the_root(self) -> None:
        assert only_op(b'{"": 1}', b'{"": 2}').before_ptr == "/"
        assert only_op(b"1", b"2").before_ptr == ""
        assert only_op(b"{}", b'{"": {"": 1}}').after_ptr == "/"


class TestLists:
    def test_scalars_of_one_sort_are_compared_in_order(self) -> None:
        found = diff([1, 2, 3, 4], [1, 5])
        assert [(op.op, op.before_ptr, op.after_ptr) for op in found.ops] == [
            ("change", "/1", "/1"),
            ("remove", "/3", None),
            ("remove", "/2", None),
        ]
        assert found.summary == Summary(same=1, removed=2, changed=1)

    def test_a_list_within_a_list_that_grows_is_removed_from_before_it_shrinks(self) -> None:
        before, after = [[1, 2, 3], [4]], [[1], [4, 5], [6]]
        found = diff(before, after)
        assert [(op.op, op.before_ptr or op.after_ptr) for op in found.ops] == [
            ("remove", "/0/2"),
            ("remove", "/0/1"),
            ("add", "/2"),
            ("add", "/1/1"),
        ]

    def test_what_is_within_an_element_goes_before_the_elements_around_it(self) -> None:
        before, after = [0, {"a": [1, 2]}, 3], [{"a": [2]}]
        pairing: dict[str, list[tuple[int | None, int | None]]] = {
            "": [(0, None), (1, 0), (2, None)],
            "/1/a": [(0, None), (1, 0)],
        }
        found = diff_payloads(encoded(before), encoded(after), pairing=lambda ptr, _b, _a: Alignment(pairing[ptr]))
        assert [op.before_ptr for op in found.ops] == ["/1/a/0", "/2", "/0"]
        assert apply(found.ops, parse(json.dumps(before))) == parse(json.dumps(after))

    def test_paired_elements_have_a_pointer_into_each_document(self) -> None:
        before, after = [1, {"a": [1]}], [{"a": [1, 2]}]
        found = diff_payloads(
            encoded(before),
            encoded(after),
            pairing=lambda ptr, b, a: Alignment([(0, None), (1, 0)] if not ptr else [(0, 0), (None, 1)]),
        )
        assert [(op.op, op.before_ptr, op.after_ptr) for op in found.ops] == [
            ("remove", "/0", None),
            ("add", None, "/0/a/1"),
        ]
        assert apply(found.ops, parse(json.dumps(before))) == parse(json.dumps(after))


class TestEncoding:
    def test_white_space_alone_is_told(self) -> None:
        found = diff_payloads(b'{"a":1}', b'{"a": 1}')
        assert found.summary == Summary(same=1, changed=1)
        op = found.ops[0]
        assert (op.op, op.kind, op.before_ptr, op.after_ptr) == ("change", "encoding", "", "")
        assert json.loads(found.to_json())["ops"][0]["before"]["bytes"] == 7

    def test_escapes_and_a_byte_order_mark_alone_are_told(self) -> None:
        assert only_op(b'"\\u0041"', b'"A"').kind == "encoding"
        assert only_op(b"{}", b"\xef\xbb\xbf{}").kind == "encoding"
        assert only_op(b"text", b"\xef\xbb\xbftext").kind == "encoding"

    def test_the_order_of_keys_is_told_where_it_changed(self) -> None:
        before = {"tools": [{"type": "object", "properties": {"b": 1, "a": 2}}], "model": "m"}
        after = {"tools": [{"type": "object", "properties": {"a": 2, "b": 1}}], "model": "n"}
        change, order = sorted(diff(before, after).ops, key=lambda op: op.kind, reverse=True)
        assert (change.kind, change.before_ptr) == ("text", "/model")
        assert (order.kind, order.before_ptr) == ("encoding", "/tools/0/properties")
        assert (order.before, order.after) == (["b", "a"], ["a", "b"])

    def test_a_key_that_came_or_went_does_not_count_as_another_order(self) -> None:
        assert {op.kind for op in diff({"a": 1, "b": 2, "c": 3}, {"a": 1, "x": 2, "c": 3}).ops} == {"number"}

    def test_a_shadowed_key_is_told(self) -> None:
        op = only_op(b'{"a": {"role": "system", "role": "user"}}', b'{"a": {"role": "user"}}')
        assert (op.kind, op.before_ptr) == ("encoding", "/a")
        assert (op.before, op.after) == ([["role", "system"], ["role", "user"]], [])

    def test_a_shadowed_value_that_changed_is_told_beside_other_changes(self) -> None:
        found = diff_payloads(b'{"a": 1, "a": 2, "b": 1}', b'{"a": 9, "a": 2, "b": 2}')
        assert sorted(op.kind for op in found.ops) == ["encoding", "number"]
        assert found.summary == Summary(same=1, changed=2)

    def test_repeated_keys_that_stay_as_they_are_are_no_difference(self) -> None:
        assert only_op(b'{"a": 1, "a": 2, "b": 1}', b'{"a": 1, "a": 2, "b": 2}').before_ptr == "/b"

    def test_very_many_reordered_objects_share_one_operation(self) -> None:
        before, after = [{"a": 1, "b": 2}] * 500, [{"b": 2, "a": 1}] * 500
        found = diff(before, after)
        assert len(found.ops) == compare.MAX_ENCODING_OPS + 1
        assert found.degraded
        assert found.summary.same == 1000
        assert (found.ops[-1].before_ptr, found.ops[-1].before, found.ops[-1].after) == ("", None, None)


def part(kind: str, text: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "text": text, **more}


class TestPartLists:
    """Text alone, or in a list of one part: the same content."""

    @pytest.mark.parametrize(
        ("before", "after", "ptr"),
        [
            ({"messages": [{"role": "user", "content": "hi"}]}, part("text", "hi"), "/messages/0/content"),
            ({"system": "hi", "messages": []}, part("text", "hi"), "/system"),
            ({"input": [{"role": "user", "content": "hi"}]}, part("input_text", "hi"), "/input/0/content"),
            (
                {"output": [{"role": "assistant", "content": "hi"}]},
                part("output_text", "hi", annotations=[]),
                "/output/0/content",
            ),
        ],
    )
    def test_a_string_that_became_a_list_of_one_part_is_one_operation(
        self, before: Any, after: dict[str, Any], ptr: str
    ) -> None:
        document = json.loads(json.dumps(before).replace('"hi"', json.dumps([after])))
        there, back = only_op(encoded(before), encoded(document)), only_op(encoded(document), encoded(before))
        for op in (there, back):
            assert (op.op, op.kind, op.before_ptr, op.after_ptr) == ("change", "type", ptr, ptr)
            assert (op.flags, op.text, op.touches_value, op.degraded) == (("encoding_only",), (), True, False)
        assert apply([there], parse(json.dumps(before))) == parse(json.dumps(document))

    @pytest.mark.parametrize("content", ["hi", [{"type": "input_text", "text": "hi"}]])
    @pytest.mark.parametrize("more", [{}, {"type": "message"}])
    def test_an_input_that_became_a_message_of_the_user_is_the_same_input(
        self, content: Any, more: dict[str, str]
    ) -> None:
        plain, whole = encoded({"input": "hi"}), encoded({"input": [{"role": "user", "content": content, **more}]})
        for op in (only_op(plain, whole), only_op(whole, plain)):
            assert (op.kind, op.before_ptr, op.flags, op.text) == ("type", "/input", ("encoding_only",), ())

    @pytest.mark.parametrize(
        "messages",
        [
            [{"role": "developer", "content": "hi"}],
            [{"role": "user", "content": "hi"}, {"role": "user", "content": "hi"}],
            [{"role": "user", "content": "hi", "id": "m1"}],
            [],
        ],
    )
    def test_an_input_that_became_more_than_a_message_of_the_user_is_another(self, messages: list[Any]) -> None:
        assert only_op(encoded({"input": "hi"}), encoded({"input": messages})).flags == ()
        nested = encoded({"x": {"input": "hi"}}), encoded({"x": {"input": [{"role": "user", "content": "hi"}]}})
        assert only_op(*nested).flags == ()

    def test_an_input_that_became_another_message_is_told_in_words(self) -> None:
        op = only_op(b'{"input": "my key"}', encoded({"input": [{"role": "user", "content": "your key"}]}))
        assert (op.flags, op.text) == ((), (("-", "my"), ("+", "your"), ("=", " key")))

    def test_text_that_changed_on_the_way_is_told_in_words(self) -> None:
        op = only_op(b'{"content": "my key is abc"}', encoded({"content": [part("text", "my key is [hidden]")]}))
        assert op.text == (("=", "my key is "), ("-", "abc"), ("+", "[hidden]"))
        assert op.flags == ()

    @pytest.mark.parametrize(
        "value",
        [
            [part("text", "hi", cache_control={"type": "ephemeral"})],
            [part("text", "hi"), part("text", "there")],
            [part("image", "hi")],
            [],
            ["hi"],
            part("text", "hi"),
        ],
    )
    def test_whatever_has_more_than_that_text_is_another_value(self, value: Any) -> None:
        op = only_op(b'{"content": "hi"}', encoded({"content": value}))
        assert (op.kind, op.flags, op.text) == ("type", (), ())


class TestSpelling:
    @pytest.mark.parametrize(
        ("before", "after", "flags"),
        [
            ("caf\u00e9 au lait", "cafe\u0301 au lait", ("normalization_only",)),
            ("e\u0301\u0327", "e\u0327\u0301", ("normalization_only",)),
            ("\ud55c", "\u1112\u1161\u11ab", ("normalization_only",)),
            ("\ufb01", "fi", ()),
            ("one two", "one  two\n", ("whitespace_only",)),
            ("onetwo", "one\u00a0two", ("whitespace_only",)),
            ("", " ", ("whitespace_only",)),
            ("caf\u00e9 x", "cafe\u0301  x", ()),
            ("one", "One", ()),
        ],
    )
    def test_what_alone_two_strings_differ_in_is_flagged(
        self, before: str, after: str, flags: tuple[str, ...]
    ) -> None:
        assert only_op(encoded([before]), encoded([after])).flags == flags
        assert only_op(encoded([after]), encoded([before])).flags == flags

    @given(st.text("a\u00e9e\u0301\u0327 ", max_size=8), st.text("a\u00e9e\u0301\u0327 ", max_size=8))
    def test_it_is_what_comparing_the_whole_strings_says(self, before: str, after: str) -> None:
        if before != after:
            same_text = normalize("NFC", before) == normalize("NFC", after)
            same_marks = not same_text and "".join(before.split()) == "".join(after.split())
            flags = ["normalization_only"] * same_text + ["whitespace_only"] * same_marks
            assert list(only_op(encoded([before]), encoded([after])).flags) == flags


class TestInside:
    """Strings that are JSON, such as the arguments of a tool call."""

    def arguments(self, before: Any, after: Any) -> Op:
        return only_op(encoded({"arguments": before}), encoded({"arguments": after}))

    @given(PAIRS)
    def test_the_operations_inside_lead_from_one_value_to_the_other(self, pair: tuple[Any, Any]) -> None:
        before, after = ([value] for value in pair)
        found = diff(json.dumps({"a": before}), json.dumps({"a": after}))
        for op in found.ops:
            assert apply(op.inside, parse(json.dumps({"a": before}))) == parse(json.dumps({"a": after}))
            assert ("encoding_only" in op.flags) == (parse(json.dumps(before)) == parse(json.dumps(after)))

    def test_what_changed_is_told_at_its_place_and_in_words(self) -> None:
        op = self.arguments('{"path": "/etc/passwd", "lines": [1, 2]}', '{"path": "/tmp/x", "lines": [2]}')
        assert [(each.id, each.op, each.before_ptr, each.after_ptr) for each in op.inside] == [
            ("r1.1", "change", "/path", "/path"),
            ("r1.2", "remove", "/lines/0", None),
        ]
        assert "".join(text for tag, text in op.text if tag != "+") == op.before
        assert op.inside[0].text[0] == ("=", "/")

    @pytest.mark.parametrize(
        ("after", "inside", "flags"),
        [
            ('{"b":2,"a":1}', ["encoding"], ("encoding_only",)),
            ('{"a": 1,  "b": 2}', [], ("encoding_only", "whitespace_only")),
            ('{"\\u0061": 1, "b": 2}', [], ("encoding_only",)),
            ('{"a": 1, "b": 2.0}', ["number"], ()),
        ],
    )
    def test_json_that_is_only_written_otherwise_is_flagged(
        self, after: str, inside: list[str], flags: tuple[str, ...]
    ) -> None:
        op = self.arguments('{"a": 1, "b": 2}', after)
        assert ([each.kind for each in op.inside], op.flags, op.touches_value) == (inside, flags, True)

    @pytest.mark.parametrize(
        ("before", "after"), [("1", "2"), ('"a"', '"b"'), ("{}", "x"), ("{}", "{"), ("[1", "[2")]
    )
    def test_only_objects_and_arrays_are_looked_into(self, before: str, after: str) -> None:
        assert self.arguments(before, after).inside == ()

    def test_json_within_json_is_looked_into_so_far(self) -> None:
        before, after = "[1]", "[2]"
        for _ in range(compare.MAX_INSIDE + 1):
            before, after = json.dumps([before]), json.dumps([after])
        op, depth = self.arguments(before, after), 0
        while op.inside:
            (op,), depth = op.inside, depth + 1
        assert depth == compare.MAX_INSIDE
        assert op.id == "r1" + ".1" * depth

    def test_what_is_too_much_to_look_into_is_degraded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(diff_module, "MAX_VALUES", 10)
        op = self.arguments("[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]", "[2]")
        assert (op.inside, op.degraded) == ((), True)

    def test_beyond_so_many_strings_they_are_degraded(self) -> None:
        before = {str(n): f"[{n}]" for n in range(compare.MAX_STRINGS_INSIDE + 1)}
        found = diff(before, dict.fromkeys(before, "[-1]"))
        assert [bool(op.inside) for op in found.ops] == [True] * compare.MAX_STRINGS_INSIDE + [False]
        assert [op.degraded for op in found.ops] == [False] * compare.MAX_STRINGS_INSIDE + [True]
        assert found.degraded

    @given(PAIRS)
    def test_all_ids_are_unique(self, pair: tuple[Any, Any]) -> None:
        ops = list(diff([pair[0], json.dumps([pair[0]])], [pair[1], json.dumps([pair[1]])]).ops)
        ids = []
        while ops:
            op = ops.pop()
            ids.append(op.id)
            ops += op.inside
        assert len(set(ids)) == len(ids)


class TestHuge:
    """Two payloads of 30 MB each."""

    def test_one_string_of_which_a_word_changed(self) -> None:
        text = "some words " * 2_700_000
        op = only_op(encoded({"a": text + "end"}), encoded({"a": text + "END"}))
        assert (op.text[1:], op.degraded) == ((("-", "end"), ("+", "END")), False)

    def test_one_string_rewritten(self) -> None:
        found = diff({"a": "abc " * 7_500_000}, {"a": "xyz\n" * 7_500_000})
        assert (len(found.ops), found.degraded) == (1, True)

    def test_many_messages_of_which_one_is_new(self) -> None:
        before = [{"role": "user", "content": f"{n} " * 1_000} for n in range(6_000)]
        op = only_op(encoded(before), encoded([*before[:4_000], {"role": "user", "content": "new"}, *before[4_000:]]))
        assert (op.op, op.after_ptr) == ("add", "/4000")


class TestDepth:
    def nested(self, depth: int, core: str) -> bytes:
        return f'{{"top": 1, "deep": {"[" * depth}{core}{"]" * depth}}}'.encode()

    def test_up_to_the_cap_a_change_is_told_where_it_is(self) -> None:
        op = only_op(self.nested(MAX_DEPTH - 1, "1"), self.nested(MAX_DEPTH - 1, "2"))
        assert (op.kind, op.before, op.degraded) == ("number", Number("1"), False)

    @pytest.mark.parametrize("opening", ['{"a":', "[", '[{"":'])
    def test_beyond_the_cap_a_part_is_compared_whole(self, opening: str) -> None:
        closing = opening.translate(str.maketrans("[{", "]}", '"a:'))[::-1]
        text = f'{{"top": %s, "deep": {opening * 150}%s{closing * 150}}}'
        before, after = (text % (1, 1)).encode(), (text % (2, 2)).encode()
        top, deep = sorted(diff_payloads(before, after).ops, key=lambda op: op.before_ptr or "", reverse=True)
        assert (top.kind, top.before_ptr) == ("number", "/top")
        assert (deep.kind, deep.degraded) == ("array" if opening == "[" else deep.kind, True)
        assert len(tokens(deep.before_ptr or "")) == MAX_DEPTH
        assert apply((top, deep), parse(before.decode())) == parse(after.decode())

    def test_a_nesting_of_2000_is_compared_one_way_or_another(self) -> None:
        before, after = self.nested(2_000, "1"), self.nested(2_000, "2")
        found = diff_payloads(before, after)
        assert found.degraded
        assert len(found.ops) == 1

    @pytest.mark.parametrize("depth", [150, 480, 900, 2_000, 100_000])
    def test_no_depth_makes_it_raise_or_miss_a_change(self, depth: int) -> None:
        found = diff_payloads(self.nested(depth, "1"), self.nested(depth, "true"))
        assert found.degraded
        assert found.summary.changed == 1
        assert json.loads(found.to_json())["ops"][0]["op"] == "change"

    @pytest.mark.parametrize("depth", [480, 900])
    def test_deep_parts_that_are_the_same_are_called_the_same(self, depth: int) -> None:
        after = self.nested(depth, '{"b": 1, "a": 2}').replace(b'"top": 1', b'"top": 2')
        assert only_op(self.nested(depth, '{"b": 1, "a": 2}'), after).before_ptr == "/top"

    def test_a_value_too_deep_for_readers_becomes_its_json_text(self) -> None:
        ops = json.loads(diff_payloads(b"{}", self.nested(300, "1")).to_json())["ops"]
        deep = next(op["after"] for op in ops if op["after_ptr"] == "/deep")
        assert deep == "[" * 300 + "1" + "]" * 300


class TestNotJson:
    def test_text_is_compared_as_text(self) -> None:
        found = diff_payloads(b"data: one\n\n", b"data: two\n\n")
        assert found.ops[0].text == (("=", "data: "), ("-", "one"), ("+", "two"), ("=", "\n\n"))
        assert found.summary == Summary(changed=1)
        assert not found.degraded

    def test_json_against_text_is_compared_as_text(self) -> None:
        op = only_op(b'{"a": 1}', b'{"a": 1')
        assert (op.kind, op.before, op.after) == ("text", '{"a": 1}', '{"a": 1')

    def test_bytes_that_are_no_text_differ_by_their_hash(self) -> None:
        op = only_op(b"\xff\xfe", b'{"a": 1}')
        assert (op.op, op.kind) == ("change", "bytes")
        assert isinstance(op.after, dict)
        assert op.after["bytes"] == Number("8")

    def test_the_same_bytes_are_the_same_whatever_they_are(self) -> None:
        for payload in (b"", b"\xff", b"text", b"[" * 5000, b"[1, 2]"):
            assert diff_payloads(payload, payload).ops == ()
        assert diff_payloads(b"[1, [2], {}]", b"[1, [2], {}]").summary == Summary(same=2)

    def test_an_absent_payload_is_not_an_empty_one(self) -> None:
        op = only_op(None, b"")
        assert (op.op, op.before_ptr, op.after_ptr, op.after) == ("add", None, "", "")
        op = only_op(b'{"a": 1}', None)
        assert (op.op, op.kind, op.before_ptr, op.after_ptr) == ("remove", "object", "", None)
        assert only_op(None, b"\xff").kind == "bytes"
        assert apply(diff_payloads(None, b"[1]").ops, None) == [Number("1")]
        assert apply(diff_payloads(b"[1]", None).ops, [Number("1")]) is None
        assert diff_payloads(None, None) == Diff(diff_module.ALGO, Summary(), degraded=False, ops=())

    def test_lone_surrogates_survive_as_json(self) -> None:
        found = diff_payloads(b'{"a": "\\ud800"}', b'{"a": "\xed\xb0\x80"}')
        op = json.loads(found.to_json().encode())["ops"][0]
        assert (op["before"], op["after"]) == ("\ud800", "\udc00")


class TestBudgets:
    def test_a_payload_of_too_many_values_is_compared_as_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(diff_module, "MAX_VALUES", 3)
        found = diff_payloads(b"[1,2,3,4]", b"[1,2,3,5]")
        assert found.degraded
        assert (found.ops[0].kind, found.ops[0].before_ptr) == ("text", "")

    def test_commas_within_strings_are_not_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(diff_module, "MAX_VALUES", 3)
        assert not diff_payloads(b'{"a":"1,2,\\",3,4,5\\\\"}', b'{"a":"1,2,\\",3,4,6"}').degraded

    def test_a_part_with_too_many_differences_is_changed_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compare, "MAX_OPS", 10)
        before, after = {"a": list(range(50)), "b": 1}, {"a": list(range(50, 100)), "b": 2}
        found = diff(before, after)
        assert [(op.kind, op.before_ptr, op.degraded) for op in found.ops] == [
            ("array", "/a", True),
            ("number", "/b", False),
        ]
        assert apply(found.ops, parse(json.dumps(before))) == parse(json.dumps(after))

    def test_strings_share_one_budget_and_what_it_does_not_reach_is_degraded(self) -> None:
        before = {str(n): " ".join(f"{n}-{k}" for k in range(3000)) for n in range(12)}
        after = {key: " ".join(reversed(text.split())) for key, text in before.items()}
        found = diff(before, after)
        assert found.degraded
        assert any(op.degraded for op in found.ops)
        assert all(op.kind == "text" for op in found.ops)


def test_the_shape_is_the_one_that_the_endpoint_promises() -> None:
    before = {"model": "m", "messages": [{"role": "user", "content": "my key is abc"}]}
    after = {"model": "m", "messages": [{"role": "user", "content": "my key is [hidden]"}]}
    assert json.loads(diff(before, after).to_json()) == {
        "algo": diff_module.ALGO,
        "summary": {"same": 2, "added": 0, "removed": 0, "changed": 1, "moved": 0},
        "degraded": False,
        "ops": [
            {
                "id": "r1",
                "op": "change",
                "kind": "text",
                "before_ptr": "/messages/0/content",
                "after_ptr": "/messages/0/content",
                "before": "my key is abc",
                "after": "my key is [hidden]",
                "text": [["=", "my key is "], ["-", "abc"], ["+", "[hidden]"]],
                "policy": None,
                "version": None,
                "reason": None,
                "degraded": False,
                "flags": [],
                "inside": [],
                "by": [],
                "authors": [],
            }
        ],
    }
