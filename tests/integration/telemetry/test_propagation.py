"""Trace context over the wire: out to hosts that are named and nobody else, in from whomever, however broken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any

import httpx
import pytest
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span, set_span_in_context

from luthien.hosts import HostPattern
from tests.integration.conftest import StartGateway
from tests.otlp_receiver import OtlpReceiver
from tests.playbook import DEADLINE_S, ScriptedProvider, Turn, answers, streams
from tests.wire import openai_request, openai_response, openai_stream

OPENAI = "/v1/chat/completions"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"
HERE = (HostPattern.parse("127.0.0.1"),)
STRANGERS = (IPv4Network("10.0.0.0/8"),)
OTHER_HEADERS = {
    "b3": f"{TRACE_ID}-{PARENT_ID}-1",
    "x-b3-traceid": TRACE_ID,
    "uber-trace-id": f"{TRACE_ID}:1:0:1",
    "ot-tracer-traceid": TRACE_ID,
}


@pytest.fixture
def service() -> Iterator[ScriptedProvider]:
    scripted = ScriptedProvider()
    scripted.will(answers({"action": "allow"}))
    yield scripted
    scripted.close()


def the_span(receiver: OtlpReceiver, name: str) -> ProtoSpan:
    [span] = [each for each in receiver.spans if each.name == name]
    return span


def told(turn: Turn) -> tuple[str, str, bool]:
    """The trace, the span that asks, and whether it is sampled; another flag says that the trace id is random."""
    version, trace_id, span_id, flags = turn.headers["traceparent"].split("-")
    assert version == "00"
    return trace_id, span_id, int(flags, 16) & 1 == 1


def known(span: ProtoSpan) -> tuple[str, str, bool]:
    return span.trace_id.hex(), span.span_id.hex(), True


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_a_provider_that_is_named_is_told_which_span_asks(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver, streamed: bool
) -> None:
    provider.will(streams(*openai_stream("Hello")) if streamed else answers(openai_response()))
    with start(propagate_to=HERE) as gateway:
        gateway.call(gateway.post(OPENAI, openai_request(model="m", stream=streamed)))
    assert told(provider.turns[0]) == known(the_span(receiver, "chat m"))


@pytest.mark.parametrize("propagate_to", [(), (HostPattern.parse("localhost"),), (HostPattern("127.0.0.1", 1),)])
def test_nobody_else_is_told_and_nothing_of_the_caller_goes_on(
    start: StartGateway, provider: ScriptedProvider, propagate_to: tuple[HostPattern, ...]
) -> None:
    """Not even from a caller that is trusted, or in another tracer's headers."""
    provider.will(answers(openai_response()))
    with start(propagate_to=propagate_to) as gateway:
        headers = {"traceparent": TRACEPARENT, "tracestate": "a=b", "baggage": "k=v", **OTHER_HEADERS}
        gateway.call(gateway.post(OPENAI, openai_request(), headers=headers))
    sent = provider.turns[0].headers
    assert not sent.keys() & {"traceparent", "tracestate", "baggage", *OTHER_HEADERS}


def test_a_trusted_callers_trace_goes_on_through_us(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    provider.will(answers(openai_response()))
    with start(propagate_to=HERE) as gateway:
        headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=opaque", "baggage": "user=mark"}
        gateway.call(gateway.post(OPENAI, openai_request(model="m"), headers=headers))
    sent = provider.turns[0].headers
    assert told(provider.turns[0]) == known(the_span(receiver, "chat m"))
    assert told(provider.turns[0])[0] == TRACE_ID
    assert sent["tracestate"] == "vendor=opaque"
    assert "baggage" not in sent


def test_a_strangers_trace_and_state_do_not(start: StartGateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response()))
    with start(propagate_to=HERE, trusted_networks=STRANGERS) as gateway:
        headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=opaque"}
        gateway.call(gateway.post(OPENAI, openai_request(), headers=headers))
    assert told(provider.turns[0])[0] != TRACE_ID
    assert "tracestate" not in provider.turns[0].headers


def test_what_is_not_sampled_is_told_as_not_sampled(
    start: StartGateway, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    provider.will(answers(openai_response()))
    with start(propagate_to=HERE) as gateway:
        gateway.call(gateway.post(OPENAI, openai_request()))
    assert not told(provider.turns[0])[2]


def test_what_is_passed_through_is_told_too(start: StartGateway, provider: ScriptedProvider) -> None:
    provider.will(answers({"object": "list", "data": []}))
    with start(propagate_to=HERE) as gateway:
        call = gateway.call(gateway.get("/v1/models"))
    assert told(provider.turns[0])[0] == call["trace_id"]


@pytest.mark.parametrize("side", ["request", "response"])
@pytest.mark.parametrize("is_named", [True, False])
def test_a_webhook_that_is_named_joins_the_trace(
    start: StartGateway,
    provider: ScriptedProvider,
    receiver: OtlpReceiver,
    service: ScriptedProvider,
    side: str,
    is_named: bool,
) -> None:
    provider.will(answers(openai_response()))
    hook = {"policy": "webhook", "config": {"url": f"{service.url}/decide", "sides": [side]}}
    named = (HostPattern.parse(service.url.removeprefix("http://")),) if is_named else ()
    with start([hook], propagate_to=named) as gateway:
        gateway.call(gateway.post(OPENAI, openai_request()))
    [turn] = service.turns
    if is_named:
        assert told(turn) == known(the_span(receiver, f"luthien.policy.{side}"))
    else:
        assert "traceparent" not in turn.headers


MALFORMED = [
    {"traceparent": TRACEPARENT.upper()},
    {"traceparent": TRACEPARENT + "-more"},
    {"traceparent": TRACEPARENT.replace("00-", "ff-", 1)},
    {"traceparent": f"00-{'0' * 32}-{PARENT_ID}-01"},
    {"traceparent": f"00-{TRACE_ID}-{'0' * 16}-01"},
    {"traceparent": "00-" + "g" * 32 + f"-{PARENT_ID}-01"},
    {"traceparent": "0" * 8000},
    {"traceparent": "\x7f\xff"},
    {"tracestate": "a=b"},
]


@pytest.mark.parametrize("trusted", [True, False])
def test_malformed_context_is_as_good_as_none(start: StartGateway, provider: ScriptedProvider, trusted: bool) -> None:
    provider.will(answers(openai_response()))
    settings: dict[str, Any] = {} if trusted else {"trusted_networks": STRANGERS}
    with start(propagate_to=HERE, **settings) as gateway:
        for headers in MALFORMED:
            sent = {name: value.encode("latin-1") for name, value in headers.items()}
            call = gateway.call(gateway.post(OPENAI, openai_request(), headers=sent))
            assert call["outcome"] == "completed", headers
            assert call["trace_id"] != TRACE_ID, headers


MALFORMED_STATES = [
    "=",
    "a",
    "a=b,a=c",
    ",".join(f"k{n}=v" for n in range(100)),
    "k=" + "v" * 9000,
    "é=ü",
    "a=b\tc,,;=",
    "",
]


def test_a_malformed_state_costs_the_trace_nothing(start: StartGateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response()))
    with start(propagate_to=HERE) as gateway:
        for state in MALFORMED_STATES:
            headers = {"traceparent": TRACEPARENT.encode(), "tracestate": state.encode("latin-1")}
            call = gateway.call(gateway.post(OPENAI, openai_request(), headers=headers))
            assert (call["outcome"], call["trace_id"]) == ("completed", TRACE_ID), state
    for turn in provider.turns:
        assert told(turn)[0] == TRACE_ID
        assert len(turn.headers.get("tracestate", "")) <= 9000


def test_several_trace_contexts_are_none(start: StartGateway, provider: ScriptedProvider) -> None:
    """https://www.w3.org/TR/trace-context/#traceparent-header: there is one, or it is as if there were none."""
    provider.will(answers(openai_response()))
    with start() as gateway:
        second = TRACEPARENT.replace("0af7", "1af7")
        headers = [("traceparent", TRACEPARENT), ("traceparent", second), ("content-type", "application/json")]
        url = gateway.url + OPENAI
        call = gateway.call(
            httpx.post(url, content=json.dumps(openai_request()), headers=headers, timeout=DEADLINE_S)
        )
    assert call["outcome"] == "completed"
    assert call["trace_id"] not in {TRACE_ID, TRACE_ID.replace("0af7", "1af7")}


class TwoForms(TextMapPropagator):
    """As those of B3 do, it writes one form and reads two: in one header, which goes first, and in several."""

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        context = context or Context()
        whole = (getter.get(carrier, "b3") or [""])[0]
        found = whole.split("-") if whole else [(getter.get(carrier, name) or [""])[0] for name in MANY]
        if len(found) < 2 or len(found[0]) != 32:
            return context
        told = SpanContext(int(found[0], 16), int(found[1], 16), is_remote=True, trace_flags=TraceFlags(1))
        return set_span_in_context(NonRecordingSpan(told), context)

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        span = get_current_span(context).get_span_context()
        setter.set(carrier, "b3", f"{span.trace_id:032x}-{span.span_id:016x}")

    @property
    def fields(self) -> set[str]:
        return {"b3"}


MANY = ("x-b3-traceid", "x-b3-spanid")
FORMS = [
    {"b3": f"{TRACE_ID}-{PARENT_ID}"},
    {"x-b3-traceid": TRACE_ID, "x-b3-spanid": PARENT_ID},
    {"b3": "", "x-b3-traceid": TRACE_ID, "x-b3-spanid": PARENT_ID},
]


@pytest.fixture
def propagator() -> Iterator[None]:
    """Whatever a test sets is unset again."""
    before = propagate.get_global_textmap()
    yield
    propagate.set_global_textmap(before)


@pytest.mark.usefixtures("propagator")
def test_another_form_of_context_is_trusted_no_more_than_the_usual_one(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that the propagator reads without saying so: a stranger's is a link, and forces no export."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    propagate.set_global_textmap(CompositePropagator([TwoForms()]))
    provider.will(answers(openai_response()))
    with start(propagate_to=HERE) as gateway:
        trusted = [gateway.call(gateway.post(OPENAI, openai_request(), headers=form)) for form in FORMS]
    assert {call["trace_id"] for call in trusted} == {TRACE_ID}
    assert {turn.headers["b3"].partition("-")[0] for turn in provider.turns} == {TRACE_ID}
    exported = len(receiver.spans)
    assert exported
    with start(propagate_to=HERE, trusted_networks=STRANGERS) as gateway:
        strange = [gateway.call(gateway.post(OPENAI, openai_request(), headers=form)) for form in FORMS]
    assert TRACE_ID not in {call["trace_id"] for call in strange}
    assert {turn.headers["b3"].partition("-")[0] for turn in provider.turns[len(FORMS) :]}.isdisjoint({TRACE_ID})
    assert len(receiver.spans) == exported


@pytest.mark.usefixtures("propagator")
def test_with_no_propagator_calls_are_served_and_nobody_is_told(
    start: StartGateway, provider: ScriptedProvider
) -> None:
    """`OTEL_PROPAGATORS=none`."""
    propagate.set_global_textmap(CompositePropagator([]))
    provider.will(answers(openai_response()))
    with start(propagate_to=HERE) as gateway:
        call = gateway.call(gateway.post(OPENAI, openai_request(), headers={"traceparent": TRACEPARENT}))
    assert (call["outcome"], call["trace_id"] == TRACE_ID) == ("completed", False)
    assert "traceparent" not in provider.turns[0].headers
