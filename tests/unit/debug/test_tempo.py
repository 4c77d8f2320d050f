"""Tempo's answers: both versions of its API, both spellings of ids, and whatever else may come in their place."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from google.protobuf.json_format import Parse
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from pydantic import SecretStr, ValidationError

from luthien.debug.pages.trace import trace_as_dict
from luthien.debug.tempo.breaker import FAILURES, REST_S, Breaker, Failure, Resting
from luthien.debug.tempo.links import Explore, Links, Times
from luthien.debug.tempo.messages import TraceByIdResponse
from luthien.debug.tempo.reading import UnlikeTempo, read_search, read_trace
from luthien.debug.tempo.trace import MAX_SPANS, Span, Trace, TraceState, chosen
from luthien.debug.tempo.transports import transport_of
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
    return [*read_trace("application/json", json.dumps(value).encode(), OWN, is_wrapped=True).spans]


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
        read_trace("application/json", garbage, OWN, is_wrapped=True)


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


def at(number: int, parent: int | None = None, **more: Any) -> Span:
    """A span that begins at that many milliseconds and takes one."""
    start = number * 1_000_000
    above = None if parent is None else f"{parent:016x}"
    return Span(f"{number:016x}", above, f"s{number}", "agent", "internal", start, start + 1_000_000, **more)


def test_of_a_long_trace_the_calls_own_spans_are_shown_and_what_is_above_and_below_them() -> None:
    crowd = [at(number, 1) for number in range(2, 3000)]
    near = [at(5000, 4000, call_id=OWN), at(4000, 1), at(6000, 5000), at(7000, 6000, call_id="child")]
    spans, omitted = chosen([at(1), *crowd, *near], OWN)
    assert (len(spans), omitted) == (MAX_SPANS, 3003 - MAX_SPANS)
    assert {f"s{number}" for number in (1, 4000, 5000, 6000, 7000)} <= {each.name for each in spans}
    assert [each.start_ns for each in spans] == sorted(each.start_ns for each in spans)


def test_a_span_whose_parent_is_not_shown_stands_below_the_next_that_is() -> None:
    """One whose parent Tempo does not have says so."""
    chain = [at(number, number - 1 if number > 1 else None) for number in range(1, 3000)]
    spans, _ = chosen([*chain, at(9000, 2999, call_id=OWN), at(9001, 8888, call_id=OWN)], OWN)
    known = {each.id for each in spans}
    missing = [each.name for each in spans if each.parent is not None and each.parent not in known]
    assert missing == ["s9001"]
    circle = [Span(f"{n:016x}", f"{n + 1 if n < 1999 else 0:016x}", "", "", "", n, n) for n in range(2000)]
    assert len(chosen(circle, OWN)[0]) == MAX_SPANS


def test_of_an_answer_in_protocol_buffers_the_spans_are_the_same() -> None:
    """Those of the second version are wrapped, those of the first are not."""
    trace = Parse(json.dumps({"resourceSpans": [batch(protobuf_span())]}), TracesData())
    wrapped = TraceByIdResponse(trace=trace, status=1, message="too big")
    read = read_trace("application/protobuf", wrapped.SerializeToString(), OWN, is_wrapped=True)
    assert (read.spans, read.is_partial, read.message) == ([EXPECTED], True, "too big")
    bare = read_trace("application/protobuf; x=y", trace.SerializeToString(), OWN, is_wrapped=False)
    assert (bare.spans, bare.is_partial) == ([EXPECTED], False)
    assert read_trace("application/protobuf", b"", OWN, is_wrapped=True).spans == []


def protobuf_span() -> dict[str, Any]:
    return span(
        **{name: base64.b64encode(bytes.fromhex(span()[name])).decode() for name in ("spanId", "parentSpanId")}
    )


@pytest.mark.parametrize("garbage", [b"\x00", b"<html>", b"\x0a\xff\xff\xff\xff\xff", b"\x0a\x02\x0a\xff"])
def test_garbage_is_no_trace_in_protocol_buffers_either(garbage: bytes) -> None:
    for is_wrapped in (True, False):
        with pytest.raises(UnlikeTempo):
            read_trace("application/protobuf", garbage, OWN, is_wrapped=is_wrapped)


def test_a_partial_answer_says_so() -> None:
    answer = {"trace": {"resourceSpans": [batch(span())]}, "status": "PARTIAL", "message": "too big\u202e"}
    read = read_trace("application/json", json.dumps(answer).encode(), OWN, is_wrapped=True)
    assert (read.is_partial, read.message) == (True, "too big⟨U+202E⟩")
    drawn = trace_as_dict(CALL, "t", Trace(TraceState.FOUND, spans=read.spans, is_partial=True), 0.0, lambda _: None)
    assert drawn["partial"] is True
    assert "partial" in str(drawn["notes"])


@pytest.mark.parametrize(
    ("traces", "found"),
    [
        ([], []),
        ([{"traceID": "abc"}], ["abc".zfill(32)]),
        (
            [
                {"traceID": "1", "spanSets": [{"matched": 1}]},
                {"traceID": "2", "spanSets": [{"matched": 4}, {"matched": 2}]},
                {"traceID": "3", "spanSet": {"matched": 5}},
                {"traceID": "0002"},
            ],
            ["2".zfill(32), "3".zfill(32), "1".zfill(32)],
        ),
    ],
)
def test_a_search_finds_traces_most_matches_first(traces: list[Any], found: list[str]) -> None:
    assert read_search(json.dumps({"traces": traces, "metrics": {}}).encode()) == found


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"[]",
        b"{}",
        b'{"traces": [1]}',
        b'{"traces": [{"traceID": "x/../y"}]}',
        b'{"traces": 5}',
        b'{"traces": [{"traceID": "1", "spanSet": {"matched": 1e999}}]}',
    ],
)
def test_garbage_is_no_answer_to_a_search(garbage: bytes) -> None:
    with pytest.raises(UnlikeTempo):
        read_search(garbage)


def test_each_span_says_what_it_has_to_do_with_the_call() -> None:
    spans = [
        at(1),
        at(2, 1),
        at(3, 1, call_id=OWN),
        at(4, 3, call_id="child", parent_call_id=OWN),
        at(5, 4, call_id="grandchild", parent_call_id="child"),
        at(6, 3),
        at(7, 1, call_id=str(UUID(int=7))),
        at(8, 99),
    ]
    drawn = as_dict(*spans)["spans"]
    assert {each["name"]: each["whose"] for each in drawn} == {
        "s1": "caller",
        "s2": "other",
        "s3": "this_call",
        "s4": "child_call",
        "s5": "child_call",
        "s6": "callee",
        "s7": "other_call",
        "s8": "other",
    }
    assert [each["name"] for each in drawn if each["parent_missing"]] == ["s8"]
    assert [each["name"] for each in drawn if not each["near"]] == ["s2", "s7", "s8"]
    assert [each["call"] for each in drawn if each["call"]] == [f"/debug/calls/{UUID(int=7)}"], "only ids are linked"
    assert [each["outside"] for each in drawn if each["name"] in {"s1", "s8"}] == ["before", "after"]


def test_clocks_that_differ_are_told() -> None:
    """A span of another process cannot begin before the one that it is below, nor end after who waits for it."""
    client = Span("1" * 16, None, "ask", "agent", "client", 100_000_000, 200_000_000)
    early = Span("2" * 16, client.id, "early", "a", "server", 90_000_000, 150_000_000)
    late = Span("3" * 16, client.id, "late", "b", "server", 180_000_000, 230_000_000)
    longer = Span("4" * 16, client.id, "longer", "c", "server", 110_000_000, 400_000_000)
    same = Span("5" * 16, client.id, "same", "agent", "internal", 90_000_000, 95_000_000)
    drawn = as_dict(client, early, late, longer, same)
    off = {each["name"]: each["skew_ms"] for each in drawn["spans"]}
    assert off == {"ask": None, "early": 10.0, "late": 30.0, "longer": None, "same": None}
    assert [note.split(":")[0] for note in drawn["notes"]] == [
        "The clocks of a and agent differ by 10.0 ms at the least",
        "The clocks of b and agent differ by 30.0 ms at the least",
    ]


def test_a_trace_under_another_id_and_traces_that_are_linked_are_told() -> None:
    own = at(1, call_id=OWN, links=("cd" * 16, "ab" * 16))
    trace = Trace(TraceState.FOUND, spans=[own, at(2, links=("ef" * 16,))], trace_id="ab" * 16, others=["12" * 16])
    drawn = trace_as_dict(CALL, "99" * 16, trace, 0.0, lambda each: f"to {each}")
    assert drawn["linked"] == [{"trace_id": "cd" * 16, "link": f"to {'cd' * 16}"}]
    assert drawn["others"] == [{"trace_id": "12" * 16, "link": f"to {'12' * 16}"}]
    assert drawn["found_in"] == "ab" * 16
    assert "99" * 16 in str(drawn["notes"])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def fails(breaker: Breaker, times: int = 1) -> None:
    for number in range(times):
        with pytest.raises(Failure), breaker.question():
            raise Failure(f"failure {number}")


def rest_of(breaker: Breaker) -> float:
    with pytest.raises(Resting) as resting, breaker.question():
        pytest.fail("it is to be left alone")
    return resting.value.seconds


def test_after_some_failures_in_a_row_nothing_is_asked_for_a_while() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    fails(breaker, FAILURES - 1)
    with breaker.question():
        pass
    fails(breaker, FAILURES)
    assert rest_of(breaker) == REST_S
    clock.now = REST_S - 1
    assert rest_of(breaker) == 1.0
    clock.now = REST_S
    with breaker.question():
        assert rest_of(breaker) == 1.0, "one at a time"
    with breaker.question(), breaker.question():
        pass
    fails(breaker, FAILURES)
    assert rest_of(breaker) == REST_S


def test_who_fails_again_is_left_alone_for_longer_each_time() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    fails(breaker, FAILURES)
    for expected in (20.0, 40.0, 60.0, 60.0):
        clock.now += rest_of(breaker)
        fails(breaker)
        assert rest_of(breaker) == expected


def test_a_question_that_is_given_up_is_no_answer_and_no_failure() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    fails(breaker, FAILURES)
    clock.now = REST_S
    with pytest.raises(KeyboardInterrupt), breaker.question():
        raise KeyboardInterrupt
    with breaker.question():
        assert rest_of(breaker) == 1.0, "the next one is the one to see"


def test_headers_are_written_as_for_exporters() -> None:
    way = transport_of(Settings(tempo_url="http://tempo:3200/", tempo_headers=SecretStr("X-Scope-OrgID=team%20a")))
    assert way is not None
    assert (way.base, dict(way.headers)) == ("http://tempo:3200", {"x-scope-orgid": "team a"})


def test_what_is_no_header_is_refused_without_being_quoted() -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(tempo_headers=SecretStr("hunter2"))
    [error] = refused.value.errors(include_input=False)
    assert "name=value" in error["msg"]
    assert "hunter2" not in str(error)
