"""What is known of a call's trace: the words that all of this package shares. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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

    The call's own come first, then those above and below them, then the earliest. A parent that is left out is
    replaced by the nearest above it that is not: a span without its parent is one whose parent Tempo does not have.
    """
    ordered = sorted({span.id: span for span in spans}.values(), key=lambda span: (span.start_ns, -span.end_ns))
    if len(ordered) <= MAX_SPANS:
        return ordered, 0
    parents = {span.id: span.parent for span in ordered}
    own = [span.id for span in ordered if span.call_id == call_id]
    by_weight = [*own, *_above(own, parents), *_below(own, parents), *parents]
    shown = _Shown(set([*dict.fromkeys(by_weight)][:MAX_SPANS]), parents)
    kept = [replace(span, parent=shown.nearest(span.parent)) for span in ordered if span.id in shown.ids]
    return kept, len(ordered) - len(kept)


def _above(ids: Iterable[str], parents: Mapping[str, str | None]) -> Iterable[str]:
    found: dict[str, None] = {}
    for each in ids:
        above = parents[each]
        while above is not None and above in parents and above not in found:
            found[above] = None
            above = parents[above]
    return found


def _below(ids: Iterable[str], parents: Mapping[str, str | None]) -> Iterable[str]:
    below: dict[str | None, list[str]] = {}
    for each, parent in parents.items():
        below.setdefault(parent, []).append(each)
    found: dict[str, None] = {}
    waiting = [*ids]
    while waiting:
        for each in below.get(waiting.pop(), ()):
            if each not in found:
                found[each] = None
                waiting.append(each)
    return found


class _Shown:
    """The spans that are shown, asked for the nearest of them above any span."""

    def __init__(self, ids: set[str], parents: Mapping[str, str | None]) -> None:
        self.ids = ids
        self._parents = parents
        self._nearest: dict[str, str | None] = {}

    def nearest(self, parent: str | None) -> str | None:
        """The id itself if it is shown, or is none of the trace; None also in a circle that is left out."""
        path: list[str] = []
        while parent is not None and parent in self._parents and not (parent in self.ids or parent in self._nearest):
            path.append(parent)
            self._nearest[parent] = None
            parent = self._parents[parent]
        found = None if parent is None else self._nearest.get(parent, parent)
        for each in path:
            self._nearest[each] = found
        return found
