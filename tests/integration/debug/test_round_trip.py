"""From a call to its trace and back: a real gateway and a real caller export over OTLP to one Tempo.

That is a server that implements Tempo's documented API (`tests/tempo_server.py`), and with `LUTHIEN_TEST_TEMPO_URL`
a real one: its query API is there, its OTLP receiver at `LUTHIEN_TEST_TEMPO_OTLP_URL`, or else the same host's port
4318.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, format_span_id, format_trace_id
from pydantic import SecretStr

from luthien.telemetry import conventions as names
from tests.playbook import (
    DEADLINE_S,
    Gateway,
    ScriptedProvider,
    answers,
    call_id_of,
    eventually,
    running_gateway,
    streams,
)
from tests.tempo_server import grafana_proxy, tempo_server
from tests.wire import openai_request, openai_response, openai_stream

OPENAI = "/v1/chat/completions"
UID, TOKEN = "tempo", "glsa_round_trip"
OWN_SPANS = 6


@dataclass
class Stack:
    """A gateway and a caller whose spans go to the same Tempo."""

    gateway: Gateway
    tempo_url: str
    caller: TracerProvider

    def tempo(self, path: str, **query: object) -> Any:
        asked = {name: str(value) for name, value in query.items()}
        response = httpx.get(self.tempo_url + path, params=asked, timeout=DEADLINE_S)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture(scope="module", params=["direct", "through Grafana"])
def stack(
    request: pytest.FixtureRequest, module_record_database: str, shared_provider: ScriptedProvider
) -> Iterator[Stack]:
    with ExitStack() as open_, pytest.MonkeyPatch.context() as environment:
        url = os.environ.get("LUTHIEN_TEST_TEMPO_URL", "").rstrip("/") or open_.enter_context(tempo_server()).url
        otlp = _otlp_of(url)
        environment.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{otlp}/v1/traces")
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        grafana = open_.enter_context(grafana_proxy(url, UID, TOKEN))
        ways: dict[str, dict[str, Any]] = {
            "direct": {"tempo_url": url, "grafana_url": grafana},
            "through Grafana": {"grafana_url": grafana, "grafana_token": SecretStr(TOKEN), "tempo_datasource": UID},
        }
        judge = {"model": "judge", "question": "Is it bad?", "sides": ["request"], "credential": "none"}
        gateway = open_.enter_context(
            running_gateway(
                module_record_database,
                shared_provider.url,
                [{"policy": "judge", "config": judge}],
                tempo_timeout_s=30.0,
                **ways[request.param],
            )
        )
        caller = TracerProvider(resource=Resource.create({"service.name": "agent"}), shutdown_on_exit=False)
        caller.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{otlp}/v1/traces")))
        open_.callback(caller.shutdown)
        yield Stack(gateway, url, caller)


def _otlp_of(tempo_url: str) -> str:
    if "LUTHIEN_TEST_TEMPO_URL" not in os.environ:
        return tempo_url
    return os.environ.get("LUTHIEN_TEST_TEMPO_OTLP_URL") or f"http://{urlsplit(tempo_url).hostname}:4318"


@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "stream"])
def test_a_call_leads_to_its_trace_and_each_of_its_spans_leads_back(
    stack: Stack, shared_provider: ScriptedProvider, is_stream: bool
) -> None:
    verdict = answers(openai_response('{"probability": 0.01, "explanation": "It is fine."}'))
    shared_provider.will(verdict, streams(*openai_stream("a", "b")) if is_stream else answers(openai_response()))
    headers: dict[str, str] = {}
    tracer = stack.caller.get_tracer("agent")
    with tracer.start_as_current_span("plan"), tracer.start_as_current_span("ask", kind=SpanKind.CLIENT) as asking:
        inject(headers)
        response = stack.gateway.post(OPENAI, openai_request(stream=is_stream), headers=headers)
    assert response.status_code == 200
    call_id = call_id_of(response)
    call = stack.gateway.call(response)
    trace_id = format_trace_id(asking.get_span_context().trace_id)
    assert call["trace_id"] == trace_id, "a call of a trusted caller is in its trace"

    # From the call's id to its trace, by TraceQL.
    query = f'{{ span.{names.CALL_ID} = "{call_id}" }}'
    searched = eventually(
        lambda: stack.tempo("/api/search", q=query, limit=5, spss=50),
        lambda found: found["traces"] and found["traces"][0]["spanSets"][0]["matched"] >= OWN_SPANS,
    )
    assert [each["traceID"].zfill(32) for each in searched["traces"]] == [trace_id]

    # From the call's page to the spans, the caller's and the judge's among them.
    trace = eventually(
        lambda: stack.gateway.get(f"/debug/calls/{call_id}/trace.json").json(),
        lambda found: len([each for each in found["spans"] if each["whose"] == "caller"]) == 2,
    )
    assert (trace["state"], trace["found_in"], trace["partial"]) == ("found", trace_id, False)
    spans = {each["id"]: each for each in trace["spans"]}
    whose = [each["whose"] for each in trace["spans"]]
    assert whose.count("this_call") == OWN_SPANS
    assert [each["name"] for each in trace["spans"] if each["whose"] == "caller"] == ["plan", "ask"]
    server = next(each for each in trace["spans"] if each["kind"] == "server")
    assert server["parent"] == format_span_id(asking.get_span_context().span_id)
    assert spans[server["parent"]]["service"] == "agent"
    assert not any(each["parent_missing"] for each in trace["spans"])
    assert {each["name"]: each["of_this_call"] for each in trace["services"]} == {"luthien": True, "agent": False}

    # From each span of the call, as a page of Grafana has it, back to the page of the call.
    batches = stack.tempo(f"/api/v2/traces/{trace_id}")["trace"]["resourceSpans"]
    ids = [
        attribute["value"]["stringValue"]
        for batch in batches
        for scope in batch["scopeSpans"]
        for span in scope["spans"]
        for attribute in span.get("attributes", [])
        if attribute["key"] == names.CALL_ID
    ]
    assert ids.count(call_id) == OWN_SPANS
    [child] = {*ids} - {call_id}
    for each in (call_id, child):
        page = stack.gateway.get(f"/debug/calls/{each}", stack.gateway.headers | {"accept": "text/html"})
        assert page.status_code == 200
        assert each in page.text
    assert {each["call"] for each in trace["spans"] if each["whose"] == "child_call"} == {f"/debug/calls/{child}"}
    assert stack.gateway.call(child)["parent"] == call_id


def test_the_links_lead_to_queries_that_find_the_call(stack: Stack, shared_provider: ScriptedProvider) -> None:
    """Of a stranger too, whose trace is another one, to which the spans link."""
    verdict = answers(openai_response('{"probability": 0.01, "explanation": "It is fine."}'))
    shared_provider.will(verdict, answers(openai_response()))
    response = stack.gateway.post(OPENAI, openai_request())
    call_id = call_id_of(response)
    call = stack.gateway.call(response)
    trace = stack.gateway.get(f"/debug/calls/{call_id}/trace.json").json()
    assert call["grafana"] == trace["links"]
    by_trace, by_call = (_query_of(call["grafana"][name]) for name in ("trace", "call"))
    assert by_trace == call["trace_id"]
    found = eventually(lambda: stack.tempo("/api/search", q=by_call), lambda found: found["traces"])
    assert [each["traceID"].zfill(32) for each in found["traces"]] == [by_trace]
    page = stack.gateway.get(f"/debug/calls/{call_id}", stack.gateway.headers | {"accept": "text/html"}).text
    for link in call["grafana"].values():
        assert link.replace("&", "&amp;") in page
    assert TOKEN not in page + json.dumps(trace) + json.dumps(call)


def _query_of(link: str) -> str:
    """What Explore is to ask."""
    parts = urlsplit(link)
    assert parts.path == "/explore"
    [query] = json.loads(parse_qs(parts.query)["panes"][0])["t"]["queries"]
    assert query["datasource"] == {"type": "tempo", "uid": UID}
    assert query["queryType"] == "traceql"
    asked: str = query["query"]
    return asked
