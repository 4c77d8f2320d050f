"""Every call ends in one outcome, with all four stages accounted for. Failures in mid-stream: test_troubles.py."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx
import openai
import pytest

from luthien.formats.sse import Chunk
from luthien.pipeline.orchestrator import _Exchange
from luthien.policies.policy import Policy, Request, Response, Verdict
from luthien.policies.registry import BUILTIN
from tests.dialects import Dialect, in_dialects
from tests.playbook import (
    DEADLINE_S,
    Gateway,
    Play,
    ScriptedProvider,
    Turn,
    answers,
    ended,
    eventually,
    running_gateway,
    states,
    streams,
)
from tests.validity import assert_valid
from tests.wire import (
    DONE,
    anthropic_event,
    anthropic_request,
    anthropic_response,
    anthropic_stream,
    openai_chunk,
    openai_request,
    openai_response,
    openai_stream,
    responses_stream,
    sse,
)

OPENAI = "/v1/chat/completions"
RESPONSES = "/v1/responses"
ANTHROPIC = "/v1/messages"


class Stern(Policy):
    """Does what the text of a message tells it to: blocks or breaks, on either side."""

    async def on_request(self, request: Request) -> Verdict:
        return self._judge("request", " ".join(slot.text for slot in request.texts()))

    async def on_response(self, response: Response) -> Verdict:
        return self._judge("response", " ".join(slot.text for slot in response.texts()))

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        texts = self.call.format.chunk_texts(chunk.json or {})
        verdict = self._judge("response", " ".join(text for _, text in texts))
        return (chunk,) if verdict == Verdict.allow() else verdict

    @staticmethod
    def _judge(side: str, text: str) -> Verdict:
        if f"break {side}" in text:
            raise RuntimeError("the secret of the policy")
        return Verdict.block("not here") if f"block {side}" in text else Verdict.allow()


@pytest.fixture
def stern(record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setitem(BUILTIN, "stern", Stern)
    with running_gateway(record_database, provider.url, [{"policy": "stern"}]) as gateway:
        yield gateway


@in_dialects()
def test_completed(stern: Gateway, provider: ScriptedProvider, dialect: Dialect) -> None:
    provider.will(answers(dialect.response()), streams(*dialect.stream("a", "b")))
    for response in (
        stern.post(dialect.path, dialect.request()),
        stern.post(dialect.path, dialect.request(stream=True)),
    ):
        call = stern.call(response)
        assert ended(call) == ("completed", None)
        assert states(call) == ["recorded"] * 4
        assert call["completeness"]["state"] == "complete"


@pytest.mark.parametrize("streaming", [False, True])
@in_dialects()
def test_blocked_on_the_request(
    stern: Gateway, provider: ScriptedProvider, dialect: Dialect, streaming: bool
) -> None:
    """The provider never hears of it, and the client gets a 403 in its own format."""
    response = stern.post(dialect.path, dialect.request("block request", stream=streaming))
    assert response.status_code == 403
    assert "not here" in response.json()["error"]["message"]
    assert provider.turns == []
    call = stern.call(response)
    assert ended(call) == ("blocked", "policy_blocked")
    assert states(call) == ["recorded", "not_reached", "not_reached", "gateway_generated"]
    assert [each["action"] for each in call["decisions"]] == ["block"]


@in_dialects()
def test_blocked_on_a_plain_response(stern: Gateway, provider: ScriptedProvider, dialect: Dialect) -> None:
    provider.will(answers(dialect.response("block response")))
    response = stern.post(dialect.path, dialect.request())
    assert response.status_code == 403
    call = stern.call(response)
    assert ended(call) == ("blocked", "policy_blocked")
    assert states(call) == ["recorded", "recorded", "recorded", "gateway_generated"]
    assert "block response" not in response.text


@in_dialects()
def test_blocked_in_a_stream_that_has_begun(stern: Gateway, provider: ScriptedProvider, dialect: Dialect) -> None:
    """The client gets what was released, then the format's error event, and never a success marker."""
    frames = dialect.stream("fine", "block response", "never seen")
    provider.will(streams(*frames))
    response = stern.post(dialect.path, dialect.request(stream=True))
    assert response.status_code == 200
    assert "fine" in response.text
    assert "block response" not in response.text
    assert "never seen" not in response.text
    assert frames[-1] not in response.content
    assert "policy_blocked" in response.text
    assert_valid(dialect.path, response.content)
    call = stern.call(response)
    assert ended(call) == ("blocked", "policy_blocked")
    assert states(call) == ["recorded"] * 4
    assert "fine" in json.dumps(call["stages"]["response_final"]["payload"])
    assert "block response" in json.dumps(call["stages"]["response_original"]["payload"])


@pytest.mark.parametrize(
    ("text", "frames", "expected"),
    [
        ("break request", [], ["recorded", "not_reached", "not_reached", "gateway_generated"]),
        ("x", ["break response"], ["recorded", "recorded", "recorded", "gateway_generated"]),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
@in_dialects()
def test_a_policy_that_breaks_fails_closed(
    stern: Gateway,
    provider: ScriptedProvider,
    dialect: Dialect,
    streaming: bool,
    text: str,
    frames: list[str],
    expected: list[str],
) -> None:
    said = "".join(frames)
    # Streamed, the very first text frame breaks it, but frames before it have no text and were released.
    provider.will(streams(*dialect.stream(said)) if streaming else answers(dialect.response(said)))
    response = stern.post(dialect.path, dialect.request(text, stream=streaming))
    assert "policy_error" in response.text
    assert "the secret of the policy" not in response.text
    call = stern.call(response)
    assert ended(call) == ("policy_error", "policy_error")
    if streaming and frames:
        assert_valid(dialect.path, response.content)
        assert states(call) == ["recorded"] * 4
        assert "break response" not in response.text
    else:
        assert response.status_code == 500
        assert response.headers["x-should-retry"] == "false"
        assert states(call) == expected
    assert call["decisions"][-1]["action"] == "error"
    assert "the secret of the policy" in call["decisions"][-1]["reason"]


@pytest.mark.parametrize("cut", [False, True])
@in_dialects()
def test_a_stream_without_a_single_frame_is_an_upstream_error(
    stern: Gateway,
    provider: ScriptedProvider,
    dialect: Dialect,
    cut: bool,
) -> None:
    """Whether the provider closed it politely or dropped it: never a clean end."""
    provider.will(streams(then_cut=cut, pause_s=0.02))
    response = stern.post(dialect.path, dialect.request(stream=True))
    assert response.status_code == 502
    call = stern.call(response)
    assert call["outcome"] == "upstream_error"
    assert call["error"]["type"] in {"upstream_incomplete", "upstream_disconnected"}
    assert states(call)[-1] == "gateway_generated"


def test_the_official_sdks_raise_on_the_error_frame(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(streams(*openai_stream("a")[:2]), streams(*anthropic_stream("a")[:4]))
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="k", max_retries=0) as client:
        stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
        with pytest.raises(openai.APIError, match="end marker"):
            list(stream)
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key="k", max_retries=0) as claude,
        pytest.raises(anthropic.APIStatusError, match="end marker"),
        claude.messages.stream(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}]) as messages,
    ):
        messages.until_done()


def test_the_official_sdk_raises_on_the_error_event_of_the_responses_stream(
    stern: Gateway, provider: ScriptedProvider
) -> None:
    provider.will(streams(*responses_stream("fine", "block response", "never seen")))
    with openai.OpenAI(base_url=f"{stern.url}/v1", api_key="k", max_retries=0) as client:
        with (
            client.responses.create(model="m", input="x", stream=True) as stream,
            pytest.raises(openai.APIError) as raised,
        ):
            list(stream)
        with (
            client.responses.stream(model="m", input="x") as helped,
            pytest.raises(openai.APIError, match="not here"),
        ):
            helped.get_final_response()
    assert raised.value.code == "policy_blocked"
    assert "not here" in raised.value.message


@pytest.mark.parametrize(
    ("path", "frames"),
    [
        (OPENAI, [openai_chunk({"content": "a"}), sse({"error": {"message": "overloaded", "code": 1}})]),
        (
            RESPONSES,
            [*responses_stream("a")[:5], sse({"type": "error", "code": "x", "message": "overloaded"}, "error")],
        ),
        (
            RESPONSES,
            [
                *responses_stream("a")[:5],
                sse({"type": "error", "code": "x", "message": "overloaded"}, "error"),
                sse(
                    {
                        "type": "response.failed",
                        "response": {"status": "failed", "error": {"code": "x", "message": "overloaded"}},
                    },
                    "response.failed",
                ),
            ],
        ),
        (
            ANTHROPIC,
            [
                *anthropic_stream("a")[:4],
                anthropic_event({"type": "error", "error": {"type": "overloaded_error", "message": "overloaded"}}),
            ],
        ),
    ],
)
def test_an_error_in_the_providers_stream_is_passed_on_once(
    gateway: Gateway, provider: ScriptedProvider, path: str, frames: list[bytes]
) -> None:
    provider.will(streams(*frames))
    response = gateway.post(path, {"model": "m", "messages": [], "stream": True})
    assert response.content == b"".join(frames)
    call = gateway.call(response)
    assert ended(call) == ("upstream_error", "upstream_stream_error")
    assert "overloaded" in json.dumps(call["stages"]["response_original"]["payload"])


def test_a_plain_response_that_breaks_off_is_an_upstream_error(gateway: Gateway, provider: ScriptedProvider) -> None:
    async def play(turn: Turn) -> None:
        await turn.head(200, {"content-type": "application/json", "content-length": "1000"})
        await turn.send(b'{"half": ')
        turn.cut()

    provider.will(play)
    response = gateway.post(OPENAI, openai_request())
    assert response.status_code == 502
    call = gateway.call(response)
    assert ended(call) == ("upstream_error", "upstream_disconnected")
    assert call["stages"]["response_original"]["payload"] == '{"half": '


@contextmanager
def connection(gateway: Gateway, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A client that can hang up when it likes."""
    host, port = gateway.url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as client:
        client.sendall(head.encode() + data)
        yield client


def hang_up(client: socket.socket, *, rudely: bool) -> None:
    if rudely:  # a reset instead of a farewell
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def holding(provider: ScriptedProvider, *frames: bytes) -> tuple[Play, asyncio.Event]:
    """A stream that goes on for ever after these frames; the event says that the gateway closed it."""
    closed = asyncio.Event()

    async def play(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for frame in frames:
            await turn.chunk(frame)
        await turn.reader.read()
        closed.set()

    return play, closed


@pytest.mark.parametrize("rudely", [False, True])
@in_dialects()
def test_a_client_that_hangs_up_before_a_stream_says_anything(
    stern: Gateway,
    provider: ScriptedProvider,
    dialect: Dialect,
    rudely: bool,
) -> None:
    play, closed = holding(provider)
    provider.will(play)
    with connection(stern, dialect.path, dialect.request(stream=True)) as client:
        eventually(lambda: provider.turns, bool)
        hang_up(client, rudely=rudely)
    assert eventually(closed.is_set, bool)
    call = stern.call(stern.only_call_id())
    assert ended(call) == ("client_disconnected", "client_disconnected")
    assert call["stages"]["request_final"]["state"] == "recorded"
    assert states(call)[-1] == "not_reached"


class Thoughtful(Policy):
    """Holds a stream, and thinks about how it ends, or about a plain response, until it is told to stop."""

    seen = threading.Event()
    thinking = threading.Event()
    stopped = threading.Event()

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
        self.seen.set()
        return ()

    async def on_stream_end(self) -> Sequence[Chunk]:
        await self._think()
        return ()

    async def on_response(self, response: Response) -> Verdict:
        await self._think()
        return Verdict.allow()

    async def _think(self) -> None:
        self.thinking.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()


@pytest.fixture
def thoughtful(
    record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Gateway]:
    """A gateway with a policy that is done at once before the one that never is."""
    monkeypatch.setitem(BUILTIN, "stern", Stern)
    monkeypatch.setitem(BUILTIN, "thoughtful", Thoughtful)
    Thoughtful.seen.clear()
    Thoughtful.thinking.clear()
    Thoughtful.stopped.clear()
    with running_gateway(record_database, provider.url, [{"policy": "stern"}, {"policy": "thoughtful"}]) as gateway:
        yield gateway


@pytest.mark.parametrize("then_cut", [False, True])
def test_a_client_that_hangs_up_while_policies_end_a_broken_stream(
    thoughtful: Gateway, provider: ScriptedProvider, then_cut: bool
) -> None:
    """The policies are stopped, and what each of them has seen is recorded although nothing was released."""
    provider.will(streams(*openai_stream("a")[:-1], then_cut=then_cut, pause_s=0.02))
    with connection(thoughtful, OPENAI, openai_request(stream=True)) as client:
        assert Thoughtful.thinking.wait(DEADLINE_S)
        hang_up(client, rudely=False)
        assert Thoughtful.stopped.wait(DEADLINE_S)
    call = thoughtful.call(thoughtful.only_call_id())
    assert ended(call) == ("client_disconnected", "client_disconnected")
    assert states(call) == ["recorded", "recorded", "recorded", "not_reached"]
    assert decided(call) == [("stern", "request"), ("stern", "response"), ("thoughtful", "response")]


def test_a_client_that_hangs_up_in_mid_stream_before_anything_was_released(
    thoughtful: Gateway, provider: ScriptedProvider
) -> None:
    play, closed = holding(provider, *openai_stream("a")[:2])
    provider.will(play)
    with connection(thoughtful, OPENAI, openai_request(stream=True)) as client:
        assert Thoughtful.seen.wait(DEADLINE_S)
        hang_up(client, rudely=False)
    assert eventually(closed.is_set, bool)
    call = thoughtful.call(thoughtful.only_call_id())
    assert states(call) == ["recorded", "recorded", "recorded", "not_reached"]
    assert decided(call) == [("stern", "request"), ("stern", "response"), ("thoughtful", "response")]


def test_a_client_that_hangs_up_between_two_policies_on_a_plain_response(
    thoughtful: Gateway, provider: ScriptedProvider
) -> None:
    """What the first has decided is recorded."""
    provider.will(answers(openai_response()))
    with connection(thoughtful, OPENAI, openai_request()) as client:
        assert Thoughtful.thinking.wait(DEADLINE_S)
        hang_up(client, rudely=False)
        assert Thoughtful.stopped.wait(DEADLINE_S)
    call = thoughtful.call(thoughtful.only_call_id())
    assert ended(call) == ("client_disconnected", "client_disconnected")
    assert states(call) == ["recorded", "recorded", "recorded", "not_reached"]
    assert decided(call) == [("stern", "request"), ("stern", "response")]


def decided(call: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["policy"], each["side"]) for each in call["decisions"]]


def test_a_client_that_hangs_up_before_a_plain_response(gateway: Gateway, provider: ScriptedProvider) -> None:
    async def never(turn: Turn) -> None:
        await turn.reader.read()

    provider.will(never)
    with connection(gateway, OPENAI, openai_request()) as client:
        eventually(lambda: provider.turns, bool)
        hang_up(client, rudely=False)
    call = gateway.call(gateway.only_call_id())
    assert call["outcome"] == "client_disconnected"
    assert states(call) == ["recorded", "recorded", "not_reached", "not_reached"]


def test_a_client_that_hangs_up_while_it_sends(gateway: Gateway) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"POST {OPENAI} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{".encode())
    call = gateway.call(gateway.only_call_id())
    assert call["outcome"] == "client_disconnected"
    assert states(call) == ["not_reached"] * 4


def test_a_client_that_hangs_up_after_the_end_marker_had_all_of_it(
    gateway: Gateway, provider: ScriptedProvider
) -> None:
    """What was released to the server is completed, whatever the client does next."""
    provider.will(streams(*openai_stream("a")))
    with connection(gateway, OPENAI, openai_request(stream=True)) as client:
        received = b""
        while DONE not in received:
            received += client.recv(65536)
        hang_up(client, rudely=True)
    assert gateway.call(gateway.only_call_id())["outcome"] == "completed"


def test_a_streamed_rewrite_shows_in_the_diff(record_database: str, provider: ScriptedProvider) -> None:
    """The original is what the provider sent, not what the policy made of it."""
    rule = {"find": "secret", "replace": "[hidden]"}
    policies = [{"policy": "replace_text", "config": {"rules": [rule]}}]
    provider.will(streams(*openai_stream("my se", "cr", "et, told")))
    with running_gateway(record_database, provider.url, policies) as gateway:
        response = gateway.post(OPENAI, openai_request("a secret", stream=True))
        assert provider.turns[0].json["messages"][0]["content"] == "a [hidden]"
        assert "secret" not in response.text
        call, diff = gateway.call(response), gateway.diff(response)
    [request_op], [response_op] = diff["request"]["ops"], diff["response"]["ops"]
    assert (request_op["after_ptr"], request_op["after"]) == ("/messages/0/content", "a [hidden]")
    assert response_op["before"] == "my secret, told"
    assert response_op["after"] == "my [hidden], told"
    assert call["changed"] == {"request": True, "response": True}
    assert call["verdict"] == "replace_text changed 1 of 1 message; response: replace_text changed the answer"


def test_two_policies_on_one_text_each_leave_their_own_step(record_database: str, provider: ScriptedProvider) -> None:
    policies = [
        {"policy": "replace_text", "config": {"rules": [{"find": "one", "replace": "two"}]}},
        {"policy": "replace_text", "config": {"rules": [{"find": "two", "replace": "three"}]}},
    ]
    provider.will(answers(openai_response("one")), streams(*openai_stream("on", "e")))
    with running_gateway(record_database, provider.url, policies) as gateway:
        for streaming in (False, True):
            response = gateway.post(OPENAI, openai_request("one", stream=streaming))
            assert "three" in response.text
            assert provider.turns[-1].json["messages"][0]["content"] == "three"
            call = gateway.call(response)
            assert [(each["side"], each["action"]) for each in call["decisions"]] == [
                ("request", "modify"),
                ("request", "modify"),
                ("response", "modify"),
                ("response", "modify"),
            ]


def test_durations_add_up(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(streams(*openai_stream("a", "b"), pause_s=0.02))
    response = gateway.post(OPENAI, openai_request(stream=True))
    ms = gateway.call(response)["ms"]
    assert ms["gateway"] + ms["policy"] + ms["upstream"] == pytest.approx(ms["total"], abs=0.01)
    assert 0 < ms["upstream_first_chunk"] <= ms["client_first_chunk"] < ms["total"]


def test_usage_that_was_not_reported_is_not_made_up(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(streams(*openai_stream("a", usage=False)))
    response = gateway.post(OPENAI, openai_request(stream=True))
    assert "stream_options" not in provider.turns[0].json
    assert gateway.call(response)["tokens"] == {"input": None, "output": None}


def test_credentials_in_a_body_are_masked_in_the_record_only(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(anthropic_response()))
    servers = [{"type": "url", "url": "https://x", "name": "n", "authorization_token": "s3cr3t-t0ken"}]
    response = gateway.post(ANTHROPIC, anthropic_request(mcp_servers=servers))
    assert provider.turns[0].json["mcp_servers"] == servers
    for stage in ("request_original", "request_final"):
        raw = gateway.raw(response, stage)
        assert b"s3cr3t-t0ken" not in raw
        assert b"[credential masked]" in raw


def test_a_call_that_is_over_is_forgotten_without_a_search_for_garbage(
    gateway: Gateway, provider: ScriptedProvider
) -> None:
    def are_forgotten() -> bool:
        return not [each for each in gc.get_objects() if type(each) is _Exchange]

    gc.collect()
    gc.disable()
    try:
        for is_streaming in (False, True):
            provider.will(streams(*openai_stream("a", "b")) if is_streaming else answers(openai_response("plain")))
            gateway.post(OPENAI, openai_request(stream=is_streaming))
            assert eventually(are_forgotten, bool)
    finally:
        gc.enable()


def test_concurrent_calls_do_not_mix(gateway: Gateway, provider: ScriptedProvider) -> None:
    async def echo(turn: Turn) -> None:
        await asyncio.sleep(0.01)
        text = turn.json["messages"][0]["content"]
        await streams(*openai_stream(*text))(turn)

    provider.will(echo)

    async def ask(client: httpx.AsyncClient, index: int) -> tuple[str, httpx.Response]:
        text = f"call number {index}"
        body = json.dumps(openai_request(text, stream=True))
        return text, await client.post(gateway.url + OPENAI, content=body, timeout=DEADLINE_S)

    async def ask_all() -> list[tuple[str, httpx.Response]]:
        async with httpx.AsyncClient() as client:
            return await asyncio.gather(*(ask(client, index) for index in range(40)))

    for text, response in asyncio.run(ask_all()):
        call = gateway.call(response)
        assert call["stages"]["request_original"]["payload"]["messages"][0]["content"] == text
        assert call["stages"]["response_final"]["payload"]["choices"][0]["message"]["content"] == text
