"""The fork: what is on a span goes into the record, what is not secret goes on to the trace backend."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from contextvars import ContextVar
from uuid import UUID

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, Span
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Status, format_span_id, format_trace_id
from opentelemetry.util.types import AnyValue, Attributes

from luthien.exchange import StageRecord
from luthien.record.sink import Receipt, RecordSink
from luthien.telemetry import conventions as names
from luthien.telemetry.answers import Answers
from luthien.telemetry.context import call_id_in
from luthien.telemetry.losses import CountingExporter

_log = logging.getLogger(__name__)

RECEIPTS: ContextVar[list[Receipt] | None] = ContextVar("luthien_receipts", default=None)
"""Where the receipts go of the records on spans that end in this task."""


class NoExporter(SpanExporter):
    """Stands where no trace backend is configured."""

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class ForkingSpanProcessor(BatchSpanProcessor):
    """Hands stage events to the record and payload-free copies of sampled spans to the exporter.

    Nothing raised here reaches a request: the SDK would let it.

    Args:
        exporter: where spans go on to; None keeps them here.
        sink: where records go.
        max_queue_size: how many spans may wait for the exporter; what comes then is counted as lost.
        answers: what the exporter's receiver says of what it took.
    """

    def __init__(
        self,
        exporter: SpanExporter | None,
        sink: RecordSink,
        *,
        max_queue_size: int = 2048,
        schedule_delay_millis: float | None = None,
        max_export_batch_size: int | None = None,
        export_timeout_millis: float | None = None,
        answers: Answers | None = None,
    ) -> None:
        self._exporter = CountingExporter(exporter or NoExporter(), max_queue_size, answers)
        super().__init__(
            self._exporter,
            max_queue_size=max_queue_size,
            schedule_delay_millis=schedule_delay_millis,
            max_export_batch_size=max_export_batch_size,
            export_timeout_millis=export_timeout_millis,
        )
        self._exports = exporter is not None
        self._sink = sink
        self.lost_spans = 0
        """Spans whose records could not be read off them: counted, since nothing else knows of them."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        try:
            call_id = call_id_in(parent_context)
            if call_id is not None:
                span.set_attribute(names.CALL_ID, call_id)
        except Exception:  # noqa: BLE001 - the SDK would raise it into the request
            _log.exception("a span was started without its call id")

    def on_end(self, span: ReadableSpan) -> None:
        try:
            self._record(span)
        except Exception:  # noqa: BLE001 - the SDK would raise it into the request
            self.lost_spans += 1
            _log.exception("the record of a span was lost")
        try:
            if self._exports and span.context is not None and span.context.trace_flags.sampled:
                copy = without_payloads(span)
                if self._exporter.on_the_way.takes_one():
                    super().on_end(copy)
        except Exception:  # noqa: BLE001 - the SDK would raise it into the request
            _log.exception("a span was not exported, because no safe copy could be made")

    def lost_on_the_way(self) -> dict[str, int]:
        """How many spans the trace backend should have got and did not, by why."""
        return self._exporter.on_the_way.lost

    def _record(self, span: ReadableSpan) -> None:
        records = records_of(span)
        if not records:
            return
        receipt = self._sink.submit(records)
        receipts = RECEIPTS.get()
        if receipts is not None:
            receipts.append(receipt)


def records_of(span: ReadableSpan) -> list[StageRecord]:
    """The stage events of a span as records; the only reader of what `emit_stage` wrote."""
    events = [event for event in span.events if event.name == names.STAGE_EVENT]
    if not events or span.context is None or span.attributes is None:
        return []
    call_id = UUID(str(span.attributes[names.CALL_ID]))
    trace_id, span_id = format_trace_id(span.context.trace_id), format_span_id(span.context.span_id)
    return [_record_of(event, call_id, trace_id, span_id) for event in events]


def _record_of(event: Event, call_id: UUID, trace_id: str, span_id: str) -> StageRecord:
    attributes = _plain(event.attributes)
    take = attributes.pop
    return StageRecord(
        call_id=call_id,
        sequence=take(names.SEQUENCE),  # type: ignore[arg-type]
        event_type=take(names.STAGE),  # type: ignore[arg-type]
        recorded_at_ns=event.timestamp,
        trace_id=trace_id,
        span_id=span_id,
        payload=take(names.PAYLOAD, None),  # type: ignore[arg-type]
        payload_sha256=take(names.PAYLOAD_SHA256, None),  # type: ignore[arg-type]
        payload_bytes=take(names.PAYLOAD_BYTES, None),  # type: ignore[arg-type]
        wire_sha256=take(names.WIRE_SHA256, None),  # type: ignore[arg-type]
        wire_bytes=take(names.WIRE_BYTES, None),  # type: ignore[arg-type]
        payload_ref=take(names.PAYLOAD_REF, None),  # type: ignore[arg-type]
        attributes=attributes,
    )


def _plain(attributes: Attributes) -> MutableMapping[str, AnyValue]:
    """A copy of the attributes; the SDK's own mapping is copied at once, not item by item under its lock."""
    return attributes.copy() if isinstance(attributes, BoundedAttributes) else dict(attributes or {})


def without_payloads(span: ReadableSpan) -> ReadableSpan:
    """A copy that holds only what is on the allow-list: no payload, no reason, no exception text."""
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_allowed(span.attributes),
        events=[_safe_event(event) for event in span.events],
        links=[Link(link.context) for link in span.links],
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _safe_event(event: Event) -> Event:
    if event.name == names.STAGE_EVENT:
        return Event(event.name, _allowed(event.attributes), event.timestamp)
    kept = {key: value for key, value in (event.attributes or {}).items() if key == "exception.type"}
    return Event("exception" if event.name == "exception" else "event", kept, event.timestamp)


def _allowed(attributes: Attributes) -> dict[str, AnyValue]:
    allowed = names.EXPORTED_ATTRIBUTES
    return {key: value for key, value in _plain(attributes).items() if key in allowed}
