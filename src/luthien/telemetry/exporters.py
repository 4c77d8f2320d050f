"""Where each signal goes on to: one function a signal over what the settings say of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
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


def span_exporter(settings: Settings) -> SpanExporter | None:
    """What spans are given to; None keeps them here."""
    exporters: list[SpanExporter] = []
    if settings.exports_traces:
        exporters.append(_otlp_spans(settings.otlp("traces")))
    if "console" in settings.traces_exporters:
        exporters.append(ConsoleSpanExporter(out=sys.stdout))
    return SpanExporters(exporters) if len(exporters) > 1 else next(iter(exporters), None)


def metric_readers(settings: Settings) -> list[MetricReader]:
    """What asks for metrics from time to time and sends them on; Prometheus, which asks itself, is not among them."""
    exporters: list[MetricExporter] = []
    if settings.exports_metrics:
        exporters.append(_otlp_metrics(settings.otlp("metrics")))
    if "console" in settings.metrics_exporters:
        exporters.append(ConsoleMetricExporter(out=sys.stdout))
    return [PeriodicExportingMetricReader(exporter) for exporter in exporters]


def log_exporters(settings: Settings) -> list[LogRecordExporter]:
    """What log lines are given to."""
    exporters: list[LogRecordExporter] = []
    if settings.exports_logs:
        exporters.append(otlp_logs(settings.otlp("logs")))
    if "console" in settings.logs_exporters:
        exporters.append(ConsoleLogRecordExporter(sys.stdout, lambda record: record.to_json(indent=None) + "\n"))
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


def _otlp_spans(otlp: Otlp) -> SpanExporter:
    if otlp.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(**_grpc(otlp))
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(**_http(otlp))


def _otlp_metrics(otlp: Otlp) -> MetricExporter:
    if otlp.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        return GrpcExporter(**_grpc(otlp))
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter(**_http(otlp))


def otlp_logs(otlp: Otlp) -> LogRecordExporter:
    if otlp.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter

        return GrpcExporter(**_grpc(otlp))
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

    return OTLPLogExporter(**_http(otlp))


def _http(otlp: Otlp) -> dict[str, Any]:
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
        "session": ExportSession(),
    }


def _grpc(otlp: Otlp) -> dict[str, Any]:
    """What every exporter over gRPC takes: the same, where its own reading of the environment knows less."""
    from grpc import Compression, ssl_channel_credentials

    compressions = {"gzip": Compression.Gzip, "deflate": Compression.Deflate, "none": Compression.NoCompression}
    key = otlp.client_key or otlp.client_certificate
    return {
        "endpoint": otlp.endpoint,
        "headers": dict(otlp.headers),
        "timeout": otlp.timeout_s,
        "compression": compressions[otlp.compression],
        "insecure": otlp.insecure,
        "credentials": ssl_channel_credentials(
            _bytes(otlp.certificate), _bytes(key), _bytes(otlp.client_certificate)
        ),
    }


def _bytes(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
