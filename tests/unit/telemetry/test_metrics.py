"""What is measured of the record is published under the names of the conventions, once it is known."""

from __future__ import annotations

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from luthien.telemetry.metrics import observe_default_partitions


def test_the_rows_of_the_default_partitions_are_published_when_they_have_been_counted() -> None:
    found: list[int | None] = [None]
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    observe_default_partitions(provider.get_meter("test"), lambda: found[0])
    assert reader.get_metrics_data() is None
    found[0] = 3
    data = reader.get_metrics_data()
    assert data is not None
    [metric] = [each for of in data.resource_metrics for scope in of.scope_metrics for each in scope.metrics]
    assert metric.name == "luthien.record.default_partition.rows"
    assert [point.value for point in metric.data.data_points] == [3]  # type: ignore[union-attr]
    provider.shutdown()
