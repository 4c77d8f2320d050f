"""What a gateway gives on is checked: valid behind its own policies, counted and recorded where one was careless."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_RESPONSES
from luthien.formats.sse import FrameReader
from luthien.telemetry import conventions as names
from tests.integration.conftest import StartGateway
from tests.otlp_receiver import OtlpReceiver, attributes_of
from tests.playbook import ScriptedProvider, streams
from tests.validity import assert_valid
from tests.wire import (
    DONE,
    anthropic_event,
    anthropic_request,
    anthropic_stream,
    openai_chunk,
    openai_request,
    openai_stream,
    responses_request,
    responses_stream,
    sse,
)
from tests.wire_tools import anthropic_tools_stream, openai_tools_stream

EMAIL = "jane@example.com"
CALLS = [("shell", {"command": "rm -rf /", "to": EMAIL}), ("read", {"path": EMAIL})]
POLICIES: list[dict[str, Any]] = [
    {"policy": "replace_text", "config": {"rules": [{"find": "Hello", "replace": "Bye"}]}},
    {"policy": "redact", "config": {"rules": [{"kinds": ["email"], "in": ["request", "response"]}]}},
    {"policy": "block_tools", "config": {"rules": [{"tool": "shell"}]}},
]
TEXTS = ("Hel", "lo, ", EMAIL[:5], EMAIL[5:])
CARELESS = '''
from luthien.policies.policy import Policy


class Careless(Policy):
    """Withholds every chunk that says the word in the request's metadata."""

    async def on_request(self, request):
        self.word = request.body["metadata"]["word"].encode()
        return await super().on_request(request)

    async def on_chunk(self, chunk):
        return () if self.word in chunk.raw else (chunk,)
'''

Counted = dict[tuple[str, str, str], int]


def counted(receiver: OtlpReceiver) -> Counted:
    """How often which rule was broken, by rule, side and wire format."""
    reported = [metric for metric in receiver.metrics if metric.name == names.STREAM_VIOLATIONS][-1:]
    found: Counted = {}
    for point in (point for metric in reported for point in metric.sum.data_points):
        said = attributes_of(point.attributes)
        rule, side, wire = (str(said[key]) for key in (names.VIOLATED_RULE, names.VIOLATION_SIDE, names.WIRE_FORMAT))
        found[rule, side, wire] = point.as_int
    return found


def violations(call: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What the call's JSON says of the original and of the final response."""
    stages = call["stages"]
    return stages["response_original"]["violations"], stages["response_final"]["violations"]


ANSWERS = [
    pytest.param(OPENAI_CHAT, openai_request, openai_stream(*TEXTS), POLICIES, id="openai"),
    pytest.param(OPENAI_CHAT, openai_request, openai_tools_stream("Hello", *CALLS), POLICIES, id="openai-tools"),
    pytest.param(ANTHROPIC_MESSAGES, anthropic_request, anthropic_stream(*TEXTS), POLICIES, id="anthropic"),
    pytest.param(
        ANTHROPIC_MESSAGES,
        anthropic_request,
        anthropic_tools_stream("Hello", *CALLS),
        POLICIES,
        id="anthropic-tools",
    ),
    pytest.param(OPENAI_RESPONSES, responses_request, responses_stream(*TEXTS), POLICIES[:2], id="responses"),
]


@pytest.mark.parametrize(("wire_format", "ask", "frames", "policies"), ANSWERS)
def test_what_the_builtin_policies_give_on_is_valid(
    start: StartGateway,
    provider: ScriptedProvider,
    receiver: OtlpReceiver,
    wire_format: WireFormat,
    ask: Callable[..., Any],
    frames: list[bytes],
    policies: list[dict[str, Any]],
) -> None:
    """Each of them alone, and all of them."""
    provider.will(streams(*frames))
    for chain in [*([policy] for policy in policies), policies]:
        with start(chain) as gateway:
            response = gateway.post(wire_format.path, ask(stream=True))
            assert_valid(wire_format, response.content)
            call = gateway.call(response)
        assert call["outcome"] == "completed"
        assert violations(call) == ([], [])
    assert call["changed"]["response"] is True
    assert counted(receiver) == {}


@pytest.mark.parametrize(
    ("wire_format", "ask", "frames", "word", "rule"),
    [
        (OPENAI_CHAT, openai_request, openai_tools_stream("Hi", *CALLS), '"name"', "tool_call_name_missing=2"),
        (OPENAI_CHAT, openai_request, openai_stream(*TEXTS), '"stop"', "finish_reason_missing=1"),
        (ANTHROPIC_MESSAGES, anthropic_request, anthropic_stream(*TEXTS), "block_stop", "block_open=1"),
        (OPENAI_RESPONSES, responses_request, responses_stream(*TEXTS), "part.done", "part_not_done=1"),
    ],
    ids=["openai-tools", "openai", "anthropic", "responses"],
)
def test_what_a_careless_policy_breaks_is_counted_as_ours(
    start: StartGateway,
    provider: ScriptedProvider,
    receiver: OtlpReceiver,
    tmp_path: Path,
    wire_format: WireFormat,
    ask: Callable[..., Any],
    frames: list[bytes],
    word: str,
    rule: str,
) -> None:
    (tmp_path / "careless.py").write_text(CARELESS)
    provider.will(streams(*frames))
    with start([{"policy": f"{tmp_path / 'careless.py'}:Careless"}]) as gateway:
        response = gateway.post(wire_format.path, ask(stream=True, metadata={"word": word}))
        with pytest.raises(AssertionError, match=rule.partition("=")[0]):
            assert_valid(wire_format, response.content)
        call = gateway.call(response)
        page = gateway.get(f"/debug/calls/{call['call_id']}", gateway.headers | {"accept": "text/html"}).text
        says_the_same = not gateway.diff(call["call_id"])["response"]["ops"]
    original, final = violations(call)
    assert original == []
    assert "not valid in its protocol" in page
    assert ("No change in what it says, but in how the stream is written." in page) == says_the_same
    assert says_the_same == (word in {"block_stop", "part.done"})
    assert rule in final
    assert rule in page
    assert {
        f"{name}={count}": (side, wire) for (name, side, wire), count in counted(receiver).items()
    } == dict.fromkeys(final, ("gateway", wire_format.name))


def test_what_the_provider_breaks_is_its_own(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    """A block that nobody opened, twice; that the policies changed the text before it makes no difference."""
    frames = anthropic_stream(*TEXTS)
    stop = next(frame for frame in frames if b"content_block_stop" in frame)
    provider.will(streams(*frames[:-2], stop, stop, *frames[-2:]))
    with start(POLICIES[:1]) as gateway:
        response = gateway.post(ANTHROPIC_MESSAGES.path, anthropic_request(stream=True))
        assert b"Bye" in response.content
        call = gateway.call(response)
    assert violations(call) == (["outside_block=2"], [])
    assert counted(receiver) == {("outside_block", "upstream", ANTHROPIC_MESSAGES.name): 2}


def test_a_block_and_a_stream_that_breaks_off_end_validly(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    frames = openai_tools_stream("Hi", *CALLS)
    provider.will(streams(*frames), streams(*frames[:2], then_cut=True))
    blocks = {"policy": "block_tools", "config": {"rules": [{"tool": "shell"}], "action": "block"}}
    with start([blocks]) as gateway:
        for outcome in ("blocked", "upstream_error"):
            response = gateway.post(OPENAI_CHAT.path, openai_request(stream=True))
            assert_valid(OPENAI_CHAT, response.content)
            call = gateway.call(response)
            assert (call["outcome"], violations(call)) == (outcome, ([], []))
    assert counted(receiver) == {}


@pytest.mark.parametrize(
    ("wire_format", "ask", "stream", "error"),
    [
        (OPENAI_CHAT, openai_request, openai_stream, sse({"error": {"message": "overloaded"}})),
        (
            ANTHROPIC_MESSAGES,
            anthropic_request,
            anthropic_stream,
            anthropic_event({"type": "error", "error": {"type": "overloaded_error", "message": "overloaded"}}),
        ),
        (
            OPENAI_RESPONSES,
            responses_request,
            responses_stream,
            sse({"type": "error", "message": "overloaded", "sequence_number": 4}, "error"),
        ),
    ],
    ids=["openai", "anthropic", "responses"],
)
@pytest.mark.parametrize("word", ["overloaded", "nothing of this"])
def test_the_client_is_told_once_that_the_provider_failed(
    start: StartGateway,
    provider: ScriptedProvider,
    receiver: OtlpReceiver,
    tmp_path: Path,
    wire_format: WireFormat,
    ask: Callable[..., Any],
    stream: Callable[..., list[bytes]],
    error: bytes,
    word: str,
) -> None:
    """By the provider's own error, or by ours if a policy withheld that."""
    (tmp_path / "careless.py").write_text(CARELESS)
    provider.will(streams(*stream(*TEXTS)[:4], error))
    with start([{"policy": f"{tmp_path / 'careless.py'}:Careless"}]) as gateway:
        response = gateway.post(wire_format.path, ask(stream=True, metadata={"word": word}))
        assert_valid(wire_format, response.content)
        frames = FrameReader(1 << 20).feed(response.content)
        assert [wire_format.stream_error(each) for each in frames if b"overloaded" in each.raw] == ["overloaded"]
        assert response.content.endswith(error) == (word != "overloaded")
        call = gateway.call(response)
    assert (call["outcome"], violations(call)) == ("upstream_error", ([], []))
    assert counted(receiver) == {}


def test_without_policies_nothing_is_looked_at(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    provider.will(streams(*openai_stream("a")[:-1], openai_chunk({"content": "too late"}), DONE))
    with start([]) as gateway:
        response = gateway.post(OPENAI_CHAT.path, openai_request(stream=True))
        with pytest.raises(AssertionError, match="choice_after_finish"):
            assert_valid(OPENAI_CHAT, response.content)
        call = gateway.call(response)
    assert violations(call) == ([], [])
    assert counted(receiver) == {}
