"""Spans that do not reach the trace backend are counted, by why: each is either exported or lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from luthien.record.sink import DiscardingSink
from luthien.telemetry.processor import ForkingSpanProcessor

DEADLINE_S = 20.0


class Held(SpanExporter):
    """Exports when it may, and says of itself whether that went well."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.may_go_on = threading.Event()
        self.result: SpanExportResult | Exception = SpanExportResult.SUCCESS
        self.exported = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.began.set()
        assert self.may_go_on.wait(DEADLINE_S)
        if isinstance(self.result, Exception):
            raise self.result
        self.exported += len(spans)
        return self.result


@pytest.fixture
def exporter() -> Held:
    return Held()


@pytest.fixture
def processor(exporter: Held) -> Iterator[ForkingSpanProcessor]:
    made = ForkingSpanProcessor(
        exporter, DiscardingSink(), max_queue_size=10, max_export_batch_size=4, schedule_delay_millis=1.0
    )
    yield made
    exporter.may_go_on.set()
    made.shutdown()  # type: ignore[no-untyped-call]


def end_spans(processor: ForkingSpanProcessor, count: int) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    for number in range(count):
        provider.get_tracer("test").start_span(f"span {number}").end()


def test_what_finds_the_queue_full_is_lost_and_all_else_is_exported(
    processor: ForkingSpanProcessor, exporter: Held
) -> None:
    end_spans(processor, 4)
    assert exporter.began.wait(DEADLINE_S)  # one batch is on its way, and does not come to an end
    end_spans(processor, 25)
    exporter.may_go_on.set()
    processor.force_flush()
    lost = processor.lost_on_the_way()
    assert lost == {"queue_full": 29 - exporter.exported, "export_failed": 0, "rejected": 0}
    assert exporter.exported < 15


def test_there_is_room_again_when_the_queue_was_exported(processor: ForkingSpanProcessor, exporter: Held) -> None:
    exporter.may_go_on.set()
    for _ in range(10):
        end_spans(processor, 5)
        processor.force_flush()
    assert exporter.exported == 50
    assert processor.lost_on_the_way() == {"queue_full": 0, "export_failed": 0, "rejected": 0}


@pytest.mark.parametrize("result", [SpanExportResult.FAILURE, ConnectionError()])
def test_a_batch_whose_export_fails_is_lost(
    processor: ForkingSpanProcessor, exporter: Held, result: SpanExportResult | Exception
) -> None:
    exporter.result = result
    exporter.may_go_on.set()
    end_spans(processor, 3)
    processor.force_flush()
    assert processor.lost_on_the_way() == {"queue_full": 0, "export_failed": 3, "rejected": 0}
