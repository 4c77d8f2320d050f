"""Tempo's answers: both versions of its API, both spellings of ids, and whatever else may come in their place."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from pydantic import SecretStr

from luthien.debug.pages.trace import trace_as_dict
from luthien.debug.tempo.links import Explore, Links, Times
from luthien.debug.tempo.reading import UnlikeTempo, read_trace
from luthien.debug.tempo.trace import Span, Trace, TraceState
from luthien.settings import Settings

CALL = UUID("01a20340-0000-7000-8000-000000000001")
ID = "00f067aa0ba902b7"
PARENT = "b9c7c989f97918e1"


def span(**more: Any) -> dict[str, Any]:
    return {
        "spanId": ID,
        "parentSpanId": PARENT,
        "name": "luthien.exchange",
        "kind": "SPAN_KIND_INTERNAL",
        "startTimeUnixNano": "1000000",
        "endTimeUnixNano": "3000000",
        "attributes": [{"key": "luthien.call_id", "value": {"stringValue": str(CALL)}}],
        **more,
    }


def batch(*spans: dict[str, Any], scopes: str = "scopeSpans") -> dict[str, Any]:
    name = {"key": "service.name", "value": {"stringValue": "luthien"}}
    return {"resource": {"attributes": [name]}, scopes: [{"spans": spans}]}


def spans(value: object) -> list[Span]:
    return [*read_trace("application/json", json.dumps(value).encode(), is_wrapped=True).spans]


OWN = str(CALL)
EXPECTED = Span(ID, PARENT, "luthien.exchange", "luthien", "internal", 1_000_000, 3_000_000, call_id=OWN)


@pytest.mark.parametrize(
    "answer",
    [
        {"trace": {"resourceSpans": [batch(span())]}},
        {"batches": [batch(span())]},
        {"batches": [batch(span(), scopes="instrumentationLibrarySpans")]},
        {
            "trace": {
                "resourceSpans": [
                    batch(
                        span(
                            spanId=base64.b64encode(bytes.fromhex(ID)).decode(),
                            parentSpanId=base64.b64encode(bytes.fromhex(PARENT)).decode(),
                        )
                    )
                ]
            }
        },
    ],
)
def test_both_versions_and_both_spellings_are_the_same_spans(answer: object) -> None:
    assert spans(answer) == [EXPECTED]


def test_an_empty_answer_is_no_spans() -> None:
    assert spans({"trace": {}, "metrics": {}}) == []
    assert spans({"trace": {"resourceSpans": []}}) == []


def test_spans_of_others_and_failures_are_told_apart() -> None:
    found = spans({"batches": [batch(span(attributes=[], status={"code": "STATUS_CODE_ERROR"}))]})
    assert [(each.call_id, each.is_error) for each in found] == [(None, True)]


def test_names_are_shown_as_a_strangers() -> None:
    [found] = spans({"batches": [batch(span(name="a\u202e<b>" + "x" * 1000))]})
    assert found.name.startswith("a\u27e8U+202E\u27e9<b>x")
    assert len(found.name) < 220


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"trace": 1}',
        b'{"batches": [1]}',
        b'{"batches": [{"scopeSpans": [{"spans": [{}]}]}]}',
        b'{"batches": {"a": 1}}',
        b"[" * 100_000,
        b'{"batches": [' + b"9" * 10_000 + b"]}",
        b"\xff\xfe\x00",
        json.dumps({"batches": [batch(span(startTimeUnixNano="soon"))]}).encode(),
        json.dumps({"batches": [batch(span(startTimeUnixNano="-1"))]}).encode(),
        json.dumps({"batches": [batch(span(spanId="!!!"))]}).encode(),
        json.dumps({"batches": [batch(span(attributes=[1]))]}).encode(),
    ],
)
def test_garbage_is_said_to_be_none_of_tempos(garbage: bytes) -> None:
    with pytest.raises(UnlikeTempo):
        read_trace("application/json", garbage, is_wrapped=True)


def as_dict(*spans: Span) -> dict[str, Any]:
    return trace_as_dict(CALL, "t", Trace(TraceState.FOUND, "", spans), 0.0, lambda _: None)


def test_spans_stand_below_their_parents_and_are_drawn_to_scale_of_the_calls_own() -> None:
    outer = Span(PARENT, None, "agent", "agent", "client", 0, 100_000_000)
    inner = Span("11" * 8, ID, "chat", "luthien", "client", 2_000_000, 3_000_000, call_id=OWN)
    drawn = as_dict(outer, EXPECTED, inner)["spans"]
    assert [(each["name"], each["depth"]) for each in drawn] == [
        ("agent", 0),
        ("luthien.exchange", 1),
        ("chat", 2),
    ]
    assert [(each["left"], each["width"]) for each in drawn] == [(0.0, 100.0), (0.0, 100.0), (50.0, 50.0)]
    assert [each["at_ms"] for each in drawn] == [0.0, 1.0, 2.0]


def test_a_circle_of_parents_is_still_drawn() -> None:
    one = Span("a", "b", "one", "", "", 1, 2, call_id=OWN)
    other = Span("b", "a", "other", "", "", 1, 2, call_id=OWN)
    itself = Span("c", "c", "itself", "", "", 1, 1, call_id=OWN)
    drawn = as_dict(one, other, itself)["spans"]
    assert {each["name"] for each in drawn} == {"one", "other", "itself"}


def test_the_link_leads_to_the_trace_in_grafana() -> None:
    settings = Settings(grafana_url="https://grafana.example/g/", grafana_token=SecretStr("t"), tempo_datasource="tt")
    links = Explore(settings).links(CALL, "ab" * 16, Times(1_700_000_000.0))
    link = links.trace
    assert link is not None
    parts = urlsplit(link)
    assert (parts.netloc, parts.path) == ("grafana.example", "/g/explore")
    panes = json.loads(parse_qs(parts.query)["panes"][0])
    [query] = panes["t"]["queries"]
    assert panes["t"]["datasource"] == "tt"
    assert query["datasource"] == {"type": "tempo", "uid": "tt"}
    assert (query["queryType"], query["query"]) == ("traceql", "ab" * 16)
    assert int(panes["t"]["range"]["from"]) < 1_700_000_000_000 < int(panes["t"]["range"]["to"])
    assert f"luthien.call_id%20%3D%20%5C%22{CALL}" in (links.call or "")
    assert Explore(settings).links(CALL, None, Times(0.0, 1.0)).trace is None


def test_without_grafana_there_is_no_link() -> None:
    assert Explore(Settings(tempo_url="http://tempo:3200")).links(CALL, "ab" * 16, Times(0.0)) == Links()
