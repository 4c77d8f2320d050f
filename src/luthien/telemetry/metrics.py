"""Luthien's instruments, on the OpenTelemetry metrics API."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, NoOpMeter, Observation

from luthien.otlp import Signal
from luthien.record.source import RecordSource
from luthien.record.stats import RecordStats
from luthien.telemetry import conventions as names
from luthien.telemetry.vocabulary import MAX_MODELS, ModelNames, Vocabulary

# Bucket boundaries that the GenAI conventions advise, in seconds and in tokens. Where each model has such a series
# and no dashboard shows a quantile of it, every second one: a scrape of a hundred models is megabytes.
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_CHUNK_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.5, 5.0)
_OPERATION_SECONDS = _SECONDS[::2]
# Calls may be streams that last an hour; policies and the gateway itself should take less than a millisecond.
_CALL_SECONDS = (0.02, 0.08, *_SECONDS[5:], 327.68, 1310.72, 5242.88)
_CALL_PART_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.04, 0.16, *_SECONDS[6:12], 81.92)
_PART_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, *_SECONDS)
_RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_BYTES = tuple(4**power for power in range(5, 15))
_TOKENS = (16, 256, 4096, 65536, 1048576, 16777216)


def _convention(name: str) -> dict[str, Any]:
    convention = names.CONVENTIONS["metric", name]
    return {"name": name, "unit": convention.unit, "description": convention.meaning}


def _histogram(meter: Meter, name: str, buckets: tuple[float, ...]) -> Histogram:
    return meter.create_histogram(**_convention(name), explicit_bucket_boundaries_advisory=buckets)


class Level:
    """How many of something are open, by their attributes. One thread counts, any may read."""

    def __init__(self) -> None:
        # What was open once is told for ever, as 0: a series that merely ended would be drawn on.
        self._open: dict[tuple[tuple[str, str], ...], int] = {}

    def add(self, amount: int, kind: Mapping[str, str]) -> None:
        key = tuple(kind.items())
        self._open[key] = self._open.get(key, 0) + amount

    def observe(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(count, dict(kind)) for kind, count in [*self._open.items()]]


class CallMetrics:
    """The instruments of calls, and the values that their attributes may have."""

    def __init__(self, meter: Meter) -> None:
        def histogram(name: str, buckets: tuple[float, ...]) -> Histogram:
            return _histogram(meter, name, buckets)

        def counter(name: str) -> Counter:
            return meter.create_counter(**_convention(name))

        def level(name: str) -> Level:
            level = Level()
            meter.create_observable_up_down_counter(callbacks=[level.observe], **_convention(name))
            return level

        self.are_read = not isinstance(meter, NoOpMeter)
        """Whether anybody gets to see them."""
        self.operation_duration = histogram(names.OPERATION_DURATION, _OPERATION_SECONDS)
        self.token_usage = histogram(names.TOKEN_USAGE, _TOKENS)
        self.time_to_first_chunk = histogram(names.TIME_TO_FIRST_CHUNK, _CHUNK_SECONDS)
        self.time_per_output_chunk = histogram(names.TIME_PER_OUTPUT_CHUNK, _CHUNK_SECONDS)
        self.call_duration = histogram(names.CALL_DURATION, _CALL_SECONDS)
        self.call_part_duration = histogram(names.CALL_PART_DURATION, _CALL_PART_SECONDS)
        self.call_first_chunk = histogram(names.CALL_FIRST_CHUNK, _CHUNK_SECONDS)
        self.policy_duration = histogram(names.POLICY_DURATION, _PART_SECONDS)
        self.policy_decisions = counter(names.POLICY_DECISIONS)
        self.policy_changed_size = counter(names.POLICY_CHANGED_SIZE)
        self.stream_violations = counter(names.STREAM_VIOLATIONS)
        self.calls = counter(names.CALLS)
        self.receipt_timeouts = counter(names.RECORD_RECEIPT_TIMEOUTS)
        self.calls_open = level(names.CALLS_OPEN)
        self.streams_open = level(names.STREAMS_OPEN)
        self.request_models = ModelNames()
        self.response_models = Vocabulary(MAX_MODELS)
        self.policy_names = Vocabulary()
        self.policy_versions = Vocabulary()


class BatchMetrics:
    """What is measured of the batches that the writer writes; called from its thread."""

    def __init__(self, meter: Meter) -> None:
        self._size = _histogram(meter, names.RECORD_BATCH_SIZE, _RECORDS)
        self._bytes = _histogram(meter, names.RECORD_BATCH_BYTES, _BYTES)
        self._duration = _histogram(meter, names.RECORD_BATCH_DURATION, _PART_SECONDS)

    def written(self, records: int, size_bytes: int, duration_s: float) -> None:
        self._size.record(records)
        self._bytes.record(size_bytes)
        self._duration.record(duration_s)


def reload_counter(meter: Meter) -> Counter:
    """Counts what became of changed configurations."""
    return meter.create_counter(**_convention(names.CONFIG_RELOADS))


def observe_record(meter: Meter, source: RecordSource, lost_spans: Callable[[], int]) -> None:
    """Publishes what became of the records, read when a collector asks."""

    def counter(name: str, read: Callable[[RecordStats], int]) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            yield Observation(read(source.stats()))

        meter.create_observable_counter(callbacks=[observe], **_convention(name))

    def gauge(name: str, read: Callable[[], float]) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            yield Observation(read())

        meter.create_observable_gauge(callbacks=[observe], **_convention(name))

    def dropped(_: CallbackOptions) -> Iterable[Observation]:
        for reason, count in source.stats().dropped.items():
            yield Observation(count, {names.DROP_REASON: reason})
        yield Observation(lost_spans(), {names.DROP_REASON: "unreadable_span"})

    def not_crash_proof(_: CallbackOptions) -> Iterable[Observation]:
        for reason, count in source.stats().not_crash_proof.items():
            yield Observation(count, {names.DROP_REASON: reason})

    counter(names.RECORD_APPENDED, lambda stats: stats.appended)
    counter(names.RECORD_STORED, lambda stats: stats.stored)
    counter(names.RECORD_REPLAYED, lambda stats: stats.replayed)
    counter(names.RECORD_RETRIED, lambda stats: stats.retried_batches)
    meter.create_observable_counter(callbacks=[dropped], **_convention(names.RECORD_DROPPED))
    counter(names.RECORD_TOMBSTONES, lambda stats: stats.tombstones)
    counter(names.RECORD_ADOPTED, lambda stats: stats.adopted)
    meter.create_observable_counter(callbacks=[not_crash_proof], **_convention(names.RECORD_NOT_CRASH_PROOF))
    gauge(names.SPOOL_BYTES, lambda: source.stats().spool_bytes)
    gauge(names.SPOOL_LIMIT, lambda: source.stats().spool_max_bytes)
    gauge(names.RECORD_UNSAVED, lambda: source.stats().unsaved)
    gauge(names.RECORD_UNSAVED_BYTES, lambda: source.stats().unsaved_bytes)
    gauge(names.RECORD_OLDEST, source.oldest_unsaved_age_s)


def observe_losses(meter: Meter, losses: Mapping[Signal, Callable[[], Mapping[str, int]]]) -> None:
    """Publishes how much of each signal did not reach its backend, by why."""

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        for signal, lost in losses.items():
            for reason, count in lost().items():
                yield Observation(count, {names.SIGNAL: signal, names.ERROR_TYPE: reason})

    meter.create_observable_counter(callbacks=[observe], **_convention(names.EXPORT_DROPPED))


def observe_default_partitions(meter: Meter, rows: Callable[[], int | None]) -> None:
    """Publishes how many rows are where none should be, as soon as that is known."""

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        found = rows()
        if found is not None:
            yield Observation(found)

    meter.create_observable_gauge(callbacks=[observe], **_convention(names.RECORD_DEFAULT_PARTITION))


def observe_index(
    meter: Meter, done: Callable[[], tuple[int, int]], behind: Callable[[], tuple[int | None, float | None]]
) -> None:
    """Publishes how many calls were indexed, how many failed, and how many wait for how long, once that is known."""

    def indexed(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(done()[0])

    def failed(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(done()[1])

    def waiting(_: CallbackOptions) -> Iterable[Observation]:
        if (calls := behind()[0]) is not None:
            yield Observation(calls)

    def lag(_: CallbackOptions) -> Iterable[Observation]:
        if (age_s := behind()[1]) is not None:
            yield Observation(age_s)

    meter.create_observable_counter(callbacks=[indexed], **_convention(names.INDEX_INDEXED))
    meter.create_observable_counter(callbacks=[failed], **_convention(names.INDEX_FAILED))
    meter.create_observable_gauge(callbacks=[waiting], **_convention(names.INDEX_WAITING))
    meter.create_observable_gauge(callbacks=[lag], **_convention(names.INDEX_LAG))
