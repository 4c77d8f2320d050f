"""Tempo's spans on a call's page: real answers over HTTP, by trace id and by search, late, wrong, or far too long."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs

import pytest
from pydantic import SecretStr

from luthien.debug.tempo.transports import MAX_BYTES
from luthien.debug.views import SMALL_AT_ONCE
from tests.playbook import DEADLINE_S, Gateway, ScriptedProvider, Turn, answers, eventually, running_gateway
from tests.tempo_server import tempo_server
from tests.wire import openai_request, openai_response

OPENAI = "/v1/chat/completions"
NOTHING = answers({}, status=404)


@pytest.fixture
def tempo() -> Iterator[ScriptedProvider]:
    """Whoever is asked for traces."""
    server = ScriptedProvider()
    yield server
    server.close()


@pytest.fixture
def gateway(record_database: str, provider: ScriptedProvider, tempo: ScriptedProvider) -> Iterator[Gateway]:
    with running_gateway(record_database, provider.url, tempo_url=tempo.url) as running:
        yield running


def made_call(gateway: Gateway, provider: ScriptedProvider) -> dict[str, Any]:
    provider.will(answers(openai_response("Hi")))
    return gateway.call(gateway.post(OPENAI, openai_request()))


def trace_of(call: dict[str, Any], *names: str) -> dict[str, Any]:
    """As Tempo has it."""
    attributes = [{"key": "luthien.call_id", "value": {"stringValue": call["call_id"]}}]
    spans = [
        {
            "traceId": "AAAA",
            "spanId": f"{number + 1:016x}",
            "name": name,
            "kind": "SPAN_KIND_INTERNAL",
            "startTimeUnixNano": str(1_800_000_000_000_000_000 + number),
            "endTimeUnixNano": str(1_800_000_000_001_000_000),
            "attributes": attributes,
            "status": {},
        }
        for number, name in enumerate(names)
    ]
    return {"trace": {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": spans}]}]}}


def asked(gateway: Gateway, call: dict[str, Any]) -> dict[str, Any]:
    response = gateway.get(f"/debug/calls/{call['call_id']}/trace.json")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


def test_the_trace_is_asked_for_by_the_id_that_the_record_has(
    gateway: Gateway, provider: ScriptedProvider, tempo: ScriptedProvider
) -> None:
    call = made_call(gateway, provider)
    tempo.will(answers(trace_of(call, "luthien.exchange", "luthien.receive")))
    trace = asked(gateway, call)
    assert trace["state"] == "found"
    assert [span["name"] for span in trace["spans"]] == ["luthien.exchange", "luthien.receive"]
    assert all(span["of_this_call"] for span in trace["spans"])
    [turn] = tempo.turns
    path, _, bounds = turn.path.partition("?")
    assert path == f"/api/v2/traces/{call['trace_id']}"
    times = parse_qs(bounds)
    started_s = datetime.fromisoformat(call["started_at"]).timestamp()
    assert int(times["start"][0]) < started_s < int(times["end"][0])
    assert turn.headers["accept"] == "application/protobuf"
    assert "authorization" not in turn.headers


def test_a_trace_that_has_another_id_is_found_by_the_calls(
    gateway: Gateway, provider: ScriptedProvider, tempo: ScriptedProvider
) -> None:
    """As when a collector gave it a new one. Tempo leaves leading zeros out."""
    call = made_call(gateway, provider)
    found = {"traces": [{"traceID": "abc123"}], "metrics": {}}
    tempo.will(NOTHING, answers(found), answers(trace_of(call, "luthien.exchange")))
    assert asked(gateway, call)["state"] == "found"
    search, by_id = tempo.turns[1:]
    assert search.path.startswith("/api/search?q=")
    assert call["call_id"] in search.path
    assert by_id.path.startswith(f"/api/v2/traces/{'abc123':0>32}?")


def test_what_tempo_does_not_have_is_not_found(
    gateway: Gateway, provider: ScriptedProvider, tempo: ScriptedProvider
) -> None:
    call = made_call(gateway, provider)
    tempo.will(NOTHING, answers({"traces": []}))
    trace = asked(gateway, call)
    assert (trace["state"], trace["spans"]) == ("not_found", [])
    assert "still be on its way" in trace["sentence"]


async def endless(turn: Turn) -> None:
    """100 MiB, unless somebody hangs up."""
    await turn.head(200, {"content-type": "application/json", "content-length": str(100 * 1024 * 1024)})
    for _ in range(1600):
        await turn.send(b" " * 65_536)


@pytest.mark.parametrize(
    ("play", "said"),
    [
        (answers(b"<html>hello</html>"), "does not speak as Tempo does"),
        (answers({"anything": "else"}), "does not speak as Tempo does"),
        (answers({}, status=500), "status 500"),
        (answers({}, status=302, headers={"location": "http://127.0.0.1:9/"}), "status 302"),
        (answers(b"\x1f\x8b", headers={"content-encoding": "gzip"}), "coding"),
        (endless, f"more than {MAX_BYTES // 1024**2}.0 MiB"),
    ],
)
def test_whatever_else_answers_is_said_to_be_away(
    gateway: Gateway, provider: ScriptedProvider, tempo: ScriptedProvider, play: Any, said: str
) -> None:
    call = made_call(gateway, provider)
    tempo.will(play)
    trace = asked(gateway, call)
    assert trace["state"] == "away"
    assert said in trace["sentence"]
    assert trace["spans"] == []


def test_a_slow_tempo_holds_up_nothing_but_its_own_answer(
    gateway: Gateway, provider: ScriptedProvider, tempo: ScriptedProvider
) -> None:
    gate = tempo.gate()

    async def drips(turn: Turn) -> None:
        await turn.head(200, {"content-type": "application/json", "content-length": "1000"})
        await turn.send(b"{")
        await gate.wait()

    call = made_call(gateway, provider)
    tempo.will(drips)
    page = gateway.get(f"/debug/calls/{call['call_id']}", gateway.headers | {"accept": "text/html"})
    assert page.status_code == 200
    assert not tempo.turns, "the page itself does not ask"
    trace = asked(gateway, call)
    gate.open()
    assert trace["state"] == "away"
    assert "within 2 seconds" in trace["sentence"]


def test_page_and_diff_are_there_while_tempo_hangs(
    record_database: str, provider: ScriptedProvider, tempo: ScriptedProvider
) -> None:
    """However many ask for spans meanwhile: more than the pages that are made at a time."""
    gate, is_asked = tempo.gate(), threading.Event()

    async def hangs(turn: Turn) -> None:
        is_asked.set()
        await gate.wait()
        await answers({"trace": {}, "traces": []})(turn)

    tempo.will(hangs)
    with (
        running_gateway(record_database, provider.url, tempo_url=tempo.url, tempo_timeout_s=30) as gateway,
        ThreadPoolExecutor(SMALL_AT_ONCE + 1) as readers,
    ):
        calls = [made_call(gateway, provider)["call_id"] for _ in range(SMALL_AT_ONCE + 1)]
        waiting = [readers.submit(gateway.get, f"/debug/calls/{each}/trace.json") for each in calls]
        try:
            assert is_asked.wait(DEADLINE_S)
            page = gateway.get(f"/debug/calls/{calls[0]}", gateway.headers | {"accept": "text/html"})
            twins = [gateway.get(f"/debug/calls/{calls[0]}{path}") for path in (".json", "/diff.json")]
            assert [each.status_code for each in (page, *twins)] == [200, 200, 200]
            assert not any(each.done() for each in waiting), "Tempo still hangs"
        finally:
            gate.open()
        assert {each.result().json()["state"] for each in waiting} == {"not_found"}


def test_the_trace_of_a_caller_that_is_not_trusted_is_told(
    record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trace is another one than the call's, to which the server's span links."""
    with tempo_server() as tempo:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{tempo.url}/v1/traces")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        options: dict[str, Any] = {"tempo_url": tempo.url, "grafana_url": "http://grafana:3000"}
        with running_gateway(record_database, provider.url, trusted_networks=(), **options) as gateway:
            provider.will(answers(openai_response("Hi")))
            theirs = "0af7651916cd43dd8448eb211c80319c"
            headers = {"traceparent": f"00-{theirs}-b7ad6b7169203331-01"}
            call = gateway.call(gateway.post(OPENAI, openai_request(), headers=headers))
            trace = eventually(lambda: asked(gateway, call), lambda trace: trace["linked"])
    assert call["trace_id"] != theirs
    assert trace["found_in"] == call["trace_id"]
    [linked] = trace["linked"]
    assert linked["trace_id"] == theirs
    assert theirs in linked["link"]


def test_a_tempo_that_is_not_there_is_away(record_database: str, provider: ScriptedProvider) -> None:
    with running_gateway(record_database, provider.url, tempo_url="http://127.0.0.1:9") as gateway:
        trace = asked(gateway, made_call(gateway, provider))
        assert trace["state"] == "away"
        assert "cannot be reached" in trace["sentence"]


def test_without_a_tempo_that_is_said(record_database: str, provider: ScriptedProvider) -> None:
    with running_gateway(record_database, provider.url) as gateway:
        trace = asked(gateway, made_call(gateway, provider))
        assert (trace["state"], trace["link"]) == ("not_configured", None)
        assert "LUTHIEN_TEMPO_URL" in trace["sentence"]
        assert gateway.get("/debug/calls/01900000-0000-7000-8000-000000000000/trace.json").status_code == 404


def test_tempo_is_asked_through_grafana(
    record_database: str, provider: ScriptedProvider, tempo: ScriptedProvider
) -> None:
    options: dict[str, Any] = {
        "grafana_url": tempo.url + "/",
        "grafana_token": SecretStr("glsa_x"),
        "tempo_datasource": "my/tempo",
    }
    with running_gateway(record_database, provider.url, **options) as gateway:
        call = made_call(gateway, provider)
        tempo.will(answers(trace_of(call, "luthien.exchange")))
        trace = asked(gateway, call)
        assert trace["state"] == "found"
        [turn] = tempo.turns
        assert turn.path.startswith(f"/api/datasources/proxy/uid/my%2Ftempo/api/v2/traces/{call['trace_id']}?")
        assert turn.headers["authorization"] == "Bearer glsa_x"
        assert trace["link"].startswith(f"{tempo.url}/explore?orgId=1&schemaVersion=1&panes=")
        page = gateway.get(f"/debug/calls/{call['call_id']}", gateway.headers | {"accept": "text/html"})
        assert "glsa_x" not in page.text + json.dumps(trace)
