"""Tempo asked over HTTP, as it is documented to answer: by trace id, by search, old, partial, forbidden, failing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic import SecretStr

from luthien.debug.tempo.breaker import FAILURES, REST_S, Breaker
from luthien.debug.tempo.client import BIG_BYTES, Tempo
from luthien.debug.tempo.links import Times
from luthien.debug.tempo.trace import Trace, TraceState
from luthien.settings import Settings
from luthien.telemetry import conventions as names
from tests.playbook import DEADLINE_S, Play, ScriptedProvider, Turn, answers
from tests.tempo_server import TempoServer, grafana_proxy, tempo_server

CALL = UUID("01a20340-0000-7000-8000-000000000001")
TRACE_ID = "00c0ffee00000000000000000000beef"
UID, TOKEN = "tempo", "glsa_client"
DAY_S = 86_400


@pytest.fixture
def tempo() -> Iterator[TempoServer]:
    with tempo_server() as server:
        yield server


@pytest.fixture
def anybody() -> Iterator[ScriptedProvider]:
    """Who answers in Tempo's place."""
    server = ScriptedProvider()
    yield server
    server.close()


@asynccontextmanager
async def client(breaker: Breaker | None = None, **settings: Any) -> AsyncIterator[Tempo]:
    asker = Tempo(Settings(tempo_timeout_s=30, **settings), breaker)
    try:
        yield asker
    finally:
        await asker.close()


async def found(asker: Tempo, trace_id: str | None = TRACE_ID, call_id: UUID = CALL, ago_s: float = 1.0) -> Trace:
    now = time.time() - ago_s
    return await asker.trace(call_id, trace_id, Times(now, now))


def take(
    tempo: TempoServer, *spans: str, trace_id: str = TRACE_ID, call_id: UUID | None = CALL, ago_s: float = 1.0
) -> None:
    """Sends spans to a Tempo, one of each name."""
    request = ExportTraceServiceRequest()
    batch = request.resource_spans.add()
    _attribute(batch.resource, "service.name", "luthien")
    start = time.time_ns() - int(ago_s * 1e9)
    for number, name in enumerate(spans, 1):
        span = batch.scope_spans.add().spans.add(
            trace_id=bytes.fromhex(trace_id),
            span_id=name.encode().ljust(8, b".")[:8],
            name=name,
            start_time_unix_nano=start + number,
            end_time_unix_nano=start + 1_000_000,
        )
        if call_id is not None:
            _attribute(span, names.CALL_ID, str(call_id))
    tempo.take(request)


def _attribute(holder: Any, key: str, value: str) -> None:
    holder.attributes.add(key=key).value.string_value = value


def paths(tempo: TempoServer) -> list[str]:
    return [address.partition("?")[0] for address, _ in tempo.asked]


async def test_a_trace_is_found_by_its_id_with_its_leading_zeros(tempo: TempoServer) -> None:
    take(tempo, "exchange", "receive")
    async with client(tempo_url=tempo.url + "/") as asker:
        trace = await found(asker)
    assert trace.state is TraceState.FOUND
    assert [(span.name, span.service) for span in trace.spans] == [("exchange", "luthien"), ("receive", "luthien")]
    assert paths(tempo) == [f"/api/v2/traces/{TRACE_ID}"]


async def test_a_trace_is_found_by_the_calls_id_whatever_its_own_is(tempo: TempoServer) -> None:
    """A search leaves leading zeros out."""
    take(tempo, "exchange")
    async with client(tempo_url=tempo.url) as asker:
        for trace_id in (None, "ab" * 16):
            trace = await found(asker, trace_id)
            assert (trace.state, trace.trace_id, len(trace.spans)) == (TraceState.FOUND, TRACE_ID, 1)


async def test_of_several_traces_that_is_shown_which_has_most_of_the_call(tempo: TempoServer) -> None:
    take(tempo, "stray", trace_id="cd" * 16)
    take(tempo, "exchange", "receive")
    async with client(tempo_url=tempo.url) as asker:
        trace = await found(asker, None)
    assert (trace.trace_id, [*trace.others]) == (TRACE_ID, ["cd" * 16])


async def test_a_trace_without_a_span_of_the_call_is_not_the_last_word(tempo: TempoServer) -> None:
    """A caller's spans may be there before ours, or ours under another id."""
    take(tempo, "caller", call_id=None)
    async with client(tempo_url=tempo.url) as asker:
        trace = await found(asker)
        assert [span.name for span in trace.spans] == ["caller"]
        assert "None of these spans is of this call" in trace.sentence
        assert trace.retry_after_s is not None
        take(tempo, "exchange", trace_id="cd" * 16)
        trace = await found(asker)
        assert ([span.name for span in trace.spans], trace.trace_id) == (["exchange"], "cd" * 16)


async def test_what_is_younger_than_the_cutoff_of_searches_is_found_by_trace_id_only(tempo: TempoServer) -> None:
    take(tempo, "exchange")
    tempo.cutoff_s = 3600
    async with client(tempo_url=tempo.url) as asker:
        assert (await found(asker)).state is TraceState.FOUND
        young = await found(asker, None)
        assert young.state is TraceState.NOT_FOUND
        assert "may still be on its way" in young.sentence
        assert young.retry_after_s is not None, "it is worth asking again"
        tempo.cutoff_s = 0
        assert (await found(asker, None)).state is TraceState.FOUND


async def test_an_old_call_that_tempo_does_not_have_is_not_waited_for(tempo: TempoServer) -> None:
    async with client(tempo_url=tempo.url) as asker:
        trace = await found(asker, ago_s=DAY_S)
    assert (trace.state, trace.retry_after_s) == (TraceState.NOT_FOUND, None)
    assert "not sampled, or is too old" in trace.sentence
    assert "record of the call is whole" in trace.sentence


async def test_only_the_time_around_the_call_is_looked_into(tempo: TempoServer) -> None:
    """With room for callers that began long before, and clocks that differ."""
    take(tempo, "exchange", ago_s=10 * DAY_S)
    async with client(tempo_url=tempo.url) as asker:
        assert (await found(asker)).state is TraceState.NOT_FOUND
        assert (await found(asker, ago_s=9.5 * DAY_S)).state is TraceState.FOUND


async def test_an_older_tempo_is_asked_in_the_first_version_of_its_api(tempo: TempoServer) -> None:
    tempo.has_v2 = False
    take(tempo, "exchange")
    async with client(tempo_url=tempo.url) as asker:
        assert [span.name for span in (await found(asker)).spans] == ["exchange"]
    assert paths(tempo) == [f"/api/v2/traces/{TRACE_ID}", f"/api/traces/{TRACE_ID}"]


async def test_a_partial_trace_says_so(tempo: TempoServer) -> None:
    tempo.is_partial = True
    take(tempo, "exchange")
    async with client(tempo_url=tempo.url) as asker:
        trace = await found(asker)
    assert (trace.state, trace.is_partial, trace.message) == (TraceState.FOUND, True, "max size")


async def test_a_tenant_is_named_in_a_header(tempo: TempoServer) -> None:
    tempo.tenant = "team-a"
    take(tempo, "exchange")
    async with client(tempo_url=tempo.url) as asker:
        trace = await found(asker)
        assert trace.state is TraceState.AWAY
        assert "status 401" in trace.sentence
        assert "LUTHIEN_TEMPO_HEADERS" in trace.sentence
    async with client(tempo_url=tempo.url, tempo_headers=SecretStr("X-Scope-OrgID=team-a")) as asker:
        assert (await found(asker)).state is TraceState.FOUND


async def test_grafana_is_asked_with_a_token_for_a_data_source(tempo: TempoServer) -> None:
    take(tempo, "exchange")
    with grafana_proxy(tempo.url, UID, TOKEN) as grafana:
        for token, uid, said in (
            (TOKEN, UID, ""),
            ("glsa_other", UID, "“Invalid API key”): LUTHIEN_GRAFANA_TOKEN must be"),
            (TOKEN, "loki", "no data source with the uid loki"),
        ):
            settings: dict[str, Any] = {
                "grafana_url": grafana,
                "grafana_token": SecretStr(token),
                "tempo_datasource": uid,
            }
            async with client(**settings) as asker:
                trace = await found(asker)
            assert trace.state is (TraceState.AWAY if said else TraceState.FOUND)
            assert said in trace.sentence
            assert token not in trace.sentence
    with grafana_proxy("http://127.0.0.1:9", UID, TOKEN) as grafana:
        async with client(grafana_url=grafana, grafana_token=SecretStr(TOKEN)) as asker:
            assert "Grafana does not reach Tempo" in (await found(asker)).sentence


def says(status: int, body: bytes, kind: str, **headers: str) -> Play:
    return answers(body, status=status, headers={"content-type": kind, **headers})


HTML, JSON = "text/html; charset=utf-8", "application/json"


@pytest.mark.parametrize(
    ("play", "directly", "through_grafana"),
    [
        (says(400, b"bad <query>", "text/plain"), "not take the question (status 400): bad <query>", "status 400"),
        (says(401, b"no org id", "text/plain"), "LUTHIEN_TEMPO_HEADERS", "LUTHIEN_GRAFANA_TOKEN"),
        (says(403, b'{"message": "No"}', JSON), "LUTHIEN_TEMPO_HEADERS", "“No”): its service account must have"),
        (says(404, b"<html>", HTML), "no Tempo at this address (status 404)", "no Tempo at this address"),
        (says(404, b"404 page not found\n", "text/plain"), "no Tempo at this address", "no Tempo at this address"),
        (says(429, b"", "text/plain"), "wait a little, or raise its limits", "wait a little"),
        (says(500, b"", "text/plain"), "status 500: its own log says why", "the logs of Grafana and Tempo"),
        (says(502, b"", "text/plain"), "status 502: its own log", "Grafana does not reach Tempo (status 502)"),
        (says(302, b"", HTML, location="/login"), "A sign-in page answers", "LUTHIEN_GRAFANA_URL must be"),
        (says(307, b"", HTML, location="/x"), "leads elsewhere (status 307): LUTHIEN_TEMPO_URL", "leads elsewhere"),
        (says(200, b"<html>Grafana", HTML), "An HTML page answers in Tempo's place", "LUTHIEN_TEMPO_DATASOURCE"),
        (says(200, b"{}", JSON), "does not speak as Tempo does: LUTHIEN_TEMPO_URL", "does not speak as Tempo does"),
        (says(200, b"\xff", "application/protobuf"), "does not speak as Tempo does", "does not speak as Tempo does"),
    ],
)
async def test_what_else_comes_is_said_and_what_to_do(
    anybody: ScriptedProvider, play: Play, directly: str, through_grafana: str
) -> None:
    anybody.will(play)
    async with client(tempo_url=anybody.url) as asker:
        direct = await found(asker)
    async with client(grafana_url=anybody.url, grafana_token=SecretStr(TOKEN)) as asker:
        proxied = await found(asker)
    assert (direct.state, proxied.state) == (TraceState.AWAY, TraceState.AWAY)
    assert directly in direct.sentence
    assert through_grafana in proxied.sentence


class Held:
    """An answer that comes once it is let go."""

    def __init__(self, server: ScriptedProvider, then: Play) -> None:
        self._gate = server.gate()
        self._then = then
        self._is_asked = threading.Event()

    async def __call__(self, turn: Turn) -> None:
        self._is_asked.set()
        await self._gate.wait()
        await self._then(turn)

    async def asked(self) -> None:
        assert await asyncio.to_thread(self._is_asked.wait, DEADLINE_S)

    def let_go(self) -> None:
        self._gate.open()


async def test_who_ask_for_the_same_trace_at_once_ask_together(anybody: ScriptedProvider) -> None:
    """Also for calls of one trace; who gives up leaves it to the others."""
    span = {"spanId": "1" * 16, "name": "x", "startTimeUnixNano": "1"}
    own = [{"key": names.CALL_ID, "value": {"stringValue": str(CALL)}}]
    trace = {"trace": {"resourceSpans": [{"scopeSpans": [{"spans": [{**span, "attributes": own}]}]}]}}
    first, second = Held(anybody, answers(trace)), Held(anybody, answers(trace))
    anybody.will(first, answers(trace))
    async with client(tempo_url=anybody.url) as asker, asyncio.TaskGroup() as group:
        leading = group.create_task(found(asker))
        await first.asked()
        others = [group.create_task(found(asker)) for _ in range(5)]
        await asyncio.sleep(0)
        first.let_go()
        traces = [await task for task in (leading, *others)]
        assert {each.state for each in traces} == {TraceState.FOUND}
        assert len(anybody.turns) == 1

        anybody.will(second, answers(trace))
        leading = group.create_task(found(asker))
        await second.asked()
        following = group.create_task(found(asker))
        await asyncio.sleep(0)
        leading.cancel()
        assert (await following).state is TraceState.FOUND
        second.let_go()


async def test_a_tempo_that_fails_again_and_again_is_left_alone(anybody: ScriptedProvider) -> None:
    now = 0.0
    anybody.will(answers({}, status=503))
    async with client(Breaker(lambda: now), tempo_url=anybody.url) as asker:
        for _ in range(FAILURES):
            assert (await found(asker)).state is TraceState.AWAY
        asked = len(anybody.turns)
        trace = await found(asker)
        assert trace.state is TraceState.NOT_ASKED
        assert trace.retry_after_s == REST_S
        assert "asked again in 10 s" in trace.sentence
        assert "status 503" in trace.sentence
        assert len(anybody.turns) == asked

        now += REST_S
        trial = Held(anybody, answers({"trace": {}}))
        anybody.will(trial, answers({"traces": []}))
        async with asyncio.TaskGroup() as group:
            trying = group.create_task(found(asker))
            await trial.asked()
            meanwhile = await found(asker, "ab" * 16, UUID(int=1))
            assert meanwhile.state is TraceState.NOT_ASKED, "one question at a time"
            trial.let_go()
            assert (await trying).state is TraceState.NOT_FOUND
        assert (await found(asker, "ab" * 16, UUID(int=1))).state is not TraceState.NOT_ASKED


async def test_a_trace_that_is_too_big_says_nothing_of_others(
    anybody: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small spans may be so many that to read them all would take long after nobody waits any more."""
    monkeypatch.setattr("luthien.debug.tempo.reading.MOST_READ", 2)
    three = {"spans": [{"spanId": f"{n:016x}", "startTimeUnixNano": "1"} for n in range(3)]}
    many = {"trace": {"resourceSpans": [{"scopeSpans": [three]}]}}
    for body, words in ((b" " * (9 * 1024 * 1024), "more than 8.0 MiB"), (many, "more than 50,000 spans")):
        anybody.will(answers(body))
        async with client(tempo_url=anybody.url) as asker:
            for _ in range(FAILURES + 1):
                trace = await found(asker)
                assert trace.state is TraceState.AWAY
                assert words in trace.sentence


@pytest.mark.parametrize(
    ("kind", "unit", "head"), [(JSON, b"[[]],", b'{"x":['), ("application/protobuf", b"\xff", b"")]
)
async def test_a_long_answer_is_read_in_another_process(
    anybody: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, kind: str, unit: bytes, head: bytes
) -> None:
    """Whatever it is made of: eight megabytes of brackets take seconds."""

    def here(*args: object, **more: object) -> None:
        raise AssertionError("read where calls are served")

    monkeypatch.setattr("luthien.debug.tempo.client.read_trace", here)
    anybody.will(says(200, head + unit * (BIG_BYTES // len(unit) + 1), kind))
    async with client(tempo_url=anybody.url) as asker:
        trace = await found(asker)
    assert (trace.state, "does not speak as Tempo does" in trace.sentence) == (TraceState.AWAY, True)
    anybody.will(answers(b"[" * BIG_BYTES * 2))
    async with client(tempo_url=anybody.url) as asker:
        assert "64.0 KiB" in (await found(asker, None)).sentence
