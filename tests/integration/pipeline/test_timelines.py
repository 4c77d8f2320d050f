"""The timeline of a stream: when its frames came, when the client got them, and what was done to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import psycopg
import pytest

from luthien.formats.sse import Chunk
from luthien.policies.policy import Needs, Policy, Response, Verdict
from luthien.policies.registry import BUILTIN
from tests.chunks import chunks_of
from tests.dialects import CHAT, MESSAGES, Dialect, in_dialects
from tests.playbook import DEADLINE_S, Gateway, ScriptedProvider, Turn, answers, running_gateway, streams
from tests.wire import (
    openai_request,
    openai_response,
    openai_stream,
)

RULES = {"rules": [{"find": "secret", "replace": "[hidden]", "in": ["response"]}]}


def timeline_of(gateway: Gateway, response: httpx.Response) -> dict[str, Any]:
    call_id = response.headers["luthien-call-id"]
    found: dict[str, Any] = gateway.wait_for(f"/debug/calls/{call_id}/timeline.json")["timeline"]
    return found


@in_dialects()
def test_what_passes_is_there_frame_by_frame(
    gateway: Gateway,
    provider: ScriptedProvider,
    dialect: Dialect,
) -> None:
    provider.will(streams(*dialect.stream("Hello", " there")))
    response = gateway.post(dialect.path, dialect.request(stream=True))
    found = timeline_of(gateway, response)
    sent = chunks_of(response.content)
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


@in_dialects()
def test_what_a_policy_rewrites_and_merges_is_told(
    record_database: str,
    provider: ScriptedProvider,
    dialect: Dialect,
) -> None:
    policies: list[dict[str, Any]] = [{"policy": "noop"}, {"policy": "replace_text", "config": RULES}]
    provider.will(streams(*dialect.stream("a se", "cret", " b")))
    with running_gateway(record_database, provider.url, policies) as gateway:
        response = gateway.post(dialect.path, dialect.request(stream=True))
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


@in_dialects(CHAT, MESSAGES)
def test_who_holds_and_who_drops_is_told(
    record_database: str,
    provider: ScriptedProvider,
    dialect: Dialect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(BUILTIN, "patient", Patient)
    monkeypatch.setitem(BUILTIN, "drops", Drops)
    frames = dialect.stream("one", "secret", "two")
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
        httpx.stream(
            "POST", gateway.url + dialect.path, json=dialect.request(stream=True), timeout=DEADLINE_S
        ) as response,
    ):
        for _ in response.iter_raw():
            gate.open()  # it was held until a keep-alive came
        found = timeline_of(gateway, response)
    entries = found["entries"]
    assert [entry["held_by"] for entry in entries[:2]] == ["patient", "patient"]
    assert all(entry["held_ms"] > 0 for entry in entries[:2])
    dropped = [entry for entry in entries if entry["dropped"]]
    assert [(entry["given_ms"], entry["dropped_by"]) for entry in dropped] == [(None, "drops")]


@in_dialects()
def test_a_stream_that_breaks_off_has_the_timeline_of_what_came(
    gateway: Gateway,
    provider: ScriptedProvider,
    dialect: Dialect,
) -> None:
    frames = dialect.stream("Hello", " there")[:-1]
    provider.will(streams(*frames, then_cut=True))
    response = gateway.post(dialect.path, dialect.request(stream=True))
    found = timeline_of(gateway, response)
    assert gateway.call(response)["outcome"] == "upstream_error"
    assert [entry["bytes"] for entry in found["entries"]] == [len(chunk.raw) for chunk in chunks_of(b"".join(frames))]


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
