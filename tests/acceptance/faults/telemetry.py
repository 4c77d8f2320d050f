"""What a gateway says of itself over OTLP."""

from __future__ import annotations

from tests.otlp_receiver import OtlpReceiver, attributes_of


def exporting(collector: OtlpReceiver) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_METRIC_EXPORT_INTERVAL": "200"}


def metric(collector: OtlpReceiver, name: str, reason: str | None = None) -> int:
    """The last value that came; with a reason, of that reason. 0 when none has come, or none is known."""
    values = [
        point.as_int
        for found in collector.metrics[::-1]
        if found.name == name
        for point in (*found.sum.data_points, *found.gauge.data_points)
        if reason is None or attributes_of(point.attributes).get("luthien.record.reason") == reason
    ]
    return values[0] if values else 0
