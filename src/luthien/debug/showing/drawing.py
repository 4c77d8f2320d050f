"""Where things stand in the drawings of a call's page: places in percent of a drawing's width. Pure.

A drawing is as wide as its page, so all that is across is in percent, and all that is down in pixels. What many
frames share is drawn once: a drawing has no more than some hundred marks, however long its stream was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from luthien.debug.call.timeline import Entry, Lanes
from luthien.debug.call.waterfall import Bar, Waterfall
from luthien.debug.showing.shown import duration, plain, size

MAX_COLUMNS = 400
MAX_ROWS = 100
MAX_LINKS = 150
MAX_POLICIES = 12
_TICKS = 5
_LEAST_HEIGHT, _MOST_HEIGHT = 5.0, 28.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A time on an axis; `anchor` is where its label begins."""

    x: float
    label: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Something at a place of a lane; `width` in percent, `height` in pixels, 0 where the shape has its own."""

    x: float
    title: str
    width: float = 0.0
    height: float = 0.0


@dataclass(frozen=True, slots=True)
class PolicyLane:
    """What one policy held and rewrote."""

    policy: str
    holds: Sequence[Mark]
    rewrites: Sequence[Mark]


@dataclass(frozen=True, slots=True)
class LanesDrawing:
    """The stream as it is drawn. Of a long one, each mark stands for several frames."""

    ticks: Sequence[Tick]
    provider: Sequence[Mark]
    client: Sequence[Mark]
    dropped: Sequence[Mark]
    policies: Sequence[PolicyLane]
    links: Sequence[tuple[float, float]]
    """From where a frame came to where it was given."""
    first_provider: Mark | None
    first_client: Mark | None
    rows: Sequence[Entry]
    """For the table: all entries, or of many those to which something happened."""
    is_bucketed: bool
    entries: int


@dataclass(frozen=True, slots=True)
class DrawnBar:
    """A bar of a waterfall; `first` is where the first of it was there. No place: not recorded."""

    bar: Bar
    x: float | None
    width: float
    first: float | None


@dataclass(frozen=True, slots=True)
class WaterfallDrawing:
    ticks: Sequence[Tick]
    bars: Sequence[DrawnBar]


def ticks_of(total_ms: float) -> Sequence[Tick]:
    """The axis of a drawing that is so long."""
    return _Scale(total_ms).ticks()


def draw_waterfall(waterfall: Waterfall) -> WaterfallDrawing:
    scale = _Scale(waterfall.total_ms)
    return WaterfallDrawing(scale.ticks(), [_drawn(bar, scale) for bar in waterfall.bars])


def _drawn(bar: Bar, scale: _Scale) -> DrawnBar:
    if bar.start_ms is None or bar.end_ms is None:
        return DrawnBar(bar, None, 0.0, None)
    first = None if bar.first_ms is None else scale.at(bar.first_ms)
    return DrawnBar(bar, scale.at(bar.start_ms), scale.width(bar.start_ms, bar.end_ms), first)


def draw_lanes(lanes: Lanes) -> LanesDrawing:
    """The two lanes of a stream, and one for each policy that held or rewrote something between them."""
    entries = lanes.entries
    end = max((max(entry.arrived_ms, entry.given_ms or 0.0) for entry in entries), default=0.0)
    scale = _Scale(end)
    came = _columns(scale, [(entry.arrived_ms, entry) for entry in entries])
    went = _columns(scale, [(entry.given_ms, entry) for entry in entries if entry.given_ms is not None])
    given = [entry.given_ms for entry in entries if entry.given_ms is not None]
    return LanesDrawing(
        ticks=scale.ticks(),
        provider=[_heap(column) for column in _with_heights(came, lambda entry: entry.bytes)],
        client=[_heap(column) for column in _with_heights(went, lambda entry: entry.given_bytes)],
        dropped=[Mark(column.x, column.title) for column in came if any(entry.dropped for entry in column.entries)],
        policies=_policy_lanes(scale, entries),
        links=[
            (scale.at(entry.arrived_ms), scale.at(entry.given_ms))
            for entry in entries
            if entry.given_ms is not None and len(entries) <= MAX_LINKS
        ],
        first_provider=_first(scale, entries[0].arrived_ms if entries else None, "The first from the provider"),
        first_client=_first(scale, min(given, default=None), "The first to the client"),
        rows=_rows(entries),
        is_bucketed=len(entries) > MAX_COLUMNS or lanes.frames_per_entry > 1,
        entries=len(entries),
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """From milliseconds to percent."""

    total_ms: float

    def at(self, ms: float) -> float:
        return round(100 * min(max(ms / self.total_ms, 0.0), 1.0), 3) if self.total_ms > 0 else 0.0

    def width(self, start: float, end: float) -> float:
        return round(max(self.at(end) - self.at(start), 0.0), 3)

    def ticks(self) -> list[Tick]:
        """From 0 on, at round times, no more than a narrow screen bears."""
        if self.total_ms <= 0:
            return [Tick(0.0, "0", "start")]
        step = _round_up(self.total_ms / _TICKS)
        times = [step * number for number in range(int(self.total_ms / step) + 1)]
        return [Tick(self.at(ms), _axis_label(ms, self.total_ms), _anchor(self.at(ms))) for ms in times]


def _round_up(ms: float) -> float:
    """The next of 1, 2, 5, 10, …; above a second those that clocks know."""
    if ms > 20_000:
        minutes = [30_000, 60_000, 120_000, 300_000, 600_000, 900_000, 1_800_000, 3_600_000]
        return next((each for each in minutes if each >= ms), math.ceil(ms / 3_600_000) * 3_600_000)
    power = 10 ** math.floor(math.log10(ms))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= ms * (1 - 1e-9)))


_UNITS = ((10_800_000.0, 3_600_000.0, "h"), (300_000.0, 60_000.0, "min"), (1000.0, 1000.0, "s"), (1.0, 1.0, "ms"))


def _axis_label(ms: float, total_ms: float) -> str:
    """All labels of an axis in one unit."""
    factor, unit = next(((factor, unit) for least, factor, unit in _UNITS if total_ms >= least), (0.001, "µs"))
    return f"{ms / factor:g} {unit}" if ms else "0"


def _anchor(x: float) -> str:
    return "start" if x < 4 else "end" if x > 94 else "middle"


@dataclass(slots=True)
class _Column:
    """The entries that are drawn as one."""

    x: float
    width: float
    entries: list[Entry] = field(default_factory=list)
    height: float = 0.0

    @property
    def title(self) -> str:
        return told(self.entries)


def _columns(scale: _Scale, timed: Sequence[tuple[float, Entry]]) -> list[_Column]:
    """Each entry where it stands, or of many those that stand side by side."""
    if len(timed) <= MAX_COLUMNS:
        return [_Column(scale.at(ms), 0.0, [entry]) for ms, entry in timed]
    width = 100 / MAX_COLUMNS
    columns: dict[int, _Column] = {}
    for ms, entry in timed:
        place = min(int(scale.at(ms) / width), MAX_COLUMNS - 1)
        columns.setdefault(place, _Column(round(place * width, 3), width)).entries.append(entry)
    return [columns[place] for place in sorted(columns)]


def _with_heights(columns: list[_Column], measure: Callable[[Entry], int]) -> list[_Column]:
    sums = [sum(map(measure, column.entries)) for column in columns]
    most = max(sums, default=0) or 1
    for column, amount in zip(columns, sums, strict=True):
        column.height = round(_LEAST_HEIGHT + (_MOST_HEIGHT - _LEAST_HEIGHT) * math.sqrt(amount / most), 1)
    return columns


def _heap(column: _Column) -> Mark:
    return Mark(column.x, column.title, column.width, column.height)


def _first(scale: _Scale, ms: float | None, what: str) -> Mark | None:
    return None if ms is None else Mark(scale.at(ms), f"{what}: {duration(ms)} after the call began")


def _policy_lanes(scale: _Scale, entries: Iterable[Entry]) -> list[PolicyLane]:
    by: dict[str, list[Entry]] = {}
    for entry in entries:
        for policy in dict.fromkeys((entry.held_by, entry.rewritten_by)):
            if policy is not None:
                by.setdefault(policy, []).append(entry)
    return [_policy_lane(scale, policy, those) for policy, those in [*by.items()][:MAX_POLICIES]]


def _policy_lane(scale: _Scale, policy: str, entries: list[Entry]) -> PolicyLane:
    held = [(_hold(entry)[0], entry) for entry in entries if entry.held_by == policy]
    rewritten = [
        (entry.arrived_ms if entry.given_ms is None else entry.given_ms, entry)
        for entry in entries
        if entry.rewritten_by == policy
    ]
    holds = [_hold_of(scale, column) for column in _columns(scale, held)]
    return PolicyLane(policy, holds, [Mark(column.x, column.title) for column in _columns(scale, rewritten)])


def _hold(entry: Entry) -> tuple[float, float]:
    """From when to when a frame was held: the record has how long, and when it was given."""
    end = entry.arrived_ms + entry.held_ms if entry.given_ms is None else entry.given_ms
    return max(entry.arrived_ms, end - entry.held_ms), end


def _hold_of(scale: _Scale, column: _Column) -> Mark:
    start = min(_hold(entry)[0] for entry in column.entries)
    end = max(_hold(entry)[1] for entry in column.entries)
    return Mark(scale.at(start), column.title, scale.width(start, end))


def _rows(entries: Sequence[Entry]) -> Sequence[Entry]:
    if len(entries) <= MAX_ROWS:
        return entries
    touched = [entry for entry in entries if entry.held_by or entry.rewritten or entry.dropped]
    return (touched or entries)[:MAX_ROWS]


def told(entries: Sequence[Entry]) -> str:
    """What happened to some neighbouring frames, in a line."""
    first, last = entries[0], entries[-1]
    frames = sum(entry.frames for entry in entries)
    name = f"Frame {first.first_frame}"
    if frames > 1:
        name = f"Frames {first.first_frame} to {last.first_frame + last.frames - 1}"
    came = f"{size(sum(entry.bytes for entry in entries))} from the provider at {duration(first.arrived_ms)}"
    given = [entry for entry in entries if entry.given_ms is not None]
    parts = [came]
    if given:
        at = max(entry.given_ms or 0.0 for entry in given)
        parts.append(f"{size(sum(entry.given_bytes for entry in given))} to the client at {duration(at)}")
    else:
        parts.append("nothing of it to the client")
    longest = max(entries, key=lambda entry: entry.held_ms)
    if longest.held_by is not None:
        parts.append(f"held for {duration(longest.held_ms)} by {plain(longest.held_by)}")
    rewritten = sum(entry.rewritten for entry in entries)
    if rewritten:
        by = ", ".join(dict.fromkeys(plain(entry.rewritten_by) for entry in entries if entry.rewritten_by))
        parts.append(f"{f'{rewritten} ' if frames > 1 else ''}rewritten by {by}")
    dropped = sum(entry.dropped for entry in entries)
    if dropped:
        by = ", ".join(dict.fromkeys(plain(entry.dropped_by) for entry in entries if entry.dropped_by))
        parts.append(f"{f'{dropped} ' if frames > 1 else ''}dropped{f' by {by}' if by else ''}")
    return f"{name}: {'; '.join(parts)}"
