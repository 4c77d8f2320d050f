"""The spans that Tempo has of a call, for the call's page to draw."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from fastapi import APIRouter
from fastapi.responses import Response

from luthien.debug.call.lookup import Found, Lookup
from luthien.debug.pages.call import find_call, unknown_call
from luthien.debug.tempo import Span, Tempo, Trace
from luthien.debug.web import json_response
from luthien.store.read import CallRow


def add_trace(router: APIRouter, lookup: Callable[[], Lookup], tempo: Tempo) -> None:
    """trace.json. It always answers 200 for a call that is there: what came of asking Tempo is its `state`."""

    @router.get("/debug/calls/{call_id}/trace.json")
    async def trace(call_id: str) -> Response:
        found = await find_call(lookup(), call_id, ())
        if not isinstance(found, Found):
            return unknown_call(call_id, found is not None)
        row = found.call.row
        started_s, ended_s = times_of(row)
        came = await tempo.trace(row["call_id"], row["trace_id"], started_s, ended_s)
        link = tempo.link(row["call_id"], row["trace_id"], started_s, ended_s)
        return json_response(trace_as_dict(row["call_id"], row["trace_id"], came, link, started_s))


def times_of(row: CallRow) -> tuple[float, float | None]:
    """When a call began and ended, in seconds since the epoch."""
    ended: datetime | None = row["ended_at"]
    return row["started_at"].timestamp(), None if ended is None else ended.timestamp()


def trace_as_dict(
    call_id: UUID, trace_id: str | None, trace: Trace, link: str | None, started_s: float
) -> dict[str, object]:
    """For trace.json. `at_ms` counts from the beginning of the call; `left` and `width` are percent of a drawing."""
    spans = trace.spans
    # The call's own spans are what is drawn; the caller's, which may last for hours, are cut at their edges.
    drawn = [span for span in spans if span.is_ours] or spans
    start = min((span.start_ns for span in drawn), default=0)
    length = max((span.end_ns for span in drawn), default=0) - start
    depths = _depths(spans)
    return {
        "call_id": str(call_id),
        "trace_id": trace_id,
        "state": trace.state.value,
        "sentence": trace.sentence or None,
        "link": link,
        "total_ms": length / 1e6,
        "omitted": trace.omitted,
        "spans": [_span_as_dict(span, depths[span.id], start, length, started_s) for span in _in_order(spans)],
    }


def _span_as_dict(span: Span, depth: int, start_ns: int, length_ns: int, started_s: float) -> dict[str, object]:
    left, right = (_percent(at - start_ns, length_ns) for at in (span.start_ns, span.end_ns))
    return {
        "id": span.id,
        "parent": span.parent,
        "depth": depth,
        "name": span.name,
        "service": span.service,
        "kind": span.kind,
        "at_ms": round((span.start_ns - int(started_s * 1e6) * 1000) / 1e6, 3),
        "ms": (span.end_ns - span.start_ns) / 1e6,
        "error": span.is_error,
        "of_this_call": span.is_ours,
        "left": left,
        "width": round(right - left, 3),
    }


def _percent(part: int, whole: int) -> float:
    return round(100 * min(max(part / whole, 0.0), 1.0), 3) if whole > 0 else 0.0


_MAX_DEPTH = 12


def _depths(spans: tuple[Span, ...]) -> dict[str, int]:
    """How deep each span is below the first of the trace that is known, within bounds; a circle ends somewhere."""
    parents = {span.id: span.parent for span in spans}
    depths: dict[str, int] = {}
    for span in spans:
        depth, above = 0, span.parent
        while above in parents and depth < _MAX_DEPTH:
            depth, above = depth + 1, parents[above]
        depths[span.id] = depth
    return depths


def _in_order(spans: tuple[Span, ...]) -> list[Span]:
    """Each span below its parent, those of one parent by time."""
    known = {span.id for span in spans}
    below: dict[str | None, list[Span]] = {}
    for span in spans:
        below.setdefault(span.parent if span.parent in known and span.parent != span.id else None, []).append(span)
    ordered: list[Span] = []
    waiting = below.get(None, [])[::-1]
    seen: set[str] = set()
    while waiting:
        span = waiting.pop()
        if span.id not in seen:
            seen.add(span.id)
            ordered.append(span)
            waiting += below.get(span.id, [])[::-1]
    return ordered + [span for span in spans if span.id not in seen]
