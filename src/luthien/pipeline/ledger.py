"""What is kept of one call: its spans, its records in order, and how long its parts took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol
from uuid import UUID

from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.metrics import Meter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from luthien.exchange import EventType, Outcome, Side
from luthien.formats.credentials import masked, masked_frames
from luthien.formats.format import ResponseFacts
from luthien.pipeline.measured import Measured, Timings
from luthien.pipeline.session import Session
from luthien.pipeline.sides import Delta
from luthien.policies.chain import Chain, Decision
from luthien.policies.details import details_as_json
from luthien.record.sink import Receipt
from luthien.telemetry import conventions as names
from luthien.telemetry.call_log import CallLog
from luthien.telemetry.context import with_call_id
from luthien.telemetry.metrics import CallMetrics
from luthien.telemetry.spans import StageEvent, Wire, clean_name, emit_stage, end_span, safe_attributes


@dataclass(frozen=True, slots=True)
class Instruments:
    """What every ledger writes with."""

    tracer: Tracer
    metrics: CallMetrics
    receipt_deadline_s: float
    process_id: UUID
    """Who serves the calls."""
    call_log: CallLog = field(default_factory=CallLog)

    @classmethod
    def of(
        cls,
        tracer: Tracer,
        meter: Meter,
        receipt_deadline_s: float,
        process_id: UUID,
        call_log: CallLog | None = None,
    ) -> Instruments:
        return cls(tracer, CallMetrics(meter), receipt_deadline_s, process_id, call_log or CallLog())


class Spoken(Protocol):
    """What a call speaks: a wire format, or whatever is passed through."""

    @property
    def name(self) -> str: ...

    @property
    def provider(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Parent:
    """The call that a child call is part of, the session of both, and the span of the policy that asks."""

    call_id: UUID
    context: Context
    session: Session


class Ledger:
    """The record of one call in the making. Each payload goes onto the span whose work produced it."""

    def __init__(
        self,
        instruments: Instruments,
        call_id: UUID,
        wire_format: Spoken,
        marks: Mapping[str, str] = MappingProxyType({}),
        parent: Parent | None = None,
    ) -> None:
        self.call_id = call_id
        self.timings = Timings()
        self._instruments = instruments
        self._spoken = wire_format
        self._model: str | None = None
        self.started = time.perf_counter()
        """The call's beginning."""
        self._sequence = 0
        self._receipts: list[Receipt] = []
        self._late: list[Receipt] = []
        self._refused: Counter[str] = Counter()
        self._hidden: dict[int, bytes] = {}
        """What is recorded in the place of payloads with credentials, by the sequence of the record."""
        self._checkpoints = 0
        self._policy_s = 0.0
        self._open: dict[str, Span] = {}
        self._session = Session()
        self.measured = Measured(
            instruments.metrics, wire_format.name, wire_format.provider, is_child=parent is not None
        )
        marks = {**marks} if parent is None else {**marks, names.PARENT_CALL_ID: str(parent.call_id)}
        self._marks = {**marks, names.PROCESS_ID: str(instruments.process_id)}
        context = with_call_id(call_id, get_current() if parent is None else parent.context)
        self._exchange = instruments.tracer.start_span(
            names.EXCHANGE, context, attributes={names.WIRE_FORMAT: wire_format.name, **marks}
        )
        self._context: Context = set_span_in_context(self._exchange, context)

    @contextmanager
    def current(self) -> Iterator[None]:
        """What this task logs inside the block is said of this call, not of one whose policy makes this call."""
        token = attach(self._context)
        try:
            yield
        finally:
            detach(token)

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started

    def begin(
        self,
        part: str,
        name: str | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
    ) -> Span:
        """Starts the span of a part of the exchange; `name` if it is not called as the part is."""
        safe = safe_attributes(attributes) if attributes else None
        span = self._instruments.tracer.start_span(name or part, self._context, kind, safe)
        self._open[part] = span
        return span

    def open_span(self, part: str) -> Span:
        """The span of a part while it is open, else that of the whole exchange."""
        return self._open.get(part, self._exchange)

    def as_parent(self) -> Parent:
        """This call as that of a policy that asks a model now."""
        span = self._open.get(names.POLICY_RESPONSE) or self.open_span(names.POLICY_REQUEST)
        return Parent(self.call_id, set_span_in_context(span, self._context), self._session)

    def end(self, part: str, error: str | None = None) -> None:
        """Ends the span of a part, if it is open, and keeps the receipts of the records on it."""
        span = self._open.pop(part, None)
        if span is not None:
            self._end_span(span, error)

    def _end_span(self, span: Span, error: str | None) -> None:
        if error is not None:
            span.set_attribute(names.ERROR_TYPE, error)
            span.set_status(Status(StatusCode.ERROR))
        self._receipts += end_span(span)

    async def safe(self) -> None:
        """Waits until all records so far are safe. When that takes too long, the call goes on and it counts."""
        receipts, self._receipts = self._receipts, []
        deadline = time.perf_counter() + self._instruments.receipt_deadline_s
        # The last first: when it is settled, mostly all are, and nothing else is waited for.
        for receipt in reversed(receipts):
            if not await receipt.wait(max(0.0, deadline - time.perf_counter())):
                self.measured.receipt_was_late(self._context)
                self._late.append(receipt)
            self._refused.update(receipt.reasons)

    def _refused_so_far(self) -> Counter[str]:
        """What is known without waiting; the last receipts come after the record that says this."""
        known = Counter(self._refused)
        for receipt in (*self._late, *self._receipts):
            known.update(receipt.reasons)
        return known

    def stage(
        self,
        span: Span,
        event_type: EventType,
        payload: bytes | None,
        *,
        wire: Wire | None = None,
        same_as: int | None = None,
        scalars: Mapping[str, Any] | None = None,
    ) -> int:
        """Puts a record on a span and returns its sequence.

        `same_as` is the sequence of a record with the same payload, which is then not kept twice.
        """
        sequence, self._sequence = self._sequence, self._sequence + 1
        noted = dict(scalars or {})
        if sequence == 0 or event_type is EventType.CALL_OUTCOME:
            noted |= self._marks
        if same_as is not None:
            hidden = self._hidden.get(same_as)
        else:
            hide = masked_frames if event_type is EventType.RESPONSE_PARTIAL else masked
            hidden = hide(payload) if payload else None
        if hidden is not None:
            payload = self._hidden[sequence] = hidden
            noted[names.MASKED] = True
        sha256 = wire.sha256 if wire is not None and wire.is_payload and hidden is None else None
        emit_stage(
            span,
            StageEvent(
                event_type,
                sequence,
                payload=payload,
                payload_sha256=sha256,
                payload_ref=same_as,
                wire=wire,
                scalars=noted,
            ),
        )
        return sequence

    @property
    def checkpoints(self) -> int | None:
        """How many records of checkpoints the call has left; None when there are none."""
        return self._checkpoints or None

    def checkpoint(self, deltas: Sequence[Delta]) -> None:
        """Records what has passed of a stream that is open, on a span of its own."""
        self._forget_settled()
        span = self._instruments.tracer.start_span(names.CHECKPOINT, self._context)
        for delta in deltas:
            self._checkpoints += 1
            scalars = {
                names.CHECKPOINT_SIDES: delta.sides,
                names.CHECKPOINT_OFFSET: delta.offset,
                names.CHUNKS: delta.chunks,
            }
            self.stage(span, EventType.RESPONSE_PARTIAL, delta.raw, wire=Wire.of(delta.raw), scalars=scalars)
        self._end_span(span, None)

    def _forget_settled(self) -> None:
        """Else an hour of checkpoints would leave their receipts lying about."""
        for receipt in self._receipts:
            self._refused.update(receipt.reasons)
        self._receipts = [receipt for receipt in self._receipts if receipt.refused is None]

    def decisions(self, span: Span, decisions: list[Decision], side: Side, final: bytes | None) -> None:
        """Puts one record for each policy on a span.

        A step's output is kept with its decision, unless it is `final`, which is kept as a stage anyway.
        """
        for decision in decisions:
            if decision.side is not side:
                continue
            self._policy_s += decision.duration_s
            output = decision.output
            digest = decision.output_sha256
            scalars = {
                names.POLICY_NAME: decision.step.name,
                names.POLICY_VERSION: decision.step.version,
                names.POLICY_SIDE: side.value,
                names.POLICY_POSITION: decision.position,
                names.POLICY_ACTION: decision.verdict.action.value,
                names.POLICY_SHADOW: decision.step.is_shadow or None,
                names.POLICY_CHANGED: decision.changed,
                names.POLICY_DURATION_MS: decision.duration_s * 1000,
                names.POLICY_COUNT: decision.verdict.count,
                names.POLICY_CHUNKS: decision.chunks,
                names.POLICY_REASON: decision.verdict.reason or None,
                names.POLICY_DETAILS: details_as_json(decision.verdict.details),
                names.POLICY_OUTPUT_SHA256: digest.hex() if digest else None,
                names.CAPPED: decision.is_capped or None,
            }
            kept = None if output == final else output
            self.stage(span, EventType.POLICY_DECISION, kept, scalars=scalars)
            self.measured.decided(decision, span, self._context)

    def violated(self, side: str, rules: Counter[str]) -> list[str] | None:
        """Counts the rules that a side of the stream broke, and says them as they are recorded: rule=count."""
        self.measured.violated(side, rules, self._context)
        return [f"{rule}={count}" for rule, count in sorted(rules.items())] or None

    def belongs_to(self, session: Session) -> None:
        """The session of the call. Who asks is for the record only."""
        self._session = session
        self._exchange.set_attributes(safe_attributes({names.SESSION: session.id}))

    def asked(self, model: str | None, *, is_streaming: bool) -> None:
        """The model that the client asked for, and whether for a stream."""
        self._model = model
        self.measured.asked(model, is_streaming=is_streaming)

    def goes_through(self, group: str | None) -> None:
        """The group whose policies look at the call, if it is not the default one."""
        if group is not None:
            self._marks[names.POLICY_GROUP] = group
            self._exchange.set_attribute(names.POLICY_GROUP, group)

    def answered(self, span: Span, facts: ResponseFacts, endpoint: Mapping[str, Any], error: str | None) -> None:
        """Describes and measures the call to the provider, once it is over."""
        timings = self.timings
        said = {
            names.RESPONSE_MODEL: facts.model,
            names.RESPONSE_ID: facts.response_id,
            names.FINISH_REASONS: facts.finish_reasons or None,
            names.INPUT_TOKENS: facts.input_tokens,
            names.OUTPUT_TOKENS: facts.output_tokens,
            names.CACHED_TOKENS: facts.cached_tokens,
            names.REASONING_TOKENS: facts.reasoning_tokens,
            names.FIRST_CHUNK: timings.upstream_first_chunk_s,
        }
        span.set_attributes(safe_attributes(said))
        self.measured.answered(
            facts,
            endpoint,
            error,
            timings,
            set_span_in_context(span, self._context),
        )

    def close(self, outcome: Outcome, status: int | None, chain: Chain, error: tuple[str, str] | None = None) -> None:
        """Ends what is open, puts the last record on the exchange and ends it too.

        `error` is a stable name and a message.
        """
        total_s, timings = self.elapsed_s, self.timings
        error_type, message = error or (None, None)
        for part in [*reversed(self._open)]:
            self.end(part, error_type)
        refused = self._refused_so_far()
        parts_s = _parts(total_s, timings.upstream_s, self._policy_s)
        scalars = {
            names.OUTCOME: outcome.value,
            names.HTTP_STATUS: status,
            names.ERROR_TYPE: error_type,
            names.DURATION_MS: total_s * 1000,
            names.POLICY_MS: parts_s["policy"] * 1000,
            names.UPSTREAM_MS: parts_s["upstream"] * 1000,
            names.GATEWAY_MS: parts_s["gateway"] * 1000,
            names.UPSTREAM_FIRST_CHUNK_MS: _ms(timings.upstream_first_chunk_s),
            names.CLIENT_FIRST_CHUNK_MS: _ms(timings.client_first_chunk_s),
            names.RECORDS_EMITTED: self._sequence + 1,
            names.RECORDS_REFUSED: refused.total() or None,
            names.REFUSED_REASONS: [f"{reason}={count}" for reason, count in refused.items()] or None,
            names.CHECKPOINTS: self.checkpoints,
            names.POLICIES: tuple(f"{step.name}@{step.version}" for step in chain.steps) or None,
            names.ERROR_MESSAGE: message,
        }
        self.stage(self._exchange, EventType.CALL_OUTCOME, None, scalars=scalars)
        told = {names.OUTCOME: outcome.value, names.HTTP_STATUS: status}
        self._exchange.set_attributes(safe_attributes(told))
        self._end_span(self._exchange, error_type)
        self.measured.ended(outcome, error_type, parts_s, timings.client_first_chunk_s, self._context)
        self._tell(outcome, status, error_type, total_s)

    def _tell(self, outcome: Outcome, status: int | None, error_type: str | None, total_s: float) -> None:
        log, key = self._instruments.call_log, self._marks.get(names.GATEWAY_KEY)
        if not log.tells(outcome, key is not None):
            return
        facts = {
            names.ERROR_TYPE: error_type,
            names.WIRE_FORMAT: self._spoken.name,
            names.PROVIDER: self._spoken.provider,
            names.REQUEST_MODEL: clean_name(self._model) if self._model is not None else None,
            names.HTTP_STATUS: status,
            names.DURATION_MS: round(total_s * 1000, 3),
            names.CHILD: names.PARENT_CALL_ID in self._marks or None,
            names.GATEWAY_KEY: key,
        }
        log.tell(self.call_id, outcome, facts)


def _parts(total_s: float, upstream_s: float, policy_s: float) -> dict[str, float]:
    """Whose the time of a call was, in parts that add up to all of it: what two waited for counts for the first."""
    upstream_s = min(upstream_s, total_s)
    policy_s = min(policy_s, total_s - upstream_s)
    return {"upstream": upstream_s, "policy": policy_s, "gateway": total_s - upstream_s - policy_s}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
