"""Who made what, as the diff of a call says it, with a real gateway before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.dialects import Dialect, in_dialects
from tests.playbook import Gateway, ScriptedProvider, answers, running_gateway, streams
from tests.wire import (
    openai_request,
    openai_response,
)

CHAT = "/v1/chat/completions"
OWN = '''
from luthien.policies.policy import NoConfig, Policy, Verdict

REASON = "<script>alert(1)</script>\u202e" + "long " * 2000


class Stamp(Policy):
    """Puts a field into every request, and says why at great length."""

    async def on_request(self, request):
        request.body["metadata"] = {"stamp": "<b>1</b>"}
        return Verdict.modify(REASON)


class Claims(Policy):
    """Says that it changed something, and did not."""

    async def on_request(self, request):
        return Verdict.modify("changed it", 3)


class Stern(Policy):
    """Blocks streams at a word, and breaks at another."""

    async def on_chunk(self, chunk):
        for _, text in self.call.format.chunk_texts(chunk.json or {}):
            if "block" in text:
                return Verdict.block("not here")
            if "break" in text:
                raise RuntimeError("broke")
        return (chunk,)

    async def on_response(self, response):
        return Verdict.allow()


class Undo(Policy):
    """Takes the field out again."""

    async def on_request(self, request):
        request.body.pop("metadata", None)
        return Verdict.modify("took it out")
'''


def replacing(find: str, replace: str, where: str = "request", **options: Any) -> dict[str, Any]:
    rules = [{"find": find, "replace": replace, "in": [where]}]
    return {"policy": "replace_text", "config": {"rules": rules}, **options}


TWO = [
    replacing("two", "2", "request"),
    {"policy": "add_system_message", "config": {"text": "Be brief."}},
    replacing("four", "4", "request"),
    replacing("six", "6", "response"),
    replacing("eight", "8", "response"),
]


@pytest.fixture
def own(data_dir: Path) -> str:
    path = data_dir / "own.py"
    path.write_text(OWN)
    return str(path)


def ask(gateway: Gateway, path: str, body: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The call and its diffs."""
    response = gateway.post(path, body)
    return gateway.call(response), gateway.diff(response)


def decided(call: dict[str, Any], op: dict[str, Any]) -> list[int]:
    """The places in the chain, counted by side, of those that had a part in an operation."""
    order = {each["sequence"]: number for number, each in enumerate(call["decisions"])}
    return [order[each["decision"]] for each in op["by"]]


def signed(op: dict[str, Any]) -> list[tuple[str, str, int | None]]:
    """The parts of a changed text that are not as they were."""
    assert len(op["authors"]) == len(op["text"])
    return [
        (tag, text.strip(), author)
        for (tag, text), author in zip(op["text"], op["authors"], strict=True)
        if tag != "="
    ]


@pytest.mark.parametrize("is_streamed", [False, True])
@in_dialects()
def test_two_policies_changed_the_same_text(
    record_database: str, provider: ScriptedProvider, dialect: Dialect, is_streamed: bool
) -> None:
    pieces = ("five si", "x seven", " eig", "ht nine")
    provider.will(dialect.play(*pieces, streamed=is_streamed))
    with running_gateway(record_database, provider.url, TWO) as gateway:
        request = dialect.request("one two three four", **({"stream": True} if is_streamed else {}))
        call, diff = ask(gateway, dialect.path, request)
    names = [each["policy"] for each in call["decisions"] if each["side"] == "request"]
    for side in ("request", "response"):
        assert diff[side]["ops"], side
        for op in diff[side]["ops"]:
            assert op["by"], op
            assert op["policy"] == op["by"][-1]["policy"]
            for each in op["by"]:
                [decision] = [found for found in call["decisions"] if found["sequence"] == each["decision"]]
                assert (decision["side"], decision["changed"]) == (side, True)
                assert op["id"] in decision["ops"]
    texts = {
        op["before"]: op
        for side in ("request", "response")
        for op in diff[side]["ops"]
        if op["kind"] == "text" and op["op"] == "change"
    }
    asked = texts["one two three four"]
    assert signed(asked) == [("-", "two", 0), ("+", "2", 0), ("-", "four", 1), ("+", "4", 1)]
    said = texts["five six seven eight nine"]
    assert signed(said) == [("-", "six", 0), ("+", "6", 0), ("-", "eight", 1), ("+", "8", 1)]
    [added] = [op for op in diff["request"]["ops"] if op["op"] == "add"]
    assert added["policy"] == "add_system_message"
    assert names


def test_shadow_steps_stand_beside(record_database: str, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response("five six")))
    policies = [
        replacing("two", "2"),
        replacing("one", "1", mode="shadow"),
        replacing("three", "3"),
        replacing("six", "6", "response", mode="shadow"),
    ]
    with running_gateway(record_database, provider.url, policies) as gateway:
        call, diff = ask(gateway, CHAT, openai_request("one two three"))
    [op] = diff["request"]["ops"]
    assert (op["after"], len(op["by"])) == ("one 2 3", 2)
    assert diff["response"]["ops"] == []
    asked, said = [each for each in diff["shadow"] if each["diff"] and each["diff"]["ops"]]
    [would] = asked["diff"]["ops"]
    assert (asked["side"], would["before"], would["after"]) == ("request", "one 2 three", "1 2 three")
    assert would["policy"] == asked["policy"] == "replace_text"
    assert [op["after"] for op in said["diff"]["ops"]] == ["five 6"]
    assert [each["ops"] for each in call["decisions"] if each["shadow"]] == [[], [], [], []]


@pytest.mark.parametrize(("word", "outcome"), [("block", "blocked"), ("break", "policy_error")])
@pytest.mark.parametrize("is_last", [True, False])
@in_dialects()
def test_a_stream_that_a_policy_ended(
    record_database: str,
    provider: ScriptedProvider,
    own: str,
    dialect: Dialect,
    is_last: bool,
    word: str,
    outcome: str,
) -> None:
    """What was cut off, and what the client was told in its place, is the doing of the policy that ended it."""
    provider.will(streams(*dialect.stream("five six", " seven", f" {word} it", " and the end")))
    replace, stern = replacing("six", "6", "response"), {"policy": f"{own}:Stern"}
    policies = [replace, stern] if is_last else [stern, replace]
    with running_gateway(record_database, provider.url, policies) as gateway:
        call, diff = ask(gateway, dialect.path, dialect.request("Hi", stream=True))
    assert call["outcome"] == outcome
    ops = diff["response"]["ops"]
    [error] = [op for op in ops if op["after_ptr"] == "/error"]
    assert error["policy"] == "Stern"
    [text] = [op for op in ops if op["kind"] == "text" and "five" in str(op["before"])]
    if is_last:
        assert {op["policy"] for op in ops} == {"Stern"}
        assert [each["policy"] for each in text["by"]] == ["replace_text", "Stern"]
    else:  # nobody kept what the first one gave on until it ended the stream
        assert (text["policy"], text["by"]) == (None, [])
        assert "Stern ended the stream" in text["reason"]
        assert "it was Stern or replace_text" in text["reason"]


@in_dialects()
def test_a_stream_that_broke_off(record_database: str, provider: ScriptedProvider, dialect: Dialect) -> None:
    """That the gateway told the client so is no policy's doing."""
    provider.will(streams(*dialect.stream("five six", " seven")[:-2], then_cut=True))
    with running_gateway(record_database, provider.url, [replacing("six", "6", "response")]) as gateway:
        call, diff = ask(gateway, dialect.path, dialect.request("Hi", stream=True))
    assert call["outcome"] == "upstream_error"
    policies = {op["after_ptr"]: op["policy"] for op in diff["response"]["ops"]}
    assert policies.pop("/error") is None
    assert set(policies.values()) == {"replace_text"}
    assert "the gateway" in call["verdict"]


def test_a_request_that_was_blocked(record_database: str, provider: ScriptedProvider) -> None:
    policies = [replacing("two", "2"), {"policy": "limit", "config": {"max_messages": 1}}]
    with running_gateway(record_database, provider.url, policies) as gateway:
        body = openai_request("one two")
        call, diff = ask(gateway, CHAT, body | {"messages": [*body["messages"], *body["messages"]]})
    assert call["verdict"] == "limit blocked the request"
    assert diff["request"] is None
    assert [each["ops"] for each in call["decisions"]] == [[], []]


def test_own_policies_and_what_they_say(record_database: str, provider: ScriptedProvider, own: str) -> None:
    provider.will(answers(openai_response("Hi")))
    policies = [{"policy": f"{own}:Stamp"}, {"policy": f"{own}:Claims"}, replacing("two", "2")]
    with running_gateway(record_database, provider.url, policies) as gateway:
        call, diff = ask(gateway, CHAT, openai_request("one two"))
        page = gateway.get(f"/debug/calls/{call['call_id']}", gateway.headers | {"accept": "text/html"})
    assert {op["after_ptr"]: op["policy"] for op in diff["request"]["ops"]} == {
        "/metadata": call["decisions"][0]["policy"],
        "/messages/0/content": "replace_text",
    }
    [op] = [op for op in diff["request"]["ops"] if op["op"] == "add"]
    assert len(op["reason"]) <= 301
    assert len(call["decisions"][0]["reason"]) > 1000
    assert "<script>alert(1)" not in page.text
    assert call["verdict"] == (
        "Stamp added metadata and replace_text changed 1 of 1 message; response: no change; "
        "Claims said it modified the request, but left it as it was"
    )


def test_what_one_undid_is_nobodys(record_database: str, provider: ScriptedProvider, own: str) -> None:
    provider.will(answers(openai_response("Hi")))
    policies = [{"policy": f"{own}:Stamp"}, replacing("two", "2"), {"policy": f"{own}:Undo"}]
    with running_gateway(record_database, provider.url, policies) as gateway:
        call, diff = ask(gateway, CHAT, openai_request("one two"))
    assert [(op["policy"], len(op["by"])) for op in diff["request"]["ops"]] == [("replace_text", 1)]
    assert [each["ops"] for each in call["decisions"] if each["changed"]] == [[], ["r1"], []]
    assert call["verdict"] == (
        "replace_text changed 1 of 1 message; response: no change; nothing is left of what Stamp and Undo changed in"
        " the request"
    )
