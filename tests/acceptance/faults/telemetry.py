"""What a gateway says of itself over OTLP."""

from __future__ import annotations

from tests.otlp_receiver import OtlpReceiver, attributes_of


def exporting(collector: OtlpReceiver) -> dict[str, str]:
    """The settings with which a gateway says it often."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
    }


def history(collector: OtlpReceiver, name: str, reason: str | None = None) -> list[int]:
    """All values that came, in order; with a reason, those of that reason."""
    return [
        point.as_int
        for metric in [*collector.metrics]
        if metric.name == name
        for point in (*metric.sum.data_points, *metric.gauge.data_points)
        if reason is None or attributes_of(point.attributes).get("luthien.record.reason") == reason
    ]


def latest(collector: OtlpReceiver, name: str, reason: str | None = None) -> int:
    """The last value that came; 0 when none has come."""
    values = history(collector, name, reason)
    return values[-1] if values else 0
