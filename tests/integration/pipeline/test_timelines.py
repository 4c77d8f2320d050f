"""The timeline of a stream: when its frames came, when the client got them, and what was done to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import httpx
import psycopg
import pytest

from luthien.formats.sse import Chunk, FrameReader
from luthien.policies.policy import Needs, Policy, Response, Verdict
from luthien.policies.registry import BUILTIN
from tests.playbook import DEADLINE_S, Gateway, ScriptedProvider, Turn, answers, running_gateway, streams
from tests.wire import (
    anthropic_request,
    anthropic_stream,
    openai_request,
    openai_response,
    openai_stream,
    responses_request,
    responses_stream,
)

FORMATS = [
    pytest.param("/v1/chat/completions", openai_request, openai_stream, id="openai"),
    pytest.param("/v1/messages", anthropic_request, anthropic_stream, id="anthropic"),
    pytest.param("/v1/responses", responses_request, responses_stream, id="responses"),
]
FORMAT = pytest.mark.parametrize(("path", "ask", "stream"), FORMATS)
RULES = {"rules": [{"find": "secret", "replace": "[hidden]", "in": ["response"]}]}


def timeline_of(gateway: Gateway, response: httpx.Response) -> dict[str, Any]:
    call_id = response.headers["luthien-call-id"]
    found: dict[str, Any] = gateway.wait_for(f"/debug/calls/{call_id}/timeline.json")["timeline"]
    return found


def frames_in(raw: bytes) -> list[Chunk]:
    return list(FrameReader(1 << 20).feed(raw))


@FORMAT
def test_what_passes_is_there_frame_by_frame(
    gateway: Gateway,
    provider: ScriptedProvider,
    path: str,
    ask: Callable[..., Any],
    stream: Callable[..., list[bytes]],
) -> None:
    provider.will(streams(*stream("Hello", " there")))
    response = gateway.post(path, ask(stream=True))
    found = timeline_of(gateway, response)
    sent = frames_in(response.content)
    assert [entry["bytes"] for entry in found["entries"]] == [len(chunk.raw) for chunk in sent]
    assert [entry["given_bytes"] for entry in found["entries"]] == [len(chunk.raw) for chunk in sent]
    arrived = [entry["arrived_ms"] for entry in found["entries"]]
    given = [entry["given_ms"] for entry in found["entries"]]
    assert arrived == sorted(arrived)
    assert given == sorted(given)
    call = gateway.call(response)
    assert all(before <= after for before, after in zip(arrived, given, strict=True))
    assert given[-1] <= call["ms"]["total"]
    assert call["timeline"] == {"frames": len(sent), "rewritten": 0, "dropped": 0, "longest_hold": None}
    assert call["links"]["timeline"].endswith("/timeline.json")


@FORMAT
def test_what_a_policy_rewrites_and_merges_is_told(
    record_database: str,
    provider: ScriptedProvider,
    path: str,
    ask: Callable[..., Any],
    stream: Callable[..., list[bytes]],
) -> None:
    policies: list[dict[str, Any]] = [{"policy": "noop"}, {"policy": "replace_text", "config": RULES}]
    provider.will(streams(*stream("a se", "cret", " b")))
    with running_gateway(record_database, provider.url, policies) as gateway:
        response = gateway.post(path, ask(stream=True))
        found = timeline_of(gateway, response)
    entries = found["entries"]
    assert sum(entry["given_bytes"] for entry in entries) == len(response.content)
    rewritten = [entry for entry in entries if entry["rewritten"]]
    assert rewritten
    assert {entry["rewritten_by"] for entry in rewritten} == {"replace_text"}
    assert entries[0]["rewritten"] == 0


class Patient(Policy):
    needs = Needs.WHOLE

    async def on_response(self, response: Response) -> Verdict:
        return Verdict.allow()


class Drops(Policy):
    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
        return () if b"secret" in chunk.raw else (chunk,)


@pytest.mark.parametrize(("path", "ask", "stream"), FORMATS[:2])
def test_who_holds_and_who_drops_is_told(
    record_database: str,
    provider: ScriptedProvider,
    path: str,
    ask: Callable[..., Any],
    stream: Callable[..., list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(BUILTIN, "patient", Patient)
    monkeypatch.setitem(BUILTIN, "drops", Drops)
    frames = stream("one", "secret", "two")
    gate = provider.gate()

    async def play(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await turn.chunk(b"".join(frames[:2]))
        await gate.wait()
        await turn.chunk(b"".join(frames[2:]))
        await turn.send(b"0\r\n\r\n")

    provider.will(play)
    with (
        running_gateway(
            record_database, provider.url, [{"policy": "drops"}, {"policy": "patient"}], keep_alive_s=0.02
        ) as gateway,
        httpx.stream("POST", gateway.url + path, json=ask(stream=True), timeout=DEADLINE_S) as response,
    ):
        for _ in response.iter_raw():
            gate.open()  # it was held until a keep-alive came
        found = timeline_of(gateway, response)
    entries = found["entries"]
    assert [entry["held_by"] for entry in entries[:2]] == ["patient", "patient"]
    assert all(entry["held_ms"] > 0 for entry in entries[:2])
    dropped = [entry for entry in entries if entry["dropped"]]
    assert [(entry["given_ms"], entry["dropped_by"]) for entry in dropped] == [(None, "drops")]


@FORMAT
def test_a_stream_that_breaks_off_has_the_timeline_of_what_came(
    gateway: Gateway,
    provider: ScriptedProvider,
    path: str,
    ask: Callable[..., Any],
    stream: Callable[..., list[bytes]],
) -> None:
    frames = stream("Hello", " there")[:-1]
    provider.will(streams(*frames, then_cut=True))
    response = gateway.post(path, ask(stream=True))
    found = timeline_of(gateway, response)
    assert gateway.call(response)["outcome"] == "upstream_error"
    assert [entry["bytes"] for entry in found["entries"]] == [len(chunk.raw) for chunk in frames_in(b"".join(frames))]


def test_a_plain_response_has_none(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response()))
    response = gateway.post("/v1/chat/completions", openai_request())
    assert timeline_of(gateway, response) is None
    call = gateway.call(response)
    assert call["timeline"] is None
    assert "timeline" not in call["links"]


def test_the_record_of_a_long_stream_stays_small(
    gateway: Gateway, provider: ScriptedProvider, record_database: str
) -> None:
    count = 20_000
    frames = openai_stream(*["x"] * count, usage=False)
    provider.will(streams(b"".join(frames)))
    response = gateway.post("/v1/chat/completions", openai_request(stream=True))
    found = timeline_of(gateway, response)
    assert found["frames"] == len(frames)
    assert found["frames_per_entry"] == 8
    with psycopg.connect(record_database) as conn:
        row = conn.execute(
            "SELECT payload_bytes FROM conversation_events WHERE event_type = 'response_timeline'"
        ).fetchone()
    assert row is not None
    assert row[0] < 100_000
