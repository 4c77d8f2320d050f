"""Where each signal goes on to: one function a signal over what the settings say of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult

from luthien.settings import Settings

_EXPORT_TIMEOUT_S = 3


def span_exporter(settings: Settings) -> SpanExporter | None:
    """What spans are given to; None keeps them here."""
    exporters: list[SpanExporter] = []
    if settings.exports_traces:
        exporters.append(_otlp_spans(settings))
    if "console" in settings.traces_exporters:
        exporters.append(ConsoleSpanExporter(out=sys.stdout))
    return SpanExporters(exporters) if len(exporters) > 1 else next(iter(exporters), None)


def metric_readers(settings: Settings) -> list[MetricReader]:
    """What asks for metrics from time to time and sends them on; Prometheus, which asks itself, is not among them."""
    exporters: list[MetricExporter] = []
    if settings.exports_metrics:
        exporters.append(_otlp_metrics(settings))
    if "console" in settings.metrics_exporters:
        exporters.append(ConsoleMetricExporter(out=sys.stdout))
    return [PeriodicExportingMetricReader(exporter) for exporter in exporters]


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


def _options(settings: Settings) -> dict[str, Any]:
    """Our defaults for what the environment does not say; the exporters read the rest of it themselves."""
    return {} if settings.otlp_timeout else {"timeout": _EXPORT_TIMEOUT_S}


def _otlp_spans(settings: Settings) -> SpanExporter:
    options = _options(settings)
    if settings.otlp_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(**options)
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(compression=None if settings.otlp_compression else Compression.Gzip, **options)


def _otlp_metrics(settings: Settings) -> MetricExporter:
    options = _options(settings)
    if settings.otlp_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        return GrpcExporter(**options)
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter(compression=None if settings.otlp_compression else Compression.Gzip, **options)
