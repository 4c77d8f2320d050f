"""Every name Luthien puts on a span, an event or a metric, with its meaning, unit and source.

The GenAI names are kept as strings here because their Python constants are deprecated: the conventions have
moved to a repository of their own and still change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GEN_AI = "https://github.com/open-telemetry/semantic-conventions-genai"
OTEL = "https://opentelemetry.io/docs/specs/semconv/"
OURS = "Luthien"


@dataclass(frozen=True, slots=True)
class Convention:
    """One name: `kind` is attribute, resource, event, span, metric or log; `unit` is UCUM, empty for what has none.

    Of a metric: its `instrument` (counter, updowncounter, gauge or histogram) and the attributes that it may have.
    Of a log: a field that a line may have or, with attributes, the name of a line that has these.
    """

    name: str
    kind: str
    meaning: str
    unit: str
    source: str
    exported: bool
    instrument: str = ""
    attributes: tuple[str, ...] = ()


CONVENTIONS: Final[dict[tuple[str, str], Convention]] = {}
"""Every convention by (kind, name)."""


def _name(name: str, kind: str, meaning: str, unit: str, source: str, exported: bool = True) -> str:
    CONVENTIONS[kind, name] = Convention(name, kind, meaning, unit, source, exported)
    return name


def _attribute(name: str, meaning: str, *, unit: str = "", source: str = OURS) -> str:
    return _name(name, "attribute", meaning, unit, source)


def _kept(name: str, meaning: str, *, unit: str = "") -> str:
    """An event attribute that goes into the record and never to the trace backend."""
    return _name(name, "attribute", meaning, unit, OURS, exported=False)


def _metric(
    name: str, instrument: str, meaning: str, *, unit: str, attributes: tuple[str, ...] = (), source: str = OURS
) -> str:
    CONVENTIONS["metric", name] = Convention(name, "metric", meaning, unit, source, True, instrument, attributes)
    return name


def _log(name: str, meaning: str, *, attributes: tuple[str, ...] = (), source: str = OURS) -> str:
    CONVENTIONS["log", name] = Convention(name, "log", meaning, "", source, True, attributes=attributes)
    return name


# Spans
EXCHANGE: Final = _name("luthien.exchange", "span", "One call, from its body to its last byte", "", OURS)
RECEIVE: Final = _name("luthien.receive", "span", "Reading and parsing the client's request", "", OURS)
POLICY_REQUEST: Final = _name("luthien.policy.request", "span", "Policies on the request", "", OURS)
POLICY_RESPONSE: Final = _name("luthien.policy.response", "span", "Policies on the response", "", OURS)
CHAT: Final = _name("chat {model}", "span", "The call to the provider", "", GEN_AI)
PASSED: Final = _name("{method} {route}", "span", "A request passed through to the provider", "", OTEL)
CHECKPOINT: Final = _name(
    "luthien.stream.checkpoint", "span", "Recording what has passed of an open stream", "", OURS
)

# The stage event
STAGE_EVENT: Final = _name("luthien.stage", "event", "One record of a call", "", OURS)
STAGE: Final = _attribute("luthien.stage", "Which kind of record the event is")
SEQUENCE: Final = _attribute("luthien.seq", "Position among the call's records, from 0 without gaps")
PAYLOAD: Final = _kept("luthien.payload", "The payload's own bytes", unit="By")
PAYLOAD_SHA256: Final = _kept("luthien.payload.sha256", "SHA-256 of the payload as stored")
PAYLOAD_BYTES: Final = _attribute("luthien.payload.size", "Length of the payload as stored", unit="By")
PAYLOAD_REF: Final = _kept("luthien.payload.ref", "Sequence of the record that holds the same payload")
WIRE_SHA256: Final = _kept("luthien.wire.sha256", "SHA-256 of the decoded body, or SSE bytes, on the wire")
WIRE_BYTES: Final = _attribute("luthien.wire.size", "Length of what the wire hash covers", unit="By")

# On every span of a call
CALL_ID: Final = _attribute("luthien.call_id", "The call's UUIDv7")

# On the exchange and its parts
PARENT_CALL_ID: Final = _attribute("luthien.parent_call_id", "The call of the policy that asked, of a child call")
CHILD: Final = _attribute("luthien.child", "Whether a policy asked, and no client")
OUTCOME: Final = _attribute("luthien.outcome", "How the call ended")
WIRE_FORMAT: Final = _attribute("luthien.wire_format", "The wire format of the call")
STREAMING: Final = _attribute("luthien.streaming", "Whether the client asked for a stream")
CHANGED: Final = _attribute("luthien.changed", "Whether policies changed this side on the wire")
GENERATED: Final = _attribute("luthien.generated", "Whether the gateway itself made this payload")
MASKED: Final = _attribute("luthien.credentials_masked", "Whether credentials in the body were masked")
CAPPED: Final = _attribute("luthien.payload.capped", "Whether the payload is only the beginning of what passed")
HTTP_METHOD: Final = _attribute("http.request.method", "The method of a request passed through", source=OTEL)
URL_PATH: Final = _attribute("url.path", "The path of a request passed through, in its one spelling", source=OTEL)
URL_TEMPLATE: Final = _attribute("url.template", "The pattern that opens that path", source=OTEL)
CHUNKS: Final = _attribute("luthien.chunks", "Frames of a stream", unit="{chunk}")
VIOLATIONS: Final = _kept(
    "luthien.stream.violations",
    "What a stream broke of its protocol, as rule=count: the provider, or between it and the client we",
)
CHECKPOINT_SIDES: Final = _attribute(
    "luthien.checkpoint.sides", "Whose bytes a checkpoint holds: original, final, or both when they are the same"
)
CHECKPOINT_OFFSET: Final = _attribute(
    "luthien.checkpoint.offset", "Where they begin among all that passed on that side", unit="By"
)
CHECKPOINTS: Final = _attribute("luthien.checkpoints", "Checkpoints that the call left so far", unit="{record}")
RECORDS_EMITTED: Final = _attribute("luthien.records.emitted", "Records the call left", unit="{record}")
RECORDS_REFUSED: Final = _attribute("luthien.records.refused", "Records not taken in", unit="{record}")
REFUSED_REASONS: Final = _kept("luthien.records.refused.reasons", "Why they were not taken in, as reason=count")
PROCESS_ID: Final = _name(
    "service.instance.id",
    "attribute",
    "The process that serves the call: an attribute of its resource",
    "",
    OTEL,
    False,
)
RECORD_REFUSED: Final = _kept("luthien.record.refused", "Why this record was kept without its payload")
RECORD_IN_MEMORY: Final = _kept("luthien.record.not_crash_proof", "Why a crash could have lost it")
POLICIES: Final = _kept("luthien.policies", "The chain, as name@version")
DURATION_MS: Final = _attribute("luthien.duration", "From the first byte in to the last out", unit="ms")
GATEWAY_MS: Final = _attribute("luthien.duration.gateway", "Neither policy nor provider", unit="ms")
POLICY_MS: Final = _attribute("luthien.duration.policy", "Time spent in policies", unit="ms")
UPSTREAM_MS: Final = _attribute("luthien.duration.upstream", "Waiting for the provider", unit="ms")
UPSTREAM_FIRST_CHUNK_MS: Final = _attribute(
    "luthien.first_chunk.upstream", "Until the provider's first chunk", unit="ms"
)
CLIENT_FIRST_CHUNK_MS: Final = _attribute(
    "luthien.first_chunk.client", "Until the client was given its first chunk", unit="ms"
)
HTTP_STATUS: Final = _attribute("http.response.status_code", "HTTP status", source=OTEL)
ERROR_TYPE: Final = _attribute("error.type", "A short stable name of what went wrong", source=OTEL)
ERROR_MESSAGE: Final = _kept("luthien.error.message", "What went wrong, in words")
SESSION: Final = _attribute("gen_ai.conversation.id", "The conversation a call belongs to", source=GEN_AI)
SESSION_USER: Final = _kept("luthien.session.user", "Who asks, where a client names no conversation")
REQUEST_HEADERS: Final = _kept("luthien.request.headers", "Allow-listed request headers, as JSON")
RESPONSE_HEADERS: Final = _kept("luthien.response.headers", "Allow-listed response headers, as JSON")
GATEWAY_KEY: Final = _attribute("luthien.gateway_key", "The name of the gateway key that the client came with")
CONFIG_VERSION: Final = _attribute(
    "luthien.config.version", "Hash of the configuration file and the policies' files that it names"
)
CONFIG_OUTCOME: Final = _attribute("luthien.config.outcome", "applied or refused: what became of a changed file")

# A policy's decision
POLICY_GROUP: Final = _attribute("luthien.policy.group", "The group whose policies look at the call")
POLICY_NAME: Final = _attribute("luthien.policy.name", "The policy")
POLICY_VERSION: Final = _attribute("luthien.policy.version", "Hash of its code and configuration")
POLICY_ACTION: Final = _attribute("luthien.policy.action", "allow, modify, annotate, block or error")
POLICY_SHADOW: Final = _attribute("luthien.policy.shadow", "Whether it was recorded only, and not carried out")
POLICY_SIDE: Final = _attribute("luthien.policy.side", "request or response")
POLICY_POSITION: Final = _attribute("luthien.policy.position", "Its place in the chain, from 0")
POLICY_CHANGED: Final = _attribute("luthien.policy.changed", "Whether this step changed what it was given")
POLICY_DURATION_MS: Final = _attribute("luthien.policy.duration", "Time in this step", unit="ms")
POLICY_COUNT: Final = _attribute("luthien.policy.count", "How many changes the policy counted", unit="{change}")
POLICY_CHUNKS: Final = _attribute("luthien.policy.chunks", "Chunks it was given", unit="{chunk}")
POLICY_REASON: Final = _kept("luthien.policy.reason", "Why, in the policy's words")
POLICY_DETAILS: Final = _kept("luthien.policy.details", "What it noted beside the reason, as a JSON object")
POLICY_OUTPUT_SHA256: Final = _kept("luthien.policy.output.sha256", "SHA-256 of what the step gave on")

# GenAI
OPERATION: Final = _attribute("gen_ai.operation.name", "The operation: chat", source=GEN_AI)
PROVIDER: Final = _attribute("gen_ai.provider.name", "The provider's protocol", source=GEN_AI)
REQUEST_MODEL: Final = _attribute("gen_ai.request.model", "The model asked for", source=GEN_AI)
REQUEST_STREAM: Final = _attribute("gen_ai.request.stream", "Whether a stream was asked for", source=GEN_AI)
REQUEST_MAX_TOKENS: Final = _attribute("gen_ai.request.max_tokens", "Limit asked for", unit="{token}", source=GEN_AI)
REQUEST_TEMPERATURE: Final = _attribute("gen_ai.request.temperature", "Sampling temperature", source=GEN_AI)
REQUEST_TOP_P: Final = _attribute("gen_ai.request.top_p", "Nucleus sampling", source=GEN_AI)
REQUEST_TOP_K: Final = _attribute("gen_ai.request.top_k", "Top-k sampling", source=GEN_AI)
REQUEST_SEED: Final = _attribute("gen_ai.request.seed", "Sampling seed", source=GEN_AI)
REQUEST_CHOICES: Final = _attribute("gen_ai.request.choice.count", "Choices asked for", source=GEN_AI)
REQUEST_FREQUENCY_PENALTY: Final = _attribute("gen_ai.request.frequency_penalty", "Penalty", source=GEN_AI)
REQUEST_PRESENCE_PENALTY: Final = _attribute("gen_ai.request.presence_penalty", "Penalty", source=GEN_AI)
RESPONSE_MODEL: Final = _attribute("gen_ai.response.model", "The model that answered", source=GEN_AI)
RESPONSE_ID: Final = _attribute("gen_ai.response.id", "The provider's id of the response", source=GEN_AI)
FINISH_REASONS: Final = _attribute("gen_ai.response.finish_reasons", "Why it stopped", source=GEN_AI)
FIRST_CHUNK: Final = _attribute(
    "gen_ai.response.time_to_first_chunk", "From request to the first chunk", unit="s", source=GEN_AI
)
INPUT_TOKENS: Final = _attribute(
    "gen_ai.usage.input_tokens", "Tokens read, cached ones included", unit="{token}", source=GEN_AI
)
OUTPUT_TOKENS: Final = _attribute("gen_ai.usage.output_tokens", "Tokens written", unit="{token}", source=GEN_AI)
CACHED_TOKENS: Final = _attribute(
    "gen_ai.usage.cache_read.input_tokens", "Tokens read from a cache", unit="{token}", source=GEN_AI
)
REASONING_TOKENS: Final = _attribute(
    "gen_ai.usage.reasoning.output_tokens", "Tokens written while thinking", unit="{token}", source=GEN_AI
)
TOKEN_TYPE: Final = _attribute("gen_ai.token.type", "input or output", source=GEN_AI)
SERVER_ADDRESS: Final = _attribute("server.address", "The provider's host", source=OTEL)
SERVER_PORT: Final = _attribute("server.port", "The provider's port", source=OTEL)

# On metrics only
VIOLATED_RULE: Final = _attribute("luthien.stream.rule", "Which rule of its protocol a stream broke")
VIOLATION_SIDE: Final = _attribute("luthien.stream.side", "Who broke it: upstream or gateway")
DROP_REASON: Final = _attribute("luthien.record.reason", "Why a record was dropped")
PART: Final = _attribute(
    "luthien.part", "Whose time it was: upstream (waiting for the provider), policy, or gateway (all the rest)"
)
CHANGE: Final = _attribute("luthien.change", "removed or added")
SIGNAL: Final = _attribute("luthien.signal", "Of which signal: traces")
OTHER: Final = "_OTHER"
"""What stands for each value after the first few hundred of an attribute that others choose."""

# Metrics
_OPERATION: Final = (OPERATION, PROVIDER, SERVER_ADDRESS, SERVER_PORT, REQUEST_MODEL, RESPONSE_MODEL)
OPERATION_DURATION: Final = _metric(
    "gen_ai.client.operation.duration",
    "histogram",
    "Duration of calls to the provider",
    unit="s",
    source=GEN_AI,
    attributes=(*_OPERATION, ERROR_TYPE),
)
TOKEN_USAGE: Final = _metric(
    "gen_ai.client.token.usage",
    "histogram",
    "Tokens read and written",
    unit="{token}",
    source=GEN_AI,
    attributes=(*_OPERATION, TOKEN_TYPE),
)
TIME_TO_FIRST_CHUNK: Final = _metric(
    "gen_ai.client.operation.time_to_first_chunk",
    "histogram",
    "Until the first chunk",
    unit="s",
    source=GEN_AI,
    attributes=_OPERATION,
)
TIME_PER_OUTPUT_CHUNK: Final = _metric(
    "gen_ai.client.operation.time_per_output_chunk",
    "histogram",
    "Between two chunks",
    unit="s",
    source=GEN_AI,
    attributes=_OPERATION,
)
STREAM_VIOLATIONS: Final = _metric(
    "luthien.stream.violations",
    "counter",
    "Rules of their protocols that streams broke",
    unit="{violation}",
    attributes=(VIOLATED_RULE, VIOLATION_SIDE, WIRE_FORMAT),
)
_MODEL: Final = (PROVIDER, REQUEST_MODEL)
CALLS: Final = _metric(
    "luthien.calls",
    "counter",
    "Calls ended, by outcome",
    unit="{call}",
    attributes=(OUTCOME, WIRE_FORMAT, *_MODEL, CHILD, ERROR_TYPE),
)
CALL_DURATION: Final = _metric(
    "luthien.call.duration",
    "histogram",
    "From a call's first byte in to its record's end, just before its last byte out",
    unit="s",
    attributes=(OUTCOME, *_MODEL, STREAMING, CHILD),
)
CALL_PART_DURATION: Final = _metric(
    "luthien.call.part.duration",
    "histogram",
    "That duration in three parts, which add up to it; each call has all three",
    unit="s",
    attributes=(PART, *_MODEL, CHILD),
)
CALL_FIRST_CHUNK: Final = _metric(
    "luthien.call.time_to_first_chunk",
    "histogram",
    "Until the client was given the first chunk, or all of a plain response",
    unit="s",
    attributes=(*_MODEL, CHILD),
)
CALLS_OPEN: Final = _metric(
    "luthien.calls.open",
    "updowncounter",
    "Calls under way; they have no model until their request is read",
    unit="{call}",
    attributes=(WIRE_FORMAT, *_MODEL),
)
STREAMS_OPEN: Final = _metric(
    "luthien.streams.open",
    "updowncounter",
    "Of these, those whose provider answered with a stream that has not ended",
    unit="{stream}",
    attributes=(WIRE_FORMAT, *_MODEL),
)
RECORD_APPENDED: Final = _metric("luthien.record.appended", "counter", "Records taken in", unit="{record}")
RECORD_STORED: Final = _metric("luthien.record.stored", "counter", "Records committed", unit="{record}")
RECORD_REPLAYED: Final = _metric(
    "luthien.record.replayed", "counter", "Records that were there already", unit="{record}"
)
RECORD_RETRIED: Final = _metric("luthien.record.retried", "counter", "Batches tried again", unit="{batch}")
RECORD_DROPPED: Final = _metric(
    "luthien.record.dropped", "counter", "Records lost, by reason", unit="{record}", attributes=(DROP_REASON,)
)
RECORD_UNSAVED: Final = _metric("luthien.record.unsaved", "gauge", "Records waiting", unit="{record}")
RECORD_UNSAVED_BYTES: Final = _metric("luthien.record.unsaved.size", "gauge", "Bytes waiting", unit="By")
RECORD_TOMBSTONES: Final = _metric(
    "luthien.record.tombstones", "counter", "Records kept without their payloads", unit="{record}"
)
RECORD_NOT_CRASH_PROOF: Final = _metric(
    "luthien.record.not_crash_proof",
    "counter",
    "Records that waited in memory only, by reason",
    unit="{record}",
    attributes=(DROP_REASON,),
)
RECORD_ADOPTED: Final = _metric("luthien.record.adopted", "counter", "Records of dead processes", unit="{record}")
RECORD_DEFAULT_PARTITION: Final = _metric(
    "luthien.record.default_partition.rows",
    "gauge",
    "Rows that have no day's partition yet; should be 0",
    unit="{row}",
)
SPOOL_BYTES: Final = _metric("luthien.record.spool.size", "gauge", "Bytes on the disk", unit="By")
SPOOL_LIMIT: Final = _metric("luthien.record.spool.limit", "gauge", "Bytes that it may use on the disk", unit="By")
RECORD_OLDEST: Final = _metric("luthien.record.oldest_unsaved_age", "gauge", "Age of the oldest waiting", unit="s")
RECORD_BATCH_SIZE: Final = _metric(
    "luthien.record.batch.size", "histogram", "Records written to the database at once", unit="{record}"
)
RECORD_BATCH_BYTES: Final = _metric(
    "luthien.record.batch.bytes", "histogram", "What they took, each with 1,024 bytes beside its payload", unit="By"
)
RECORD_BATCH_DURATION: Final = _metric(
    "luthien.record.batch.duration",
    "histogram",
    "How long the database took for them, at the attempt that succeeded",
    unit="s",
)
EXPORT_DROPPED: Final = _metric(
    "luthien.export.dropped",
    "counter",
    "Spans, log lines and points of metrics lost on the way out: no room, a failed export, or rejected",
    unit="{item}",
    attributes=(SIGNAL, ERROR_TYPE),
)
RECORD_RECEIPT_TIMEOUTS: Final = _metric(
    "luthien.record.receipt_timeouts", "counter", "Receipts that came too late to wait for", unit="{receipt}"
)
INDEX_INDEXED: Final = _metric("luthien.index.indexed", "counter", "Calls that were indexed", unit="{call}")
INDEX_FAILED: Final = _metric(
    "luthien.index.failed", "counter", "Calls of which only what filters ask for could be indexed", unit="{call}"
)
INDEX_WAITING: Final = _metric("luthien.index.waiting", "gauge", "Calls that wait to be indexed", unit="{call}")
INDEX_LAG: Final = _metric("luthien.index.lag", "gauge", "How long the first of these has waited", unit="s")
POLICY_DECISIONS: Final = _metric(
    "luthien.policy.decisions",
    "counter",
    "Decisions by action",
    unit="{decision}",
    attributes=(POLICY_NAME, POLICY_VERSION, POLICY_SIDE, POLICY_ACTION, POLICY_CHANGED, POLICY_SHADOW),
)
POLICY_DURATION: Final = _metric(
    "luthien.policy.duration",
    "histogram",
    "Time in a policy",
    unit="s",
    attributes=(POLICY_NAME, POLICY_VERSION, POLICY_SIDE, POLICY_SHADOW),
)
POLICY_CHANGED_SIZE: Final = _metric(
    "luthien.policy.changed.size",
    "counter",
    "What a step removed and added: the bytes from the first that differs to the last, of the JSON before and after "
    "it without formatting; of streams, of the responses they add up to, if they passed whole and are at most 4 MiB",
    unit="By",
    attributes=(POLICY_NAME, POLICY_VERSION, POLICY_SIDE, CHANGE),
)
CONFIG_RELOADS: Final = _metric(
    "luthien.config.reloads",
    "counter",
    "Changes of the configuration, applied or refused",
    unit="{reload}",
    attributes=(CONFIG_OUTCOME,),
)

# Log lines
LOG_TIME: Final = _log("time", "When it was said, in UTC; over OTLP the record's own time")
LOG_LEVEL: Final = _log("level", "DEBUG, INFO, WARNING, ERROR or CRITICAL; over OTLP the severity")
LOG_LOGGER: Final = _log("logger", "Which part of Luthien says it; over OTLP the name of the scope")
LOG_MESSAGE: Final = _log("message", "What is said, at most 8,192 characters of it; over OTLP the body")
LOG_TRACE_ID: Final = _log("trace_id", "The trace in which it was said; over OTLP the record's own")
LOG_SPAN_ID: Final = _log("span_id", "The span in which it was said; over OTLP the record's own")
LOG_EVENT: Final = _log("event_name", "The name of a line that has one; over OTLP the record's own")
EXCEPTION_TYPE: Final = _log("exception.type", "The class of an exception", source=OTEL)
EXCEPTION_FRAMES: Final = _log(
    "exception.stacktrace",
    "File, line and function of each frame that it came through, at most the 64 innermost; never its text, which may "
    "quote a payload",
    source=OTEL,
)
CALLS_LEFT_OUT: Final = _log(
    "luthien.calls.left_out", "Rejected calls before this one that have no line of their own"
)
CALL_ENDED: Final = _log(
    "luthien.call.ended",
    "A call has ended",
    attributes=(
        OUTCOME,
        ERROR_TYPE,
        WIRE_FORMAT,
        PROVIDER,
        REQUEST_MODEL,
        HTTP_STATUS,
        DURATION_MS,
        CHILD,
        GATEWAY_KEY,
        CALLS_LEFT_OUT,
    ),
)
LOG_ATTRIBUTES: Final = frozenset({CALL_ID, *CONVENTIONS["log", CALL_ENDED].attributes})
"""The allow-list: what else was said with a line does not leave the process."""

# Attributes of the HTTP server span that its instrumentation sets, in the old and the stable conventions.
# Not among them: anything that may carry a query string, an address or a header.
SERVER_SPAN_ATTRIBUTES: Final = frozenset(
    {
        "http.method",
        "http.route",
        "http.status_code",
        "http.scheme",
        "http.flavor",
        "http.request.method",
        "url.scheme",
        "url.path",
        "network.protocol.name",
        "network.protocol.version",
        "net.host.port",
    }
)

EXPORTED_ATTRIBUTES: Final = SERVER_SPAN_ATTRIBUTES | {
    convention.name for convention in CONVENTIONS.values() if convention.kind == "attribute" and convention.exported
}
"""The allow-list: an attribute that is not here never leaves the process."""

ONLY_ON_METRICS: Final = frozenset(
    {VIOLATED_RULE, VIOLATION_SIDE, DROP_REASON, TOKEN_TYPE, CONFIG_OUTCOME, PART, CHANGE, SIGNAL}
)
"""Attributes of metrics that are on no span and in no record."""

# Resource
SERVICE_NAME: Final = _name("service.name", "resource", "`luthien`, or as the settings say", "", OTEL)
SERVICE_VERSION: Final = _name("service.version", "resource", "The version of Luthien", "", OTEL)
_name(PROCESS_ID, "resource", "The process: `process_id` of `conversation_processes` in the database", "", OTEL)
