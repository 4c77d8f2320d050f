"""Where each signal goes on to: one function a signal over what the settings say of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter, LogRecordExporter
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult

from luthien.otlp import Otlp
from luthien.settings import Settings
from luthien.telemetry.answers import Answers
from luthien.telemetry.preferences import preferences


def span_exporter(settings: Settings, answers: Answers) -> SpanExporter | None:
    """What spans are given to; None keeps them here.

    Args:
        answers: what is told what the receiver says of that which it takes.
    """
    exporters: list[SpanExporter] = []
    if settings.exports_traces:
        exporters.append(_otlp_spans(settings.otlp("traces"), answers))
    if "console" in settings.traces_exporters:
        exporters.append(ConsoleSpanExporter(out=sys.stdout))
    return SpanExporters(exporters) if len(exporters) > 1 else next(iter(exporters), None)


def metric_readers(settings: Settings, answers: Answers) -> list[MetricReader]:
    """What asks for metrics from time to time and sends them on; Prometheus, which asks itself, is not among them."""
    exporters: list[MetricExporter] = []
    if settings.exports_metrics:
        exporters.append(_otlp_metrics(settings.otlp("metrics"), answers, preferences(settings)))
    if "console" in settings.metrics_exporters:
        exporters.append(ConsoleMetricExporter(out=sys.stdout))
    return [PeriodicExportingMetricReader(exporter) for exporter in exporters]


def log_exporters(settings: Settings) -> list[tuple[LogRecordExporter, Answers]]:
    """What log lines are given to, and what is told what is said of those that were taken."""
    exporters: list[tuple[LogRecordExporter, Answers]] = []
    if settings.exports_logs:
        answers = Answers("logs")
        exporters.append((otlp_logs(settings.otlp("logs"), answers), answers))
    if "console" in settings.logs_exporters:
        lines = ConsoleLogRecordExporter(sys.stdout, lambda record: record.to_json(indent=None) + "\n")
        exporters.append((lines, Answers("logs")))
    return exporters


class SpanExporters(SpanExporter):
    """Gives the same spans to each of several exporters."""

    def __init__(self, exporters: Sequence[SpanExporter]) -> None:
        self._exporters = exporters

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        results = [exporter.export(spans) for exporter in self._exporters]
        return max(results, key=lambda result: result.value)

    def shutdown(self) -> None:
        for exporter in self._exporters:
            exporter.shutdown()


def _otlp_spans(otlp: Otlp, answers: Answers) -> SpanExporter:
    if otlp.protocol == "grpc":
        from luthien.telemetry.grpc_export import GrpcSpans

        return GrpcSpans(otlp, answers)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(**_http(otlp, answers))


def _otlp_metrics(otlp: Otlp, answers: Answers, preferred: dict[str, Any]) -> MetricExporter:
    if otlp.protocol == "grpc":
        from luthien.telemetry.grpc_export import GrpcMetrics

        return GrpcMetrics(otlp, answers, **preferred)
    from luthien.telemetry.http_session import HttpMetrics

    return HttpMetrics(answers, **_http(otlp, answers), **preferred)


def otlp_logs(otlp: Otlp, answers: Answers) -> LogRecordExporter:
    if otlp.protocol == "grpc":
        from luthien.telemetry.grpc_export import GrpcLogs

        return GrpcLogs(otlp, answers)
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

    return OTLPLogExporter(**_http(otlp, answers))


def _http(otlp: Otlp, answers: Answers) -> dict[str, Any]:
    """What every exporter over HTTP takes."""
    from opentelemetry.exporter.otlp.proto.http import Compression

    from luthien.telemetry.http_session import ExportSession

    return {
        "endpoint": otlp.endpoint,
        "headers": dict(otlp.headers),
        "timeout": otlp.timeout_s,
        "compression": Compression(otlp.compression),
        "certificate_file": otlp.certificate,
        "client_key_file": otlp.client_key,
        "client_certificate_file": otlp.client_certificate,
        "session": ExportSession(answers),
    }
