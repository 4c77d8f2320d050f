"""In which form metrics go out over OTLP: what the exporters would read from the environment, and only warn of."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import Counter, Histogram, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, ExponentialBucketHistogramAggregation

from luthien.settings import Settings

_DELTAS: dict[str, tuple[type, ...]] = {
    "cumulative": (),
    "delta": (Counter, Histogram, ObservableCounter),
    "lowmemory": (Counter, Histogram),
}


def preferences(settings: Settings) -> dict[str, Any]:
    """What every exporter of metrics takes: which instruments send differences, and what becomes of histograms."""
    deltas = _DELTAS[settings.otlp_metrics_temporality_preference]
    is_exponential = settings.otlp_metrics_default_histogram_aggregation == "base2_exponential_bucket_histogram"
    kind = ExponentialBucketHistogramAggregation if is_exponential else ExplicitBucketHistogramAggregation
    return {
        "preferred_temporality": dict.fromkeys(deltas, AggregationTemporality.DELTA),
        "preferred_aggregation": {Histogram: kind()},
    }
