"""LangChain's models of OpenAI and Anthropic, directly and through the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.integration.clients.account import Account, Heard, account_of, told, told_async
from tests.integration.clients.adversity import (
    ADVERSITIES,
    CHAT,
    MESSAGES,
    PLAIN,
    RESPONSES,
    SOME,
    STREAMS,
    Adversity,
    stalls,
)
from tests.integration.clients.setting import PROMPT, Script, Setting, Side, ended, final
from tests.integration.clients.treatment import DELETE, READ, TOOLS, TREATMENTS, Treatment
from tests.integration.clients.wire import responses_tools, responses_tools_stream
from tests.playbook import answers, streams
from tests.wire_tools import anthropic_tools, anthropic_tools_stream, openai_tools, openai_tools_stream

FORMATS = [CHAT, RESPONSES, MESSAGES]
Ask = Callable[[BaseChatModel, Heard], Account]


class Weather(BaseModel):
    """What the weather is like."""

    city: str
    degrees: int


@tool
def read_file(path: str) -> str:
    """Reads a file."""
    return f"read {path}"


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all: LangChain's clients share their connections, which belong to a loop."""
    with asyncio.Runner() as running:
        yield running


def model_of(wire_format: str, side: Side, retries: int = 0) -> BaseChatModel:
    if wire_format == MESSAGES:
        return ChatAnthropic(
            model_name=side.model,
            base_url=side.url,
            api_key=SecretStr("sk-ant-client"),
            timeout=side.timeout_s,
            max_retries=retries,
            stop=None,
            max_tokens_to_sample=64,
        )
    return ChatOpenAI(
        model=side.model,
        base_url=side.openai_url,
        api_key=SecretStr("sk-client"),
        timeout=side.timeout_s,
        max_retries=retries,
        use_responses_api=wire_format == RESPONSES,
        stream_usage=True,
    )


def account(message: AIMessage) -> Account:
    tools = tuple((call["name"], call["args"]) for call in message.tool_calls)
    stop = message.response_metadata.get("finish_reason") or message.response_metadata.get("stop_reason")
    return Account(message.text, tools, stop=stop)


def invoked(wire_format: str) -> Script:
    return lambda side: told(lambda _: account(model_of(wire_format, side).invoke(PROMPT)))


def streamed(wire_format: str) -> Script:
    def script(side: Side) -> Account:
        def ask(heard: Heard) -> Account:
            whole: BaseMessageChunk | None = None
            for chunk in model_of(wire_format, side).bind_tools([read_file]).stream(PROMPT):
                whole = _added(whole, chunk, heard)
            return _whole(whole)

        return told(ask)

    return script


def streamed_async(wire_format: str, runner: asyncio.Runner) -> Script:
    def script(side: Side) -> Account:
        async def ask(heard: Heard) -> Account:
            whole: BaseMessageChunk | None = None
            async for chunk in model_of(wire_format, side).bind_tools([read_file]).astream(PROMPT):
                whole = _added(whole, chunk, heard)
            return _whole(whole)

        return told_async(ask, runner.run)

    return script


def _added(whole: BaseMessageChunk | None, chunk: Any, heard: Heard) -> BaseMessageChunk:
    heard.append(chunk.text)
    return chunk if whole is None else whole + chunk  # type: ignore[no-any-return]


def _whole(whole: BaseMessageChunk | None) -> Account:
    assert isinstance(whole, AIMessage)
    return account(whole)


@pytest.mark.parametrize("adversity", [pytest.param(each, id=name) for name, each in ADVERSITIES.items()])
@pytest.mark.parametrize("wire_format", FORMATS)
def test_adverse_streams(scene: Setting, wire_format: str, adversity: Adversity) -> None:
    adversity.check(scene.compare(streamed(wire_format), adversity.play(wire_format)))


@pytest.mark.parametrize("adversity", [pytest.param(ADVERSITIES[name], id=name) for name in SOME])
@pytest.mark.parametrize("wire_format", FORMATS)
def test_adverse_streams_asynchronously(
    scene: Setting, runner: asyncio.Runner, wire_format: str, adversity: Adversity
) -> None:
    adversity.check(scene.compare(streamed_async(wire_format, runner), adversity.play(wire_format)))


@pytest.mark.parametrize("treatment", [pytest.param(each, id=name) for name, each in TREATMENTS.items()])
@pytest.mark.parametrize("wire_format", FORMATS)
def test_streams_that_policies_treat(
    scene: Setting, runner: asyncio.Runner, wire_format: str, treatment: Treatment
) -> None:
    for script in (streamed(wire_format), streamed_async(wire_format, runner)):
        treatment.check(scene, script, wire_format)


@pytest.mark.parametrize("wire_format", FORMATS)
def test_plain_answers(scene: Setting, wire_format: str) -> None:
    both = scene.compare(invoked(wire_format), answers(PLAIN[wire_format]("Hello.")))
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
        model = model_of(wire_format, side).bind_tools([read_file])
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

    stream_of = {
        CHAT: partial(openai_tools_stream, ""),
        RESPONSES: responses_tools_stream,
        MESSAGES: partial(anthropic_tools_stream, ""),
    }
    plain_of = {CHAT: partial(openai_tools, ""), RESPONSES: responses_tools, MESSAGES: partial(anthropic_tools, "")}
    first = (
        streams(*stream_of[wire_format](READ, DELETE))
        if streaming
        else answers(plain_of[wire_format](READ, DELETE))
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
        model = model_of(wire_format, side).with_structured_output(Weather)
        return Account(repr(model.invoke(PROMPT)))

    both = scene.compare(script, play)
    assert both.through == both.direct == Account(repr(Weather(city="Bern", degrees=7)))
    assert both.through_turns[0].body == both.direct_turns[0].body


@pytest.mark.parametrize("wire_format", FORMATS)
def test_a_block_is_the_sdks_error(scene: Setting, runner: asyncio.Runner, wire_format: str) -> None:
    """LangChain hands on what the official SDKs raise, and tries no second time."""
    for script in (invoked(wire_format), streamed(wire_format), streamed_async(wire_format, runner)):
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
    both = scene.compare(lambda side: account(model_of(wire_format, side, retries=1).invoke(PROMPT)), *plays)
    assert both.through == both.direct
    assert both.through.text == "Hi"
    assert ended(both.calls) == [("upstream_error", "529"), ("completed", None)]


@pytest.mark.parametrize("wire_format", FORMATS)
def test_one_who_leaves_in_the_middle(scene: Setting, wire_format: str) -> None:
    def script(side: Side) -> Account:
        stream = model_of(wire_format, side).stream(PROMPT)
        heard = next(chunk.text for chunk in stream if chunk.text)
        stream.close()  # type: ignore[attr-defined]
        return Account(heard)

    both = scene.compare(script, stalls(wire_format))
    assert both.through == both.direct
    assert ended(both.calls) == [("client_disconnected", "client_disconnected")]
