"""What becomes of spans and log lines on their way out, counted where the SDK only writes a line to the log."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from luthien.telemetry.answers import Answers

T = TypeVar("T")
R = TypeVar("R")


class OnTheWay:
    """Counts what waits for an exporter, and what is lost before it, or by it.

    The queue between is the SDK's. It tells nobody what it drops, so it must never come to that: whoever fills it
    asks `takes_one` first. What waits is what was taken and was not exported; the queue is never fuller than that.

    Args:
        answers: what the receiver says of that which it took.
    """

    def __init__(self, max_waiting: int, answers: Answers | None = None) -> None:
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._waiting = 0
        self._answers = answers
        self._lost: Counter[str] = Counter({"queue_full": 0, "export_failed": 0, "rejected": 0})

    @property
    def lost(self) -> dict[str, int]:
        """How many were lost, by why."""
        with self._lock:
            return dict(self._lost)

    def takes_one(self) -> bool:
        """Whether there is room for one more, which is then on its way; if there is none, it is lost."""
        with self._lock:
            has_room = self._waiting < self._max_waiting
            if has_room:
                self._waiting += 1
            else:
                self._lost["queue_full"] += 1
        return has_room

    def export(self, batch: Sequence[T], export: Callable[[Sequence[T]], R], success: R) -> R:
        """Exports a batch that was waiting; anything but `success` is its loss."""
        result = None
        with self._lock:
            self._waiting -= len(batch)
        try:
            result = export(batch)
        finally:
            rejected = self._answers.take_rejected(len(batch)) if self._answers else 0
            with self._lock:
                if result is success:
                    self._lost["rejected"] += rejected
                else:
                    self._lost["export_failed"] += len(batch)
        return result


def points_in(data: MetricsData) -> int:
    """How many points of metrics are exported."""
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    return sum(len(metric.data.data_points) for scope in scopes for metric in scope.metrics)


class CountingExporter(SpanExporter):
    """Passes batches of spans to another exporter, and counts them."""

    def __init__(self, exporter: SpanExporter, max_waiting: int, answers: Answers | None = None) -> None:
        self._exporter = exporter
        self.on_the_way = OnTheWay(max_waiting, answers)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self.on_the_way.export(spans, self._exporter.export, SpanExportResult.SUCCESS)

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
