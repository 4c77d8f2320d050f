"""Starting and stopping telemetry: providers of our own, made explicitly and never global."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from opentelemetry.metrics import Meter, MeterProvider, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.trace import Tracer

from luthien import __version__
from luthien.errors import ConfigError
from luthien.record.queue import RecordSink
from luthien.settings import Settings
from luthien.telemetry import conventions as names
from luthien.telemetry.processor import ForkingSpanProcessor
from luthien.telemetry.sampler import RecordEverything, sampler_named

_log = logging.getLogger(__name__)
_EXPORT_TIMEOUT_S = 3


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The pipeline's ends: what makes spans and metrics, and what forks them."""

    tracer_provider: TracerProvider
    meter_provider: MeterProvider
    processor: ForkingSpanProcessor
    tracer: Tracer
    meter: Meter

    def shutdown(self, deadline_s: float) -> bool:
        """Exports what is left; False when the deadline came first. The SDK's own limits do not hold."""
        stops: dict[str, Callable[[], object]] = {"spans": self.tracer_provider.shutdown}
        if isinstance(self.meter_provider, SdkMeterProvider):
            stops["metrics"] = self.meter_provider.shutdown
        ends = time.monotonic() + deadline_s
        threads = {what: _started(stop, what) for what, stop in stops.items()}
        for what, thread in threads.items():
            thread.join(max(0.0, ends - time.monotonic()))
            if thread.is_alive():
                _log.warning("the last %s were not exported within %.1f s", what, deadline_s)
        return not any(thread.is_alive() for thread in threads.values())


def start_telemetry(settings: Settings, sink: RecordSink, process_id: UUID | None = None) -> Telemetry:
    """Starts both providers, and refuses to go on when spans would not be recorded.

    Raises:
        ConfigError: a setting is wrong, or `OTEL_SDK_DISABLED` silences the tracer.
    """
    sampler = RecordEverything(sampler_named(settings.traces_sampler, settings.traces_sampler_arg))
    resource = resource_of(settings, process_id)
    tracer_provider = TracerProvider(
        sampler=sampler, resource=resource, shutdown_on_exit=False, span_limits=unlimited()
    )
    tracer = tracer_provider.get_tracer("luthien", __version__)
    _probe(tracer)
    processor = ForkingSpanProcessor(_span_exporter(settings), sink)
    tracer_provider.add_span_processor(processor)
    meter_provider: MeterProvider = NoOpMeterProvider()
    if settings.exports_metrics:
        reader = PeriodicExportingMetricReader(_metric_exporter(settings))
        meter_provider = SdkMeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
    meter = meter_provider.get_meter("luthien", __version__)
    return Telemetry(tracer_provider, meter_provider, processor, tracer, meter)


def resource_of(settings: Settings, process_id: UUID | None) -> Resource:
    """Who speaks, in every signal."""
    return Resource.create(
        {
            "service.name": settings.service_name,
            "service.version": __version__,
            names.PROCESS_ID: str(process_id or uuid4()),
        }
    )


def unlimited() -> SpanLimits:
    """Limits that no environment variable can lower: a truncated span is a truncated record."""
    unset = SpanLimits.UNSET
    return SpanLimits(
        max_attributes=unset,
        max_events=unset,
        max_links=unset,
        max_span_attributes=unset,
        max_event_attributes=unset,
        max_link_attributes=unset,
        max_attribute_length=unset,
        max_span_attribute_length=unset,
    )


def _probe(tracer: Tracer) -> None:
    span = tracer.start_span("luthien.probe")
    recording = span.is_recording()
    span.end()
    if not recording:
        raise ConfigError(
            "OpenTelemetry records nothing, so there would be no record of any call. "
            "Unset OTEL_SDK_DISABLED and start again."
        )


def _exporter_options(settings: Settings) -> dict[str, Any]:
    """Our defaults for what the environment does not say; the exporters read the rest of it themselves."""
    return {} if settings.otlp_timeout else {"timeout": _EXPORT_TIMEOUT_S}


def _span_exporter(settings: Settings) -> SpanExporter | None:
    if not settings.exports_traces:
        return None
    options = _exporter_options(settings)
    if settings.otlp_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(**options)
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(compression=None if settings.otlp_compression else Compression.Gzip, **options)


def _metric_exporter(settings: Settings) -> MetricExporter:
    options = _exporter_options(settings)
    if settings.otlp_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        return GrpcExporter(**options)
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter(compression=None if settings.otlp_compression else Compression.Gzip, **options)


def _started(stop: Callable[[], object], what: str) -> threading.Thread:
    thread = threading.Thread(target=stop, name=f"luthien-stop-{what}", daemon=True)
    thread.start()
    return thread
