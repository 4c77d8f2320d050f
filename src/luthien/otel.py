"""The standard variables of OpenTelemetry, as fields of the settings; those of OTLP are in `otlp`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, Field, field_validator

from luthien.otlp import OtlpSettings


class OtelSettings(OtlpSettings):
    """Every `OTEL_*` variable that Luthien reads itself; the SDK reads the others."""

    traces_exporter: str = Field(
        default="otlp", validation_alias=AliasChoices("OTEL_TRACES_EXPORTER", "traces_exporter")
    )
    metrics_exporter: str = Field(
        default="otlp", validation_alias=AliasChoices("OTEL_METRICS_EXPORTER", "metrics_exporter")
    )
    prometheus_host: str = Field(
        default="localhost", validation_alias=AliasChoices("OTEL_EXPORTER_PROMETHEUS_HOST", "prometheus_host")
    )
    prometheus_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=9464, validation_alias=AliasChoices("OTEL_EXPORTER_PROMETHEUS_PORT", "prometheus_port")
    )
    logs_exporter: str = Field(default="otlp", validation_alias=AliasChoices("OTEL_LOGS_EXPORTER", "logs_exporter"))
    traces_sampler: str = Field(
        default="parentbased_always_on",
        validation_alias=AliasChoices("OTEL_TRACES_SAMPLER", "traces_sampler"),
    )
    traces_sampler_arg: str | None = Field(
        default=None, validation_alias=AliasChoices("OTEL_TRACES_SAMPLER_ARG", "traces_sampler_arg")
    )
    metrics_exemplar_filter: Literal["trace_based", "always_on", "always_off"] = Field(
        default="trace_based",
        validation_alias=AliasChoices("OTEL_METRICS_EXEMPLAR_FILTER", "metrics_exemplar_filter"),
    )
    max_queued_spans: Annotated[int, Field(gt=0)] = Field(
        default=2048, validation_alias=AliasChoices("OTEL_BSP_MAX_QUEUE_SIZE", "max_queued_spans")
    )
    max_queued_logs: Annotated[int, Field(gt=0)] = Field(
        default=2048, validation_alias=AliasChoices("OTEL_BLRP_MAX_QUEUE_SIZE", "max_queued_logs")
    )
    service_name: str = Field(default="luthien", validation_alias=AliasChoices("OTEL_SERVICE_NAME", "service_name"))

    @field_validator("traces_exporter", "logs_exporter")
    @classmethod
    def _exports_to(cls, value: str) -> str:
        _exporters(value, ("otlp", "console"))
        return value

    @field_validator("metrics_exporter")
    @classmethod
    def _exports_metrics_to(cls, value: str) -> str:
        _exporters(value, ("otlp", "prometheus", "console"))
        return value

    @property
    def traces_exporters(self) -> frozenset[str]:
        return _listed(self.traces_exporter)

    @property
    def metrics_exporters(self) -> frozenset[str]:
        return _listed(self.metrics_exporter)

    @property
    def logs_exporters(self) -> frozenset[str]:
        return _listed(self.logs_exporter)

    @property
    def exports_traces(self) -> bool:
        """Over OTLP."""
        return "otlp" in self.traces_exporters and self.has_endpoint("traces")

    @property
    def exports_metrics(self) -> bool:
        """Over OTLP."""
        return "otlp" in self.metrics_exporters and self.has_endpoint("metrics")

    @property
    def exports_logs(self) -> bool:
        """Over OTLP."""
        return "otlp" in self.logs_exporters and self.has_endpoint("logs")


def _listed(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(",") if part.strip())


def _exporters(text: str, known: tuple[str, ...]) -> None:
    chosen = _listed(text)
    if chosen - {*known, "none"} or ("none" in chosen and len(chosen) > 1):
        raise ValueError(f"must be a list, separated by commas, of {', '.join(known)}; or none")
