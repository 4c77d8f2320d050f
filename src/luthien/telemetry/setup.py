"""Starting and stopping telemetry: providers of our own, made explicitly and never global."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from opentelemetry.metrics import Meter, MeterProvider, NoOpMeterProvider
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    ExemplarFilter,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.trace import Tracer

from luthien import __version__
from luthien.errors import ConfigError
from luthien.record.sink import RecordSink
from luthien.settings import Settings
from luthien.telemetry import conventions as names
from luthien.telemetry.answers import Answers
from luthien.telemetry.exporters import metric_readers, span_exporter
from luthien.telemetry.processor import ForkingSpanProcessor
from luthien.telemetry.sampler import RecordEverything, sampler_named

if TYPE_CHECKING:
    from luthien.telemetry.scraping import Scraping

_log = logging.getLogger(__name__)
_EXEMPLARS: dict[str, type[ExemplarFilter]] = {
    "trace_based": TraceBasedExemplarFilter,
    "always_on": AlwaysOnExemplarFilter,
    "always_off": AlwaysOffExemplarFilter,
}


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The pipeline's ends: what makes spans and metrics, and what forks them."""

    tracer_provider: TracerProvider
    meter_provider: MeterProvider
    processor: ForkingSpanProcessor
    tracer: Tracer
    meter: Meter
    scraping: Scraping | None = None
    metric_answers: Answers = field(default_factory=lambda: Answers("metrics"))

    def lost_points(self) -> dict[str, int]:
        """How many points of metrics the receiver took and rejected; of others, the next export makes up for them."""
        return {"rejected": self.metric_answers.all_rejected}

    def shutdown(self, deadline_s: float) -> bool:
        """Exports what is left; False when the deadline came first. The SDK's own limits do not hold."""
        stops: dict[str, Callable[[], object]] = {"spans": self.tracer_provider.shutdown}
        if isinstance(self.meter_provider, SdkMeterProvider):
            stops["metrics"] = self.meter_provider.shutdown
        if self.scraping is not None:
            stops["scrapes"] = self.scraping.stop
        ends = time.monotonic() + deadline_s
        threads = {what: _started(stop, what) for what, stop in stops.items()}
        for what, thread in threads.items():
            thread.join(max(0.0, ends - time.monotonic()))
            if thread.is_alive():
                _log.warning("the last %s were not exported within %.1f s", what, deadline_s)
        return not any(thread.is_alive() for thread in threads.values())


def start_telemetry(
    settings: Settings, sink: RecordSink, process_id: UUID | None = None, processes: int = 1
) -> Telemetry:
    """Starts both providers, and refuses to go on when spans would not be recorded.

    Args:
        processes: how many like this one serve here; each needs a port of its own for Prometheus.

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
    scraping = _scraping(settings, processes)
    answers, metric_answers = Answers("traces"), Answers("metrics")
    try:
        processor = ForkingSpanProcessor(
            span_exporter(settings, answers), sink, max_queue_size=settings.max_queued_spans, answers=answers
        )
        readers = [*metric_readers(settings, metric_answers), *([scraping.reader] if scraping else [])]
    except ValueError as error:
        raise ConfigError(f"OpenTelemetry refuses a setting: {error}") from error
    tracer_provider.add_span_processor(processor)
    meter_provider = _meter_provider(settings, readers, resource)
    if scraping is not None:
        scraping.start()
    meter = meter_provider.get_meter("luthien", __version__)
    return Telemetry(tracer_provider, meter_provider, processor, tracer, meter, scraping, metric_answers)


def resource_of(settings: Settings, process_id: UUID | None) -> Resource:
    """Who speaks, in every signal. What the environment says of version and instance is not believed: we know."""
    said = OTELResourceDetector().detect().attributes
    is_named = "service_name" in settings.model_fields_set
    return Resource.create(
        {
            names.SERVICE_NAME: settings.service_name
            if is_named
            else said.get(names.SERVICE_NAME, settings.service_name),
            names.SERVICE_VERSION: __version__,
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


def _meter_provider(settings: Settings, readers: Sequence[MetricReader], resource: Resource) -> MeterProvider:
    if not readers:
        return NoOpMeterProvider()
    return SdkMeterProvider(
        metric_readers=readers,
        resource=resource,
        exemplar_filter=_EXEMPLARS[settings.metrics_exemplar_filter](),
        shutdown_on_exit=False,
    )


def _scraping(settings: Settings, processes: int) -> Scraping | None:
    if "prometheus" not in settings.metrics_exporters:
        return None
    from luthien.telemetry.scraping import Scraping, ports_of

    return Scraping(settings.prometheus_host, ports_of(settings.prometheus_port, processes))


def _started(stop: Callable[[], object], what: str) -> threading.Thread:
    thread = threading.Thread(target=stop, name=f"luthien-stop-{what}", daemon=True)
    thread.start()
    return thread
