"""What is known of a call's trace: the words that all of this package shares. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

MAX_SPANS = 1000


class TraceState(StrEnum):
    """What came of asking Tempo."""

    NOT_CONFIGURED = "not_configured"
    NOT_ASKED = "not_asked"
    AWAY = "away"
    NOT_FOUND = "not_found"
    FOUND = "found"


@dataclass(frozen=True, slots=True)
class Span:
    """One span. Times are nanoseconds since the epoch, ids hexadecimal digits.

    `call_id` is the call that it is of, if it says one; `parent_call_id` is the call of the policy that asked.
    `host` is the process that it is from, so far as its resource tells. `links` are the traces it points to.
    """

    id: str
    parent: str | None
    name: str
    service: str
    kind: str
    start_ns: int
    end_ns: int
    is_error: bool = False
    call_id: str | None = None
    parent_call_id: str | None = None
    host: str = ""
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """What Tempo said of a call, earliest span first; `sentence` is for people."""

    state: TraceState
    sentence: str = ""
    spans: Sequence[Span] = ()
    omitted: int = 0
    """Spans of the trace beyond those that are shown."""
    trace_id: str | None = None
    """The trace that these spans are of."""
    others: Sequence[str] = ()
    """More traces that have spans of this call."""
    is_partial: bool = False
    message: str = ""
    """Why it is partial, in Tempo's words."""
    retry_after_s: float | None = None
    """When it is worth asking again."""


def chosen(spans: Iterable[Span], call_id: str) -> tuple[Sequence[Span], int]:
    """Not more spans than can be shown, earliest first, and how many more there are.

    The call's own come first, then those above them, then the earliest. A parent that is left out is replaced by the
    nearest above it that is not, so that a span without its parent is one whose parent Tempo does not have.
    """
    ordered = sorted({span.id: span for span in spans}.values(), key=lambda span: (span.start_ns, -span.end_ns))
    if len(ordered) <= MAX_SPANS:
        return ordered, 0
    parents = {span.id: span.parent for span in ordered}
    kept = dict.fromkeys(span.id for span in ordered if span.call_id == call_id)
    for own in [*kept]:
        above = parents[own]
        while above in parents and above not in kept:
            kept[above] = None
            above = parents[above]
    kept |= dict.fromkeys(span.id for span in ordered)
    shown = set([*kept][:MAX_SPANS])
    return [replace(span, parent=_nearest(span.parent, parents, shown)) for span in ordered if span.id in shown], len(
        ordered
    ) - MAX_SPANS


def _nearest(parent: str | None, parents: dict[str, str | None], shown: set[str]) -> str | None:
    seen: set[str] = set()
    while parent in parents and parent not in shown:
        if parent in seen:
            return None
        seen.add(parent)
        parent = parents[parent]
    return parent
