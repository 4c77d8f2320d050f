"""The ranges of call ids that a list looks into, one after the other, until it is full. Pure.

Each is from its first id up to its second, which is not in it any more; together they are all that was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from luthien.exchange import call_time_ms
from luthien.store.call_filter import CallFilter
from luthien.store.facets import SLOT_MS

NEWEST = UUID(int=2**128 - 1)

_DAY_MS = 86_400_000
# An unfiltered list looks into the last two days, then into the month before, then at everything (decision 9).
_WINDOWS_MS = (2 * _DAY_MS, 32 * _DAY_MS)
_SLOTS = (1, 8)
_DAYS = (1, 4, 16, 64)
# Planning 64 days takes some milliseconds, planning two years of them in one statement twice as much for each.
_SESSION_DAYS = (2, 30, *(64,) * 16)


@dataclass(frozen=True, slots=True)
class Window:
    """A range of ids. `slots`: those that all of it is in, where it is less than a day."""

    since: UUID
    before: UUID
    slots: range = range(0)

    def beyond(self, call_id: UUID, *, newest_first: bool) -> Window:
        """What is left of it after a page that ended with that call."""
        if newest_first:
            return Window(self.since, call_id, self.slots)
        return Window(UUID(int=call_id.int + 1), self.before, self.slots)


def windows(before: UUID, now_ms: int | None = None) -> Iterator[tuple[UUID, UUID]]:
    """The ranges for a list of all calls before an id, newest first: all of the past."""
    newest_ms = min(call_time_ms(before), _now_ms() if now_ms is None else now_ms)
    for window_ms in _WINDOWS_MS:
        since = UUID(int=max(0, newest_ms - window_ms) << 80)
        if since < before:
            yield since, before
        before = since
    if before.int:
        yield UUID(int=0), before


def session_windows(
    since: UUID, before: UUID, *, newest_first: bool, now_ms: int | None = None
) -> list[tuple[UUID, UUID]]:
    """The ranges for what may be on any day and mostly is not: no more days at once than are planned quickly."""
    ranges = list[tuple[UUID, UUID]]()
    edge_ms = min(call_time_ms(before), _now_ms() if now_ms is None else now_ms)
    behind = before
    for days in _SESSION_DAYS:
        edge_ms -= days * _DAY_MS
        first = max(_id_at(edge_ms), since)
        if first < behind:
            ranges.append((first, behind))
            behind = first
    if since < behind:
        ranges.append((since, behind))
    return ranges if newest_first else ranges[::-1]


def clipped(ranges: Iterator[tuple[UUID, UUID]], since: UUID) -> Iterator[tuple[UUID, UUID]]:
    """The same ranges, newest first, as far as they are not before an id."""
    for first, before in ranges:
        if before > since:
            yield max(first, since), before


def search_windows(since: UUID, before: UUID, now_ms: int | None = None, *, newest_first: bool) -> Iterator[Window]:
    """The ranges for a search: small ones where it begins, then whole days, then more and more of them.

    A word that is everywhere fills a page from the first; one that is nowhere is looked for in each.
    """
    now_ms = _now_ms() if now_ms is None else now_ms
    if newest_first:
        behind = before
        for edge_ms in _edges_down(before, now_ms):
            first = max(_id_at(edge_ms), since)
            if first < behind:
                yield _window(first, behind)
                behind = first
        return
    first = since
    for end_ms in _edges_up(since, now_ms):
        behind = before if end_ms is None else min(_id_at(end_ms), before)
        if first < behind:
            yield _window(first, behind)
            first = behind


def id_range(wanted: CallFilter) -> tuple[UUID, UUID]:
    """The ids that calls of a filter can have, by their beginning and by their time: the first, and the first behind.

    A call's start is in its id.
    """
    first, behind = 0, 2**128 - 1
    if wanted.id is not None:
        bits = 4 * (32 - len(wanted.id))
        first = int(wanted.id, 16) << bits
        behind = min(behind, first + (1 << bits))
    if wanted.since is not None:
        first = max(first, _first_at(wanted.since))
    if wanted.until is not None:
        behind = min(behind, _first_at(wanted.until))
    return UUID(int=min(first, 2**128 - 1)), UUID(int=max(0, behind))


def _first_at(moment: datetime) -> int:
    """The first id of the first millisecond that is not before a moment."""
    since_epoch = moment - datetime(1970, 1, 1, tzinfo=UTC)
    micros = (since_epoch.days * 86_400 + since_epoch.seconds) * 1_000_000 + since_epoch.microseconds
    return min(max(0, -(-micros // 1000)), 2**48 - 1) << 80


def _edges_down(before: UUID, now_ms: int) -> Iterator[int]:
    """Where windows begin, newest first. What is of tomorrow or later, as clocks have it, comes before today."""
    tomorrow_ms = now_ms // _DAY_MS * _DAY_MS + _DAY_MS
    # The last millisecond of which anything is wanted.
    last_ms = (before.int - 1 >> 80) if before.int else 0
    if last_ms >= tomorrow_ms:
        yield tomorrow_ms
        last_ms = tomorrow_ms - 1
    day_ms = last_ms // _DAY_MS * _DAY_MS
    begin_ms = min(last_ms, now_ms) // SLOT_MS * SLOT_MS
    for slots in _SLOTS:
        edge_ms = begin_ms - (slots - 1) * SLOT_MS
        if edge_ms > day_ms:
            yield edge_ms
    yield day_ms
    for days in _DAYS:
        day_ms -= days * _DAY_MS
        if day_ms > 0:
            yield day_ms
    yield 0


def _edges_up(since: UUID, now_ms: int) -> Iterator[int | None]:
    """Where windows end, oldest first; None for the last."""
    first_ms = call_time_ms(since)
    day_ms = first_ms // _DAY_MS * _DAY_MS + _DAY_MS
    for slots in _SLOTS:
        edge_ms = (first_ms // SLOT_MS + slots) * SLOT_MS
        if edge_ms < day_ms:
            yield edge_ms
    yield day_ms
    for days in _DAYS:
        if day_ms > now_ms:
            break
        day_ms += days * _DAY_MS
        yield day_ms
    yield None


def _window(first: UUID, behind: UUID) -> Window:
    first_ms, last_ms = call_time_ms(first), behind.int - 1 >> 80
    is_whole_day = first.int == (first_ms // _DAY_MS * _DAY_MS) << 80 and last_ms - first_ms >= _DAY_MS - 1
    if is_whole_day or last_ms - first_ms > _DAY_MS:
        return Window(first, behind)
    return Window(first, behind, range(first_ms // SLOT_MS, last_ms // SLOT_MS + 1))


def _id_at(ms: int) -> UUID:
    return UUID(int=min(max(0, ms), 2**48 - 1) << 80)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
