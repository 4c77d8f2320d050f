"""What is measured of one call, under the attributes that say which kind of call it is.

Each measurement is made in the context of the span whose work it is, so that its exemplar leads there.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Span, set_span_in_context

from luthien.exchange import Outcome
from luthien.formats.format import ResponseFacts
from luthien.policies.step import Decision
from luthien.telemetry import conventions as names
from luthien.telemetry.metrics import CallMetrics

MAX_GAPS = 4096
# So many of them are recorded before others have their turn: a third of a millisecond, or about that.
_GAPS_AT_ONCE = 32


@dataclass(slots=True)
class Timings:
    """Durations in seconds, on the monotonic clock, from the call's first byte."""

    sent: float = field(default_factory=time.perf_counter)
    """When the provider was called."""
    upstream_s: float = 0.0
    """How long the provider was waited for."""
    upstream_first_chunk_s: float | None = None
    client_first_chunk_s: float | None = None
    chunk_gaps_s: list[float] = field(default_factory=list)
    """Between one chunk and the next, of the first `MAX_GAPS`."""

    def first_chunk(self) -> None:
        """The provider's first byte of a body has come."""
        self.upstream_first_chunk_s = time.perf_counter() - self.sent

    def waited(self, since: float) -> float:
        """The time since then was the provider's; returns the time now."""
        now = time.perf_counter()
        self.upstream_s += now - since
        return now


class Measured:
    """The measurements of one call.

    Args:
        format_name, provider: what the call speaks.
        is_child: whether a policy asks, and no client.
    """

    def __init__(self, metrics: CallMetrics, format_name: str, provider: str, *, is_child: bool) -> None:
        self._metrics = metrics
        self._format = {names.WIRE_FORMAT: format_name}
        self._model = {names.PROVIDER: provider}
        self._child: dict[str, Any] = {names.CHILD: True} if is_child else {}
        self._streaming: dict[str, bool] = {}
        self._asked_model: str | None = None
        self._is_under_way = False
        self._owed: list[Callable[[], None]] = []

    def asked(self, model: str | None, *, is_streaming: bool) -> None:
        """The model that the client asks for, and whether for a stream."""
        self._streaming = {names.STREAMING: is_streaming}
        if model is None or not self._metrics.are_read:
            return
        self._count_open(-1)
        self._asked_model = model
        self._name_model()
        self._count_open(1)

    def _name_model(self) -> None:
        if self._asked_model is not None:
            self._model = {**self._model, names.REQUEST_MODEL: self._metrics.request_models.of(self._asked_model)}

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """The call is open for as long as the block runs.

        What is measured of its end is recorded when it has run: the client does not wait for that.
        """
        self._is_under_way = True
        self._count_open(1)
        try:
            yield
        finally:
            self._count_open(-1)
            self._is_under_way = False
            for record in self._owed:
                record()
            self._owed.clear()

    def _afterwards(self, record: Callable[[], None]) -> None:
        if not self._metrics.are_read:
            return
        if self._is_under_way:
            self._owed.append(record)
        else:
            record()

    def _count_open(self, amount: int) -> None:
        if self._is_under_way and self._metrics.are_read:
            self._metrics.calls_open.add(amount, {**self._format, **self._model})

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """A stream of the provider's is open for as long as the block runs."""
        kind = {**self._format, **self._model}
        self._metrics.streams_open.add(1, kind)
        try:
            yield
        finally:
            self._metrics.streams_open.add(-1, kind)

    def receipt_was_late(self, context: Context) -> None:
        self._metrics.receipt_timeouts.add(1, context=context)

    def violated(self, side: str, rules: Counter[str], context: Context) -> None:
        """A side of the stream broke these rules so often."""
        for rule, count in rules.items():
            kind = {names.VIOLATED_RULE: rule, names.VIOLATION_SIDE: side, **self._format}
            self._metrics.stream_violations.add(count, kind, context)

    def decided(self, decision: Decision, span: Span, context: Context) -> None:
        """A policy decided, as is recorded on that span."""
        metrics, step = self._metrics, decision.step
        if not metrics.are_read:
            return
        context = set_span_in_context(span, context)
        kind: dict[str, Any] = {
            names.POLICY_NAME: metrics.policy_names.of(step.name),
            names.POLICY_VERSION: metrics.policy_versions.of(step.version),
            names.POLICY_SIDE: decision.side.value,
        }
        extent = decision.extent
        if extent is not None:
            metrics.policy_changed_size.add(extent.removed_bytes, {**kind, names.CHANGE: "removed"}, context)
            metrics.policy_changed_size.add(extent.added_bytes, {**kind, names.CHANGE: "added"}, context)
        if step.is_shadow:
            kind[names.POLICY_SHADOW] = True
        metrics.policy_duration.record(decision.duration_s, kind, context)
        kind |= {names.POLICY_ACTION: decision.verdict.action.value, names.POLICY_CHANGED: decision.changed}
        metrics.policy_decisions.add(1, kind, context)

    def answered(
        self, facts: ResponseFacts, endpoint: Mapping[str, Any], error: str | None, timings: Timings, context: Context
    ) -> None:
        """The call to the provider is over: the metrics of the GenAI conventions."""
        self._afterwards(partial(self._record_answer, facts, endpoint, error, replace(timings), context))

    def _record_answer(
        self, facts: ResponseFacts, endpoint: Mapping[str, Any], error: str | None, timings: Timings, context: Context
    ) -> None:
        metrics = self._metrics
        if error is None and self._asked_model is not None:
            metrics.request_models.prove(self._asked_model)
            self._name_model()
        common: dict[str, Any] = {names.OPERATION: "chat", **self._model, **endpoint}
        if facts.model is not None:
            common[names.RESPONSE_MODEL] = metrics.response_models.of(facts.model)
        for kind, count in (("input", facts.input_tokens), ("output", facts.output_tokens)):
            if count is not None:
                metrics.token_usage.record(count, {**common, names.TOKEN_TYPE: kind}, context)
        if error is not None:
            common[names.ERROR_TYPE] = error
        metrics.operation_duration.record(timings.upstream_s, common, context)
        if timings.upstream_first_chunk_s is not None:
            metrics.time_to_first_chunk.record(timings.upstream_first_chunk_s, common, context)
        self._record_gaps(iter(timings.chunk_gaps_s), common, context)

    def _record_gaps(self, gaps_s: Iterator[float], common: Mapping[str, Any], context: Context) -> None:
        part = [*islice(gaps_s, _GAPS_AT_ONCE)]
        for gap_s in part:
            self._metrics.time_per_output_chunk.record(gap_s, common, context)
        if len(part) == _GAPS_AT_ONCE:
            asyncio.get_running_loop().call_soon(self._record_gaps, gaps_s, common, context)

    def ended(
        self,
        outcome: Outcome,
        error: str | None,
        parts_s: Mapping[str, float],
        first_chunk_s: float | None,
        context: Context,
    ) -> None:
        """The call is over; its parts add up to its duration."""
        self._afterwards(partial(self._record_end, outcome, error, parts_s, first_chunk_s, context))

    def _record_end(
        self,
        outcome: Outcome,
        error: str | None,
        parts_s: Mapping[str, float],
        first_chunk_s: float | None,
        context: Context,
    ) -> None:
        metrics = self._metrics
        model: dict[str, Any] = {**self._model, **self._child}
        kind: dict[str, Any] = {names.OUTCOME: outcome.value, **self._format, **model}
        whole = {names.OUTCOME: outcome.value, **model, **self._streaming}
        metrics.call_duration.record(sum(parts_s.values()), whole, context)
        for part, duration_s in parts_s.items():
            metrics.call_part_duration.record(duration_s, {names.PART: part, **model}, context)
        if first_chunk_s is not None:
            metrics.call_first_chunk.record(first_chunk_s, model, context)
        if error is not None:
            kind[names.ERROR_TYPE] = error
        metrics.calls.add(1, kind, context)
