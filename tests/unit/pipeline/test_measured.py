"""What is measured of a call, and that measuring holds up nobody."""

from __future__ import annotations

import asyncio

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

from luthien.formats.format import ResponseFacts
from luthien.pipeline.measured import MAX_GAPS, Measured, Timings
from luthien.telemetry import conventions as names
from luthien.telemetry.metrics import CallMetrics


def counted(reader: InMemoryMetricReader) -> int:
    """How many gaps have been recorded; they are of one kind."""
    data = reader.get_metrics_data()
    assert data is not None
    metrics = [metric for each in data.resource_metrics for scope in each.scope_metrics for metric in scope.metrics]
    points = [
        point for metric in metrics if metric.name == names.TIME_PER_OUTPUT_CHUNK for point in metric.data.data_points
    ]
    return sum(point.count for point in points if isinstance(point, HistogramDataPoint))


def answered(metrics: CallMetrics, gaps: int) -> None:
    measured = Measured(metrics, "openai_chat", "openai", is_child=False)
    timings = Timings(chunk_gaps_s=[0.01] * gaps)
    measured.answered(ResponseFacts(), {}, None, timings, Context())


async def test_others_have_their_turn_while_the_gaps_of_a_long_stream_are_recorded() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    answered(CallMetrics(provider.get_meter("test")), MAX_GAPS)
    seen = [counted(reader)]
    while seen[-1] < MAX_GAPS and len(seen) < MAX_GAPS:
        await asyncio.sleep(0)
        seen.append(counted(reader))
    assert seen[-1] == MAX_GAPS
    assert len(seen) > 50
    provider.shutdown()


def test_nothing_is_put_off_or_counted_that_nobody_reads() -> None:
    metrics = CallMetrics(NoOpMeterProvider().get_meter("test"))
    measured = Measured(metrics, "openai_chat", "openai", is_child=False)
    with measured.under_way():
        measured.asked("a-model", is_streaming=True)
        answered(metrics, MAX_GAPS)  # outside of a loop, in which all of them would be put off
        assert not [*metrics.calls_open.observe(CallbackOptions())]
