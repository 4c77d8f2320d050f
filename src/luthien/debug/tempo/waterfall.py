"""How a trace is drawn around one call: whose each span is, what stands below what, and whose clocks differ. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from luthien.debug.tempo.trace import Span

MAX_DEPTH = 12
_TICKS = 5
_LEAST_SKEW_NS = 1_000_000
"""Less is what clocks of one machine and the rounding of times account for."""


class Whose(StrEnum):
    """What a span has to do with the call."""

    THIS_CALL = "this_call"
    CHILD_CALL = "child_call"
    """A policy of this call asked a model."""
    OTHER_CALL = "other_call"
    CALLER = "caller"
    """It is above the call: who asked, and who asked that."""
    CALLEE = "callee"
    """It is below the call, of another service."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Row:
    """A span as it is drawn. `skew_ms`: how far its clock is off its parent's, at the least.

    `is_near` tells the spans of the call, what is above and below them, from those of the rest of the trace.
    """

    span: Span
    whose: Whose
    depth: int
    is_orphan: bool
    is_near: bool
    is_first_of_kind: bool
    """What is above it has another thing to do with the call."""
    skew_ms: float


def rows_of(spans: Sequence[Span], call_id: str) -> list[Row]:
    """Each span below its parent, those of one parent in the order that they have."""
    tree = _Tree(spans)
    calls = _calls_below(spans, call_id)
    above = tree.above(span for span in spans if span.call_id == call_id)
    below: set[str] = set()
    kinds: dict[str | None, tuple[Whose, str | None]] = {}
    rows = []
    for span, depth in tree.in_order():
        is_own = span.call_id in calls
        if is_own or span.parent in below:
            below.add(span.id)
        whose = _whose(span, call_id, calls, is_above=span.id in above, is_below=span.id in below)
        is_orphan = span.parent is not None and span.parent not in tree.known
        is_near = span.id in below or span.id in above
        kinds[span.id] = whose, span.call_id
        is_first = kinds.get(span.parent) != kinds[span.id]
        rows.append(Row(span, whose, depth, is_orphan, is_near, is_first, tree.skew_ms(span)))
    return rows


def _calls_below(spans: Sequence[Span], call_id: str) -> set[str]:
    """The call, and those that its policies made, and theirs."""
    calls = {call_id}
    children = {(span.parent_call_id, span.call_id) for span in spans if span.parent_call_id and span.call_id}
    while new := {child for parent, child in children if parent in calls and child and child not in calls}:
        calls |= new
    return calls


def _whose(span: Span, call_id: str, calls: set[str], *, is_above: bool, is_below: bool) -> Whose:
    if span.call_id == call_id:
        return Whose.THIS_CALL
    if span.call_id is not None:
        return Whose.CHILD_CALL if span.call_id in calls else Whose.OTHER_CALL
    if is_above:
        return Whose.CALLER
    return Whose.CALLEE if is_below else Whose.OTHER


class _Tree:
    def __init__(self, spans: Sequence[Span]) -> None:
        self.known = {span.id: span for span in spans}
        self._below: dict[str | None, list[Span]] = {}
        for span in spans:
            parent = span.parent if span.parent in self.known and span.parent != span.id else None
            self._below.setdefault(parent, []).append(span)

    def above(self, spans: Iterable[Span]) -> set[str]:
        """The ids of those above some spans; a circle ends somewhere."""
        found: set[str] = set()
        for span in spans:
            parent = span.parent
            while parent in self.known and parent not in found:
                found.add(parent)
                parent = self.known[parent].parent
        return found

    def in_order(self) -> list[tuple[Span, int]]:
        """With how deep each stands; those in a circle have no place in the tree and come last."""
        ordered: dict[str, tuple[Span, int]] = {}
        waiting = [(span, 0) for span in reversed(self._below.get(None, []))]
        while waiting:
            span, depth = waiting.pop()
            if span.id not in ordered:
                ordered[span.id] = span, min(depth, MAX_DEPTH)
                waiting += [(each, depth + 1) for each in reversed(self._below.get(span.id, []))]
        return [*ordered.values(), *((span, 0) for span in self.known.values() if span.id not in ordered)]

    def skew_ms(self, span: Span) -> float:
        """Of a span of another process than its parent's: it cannot begin before that does, and what a client waits
        for cannot end after it has been waited for."""
        parent = self.known.get(span.parent or "")
        if parent is None or (span.service, span.host) == (parent.service, parent.host):
            return 0.0
        off = parent.start_ns - span.start_ns
        if parent.kind == "client" and span.kind == "server":
            length = span.end_ns - span.start_ns
            if length <= parent.end_ns - parent.start_ns:
                off = max(off, span.end_ns - parent.end_ns)
        return off / 1e6 if off >= _LEAST_SKEW_NS else 0.0


@dataclass(frozen=True, slots=True)
class Window:
    """The time that is drawn: that of the call's own spans. A caller's, which may last for hours, are cut at its
    edges."""

    start_ns: int
    length_ns: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Window:
        spans = [row.span for row in rows if row.whose in (Whose.THIS_CALL, Whose.CHILD_CALL)]
        spans = spans or [row.span for row in rows]
        start = min((span.start_ns for span in spans), default=0)
        return cls(start, max((span.end_ns for span in spans), default=0) - start)

    def misses(self, span: Span) -> str | None:
        """On which side of it a span lies of which nothing is in it."""
        if span.end_ns < self.start_ns:
            return "before"
        return "after" if span.start_ns > self.start_ns + self.length_ns else None

    def place(self, span: Span) -> tuple[float, float]:
        """Where a span begins, and how wide it is, in percent."""
        left, right = (self._percent(at) for at in (span.start_ns, span.end_ns))
        return left, round(right - left, 3)

    def _percent(self, at_ns: int) -> float:
        if self.length_ns <= 0:
            return 0.0
        return round(100 * min(max((at_ns - self.start_ns) / self.length_ns, 0.0), 1.0), 3)


def services_of(rows: Sequence[Row]) -> list[tuple[str, int, bool]]:
    """Each service with how many spans are of it, and whether it is the one that took the call; that one first."""
    counts = Counter(row.span.service for row in rows)
    ours = {row.span.service for row in rows if row.whose in (Whose.THIS_CALL, Whose.CHILD_CALL)}
    return sorted(((name, count, name in ours) for name, count in counts.items()), key=lambda each: not each[2])


def clocks_differ(rows: Sequence[Row]) -> list[str]:
    """A sentence for each two processes whose clocks differ."""
    known = {row.span.id: row.span for row in rows}
    most: dict[tuple[str, str], float] = {}
    for row in rows:
        if row.skew_ms:
            pair = row.span.service or "(no name)", known[row.span.parent or ""].service or "(no name)"
            most[pair] = max(most.get(pair, 0.0), row.skew_ms)
    return [
        f"The clocks of {one} and {other} differ by {ms:.1f} ms at the least: their bars do not stand in the order in"
        " which things happened."
        for (one, other), ms in most.items()
    ]
