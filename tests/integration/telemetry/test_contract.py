"""The telemetry contract: one test a rule, against the real SDK, a real exporter and a real receiver."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from opentelemetry.context import Context, get_current
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from luthien.errors import ConfigError
from luthien.exchange import EventType, Outcome, StageRecord, new_call_id
from luthien.formats.registry import OPENAI_CHAT
from luthien.pipeline.ledger import Instruments, Ledger
from luthien.pipeline.sides import Delta
from luthien.policies.chain import Chain
from luthien.record.queue import RecordQueue
from luthien.record.sink import Receipt
from luthien.record.spool import Spool
from luthien.settings import Settings
from luthien.telemetry import conventions as names
from luthien.telemetry.context import call_id_in, enter_call, leave_call, with_call_id
from luthien.telemetry.processor import ForkingSpanProcessor
from luthien.telemetry.setup import Telemetry, start_telemetry
from luthien.telemetry.spans import StageEvent, emit_stage, end_span
from tests.integration.conftest import StartGateway
from tests.otlp_receiver import OtlpReceiver, attributes_of
from tests.playbook import DEADLINE_S, Play, ScriptedProvider, Turn, answers, running_gateway, streams
from tests.wire import (
    DONE,
    anthropic_request,
    anthropic_response,
    anthropic_stream,
    openai_chunk,
    openai_request,
    openai_response,
    openai_stream,
    responses_request,
    responses_stream,
)

OPENAI = "/v1/chat/completions"
PAYLOAD_MARKS = (b"prompt-mark", b"answer-mark", b"rewritten-mark", b"reason-mark", b"sk-credential-mark")
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
RECORD_METRICS = (
    names.RECORD_APPENDED,
    names.RECORD_STORED,
    names.RECORD_REPLAYED,
    names.RECORD_RETRIED,
    names.RECORD_DROPPED,
    names.RECORD_TOMBSTONES,
    names.RECORD_ADOPTED,
    names.RECORD_UNSAVED,
    names.RECORD_UNSAVED_BYTES,
    names.RECORD_OLDEST,
    names.SPOOL_BYTES,
    names.SPOOL_LIMIT,
)
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
UNSAMPLED = TRACEPARENT[:-1] + "0"

REWRITE = [
    {
        "policy": "replace_text",
        "config": {"rules": [{"find": "reason-mark", "replace": "rewritten-mark"}]},
    }
]


def names_of(spans: Sequence[ProtoSpan]) -> set[str]:
    return {span.name for span in spans}


def test_the_session_of_a_call_is_on_its_exchange_and_in_its_row(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    """As Claude Code names it. Who asks may be a name or an address, so that stays in the record."""
    provider.will(answers(anthropic_response()))
    session = "57a121ec-f78c-48c3-a745-e3036a3ecc33"
    metadata = {"user_id": f"user_{'5d' * 32}_account__session_{session}"}
    with start() as gateway:
        calls = [
            gateway.call(gateway.post("/v1/messages", anthropic_request(metadata=metadata))),
            gateway.call(gateway.post("/v1/messages", anthropic_request(metadata={"user_id": "a@b.example"}))),
            gateway.call(gateway.post("/v1/messages", anthropic_request())),
        ]
    assert [call["session_id"] for call in calls] == [session, "a@b.example", None]
    exchanges = [attributes_of(span.attributes) for span in receiver.spans if span.name == names.EXCHANGE]
    said = {attributes[names.CALL_ID]: attributes.get(names.SESSION) for attributes in exchanges}
    assert list(said.values()).count(None) == 2
    assert said[calls[0]["call_id"]] == session
    assert b"a@b.example" not in b"".join(receiver.bodies)


def test_the_spans_of_a_call(start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver) -> None:
    """Six spans in one trace, the exchange below the server span, its parts below the exchange."""
    provider.will(streams(*openai_stream("a", "b")))
    with start() as gateway:
        call_id = gateway.post(OPENAI, openai_request(stream=True)).headers["luthien-call-id"]
        gateway.call(call_id)
    by_name = {span.name: span for span in receiver.spans}
    server, exchange = by_name[f"POST {OPENAI}"], by_name[names.EXCHANGE]
    parts = [by_name[name] for name in (names.RECEIVE, names.POLICY_REQUEST, "chat gpt-test", names.POLICY_RESPONSE)]
    assert len(receiver.spans) == 6
    assert {span.trace_id for span in receiver.spans} == {server.trace_id}
    assert exchange.parent_span_id == server.span_id
    assert {part.parent_span_id for part in parts} == {exchange.span_id}
    assert (server.kind, parts[2].kind) == (ProtoSpan.SPAN_KIND_SERVER, ProtoSpan.SPAN_KIND_CLIENT)
    ends = [span.end_time_unix_nano for span in [*parts, exchange, server]]
    assert ends == sorted(ends)


def test_the_spans_of_a_request_that_is_passed_through(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    """No `chat` and no GenAI operation: a client span by method and pattern, below the exchange, and no payload."""
    provider.will(answers(b"answer-mark", headers={"content-type": "text/plain"}))
    headers = {"authorization": "Bearer sk-credential-mark"}
    with start() as gateway:
        response = gateway.get("/v1/models/some-model?key=sk-credential-mark", headers)
        gateway.call(response)
        gateway.call(gateway.get("/v1/files", headers))
    passed, refused = ([s for s in receiver.spans if s.trace_id == t] for t in trace_ids(receiver.spans))
    by_name = {span.name: span for span in passed}
    client, exchange = by_name["GET /v1/models/*"], by_name[names.EXCHANGE]
    assert len(passed) == 4
    assert (client.kind, exchange.kind) == (ProtoSpan.SPAN_KIND_CLIENT, ProtoSpan.SPAN_KIND_INTERNAL)
    assert {client.parent_span_id, by_name[names.RECEIVE].parent_span_id} == {exchange.span_id}
    described = attributes_of(client.attributes)
    assert described[names.URL_TEMPLATE] == "/v1/models/*"
    assert described[names.HTTP_STATUS] == 200
    assert names.OPERATION not in described
    assert names.EXCHANGE in names_of(refused)
    assert len(refused) == 2
    assert [mark for mark in PAYLOAD_MARKS if mark in b"".join(receiver.bodies)] == []


def trace_ids(spans: Sequence[ProtoSpan]) -> list[bytes]:
    """The traces in the order in which they began."""
    return [*dict.fromkeys(span.trace_id for span in sorted(spans, key=lambda span: span.start_time_unix_nano))]


def checkpointed(provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, *pieces: bytes) -> Play:
    """A stream whose first pieces each wait for a checkpoint of what went before."""
    gates = [provider.gate(), provider.gate()]
    closed = iter(gates)
    make = Ledger.checkpoint

    def noting(ledger: Ledger, deltas: Sequence[Delta]) -> None:
        make(ledger, deltas)
        if gate := next(closed, None):
            gate.open()

    async def play(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for number, piece in enumerate(pieces):
            await turn.chunk(piece)
            if number < len(gates):
                await gates[number].wait()
        await turn.send(b"0\r\n\r\n")

    monkeypatch.setattr(Ledger, "checkpoint", noting)
    return play


def test_every_span_of_a_call_has_its_id(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answered, streamed with checkpoints, failed, passed through, blocked, refused; and no span is of another."""
    block = {"policy": "limit", "config": {"models": {"deny": ["forbidden"]}}}
    key = {"authorization": "Bearer sk-credential-mark"}
    provider.will(
        answers(openai_response()),
        checkpointed(provider, monkeypatch, *anthropic_stream("a", "b", "c")),
        answers({}, status=500),
        answers({}),
    )
    with start([block], checkpoint_s=0.01) as gateway:
        calls = [
            gateway.post(OPENAI, openai_request()),
            gateway.post("/v1/messages", anthropic_request(stream=True)),
            gateway.post(OPENAI, openai_request()),
            gateway.get("/v1/models", key),
            gateway.post(OPENAI, openai_request(model="forbidden")),
            gateway.post(OPENAI, b"not json"),
            gateway.get("/v1/files", key),
            gateway.post("/v1/elsewhere", {}),
        ]
        for call in calls:
            gateway.call(call)
    ids = [str(attributes_of(span.attributes).get(names.CALL_ID)) for span in receiver.spans]
    checkpoints = [span.name for span in receiver.spans].count(names.CHECKPOINT)
    assert checkpoints > 1
    counted = [ids.count(call.headers["luthien-call-id"]) for call in calls]
    assert counted == [6, 6 + checkpoints, 6, 4, 4, 3, 2, 2]
    assert len(ids) == sum(counted)


def test_pages_and_health_checks_make_no_span(start: StartGateway, receiver: OtlpReceiver) -> None:
    with start() as gateway:
        for path in ("/healthz", "/readyz", "/debug/calls.json", "/debug/sign-in"):
            assert "luthien-call-id" not in gateway.get(path).headers
    assert receiver.spans == []


def test_no_payload_leaves_over_otlp(start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver) -> None:
    """Nothing that a client, a policy or a provider said is in any byte that the exporter sends."""
    provider.will(
        answers(openai_response("answer-mark reason-mark")),
        streams(*openai_stream("answer-", "mark reason-", "mark")),
        answers({"error": {"message": "answer-mark"}}, status=400),
        answers(b"answer-mark"),
        streams(*openai_stream("answer-mark")[:2]),
    )
    headers = {"authorization": "Bearer sk-credential-mark", "x-api-key": "sk-credential-mark"}
    with start(REWRITE) as gateway:
        for body in (
            openai_request("prompt-mark reason-mark", stop="prompt-mark", user="prompt-mark"),
            openai_request("prompt-mark", stream=True),
            openai_request("prompt-mark"),
            openai_request("prompt-mark"),
            openai_request("prompt-mark", stream=True),
        ):
            response = gateway.post(f"{OPENAI}?key=sk-credential-mark", body, headers=headers)
            gateway.call(response)
        gateway.call(gateway.post(OPENAI, b"prompt-mark is not JSON", headers=headers))
    assert len(receiver.spans) > 30
    everything = b"".join(receiver.bodies)
    assert [mark for mark in PAYLOAD_MARKS if mark in everything] == []
    stage_events = [event for span in receiver.spans for event in span.events if event.name == names.STAGE_EVENT]
    assert len(stage_events) > 30
    assert {key for event in stage_events for key in attributes_of(event.attributes)} <= names.EXPORTED_ATTRIBUTES


def test_a_checkpoint_is_a_short_span_of_its_own_without_its_payload(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.will(checkpointed(provider, monkeypatch, *openai_stream("answer-", "mark reason-", "mark")))
    with start(REWRITE, checkpoint_s=0.01) as gateway:
        gateway.call(gateway.post(OPENAI, openai_request(stream=True)))
    [exchange] = [span for span in receiver.spans if span.name == names.EXCHANGE]
    checkpoints = [span for span in receiver.spans if span.name == names.CHECKPOINT]
    assert len(checkpoints) > 1
    assert {span.parent_span_id for span in checkpoints} == {exchange.span_id}
    events = [attributes_of(event.attributes) for span in checkpoints for event in span.events]
    assert {event[names.STAGE] for event in events} == {"response_partial"}
    assert {event[names.CHECKPOINT_SIDES] for event in events} <= {"original", "final", "both"}
    assert next(event[names.CHECKPOINT_OFFSET] for event in events) == 0
    assert [mark for mark in PAYLOAD_MARKS if mark in b"".join(receiver.bodies)] == []


async def test_the_receipts_of_an_hour_of_checkpoints_do_not_pile_up() -> None:
    """And what was refused of them is counted in the end."""
    refusing = Receipt.settled(1)

    class Sink:
        def submit(self, records: Sequence[StageRecord]) -> Receipt:
            submitted.extend(records)
            return refusing

    submitted: list[StageRecord] = []
    provider = TracerProvider()
    provider.add_span_processor(ForkingSpanProcessor(None, Sink()))
    instruments = Instruments.of(provider.get_tracer("t"), NoOpMeterProvider().get_meter("t"), 1.0, uuid4())
    ledger = Ledger(instruments, new_call_id(), OPENAI_CHAT)
    for number in range(720):
        ledger.checkpoint([Delta("both", 10 * number, b": 12345678", number)])
        assert len(ledger._receipts) <= 2
    await ledger.safe()
    ledger.close(Outcome.COMPLETED, 200, Chain())
    provider.shutdown()
    assert [each.sequence for each in submitted] == list(range(721))
    assert submitted[-1].attributes[names.RECORDS_REFUSED] == 720
    assert submitted[-1].attributes[names.CHECKPOINTS] == 720


def test_what_is_not_on_the_allow_list_is_not_exported(receiver: OtlpReceiver) -> None:
    settings = Settings(otlp_endpoint=receiver.endpoint, otlp_traces_endpoint=f"{receiver.endpoint}/v1/traces")
    with _telemetry(settings, monkey_endpoint=receiver.endpoint) as telemetry:
        span = telemetry.tracer.start_span("s", attributes={"novel": "prompt-mark", names.OUTCOME: "completed"})
        span.add_event("novel event prompt-mark", {"novel": "prompt-mark"})
        span.record_exception(ValueError("prompt-mark"))
        span.set_status(_error("prompt-mark"))
        span.end()
    [exported] = [each for each in receiver.spans if each.name == "s"]
    assert attributes_of(exported.attributes) == {names.OUTCOME: "completed"}
    assert [event.name for event in exported.events] == ["event", "exception"]
    assert attributes_of(exported.events[1].attributes) == {"exception.type": "ValueError"}
    assert exported.status.message == ""
    assert b"prompt-mark" not in b"".join(receiver.bodies)


def test_exports_are_compressed(start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver) -> None:
    provider.will(answers(openai_response()))
    with start() as gateway:
        gateway.post(OPENAI, openai_request())
    assert receiver.encodings == {"gzip"}


def test_nothing_is_exported_without_an_endpoint(
    record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    provider.will(answers(openai_response()))
    with running_gateway(record_database, provider.url) as gateway:
        assert gateway.call(gateway.post(OPENAI, openai_request()))["completeness"]["state"] == "complete"


@pytest.mark.parametrize("sampler", ["always_off", "traceidratio", "parentbased_always_off"])
def test_the_sampler_thins_out_traces_and_never_the_record(
    start: StartGateway,
    provider: ScriptedProvider,
    receiver: OtlpReceiver,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    provider.will(streams(*openai_stream("a")))
    with start() as gateway:
        call = gateway.call(gateway.post(OPENAI, openai_request(stream=True)))
    assert call["completeness"]["state"] == "complete"
    assert call["trace_id"]
    assert receiver.spans == []


def test_a_caller_that_is_not_sampled_is_recorded_all_the_same(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    provider.will(answers(openai_response()))
    with start() as gateway:
        response = gateway.post(OPENAI, openai_request(), headers={"traceparent": UNSAMPLED})
        call = gateway.call(response)
    assert call["completeness"]["state"] == "complete"
    assert call["trace_id"] == TRACE_ID
    assert receiver.spans == []


def test_no_environment_variable_truncates_a_record(
    start: StartGateway, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in (
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_SPAN_EVENT_COUNT_LIMIT",
        "OTEL_SPAN_LINK_COUNT_LIMIT",
        "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    ):
        monkeypatch.setenv(limit, "1")
    provider.will(answers(openai_response("y" * 5000)))
    with start(REWRITE) as gateway:
        response = gateway.post(OPENAI, openai_request("x" * 5000))
        assert gateway.call(response)["completeness"]["state"] == "complete"
        assert gateway.raw(response, "request_original") == provider.turns[0].body
        assert gateway.raw(response, "response_final") == response.content


def test_a_span_keeps_more_events_than_the_sdks_default_limit() -> None:
    sink = _Sink()
    with _telemetry(Settings(), sink) as telemetry:
        token = enter_call(new_call_id())
        span = telemetry.tracer.start_span("s")
        for sequence in range(500):
            emit_stage(span, StageEvent(EventType.POLICY_DECISION, sequence))
        span.end()
        leave_call(token)
    assert [record.sequence for record in sink.records] == list(range(500))


def test_a_disabled_sdk_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would silence even an explicit provider, and with it the record."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with pytest.raises(ConfigError, match="Unset OTEL_SDK_DISABLED"):
        start_telemetry(Settings(), RecordQueue(1, 1))


def test_an_unknown_sampler_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="always_on"):
        start_telemetry(Settings(traces_sampler="sometimes"), RecordQueue(1, 1))


@pytest.mark.parametrize(
    "payload",
    [b"", bytes(range(256)), b"\xff\xfe\x00", "\ud800".encode("utf-8", "surrogatepass"), b"x" * (32 * 1024 * 1024)],
    ids=["empty", "all bytes", "invalid UTF-8", "surrogate", "32 MiB"],
)
def test_the_sdk_keeps_the_bytes_of_a_payload_and_does_not_copy_them(payload: bytes) -> None:
    sink = _Sink()
    with _telemetry(Settings(), sink) as telemetry:
        token = enter_call(new_call_id())
        span = telemetry.tracer.start_span("s")
        emit_stage(span, StageEvent(EventType.REQUEST_ORIGINAL, 0, payload=payload))
        span.end()
        leave_call(token)
    [record] = sink.records
    assert record.payload is payload


def test_an_untrusted_caller_is_linked_and_not_joined(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    provider.will(answers(openai_response()))
    with start(trusted_networks=(IPv4Network("10.0.0.0/8"),)) as gateway:
        for traceparent in (TRACEPARENT, UNSAMPLED):
            call = gateway.call(gateway.post(OPENAI, openai_request(), headers={"traceparent": traceparent}))
            assert call["trace_id"] != TRACE_ID
    servers = [span for span in receiver.spans if span.kind == ProtoSpan.SPAN_KIND_SERVER]
    # Both are exported: an untrusted caller does not decide about sampling either.
    assert len(servers) == 2
    for server in servers:
        assert server.parent_span_id == b""
        assert [link.trace_id.hex() for link in server.links] == [TRACE_ID]


def test_a_trusted_caller_is_joined(start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver) -> None:
    provider.will(answers(openai_response()))
    with start() as gateway:
        call = gateway.call(gateway.post(OPENAI, openai_request(), headers={"traceparent": TRACEPARENT}))
    assert call["trace_id"] == TRACE_ID
    [server] = [span for span in receiver.spans if span.kind == ProtoSpan.SPAN_KIND_SERVER]
    assert server.parent_span_id.hex() == "b7ad6b7169203331"
    assert not server.links


@pytest.mark.parametrize("traceparent", ["", "garbage", "00-0-0-01", f"ff-{'0' * 32}-{'0' * 16}-01", "\xff" * 8])
@pytest.mark.parametrize("trusted", ["127.0.0.0/8", "10.0.0.0/8"])
def test_a_malformed_trace_context_is_ignored(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver, traceparent: str, trusted: str
) -> None:
    provider.will(answers(openai_response()))
    with start(trusted_networks=(IPv4Network(trusted),)) as gateway:
        headers = {"traceparent": traceparent.encode("latin-1")}
        assert gateway.call(gateway.post(OPENAI, openai_request(), headers=headers))["outcome"] == "completed"
    assert not any(span.links for span in receiver.spans)


def test_inbound_baggage_is_dropped(start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver) -> None:
    provider.will(answers(openai_response()))
    with start() as gateway:
        headers = {"traceparent": TRACEPARENT, "baggage": "user=prompt-mark"}
        gateway.call(gateway.post(OPENAI, openai_request(), headers=headers))
    assert "baggage" not in provider.turns[0].headers
    assert b"prompt-mark" not in b"".join(receiver.bodies)


def test_the_chat_span_follows_the_genai_conventions(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    provider.will(streams(*openai_stream("a", "b", "c"), pause_s=0.01))
    with start() as gateway:
        body = openai_request(stream=True, temperature=0.5, max_completion_tokens=7, top_p=1, seed=3, n=1)
        gateway.call(gateway.post(OPENAI, body))
    [chat] = [span for span in receiver.spans if span.kind == ProtoSpan.SPAN_KIND_CLIENT]
    said = attributes_of(chat.attributes)
    first_chunk_s = said.pop("gen_ai.response.time_to_first_chunk")
    assert isinstance(first_chunk_s, float)
    assert 0 < first_chunk_s < (chat.end_time_unix_nano - chat.start_time_unix_nano) / 1e9
    assert chat.name == "chat gpt-test"
    assert said == {
        "luthien.call_id": said["luthien.call_id"],
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-test",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.top_p": 1,
        "gen_ai.request.seed": 3,
        "gen_ai.request.choice.count": 1,
        "gen_ai.response.model": "gpt-test-2026",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 3,
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": int(provider.url.rpartition(":")[2]),
    }


def test_a_call_of_the_responses_api_says_what_was_cached_and_what_was_thought(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    provider.will(streams(*responses_stream("a", "b")))
    with start() as gateway:
        call = gateway.call(gateway.post("/v1/responses", responses_request(stream=True, max_output_tokens=7)))
    [chat] = [span for span in receiver.spans if span.kind == ProtoSpan.SPAN_KIND_CLIENT]
    said = attributes_of(chat.attributes)
    assert "POST /v1/responses" in names_of(receiver.spans)
    assert (said["gen_ai.response.id"], said["gen_ai.response.finish_reasons"]) == ("resp_1", ["completed"])
    assert {name: said[name] for name in said if "usage" in name or "max_tokens" in name} == {
        "gen_ai.request.max_tokens": 7,
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 1,
    }
    assert call["wire_format"] == "openai.responses"


@pytest.mark.parametrize("model", ["\ud800", "a\x00b\nc", "m" * 10_000, "\U0001f600"])
def test_hostile_model_names_do_not_cost_an_export_batch(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver, model: str
) -> None:
    """A lone surrogate in a span's name, or an integer beyond 63 bits, would make the SDK drop the whole batch."""
    provider.will(answers(openai_response() | {"model": model, "id": model}))
    with start() as gateway:
        body = openai_request(max_tokens=2**70, temperature=1e308) | {"model": model}
        call = gateway.call(gateway.post(OPENAI, body))
    assert call["completeness"]["state"] == "complete"
    assert len(receiver.spans) == 6
    assert all(len(span.name) < 200 for span in receiver.spans)


def test_the_metrics_of_a_call(start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver) -> None:
    provider.will(streams(*openai_stream("a", "b"), pause_s=0.01))
    with start(REWRITE) as gateway:
        gateway.call(gateway.post(OPENAI, openai_request("reason-mark", stream=True)))
    reported = {metric.name: metric for metric in receiver.metrics}
    assert {
        names.OPERATION_DURATION,
        names.TOKEN_USAGE,
        names.TIME_TO_FIRST_CHUNK,
        names.TIME_PER_OUTPUT_CHUNK,
        names.CALLS,
        names.POLICY_DECISIONS,
        names.POLICY_DURATION,
        names.RECORD_APPENDED,
        names.RECORD_STORED,
        names.RECORD_UNSAVED,
        names.RECORD_OLDEST,
    } <= reported.keys()
    [point] = reported[names.RECORD_STORED].sum.data_points
    assert point.as_int == 8
    tokens = {
        attributes_of(point.attributes)[names.TOKEN_TYPE]: point.sum
        for point in reported[names.TOKEN_USAGE].histogram.data_points
    }
    assert tokens == {"input": 9, "output": 2}


def test_the_metrics_of_the_record(start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver) -> None:
    """What became of every record, with units, and by reason where something was lost; each from a real exporter."""
    provider.will(answers(openai_response()))
    with start(spool_max_bytes=60_000) as gateway:
        gateway.call(gateway.post(OPENAI, openai_request("x" * 80_000)))
    reported = {metric.name: metric for metric in receiver.metrics}
    assert {name: reported[name].unit for name in RECORD_METRICS} == {
        name: names.CONVENTIONS["metric", name].unit for name in RECORD_METRICS
    }

    def value(name: str) -> float:
        kind = reported[name].sum if reported[name].HasField("sum") else reported[name].gauge
        [point] = kind.data_points
        return float(point.as_int if point.HasField("as_int") else point.as_double)

    assert value(names.RECORD_APPENDED) == value(names.RECORD_STORED) == 5
    assert value(names.RECORD_TOMBSTONES) == 1
    assert value(names.RECORD_RETRIED) == value(names.RECORD_UNSAVED) == value(names.RECORD_OLDEST) == 0
    assert value(names.SPOOL_LIMIT) == 60_000
    assert value(names.SPOOL_BYTES) < 60_000
    dropped = {
        attributes_of(point.attributes)[names.DROP_REASON]: point.as_int
        for point in reported[names.RECORD_DROPPED].sum.data_points
    }
    assert dropped == {"spool_full": 1, "unreadable_span": 0}
    assert all(
        reported[name].sum.is_monotonic
        for name in (names.RECORD_APPENDED, names.RECORD_STORED, names.RECORD_RETRIED, names.RECORD_DROPPED)
    )


def test_the_process_is_the_same_in_telemetry_and_in_the_record(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver, record_database: str
) -> None:
    provider.will(answers(openai_response()))
    with start() as gateway:
        gateway.call(gateway.post(OPENAI, openai_request()))
    with psycopg.connect(record_database) as conn:
        [[process_id]] = conn.execute("SELECT process_id::text FROM conversation_calls").fetchall()
        [[known]] = conn.execute("SELECT process_id::text FROM conversation_processes").fetchall()
    assert receiver.instances == {process_id} == {known}


def test_a_span_started_in_another_thread_has_its_calls_id() -> None:
    """The id travels in the OpenTelemetry context too, and an explicit parent knows better than the task."""
    sink = _Sink()
    ours, other = new_call_id(), new_call_id()
    with _telemetry(Settings(), sink) as telemetry:
        token = enter_call(other)
        context = with_call_id(ours, get_current())
        seen: list[object] = []

        def work() -> None:
            span = telemetry.tracer.start_span("in a thread", context)
            seen.append(_attributes(span)[names.CALL_ID])
            span.end()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        span = telemetry.tracer.start_span("here", context)
        seen.append(_attributes(span)[names.CALL_ID])
        span.end()
        leave_call(token)
    assert seen == [str(ours), str(ours)]
    assert call_id_in(Context()) is None


class _Raising:
    """A sink that breaks its word."""

    def submit(self, records: Sequence[StageRecord]) -> Receipt:
        raise RuntimeError("broken sink")


def test_nothing_raised_in_the_pipeline_reaches_a_request(caplog: pytest.LogCaptureFixture) -> None:
    with _telemetry(Settings(), _Raising()) as telemetry, caplog.at_level(logging.ERROR):
        token = enter_call(new_call_id())
        span = telemetry.tracer.start_span("s")
        emit_stage(span, StageEvent(EventType.REQUEST_ORIGINAL, 0, payload=b"x"))
        assert end_span(span) == []
        leave_call(token)
        assert telemetry.processor.lost_spans == 1
    assert "the record of a span was lost" in caplog.text


def test_a_stage_event_on_a_span_without_a_call_is_counted_and_harmless() -> None:
    with _telemetry(Settings(), _Sink()) as telemetry:
        span = telemetry.tracer.start_span("s")
        emit_stage(span, StageEvent(EventType.REQUEST_ORIGINAL, 0, payload=b"x"))
        span.end()
        assert telemetry.processor.lost_spans == 1


def test_a_span_that_cannot_be_copied_safely_is_not_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[ReadableSpan] = []
    provider = TracerProvider()
    processor = ForkingSpanProcessor(_Collecting(exported), _Sink())
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("test")

    def refuses(attributes: object) -> dict[str, object]:
        raise RuntimeError("this cannot be copied")

    span = tracer.start_span("s")
    monkeypatch.setattr("luthien.telemetry.processor._allowed", refuses)
    span.end()
    monkeypatch.undo()
    tracer.start_span("fine").end()
    provider.shutdown()
    assert [each.name for each in exported] == ["fine"]


def test_receipts_come_back_from_the_span_that_ended() -> None:
    sink = _Sink()
    with _telemetry(Settings(), sink) as telemetry:
        token = enter_call(new_call_id())
        span = telemetry.tracer.start_span("s")
        emit_stage(span, StageEvent(EventType.REQUEST_ORIGINAL, 0, payload=b"x"))
        assert end_span(span) == sink.receipts
        assert end_span(telemetry.tracer.start_span("without records")) == []
        leave_call(token)


def test_a_late_receipt_is_counted_and_the_call_goes_on(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hot path waits for the record only until its deadline."""
    submit = Spool.submit

    def never_settled(spool: Spool, records: Sequence[StageRecord]) -> Receipt:
        submit(spool, records)
        return Receipt()

    monkeypatch.setattr(Spool, "submit", never_settled)
    provider.will(answers(openai_response()))
    with start(receipt_deadline_ms=20.0) as gateway:
        response = gateway.post(OPENAI, openai_request())
        assert response.status_code == 200
        assert gateway.call(response)["outcome"] == "completed"
    [metric] = [each for each in receiver.metrics if each.name == names.RECORD_RECEIPT_TIMEOUTS][-1:]
    [point] = metric.sum.data_points
    assert point.as_int > 0


def test_the_spans_end_before_the_terminal_frame_is_given(
    start: StartGateway, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the end marker is given, chat, policy.response and exchange have ended, in that order."""
    ended: list[str] = []
    given: list[bytes] = []
    on_end = ForkingSpanProcessor.on_end

    def noting(processor: ForkingSpanProcessor, span: ReadableSpan) -> None:
        on_end(processor, span)
        ended.append(span.name)

    monkeypatch.setattr(ForkingSpanProcessor, "on_end", noting)
    from luthien.pipeline.client import Client

    send = Client.send

    async def noting_send(client: Client, data: bytes, *, last: bool = False) -> None:
        if last:
            given.append(data)
            ended.append("<end marker>")
        await send(client, data, last=last)

    monkeypatch.setattr(Client, "send", noting_send)
    provider.will(streams(*openai_stream("a")))
    with start() as gateway:
        gateway.call(gateway.post(OPENAI, openai_request(stream=True)))
    assert given == [DONE]
    assert ended == [
        names.RECEIVE,
        names.POLICY_REQUEST,
        "chat gpt-test",
        names.POLICY_RESPONSE,
        names.EXCHANGE,
        "<end marker>",
        f"POST {OPENAI}",
    ]


def test_a_gateway_that_stops_while_bytes_are_given_leaves_a_response_final(
    start: StartGateway, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancellation arrives at the very await that hands bytes over, and those bytes are not given."""
    from luthien.pipeline.client import Client

    send = Client.send
    sent: list[bytes] = []
    gate = provider.gate()

    async def play(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await turn.chunk(openai_chunk({"content": "given"}))
        await gate.wait()
        await turn.chunk(openai_chunk({"content": "lost"}) + DONE)

    async def stuck(client: Client, data: bytes, *, last: bool = False) -> None:
        if len(sent) == 1:
            sent.append(b"")
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(20)
        sent.append(data)
        await send(client, data, last=last)
        gate.open()

    monkeypatch.setattr(Client, "send", stuck)
    provider.will(play)
    with start() as gateway:
        response = gateway.post(OPENAI, openai_request(stream=True))
        call = gateway.call(response)
    assert "gateway_stopped" in response.text
    assert "lost" not in response.text
    assert DONE not in response.content
    assert (call["outcome"], call["error"]["type"]) == ("policy_error", "gateway_stopped")
    final = call["stages"]["response_final"]
    assert final["payload"]["choices"][0]["message"]["content"] == "given"
    assert final["wire_sha256"] == hashlib.sha256(response.content).hexdigest()


def test_an_endpoint_that_is_away_changes_nothing_for_calls(
    record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    provider.will(answers(openai_response()))
    with running_gateway(record_database, provider.url, grace_s=1.0) as gateway:
        assert gateway.call(gateway.post(OPENAI, openai_request()))["completeness"]["state"] == "complete"


def test_the_table_of_conventions_says_what_each_name_means() -> None:
    for convention in names.CONVENTIONS.values():
        assert convention.meaning
        assert convention.source
    assert not {names.PAYLOAD, names.POLICY_REASON, names.ERROR_MESSAGE} & names.EXPORTED_ATTRIBUTES


class _Sink:
    def __init__(self) -> None:
        self.records: list[StageRecord] = []
        self.receipts: list[Receipt] = []

    def submit(self, records: Sequence[StageRecord]) -> Receipt:
        self.records += records
        self.receipts.append(Receipt.settled())
        return self.receipts[-1]


class _Collecting(SpanExporter):
    def __init__(self, spans: list[ReadableSpan]) -> None:
        self._spans = spans

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._spans += spans
        return SpanExportResult.SUCCESS


def _error(message: str) -> Any:
    from opentelemetry.trace import Status, StatusCode

    return Status(StatusCode.ERROR, message)


def _attributes(span: Any) -> dict[str, Any]:
    return dict(span.attributes)


@contextmanager
def _telemetry(settings: Settings, sink: Any = None, monkey_endpoint: str | None = None) -> Iterator[Telemetry]:
    with pytest.MonkeyPatch.context() as patch:
        if monkey_endpoint:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", monkey_endpoint)
            patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(DEADLINE_S))
        telemetry = start_telemetry(settings, sink or _Sink())
    yield telemetry
    assert telemetry.shutdown(DEADLINE_S)
