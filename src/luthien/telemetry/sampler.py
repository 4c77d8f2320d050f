"""Sampling thins out the trace backend and never the record."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes

from luthien.errors import ConfigError


class RecordEverything(Sampler):
    """Asks the configured sampler what to export, and records the rest all the same."""

    def __init__(self, export: Sampler) -> None:
        self._export = export

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        result = self._export.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if result.decision is not Decision.DROP:
            return result
        # A sampler that drops returns no attributes: give the span the ones it was started with.
        return SamplingResult(Decision.RECORD_ONLY, attributes, result.trace_state)

    def get_description(self) -> str:
        return f"RecordEverything({self._export.get_description()})"


def sampler_named(name: str, argument: str | None) -> Sampler:
    """The sampler that `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` describe.

    Raises:
        ConfigError: an unknown name, or a ratio that is none.
    """
    fixed = {
        "always_on": ALWAYS_ON,
        "always_off": ALWAYS_OFF,
        "parentbased_always_on": DEFAULT_ON,
        "parentbased_always_off": DEFAULT_OFF,
    }
    name = name.strip().lower()
    if name in fixed:
        return fixed[name]
    if name not in {"traceidratio", "parentbased_traceidratio"}:
        known = ", ".join([*fixed, "traceidratio", "parentbased_traceidratio"])
        raise ConfigError(f"OTEL_TRACES_SAMPLER={name!r} is not known; use one of {known}")
    try:
        ratio = float(argument) if argument else 1.0
        return TraceIdRatioBased(ratio) if name == "traceidratio" else ParentBasedTraceIdRatio(ratio)
    except ValueError:
        raise ConfigError(f"OTEL_TRACES_SAMPLER_ARG={argument!r} must be a ratio from 0 to 1") from None
