"""When each part of a call began and how long it took, as far as its own records say. Pure.

Records say when a part ended, and how long policies and the provider took. What does not follow from that is not
told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from uuid import UUID

from luthien.debug.call.timeline import Lanes
from luthien.exchange import EventType, Side, StageRecord, call_time_ms
from luthien.store.stored import CallRow

Kind: TypeAlias = Literal["receive", "policy", "gateway", "provider", "client", "child"]

_NOT_RECORDED = "not recorded"
_NOT_REACHED = "not reached"
_NOT_YET = "not recorded yet"


@dataclass(frozen=True, slots=True)
class Bar:
    """One part of a call. Times are milliseconds, `start_ms` from the call's beginning; None is "not recorded".

    `first_ms` is when the first of it was there, between start and end. `is_spread`: it took `ms` in all, in pieces,
    somewhere between `start_ms` and `end_ms`.
    """

    kind: Kind
    label: str
    start_ms: float | None = None
    end_ms: float | None = None
    ms: float | None = None
    first_ms: float | None = None
    note: str = ""
    is_spread: bool = False
    is_shadow: bool = False
    call_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The parts of a call in order. `is_exact` is false where the beginning is known to the millisecond only."""

    began_ns: int
    total_ms: float
    is_exact: bool
    bars: Sequence[Bar]


def waterfall_of(
    records: Sequence[StageRecord],
    row: CallRow,
    children: Iterable[CallRow],
    lanes: Lanes | None,
    *,
    is_running: bool,
    all_there: bool,
) -> Waterfall:
    """The waterfall of a call.

    Args:
        all_there: whether a record that is not among these was never made.
    """
    return _Reader(
        records, row, lanes, _NOT_YET if is_running else _NOT_REACHED if all_there else _NOT_RECORDED
    ).read(children)


class _Reader:
    def __init__(self, records: Sequence[StageRecord], row: CallRow, lanes: Lanes | None, absent: str) -> None:
        self._records = records
        self._row = row
        self._lanes = lanes
        self._absent = absent
        outcome = self._of(EventType.CALL_OUTCOME)
        duration_ms = None if outcome is None else _number(outcome.attributes, "luthien.duration")
        self._is_exact = outcome is not None and duration_ms is not None
        if outcome is not None and duration_ms is not None:
            self._began_ns = outcome.recorded_at_ns - round(duration_ms * 1e6)
        else:
            self._began_ns = call_time_ms(row["call_id"]) * 1_000_000
        self._duration_ms = duration_ms

    def read(self, children: Iterable[CallRow]) -> Waterfall:
        bars = [
            self._received(),
            *self._policies(Side.REQUEST, EventType.REQUEST_ORIGINAL),
            *self._provider(),
            *self._policies(Side.RESPONSE, EventType.RESPONSE_ORIGINAL),
            self._to_the_client(),
            *self._children(children),
        ]
        ends = [bar.end_ms for bar in bars if bar.end_ms is not None]
        return Waterfall(self._began_ns, max([self._duration_ms or 0.0, *ends]), self._is_exact, bars)

    def _of(self, kind: EventType) -> StageRecord | None:
        return next((each for each in self._records if each.event_type == kind), None)

    def _at(self, record: StageRecord) -> float:
        return max(0.0, (record.recorded_at_ns - self._began_ns) / 1e6)

    def _end_of(self, kind: EventType) -> float | None:
        record = self._of(kind)
        return None if record is None else self._at(record)

    def _received(self) -> Bar:
        end = self._end_of(EventType.REQUEST_ORIGINAL)
        if end is None:
            return Bar("receive", "Receive the request", note=self._absent)
        return Bar("receive", "Receive the request", 0.0, end, end)

    def _policies(self, side: Side, before: EventType) -> Iterable[Bar]:
        """Policies come one after the other; of a stream, they are asked about each chunk."""
        start = self._end_of(before)
        decisions = [
            each
            for each in self._records
            if each.event_type == EventType.POLICY_DECISION and each.attributes.get("luthien.policy.side") == side
        ]
        is_stream = side is Side.RESPONSE and self._lanes is not None
        for record in decisions:
            name = str(record.attributes.get("luthien.policy.name", ""))
            took = _number(record.attributes, "luthien.policy.duration")
            is_shadow = record.attributes.get("luthien.policy.shadow") is True
            label = f"{name}, {side.value}"
            if took is None:
                yield Bar("policy", label, note=_NOT_RECORDED, is_shadow=is_shadow)
            elif is_stream and self._lanes is not None and self._lanes.entries:
                first = min(self._lanes.entries[0].arrived_ms, self._at(record))
                note = "in all, chunk by chunk"
                yield Bar("policy", label, first, self._at(record), took, None, note, True, is_shadow)
            elif start is None:
                yield Bar("policy", label, ms=took, note=f"when it began is {_NOT_RECORDED}", is_shadow=is_shadow)
            else:
                yield Bar("policy", label, start, start + took, took, is_shadow=is_shadow)
                start += took

    def _provider(self) -> Iterable[Bar]:
        """Until the provider was asked, and from then on."""
        label, row = "Provider", self._row
        waited, first = row["upstream_ms"], row["upstream_first_chunk_ms"]
        end = self._end_of(EventType.RESPONSE_ORIGINAL)
        ready = self._end_of(EventType.REQUEST_FINAL)
        if end is None or ready is None:
            note = f"when it answered is {self._absent}" if waited else self._absent
            yield Bar("provider", label, ms=waited or None, note=note)
            return
        sent = self._sent(end, waited, first)
        if sent is None:
            yield Bar("provider", label, ready, end, end - ready, note="at the earliest")
            return
        sent = max(ready, min(sent, end))
        yield Bar("gateway", "Make the record safe", ready, sent, sent - ready)
        yield Bar("provider", label, sent, end, end - sent, None if first is None else min(sent + first, end))

    def _sent(self, end: float, waited: float | None, first: float | None) -> float | None:
        """When the provider was asked: the timeline of a stream tells, and of a plain response how long it took."""
        if self._lanes is not None and self._lanes.entries and first is not None:
            return self._lanes.entries[0].arrived_ms - first
        return None if waited is None else end - waited

    def _to_the_client(self) -> Bar:
        label, start = "To the client", self._row["client_first_chunk_ms"]
        if start is None:
            start = self._end_of(EventType.RESPONSE_FINAL)
        if start is None or self._duration_ms is None:
            return Bar("client", label, note=self._absent)
        end = max(start, self._duration_ms)
        return Bar("client", label, start, end, end - start)

    def _children(self, children: Iterable[CallRow]) -> Iterable[Bar]:
        for child in children:
            start = max(0.0, call_time_ms(child["call_id"]) - self._began_ns / 1e6)
            took = child["duration_ms"]
            label = f"asked {child['model_requested'] or 'a model'}"
            if took is None:
                yield Bar("child", label, note=self._absent, call_id=child["call_id"])
            else:
                yield Bar("child", label, start, start + took, took, call_id=child["call_id"])


def _number(attributes: Mapping[str, Any], name: str) -> float | None:
    value = attributes.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
