"""Every operation of a diff names the policies that made it, and nobody else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.debug.blaming.blame import blame as blame_steps
from luthien.debug.blaming.blame import ops_of
from luthien.debug.blaming.culprits import TOO_LARGE
from luthien.debug.blaming.steps import Steps, Stretch
from luthien.debug.diff import diff_payloads
from luthien.debug.diffing.ops import Blame, Diff, Op
from luthien.exchange import Side
from luthien.formats import jsontext
from tests.unit.debug.json_values import PAIRS, VALUES, edited, encoded

NAMES = "abcdefghijkl"
WORDS = st.lists(st.sampled_from(["one", "two", "three", "ONE", "two ", "\n", "é"]), max_size=12).map(" ".join)


def by(name: str) -> Blame:
    return Blame(name, f"{name}-1", f"because of {name}", NAMES.index(name))


def chain(*documents: bytes, names: str = NAMES) -> Steps:
    """The documents between the policies of a call, which are named in alphabetical order."""
    stretches = tuple(
        Stretch(before, after, (by(name),))
        for before, after, name in zip(documents, documents[1:], names, strict=False)
        if before != after
    )
    return Steps(Side.REQUEST, stretches)


def blamed_bytes(*documents: bytes, names: str = NAMES) -> Diff:
    return blame_steps(diff_payloads(documents[0], documents[-1]), chain(*documents, names=names))


def blamed(*documents: Any) -> Diff:
    """The blamed diff of documents of which each policy made the next."""
    return blamed_bytes(*(jsontext.render(document) for document in documents))


def culprits(diff: Diff) -> dict[str, str]:
    """By pointer, the names of those that made an operation."""
    return {
        f"{op.op} {op.after_ptr if op.before_ptr is None else op.before_ptr}": "".join(each.policy for each in op.by)
        for op in diff.ops
    }


def chat(*contents: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content} for content in contents], **fields}


def parts(op: Op) -> list[tuple[str, str, str]]:
    """The parts of a changed text that are not as they were, each with its author."""
    authors = op.authors or [0] * len(op.text)
    return [
        (tag, text, "?" if author is None else op.by[author].policy)
        for (tag, text), author in zip(op.text, authors, strict=True)
        if tag != "="
    ]


class TestElementsTakenForOneAnother:
    def test_who_added_what_is_paired_with_something_rewritten_had_a_part_in_it(self) -> None:
        rest = "second as it was", "third as it was"
        diff = blamed(
            chat("gamma delta epsilon", *rest),
            chat("written by a", *rest),
            chat("added by b", "written by a", *rest),
            chat("added by b, and c", "written by a", *rest),
        )
        assert culprits(diff)["change /messages/0/content"] == "abc"


class TestOneStep:
    def test_it_made_everything(self) -> None:
        diff = blamed(chat("one", "two", n=1), chat("ONE", x=None, n=1.5))
        assert diff.ops
        assert {op.by for op in diff.ops} == {(by("a"),)}
        op = diff.ops[0]
        assert (op.policy, op.version, op.reason) == ("a", "a-1", "because of a")

    @given(PAIRS)
    def test_whatever_the_documents_are(self, pair: tuple[Any, Any]) -> None:
        diff = blamed_bytes(encoded(pair[0]), encoded(pair[1]))
        assert all(op.by == (by("a"),) and op.authors == () for op in diff.ops)


class TestTwoSteps:
    def test_each_in_its_own_place(self) -> None:
        diff = blamed(
            chat("one", "two", n=1, m=1),
            chat("ONE", "two", n=2, m=1),
            chat("ONE", "TWO", n=2, m=1.0, extra=[]),
        )
        assert culprits(diff) == {
            "change /messages/0/content": "a",
            "change /n": "a",
            "change /messages/1/content": "b",
            "change /m": "b",
            "add /extra": "b",
        }

    def test_a_message_before_all_others_moves_the_places(self) -> None:
        system = {"role": "system", "content": "be kind"}
        first = chat("one", "a secret")
        second = {"messages": [system, *first["messages"]]}
        third = {"messages": [system, first["messages"][0], {"role": "user", "content": "a ******"}]}
        diff = blamed(first, second, third)
        assert culprits(diff)["add /messages/0"] == "a"
        assert {by for ptr, by in culprits(diff).items() if ptr != "add /messages/0"} == {"b"}

    def test_both_changed_the_same_text(self) -> None:
        [op] = blamed(chat("one two three four"), chat("one 2 three four"), chat("one 2 three 4")).ops
        assert parts(op) == [("-", "two", "a"), ("+", "2", "a"), ("-", "four", "b"), ("+", "4", "b")]
        assert "".join(text for tag, text in op.text if tag != "+") == op.before
        assert "".join(text for tag, text in op.text if tag != "-") == op.after
        assert [each.policy for each in op.by] == ["a", "b"]
        assert (op.policy, op.reason) == ("b", "because of b")

    def test_one_deletes_what_the_other_wrote(self) -> None:
        [op] = blamed(chat("keep me"), chat("keep me and this and that"), chat("keep me and that")).ops
        assert culprits(Diff("", None, False, (op,))) == {"change /messages/0/content": "a"}  # type: ignore[arg-type]
        assert op.authors == ()

    def test_neighbouring_words_by_two(self) -> None:
        [op] = blamed(chat("x"), chat("x from-a"), chat("x from-a from-b")).ops
        assert [(tag, text.strip(), author) for tag, text, author in parts(op)][-1] == ("+", "from-b", "b")
        assert any("from" in text and author == "a" for _, text, author in parts(op))

    def test_what_was_changed_back_is_nobodys(self) -> None:
        diff = blamed(chat("one", "two", n=1), chat("ONE", "two", n=2), chat("one", "TWO", n=1))
        assert culprits(diff) == {"change /messages/1/content": "b"}

    def test_all_of_it_was_changed_back(self) -> None:
        assert blamed(chat("one"), chat("two"), chat("one")).ops == ()

    def test_back_and_forth(self) -> None:
        assert culprits(blamed({"n": 1}, {"n": 2}, {"n": 1}, {"n": 5})) == {"change /n": "c"}
        assert culprits(blamed({"n": 1}, {"n": 2}, {"n": 3}, {"n": 2, "m": 1})) == {"change /n": "a", "add /m": "c"}
        [op] = blamed(chat("a b"), chat("a c"), chat("a b"), chat("a b d"), chat("x b d")).ops
        assert parts(op)[0][2] == "d"
        assert {author for _, _, author in parts(op)} == {"c", "d"}

    def test_removed_put_back_and_removed_again(self) -> None:
        one, two = chat("one", "two", "three"), chat("one", "three")
        assert culprits(blamed(one, two, one, two)) == {"remove /messages/1": "c"}
        assert culprits(blamed({**one, "n": 1}, {**two, "n": 1}, {**one, "n": 1}, {**two, "n": 2})) == {
            "remove /messages/1": "c",
            "change /n": "c",
        }

    def test_removed_put_back_and_removed_again_while_others_go_on(self) -> None:
        one, two = chat("one", "two", "three"), chat("one", "three")
        diff = blamed({**one, "n": 1}, {**two, "n": 1}, {**one, "n": 2}, {**two, "n": 2})
        assert culprits(diff) == {"remove /messages/1": "c", "change /n": "b"}

    def test_a_field_of_the_same_value_is_another_one(self) -> None:
        assert culprits(blamed({"a": [1, 2], "x": 1}, {"x": 1}, {"x": 1, "b": [1, 2]})) == {
            "remove /a": "a",
            "add /b": "b",
        }

    def test_words_that_were_written_again_are_as_they_were(self) -> None:
        [op] = blamed(chat("say foo now"), chat("say bar now"), chat("say foo baz now")).ops
        assert [each.policy for each in op.by] == ["b"]
        texts = "say foo. Now", "say bar. Now", "so foo. Now", "so foo. Later"
        [op] = blamed(*map(chat, texts)).ops
        assert [(tag, text.strip(), author) for tag, text, author in parts(op)] == [
            ("-", "say", "b"),
            ("+", "so", "b"),
            ("-", "Now", "c"),
            ("+", "Later", "c"),
        ]

    def test_removed_put_back_and_changed(self) -> None:
        before = {"a": {"text": "one two"}, "n": 1}
        diff = blamed(before, {"n": 1}, {**before, "n": 2}, {"a": {"text": "one 2"}, "n": 2})
        assert culprits(diff)["change /a/text"] == "c"

    def test_an_added_message_that_another_changed_is_of_both(self) -> None:
        diff = blamed(chat("one"), chat("one", "a secret"), chat("one", "a ******"), chat("one!", "a ******"))
        assert culprits(diff)["add /messages/1"] == "ab"

    def test_a_removed_message_is_of_the_one_that_removed_it(self) -> None:
        diff = blamed(chat("one", "two three"), chat("one", "two 3"), chat("one"))
        assert culprits(diff) == {"remove /messages/1": "b"}

    def test_a_part_of_what_was_removed_with_its_parent(self) -> None:
        diff = blamed({"a": {"b": {"c": 1}}, "x": 1}, {"x": 1}, {"x": 2})
        assert culprits(diff) == {"remove /a": "a", "change /x": "b"}

    def test_the_type_was_changed(self) -> None:
        diff = blamed(chat("one"), chat([{"type": "text", "text": "one"}]), chat([{"type": "text", "text": "two"}]))
        assert culprits(diff)["change /messages/0/content"] == "ab"

    def test_the_same_policy_twice_in_the_chain_is_two_steps(self) -> None:
        first, second, third = (jsontext.render(each) for each in (chat("a b c"), chat("x b c"), chat("x b y")))
        twice = Blame("p", "1", "", 3), Blame("p", "1", "", 4)
        stretches = Stretch(first, second, twice[:1]), Stretch(second, third, twice[1:])
        diff = blame_steps(diff_payloads(first, third), Steps(Side.REQUEST, stretches))
        [op] = diff.ops
        assert op.by == twice
        assert ops_of(diff, 4) == ops_of(diff, 3) == (op.id,)
        assert ops_of(diff, 5) == ops_of(None, 4) == ()


class TestMoves:
    def test_one_moves_and_another_changes(self) -> None:
        one, two, three, four = ({"role": "user", "content": f"text number {n} of four"} for n in (1, 2, 3, 4))
        first = {"messages": [one, two, three, four]}
        second = {"messages": [two, three, four, one]}
        third = {"messages": [two, three, four, {"role": "user", "content": "text number 1 of 4"}]}
        assert culprits(blamed(first, second, third)) == {
            "move /messages/0": "a",
            "change /messages/0/content": "b",
        }
        assert culprits(blamed(first, third, {"messages": [*third["messages"], two]})) == {
            "move /messages/0": "a",
            "change /messages/0/content": "a",
            "add /messages/4": "b",
        }

    def test_moved_back_and_moved_again(self) -> None:
        first, second = chat("one", "two", "three"), chat("two", "three", "one")
        assert culprits(blamed(first, second, first, {**second, "n": 1})) == {"move /messages/0": "c", "add /n": "c"}

    def test_taken_out_by_one_and_put_in_elsewhere_by_another(self) -> None:
        first, second, third = chat("one", "two", "three"), chat("two", "three"), chat("two", "three", "one")
        assert culprits(blamed(first, second, third)) == {"move /messages/0": "ab"}

    def test_what_comes_behind_an_insertion(self) -> None:
        first = chat("one two", "three four", n=1)
        second = {"messages": [{"role": "system", "content": "be kind"}, *first["messages"]], "n": 1}
        third = chat("be kind", "1 two", "three 4", n=1)
        third["messages"][0]["role"] = "system"
        fourth = {"messages": [third["messages"][0], *chat("1 2", "three 4")["messages"]], "n": 2}
        diff = blamed(first, second, third, fourth)
        assert culprits(diff) == {
            "add /messages/0": "a",
            "change /messages/0/content": "bc",
            "change /messages/1/content": "b",
            "change /n": "c",
        }


class TestInside:
    """JSON in strings."""

    def arguments(self, **fields: Any) -> dict[str, Any]:
        return {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": json.dumps(fields)}}]}

    def test_each_operation_has_its_own_policy(self) -> None:
        [op] = blamed(
            self.arguments(path="/tmp/one", mode="fast", n=1, to=["x", "y"]),
            self.arguments(path="/tmp/two", mode="fast", n=1, to=["x", "y"]),
            self.arguments(path="/tmp/two", mode="slow", n=1, to=["w", "x", "y"]),
            self.arguments(path="/tmp/two", mode="slow", n=2, to=["w", "x", "z"]),
        ).ops
        inside = {each.before_ptr or each.after_ptr: "".join(b.policy for b in each.by) for each in op.inside}
        assert inside == {"/path": "a", "/mode": "b", "/to/0": "b", "/n": "c", "/to/1": "c"}
        assert [each.policy for each in op.by] == ["a", "b", "c"]

    def test_two_changed_one_text_in_it(self) -> None:
        [op] = blamed(
            self.arguments(text="one two three four"),
            self.arguments(text="1 two three four"),
            self.arguments(text="1 two three 4"),
        ).ops
        [inner] = op.inside
        assert [author for _, _, author in parts(inner)] == ["a", "a", "b", "b"]

    def test_it_was_no_json_in_between(self) -> None:
        one, three = self.arguments(a="x", b="y"), self.arguments(a="1", b="y")
        two = self.arguments()
        two["tool_calls"][0]["function"]["arguments"] = "[removed]"
        [op] = blamed(one, two, three).ops
        assert {each.policy for each in op.by} >= {"b"}
        assert all(each.by for each in op.inside)

    def test_one_step_alone(self) -> None:
        [op] = blamed(self.arguments(a=1), self.arguments(a=2)).ops
        assert [each.policy for each in op.inside] == ["a"]


class TestEncodings:
    def test_the_step_that_wrote_it_anew_is_blamed_for_white_space(self) -> None:
        spaced = b'{"a": "x", "b": 1}'
        diff = blamed_bytes(spaced, b'{"a":"y","b":1}', b'{"a":"x","b":1}')
        assert [(op.kind, op.by) for op in diff.ops] == [("encoding", (by("a"),))]

    def test_the_step_that_put_keys_in_another_order(self) -> None:
        diff = blamed({"a": 1, "b": 2, "c": "x"}, {"a": 1, "b": 2, "c": "y"}, {"b": 2, "a": 1, "c": "y"})
        assert culprits(diff) == {"change ": "b", "change /c": "a"}

    def test_nobody_else_is_blamed_for_the_order(self) -> None:
        diff = blamed({"a": 1, "b": 2}, {"a": 1, "c": 3, "b": 2}, {"b": 2, "a": 1, "c": 3})
        assert culprits(diff) == {"change ": "b", "add /c": "a"}

    def test_an_order_that_came_of_a_field_that_was_removed_and_put_back(self) -> None:
        diff = blamed({"a": 1, "b": 2}, {"b": 2}, {"b": 2, "a": 1})
        assert culprits(diff) == {"change ": "ab"}

    def test_the_spelling_of_a_number(self) -> None:
        diff = blamed_bytes(b'{"n":1.0,"x":1}', b'{"n":1.0,"x":2}', b'{"n":1.00,"x":2}')
        assert culprits(diff) == {"change /n": "b", "change /x": "a"}


class TestGaps:
    def steps(self, *stretches: Stretch) -> Steps:
        return Steps(Side.REQUEST, stretches)

    def test_one_policy_in_a_gap_is_certain(self) -> None:
        before, after = jsontext.render(chat("one")), jsontext.render(chat("two"))
        diff = blame_steps(diff_payloads(before, after), self.steps(Stretch(before, after, (by("a"),), why="lost")))
        assert culprits(diff) == {"change /messages/0/content": "a"}

    def test_without_any_step(self) -> None:
        diff = blame_steps(diff_payloads(b"{}", b"[]"), self.steps())
        assert [(op.policy, op.reason) for op in diff.ops] == [(None, "no recorded step made it")]

    def test_two_are_not(self) -> None:
        first, second, third = (jsontext.render(each) for each in (chat("one two"), chat("1 two"), chat("1 2")))
        gap = Stretch(first, second, (by("a"), by("b")), why="what a gave on is not there")
        diff = blame_steps(diff_payloads(first, second), self.steps(gap))
        assert [(op.by, op.policy) for op in diff.ops] == [((), None)]
        assert diff.ops[0].reason == "what a gave on is not there; it was a or b"
        [op] = blame_steps(diff_payloads(first, third), self.steps(gap, Stretch(second, third, (by("c"),)))).ops
        assert (op.by, op.policy, op.reason) == ((by("c"),), None, "what a gave on is not there; it was a or b")
        assert [author for _, _, author in parts(op)] == ["?", "?", "c", "c"]

    def test_nor_one_beside_whom_there_may_be_others(self) -> None:
        first, second = jsontext.render(chat("one")), jsontext.render(chat("two"))
        gap = Stretch(first, second, (by("a"),), is_open=True, why="a record is missing")
        [op] = blame_steps(diff_payloads(first, second), self.steps(gap)).ops
        assert (op.by, op.policy, op.reason) == ((), None, "a record is missing")

    def test_what_the_gateway_did_is_no_policys(self) -> None:
        first, second, third = (
            jsontext.render(each) for each in ({"a": 1}, {"a": 2}, {"a": 2, "error": {"code": "x"}, "z": 1})
        )
        stretches = Stretch(first, second, (by("a"),)), Stretch(second, third, (), why="the gateway")
        diff = blame_steps(diff_payloads(first, third), self.steps(*stretches))
        assert culprits(diff) == {"change /a": "a", "add /error": "", "add /z": ""}
        whole = Stretch(first, third, (by("a"),))
        cut = Steps(Side.RESPONSE, (whole,), is_cut=True)
        assert culprits(blame_steps(diff_payloads(first, third), cut))["add /error"] == ""
        stopped = Steps(Side.RESPONSE, (whole,), stopped_by=by("b"), is_cut=True)
        assert culprits(blame_steps(diff_payloads(first, third), stopped))["add /error"] == "b"


class TestWork:
    DOCUMENTS = chat("one", n=1), chat("two", n=1), chat("two", n=2), chat("two", n=2, m=3)

    def test_what_is_too_large_is_left_to_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("luthien.debug.blaming.blame.MAX_TRACED_BYTES", 10)
        diff = blamed(*self.DOCUMENTS)
        assert diff.degraded
        assert {(op.by, op.reason, op.degraded) for op in diff.ops} == {((), f"{TOO_LARGE}; it was a, b or c", True)}

    def test_what_takes_too_much_looking_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("luthien.debug.blaming.blame.MAX_LOOKUPS", 1)
        diff = blamed(*self.DOCUMENTS)
        assert {(op.by, op.reason, op.degraded) for op in diff.ops} == {((), TOO_LARGE, True)}

    @pytest.mark.parametrize(("name", "limit"), [("MAX_STEP_OPS", 1), ("MAX_TRACED_BYTES", 250)])
    def test_the_first_steps_are_exact_and_the_others_one(
        self, monkeypatch: pytest.MonkeyPatch, name: str, limit: int
    ) -> None:
        assert not blamed(*self.DOCUMENTS).degraded
        monkeypatch.setattr(f"luthien.debug.blaming.blame.{name}", limit)
        diff = blamed(*self.DOCUMENTS)
        assert culprits(diff) == {"change /messages/0/content": "a", "change /n": "", "add /m": ""}
        assert {op.reason for op in diff.ops if not op.by} == {f"{TOO_LARGE}; it was b or c"}
        assert [op.degraded for op in diff.ops] == [not op.by for op in diff.ops]

    def test_payloads_that_are_no_json(self) -> None:
        assert culprits(blamed_bytes(b"\xff\x00", b"{}", b"\xfe")) == {"change ": "ab"}
        [op] = blamed_bytes(b"one two three", b'{"one": "two"}', b'{"one": "three"}').ops
        assert {author for _, _, author in parts(op)} <= {"a", "b"}
        [op] = blamed_bytes(b"one two three four", b"1 two three four", b"1 two three 4").ops
        assert [author for _, _, author in parts(op)] == ["a", "a", "b", "b"]

    @given(st.lists(st.one_of(st.binary(max_size=30), VALUES.map(encoded)), min_size=2, max_size=5))
    def test_nothing_raises(self, payloads: list[bytes]) -> None:
        diff = blamed_bytes(*payloads)
        check(diff)


def check(diff: Diff) -> None:
    """What holds of every operation of a chain that is recorded whole."""
    for op in diff.ops:
        assert op.by, op
        assert op.policy == op.by[-1].policy
        assert list(op.by) == sorted(op.by, key=lambda each: each.decision)
        if op.kind == "text" and op.op == "change":
            assert "".join(text for tag, text in op.text if tag != "+") == op.before
            assert "".join(text for tag, text in op.text if tag != "-") == op.after
        check(Diff("", diff.summary, False, op.inside))
        if op.authors:
            assert len(op.authors) == len(op.text)
            assert {author for author in op.authors if author is not None} == set(range(len(op.by)))
            assert all((author is None) == (tag == "=") for (tag, _), author in zip(op.text, op.authors, strict=True))


@st.composite
def histories(draw: st.DrawFn) -> list[Any]:
    """A value, and what some policies made of it, one after the other."""
    found = [draw(VALUES)]
    for _ in range(draw(st.integers(1, 5))):
        found.append(draw(edited(found[-1])))
        if draw(st.integers(0, 5)) == 0:
            found.append(draw(st.sampled_from(found)))
    return found


class TestAnyChain:
    @given(histories())
    def test_every_operation_has_a_policy(self, history: list[Any]) -> None:
        check(blamed_bytes(*map(encoded, history)))

    @given(st.dictionaries(st.sampled_from(NAMES), st.tuples(VALUES, VALUES), min_size=1), st.permutations(NAMES))
    def test_policies_in_places_of_their_own(self, fields: dict[str, tuple[Any, Any]], order: list[str]) -> None:
        document: dict[str, Any] = {key: before for key, (before, _) in fields.items()}
        documents = [encoded(document)]
        for name in order:
            if name in fields:
                document = {**document, name: fields[name][1]}
            documents.append(encoded(document))
        diff = blamed_bytes(*documents, names="".join(order))
        for op in diff.ops:
            ptr = op.before_ptr if op.before_ptr is not None else op.after_ptr
            if ptr:  # what is written otherwise is told of the whole document where nothing else is
                assert [each.policy for each in op.by] == [ptr[1]], op

    @given(WORDS, st.integers(0, 60), st.integers(0, 60), st.booleans())
    def test_marks_of_two_in_one_text(self, text: str, at: int, other: int, is_deleted: bool) -> None:
        first = f"{text[:at]} markA {text[at:]}"
        second = f"{first[:other]} markB {first[other:]}"
        documents = [chat(text), chat(first), chat(second)]
        if is_deleted:
            documents.append(chat(second.replace("markB", "")))
        diff = blamed(*documents)
        check(diff)
        for op in diff.ops:
            for tag, part, author in parts(op):
                assert tag == "-" or "markA" not in part or author == "a"
                assert tag == "-" or "markB" not in part or author == "b"
                assert not is_deleted or "markB" not in part
