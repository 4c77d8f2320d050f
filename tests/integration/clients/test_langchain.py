"""LangChain's models of OpenAI and Anthropic, directly and through the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, ToolMessage
from pydantic import BaseModel

from tests.integration.clients import langchain_players as players
from tests.integration.clients.account import Account, Heard, account_of
from tests.integration.clients.adversity import (
    ADVERSITIES,
    CHAT,
    MESSAGES,
    PLAIN,
    RESPONSES,
    SOME,
    stalls,
)
from tests.integration.clients.setting import PROMPT, Setting, Side, ended, final
from tests.integration.clients.treatment import DELETE, READ, TREATMENTS, Treatment
from tests.integration.clients.wire import TOOL_ANSWERS, TOOL_STREAMS
from tests.playbook import answers, streams
from tests.wire_tools import anthropic_tools

FORMATS = [CHAT, RESPONSES, MESSAGES]
Ask = Callable[[BaseChatModel, Heard], Account]


class Weather(BaseModel):
    """What the weather is like."""

    city: str
    degrees: int


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all: LangChain's clients share their connections, which belong to a loop."""
    with asyncio.Runner() as running:
        yield running


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("wire_format", FORMATS)
def test_adverse_streams(scene: Setting, runner: asyncio.Runner, wire_format: str, name: str) -> None:
    """Its parsers are those of the official SDKs."""
    adversity = ADVERSITIES[name]
    for script in (players.streamed(wire_format), players.streamed_async(wire_format, runner)):
        adversity.check(scene.compare(script, adversity.play(wire_format)))


@pytest.mark.parametrize("treatment", [pytest.param(each, id=name) for name, each in TREATMENTS.items()])
@pytest.mark.parametrize("wire_format", FORMATS)
def test_streams_that_policies_treat(
    scene: Setting, runner: asyncio.Runner, wire_format: str, treatment: Treatment
) -> None:
    for script in (players.streamed(wire_format), players.streamed_async(wire_format, runner)):
        treatment.check(scene, script, wire_format)


@pytest.mark.parametrize("wire_format", FORMATS)
def test_plain_answers(scene: Setting, wire_format: str) -> None:
    both = scene.compare(players.invoked(wire_format), answers(PLAIN[wire_format]("Hello.")))
    assert both.through == both.direct
    assert both.through.text == account_of(final(both.call)).text == "Hello."
    assert ended(both.calls) == [("completed", None)]
    [straight], [passed] = both.direct_turns, both.through_turns
    assert (passed.method, passed.path, passed.body) == (straight.method, straight.path, straight.body)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("wire_format", FORMATS)
def test_tools_in_two_turns(scene: Setting, wire_format: str, streaming: bool) -> None:
    """`bind_tools`, two calls in one answer, and what the tools say goes back with the conversation."""

    def script(side: Side) -> Account:
        model = players.model_of(wire_format, side).bind_tools([players.read_file])
        asked: list[Any] = [HumanMessage(PROMPT)]
        if streaming:
            first: Any = None
            for chunk in model.stream(asked):
                first = chunk if first is None else first + chunk
        else:
            first = model.invoke(asked)
        said = [ToolMessage(f"read {call['args']}", tool_call_id=call["id"]) for call in first.tool_calls]
        second = model.invoke([*asked, first, *said])
        return Account(second.text, tuple((call["name"], call["args"]) for call in first.tool_calls))

    first = (
        streams(*TOOL_STREAMS[wire_format](READ, DELETE))
        if streaming
        else answers(TOOL_ANSWERS[wire_format](READ, DELETE))
    )
    both = scene.compare(script, first, answers(PLAIN[wire_format]("Done.")))
    assert both.through == both.direct == Account("Done.", (READ, DELETE))
    assert [turn.json for turn in both.through_turns] == [turn.json for turn in both.direct_turns]
    assert ended(both.calls) == [("completed", None)] * 2
    assert account_of(final(both.calls[0])).tools == (READ, DELETE)


@pytest.mark.parametrize("wire_format", FORMATS)
def test_structured_output(scene: Setting, wire_format: str) -> None:
    made = ("Weather", {"city": "Bern", "degrees": 7})
    said = '{"city": "Bern", "degrees": 7}'
    play = answers(anthropic_tools("", made) if wire_format == MESSAGES else PLAIN[wire_format](said))

    def script(side: Side) -> Account:
        model = players.model_of(wire_format, side).with_structured_output(Weather)
        return Account(repr(model.invoke(PROMPT)))

    both = scene.compare(script, play)
    assert both.through == both.direct == Account(repr(Weather(city="Bern", degrees=7)))
    assert both.through_turns[0].body == both.direct_turns[0].body


@pytest.mark.parametrize("wire_format", FORMATS)
def test_a_block_is_the_sdks_error(scene: Setting, runner: asyncio.Runner, wire_format: str) -> None:
    """LangChain hands on what the official SDKs raise, and tries no second time."""
    for script in (
        players.invoked(wire_format),
        players.streamed(wire_format),
        players.streamed_async(wire_format, runner),
    ):
        side = scene.through("limit")
        side = Side(side.url, f"{side.model}-forbidden")
        came, turns = scene.run(script, side, answers({}))
        assert came.failure is not None
        assert (came.failure.status, turns) == (403, [])
        assert "PermissionDenied" in came.failure.kind
        assert "is not permitted" in came.failure.message
        assert ended(scene.calls(side.model)) == [("blocked", "policy_blocked")]


@pytest.mark.parametrize("wire_format", FORMATS)
def test_what_is_worth_another_try_is_tried_again(scene: Setting, wire_format: str) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    plays = (
        answers(error, status=529, headers={"retry-after-ms": "1"}),
        answers(PLAIN[wire_format]("Hi")),
    )
    both = scene.compare(
        lambda side: players.account(players.model_of(wire_format, side, retries=1).invoke(PROMPT)), *plays
    )
    assert both.through == both.direct
    assert both.through.text == "Hi"
    assert ended(both.calls) == [("upstream_error", "529"), ("completed", None)]


@pytest.mark.parametrize("wire_format", FORMATS)
def test_one_who_leaves_in_the_middle(scene: Setting, wire_format: str) -> None:
    def script(side: Side) -> Account:
        stream = players.model_of(wire_format, side).stream(PROMPT)
        heard = next(chunk.text for chunk in stream if chunk.text)
        stream.close()  # type: ignore[attr-defined]
        return Account(heard)

    both = scene.compare(script, stalls(wire_format))
    assert both.through == both.direct
    assert ended(both.calls) == [("client_disconnected", "client_disconnected")]
