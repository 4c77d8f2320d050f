"""The spans that Tempo has of a call, for the call's page to draw."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID

from fastapi import APIRouter
from fastapi.responses import Response

from luthien.debug.call.lookup import Found, Lookup
from luthien.debug.pages.call import find_call, times_of, unknown_call
from luthien.debug.showing.drawing import ticks_of
from luthien.debug.tempo.client import Tempo
from luthien.debug.tempo.trace import Trace
from luthien.debug.tempo.waterfall import Row, Whose, Window, clocks_differ, rows_of, services_of
from luthien.debug.web import json_response

LinkTo = Callable[[str], str | None]


def add_trace(router: APIRouter, lookup: Callable[[], Lookup], tempo: Tempo) -> None:
    """trace.json. It always answers 200 for a call that is there: what came of asking Tempo is its `state`."""

    @router.get("/debug/calls/{call_id}/trace.json")
    async def trace(call_id: str) -> Response:
        found = await find_call(lookup(), call_id, ())
        if not isinstance(found, Found):
            return unknown_call(call_id, found is not None)
        row = found.call.row
        ids, times = (row["call_id"], row["trace_id"]), times_of(row)
        came = await tempo.trace(*ids, times)
        links = tempo.links(*ids, times)
        told = await asyncio.to_thread(
            trace_as_dict, *ids, came, times.started_s, lambda each: tempo.link_to(each, times)
        )
        return json_response({**told, "link": links.trace or links.call, "links": links.as_dict()})


def trace_as_dict(
    call_id: UUID, trace_id: str | None, trace: Trace, started_s: float, link_to: LinkTo
) -> dict[str, object]:
    """For trace.json. `at_ms` counts from the beginning of the call; `left` and `width` are percent of a drawing.

    Args:
        trace_id: as the record has it.
        link_to: where another trace is shown.
    """
    rows = rows_of(trace.spans, str(call_id))
    window = Window.of(rows)
    total_ms = window.length_ns / 1e6
    found_in = trace.trace_id or trace_id
    return {
        "call_id": str(call_id),
        "trace_id": trace_id,
        "found_in": trace.trace_id,
        "state": trace.state.value,
        "sentence": trace.sentence or None,
        "retry_after_s": trace.retry_after_s,
        "partial": trace.is_partial,
        "notes": _notes(trace, trace_id, rows),
        "total_ms": total_ms,
        "omitted": trace.omitted,
        "others": [{"trace_id": each, "link": link_to(each)} for each in trace.others],
        "linked": [{"trace_id": each, "link": link_to(each)} for each in _linked(rows) if each != found_in],
        "services": [
            {"name": name, "spans": count, "of_this_call": is_ours} for name, count, is_ours in services_of(rows)
        ],
        "ticks": [{"x": tick.x, "label": tick.label, "anchor": tick.anchor} for tick in ticks_of(total_ms)],
        "spans": [_span_as_dict(row, window, started_s) for row in rows],
    }


def _notes(trace: Trace, trace_id: str | None, rows: Sequence[Row]) -> list[str]:
    """What a reader must know to read the drawing."""
    notes = []
    if trace.is_partial:
        why = f" ({trace.message})" if trace.message else ""
        notes.append(f"Tempo has more of this trace than it gave: the answer is partial{why}.")
    if trace_id is not None and trace.trace_id not in (None, trace_id):
        notes.append(
            f"The record has another trace id, {trace_id}: these spans were found by the call's id. Something on the"
            " way to Tempo gives traces ids of its own."
        )
    return notes + clocks_differ(rows)


def _linked(rows: Sequence[Row]) -> list[str]:
    """The traces that spans of the call point to: those of callers that are not trusted to be joined."""
    return [*dict.fromkeys(each for row in rows if row.whose is Whose.THIS_CALL for each in row.span.links)]


def _span_as_dict(row: Row, window: Window, started_s: float) -> dict[str, object]:
    span = row.span
    left, width = window.place(span)
    return {
        "id": span.id,
        "parent": span.parent,
        "depth": row.depth,
        "name": span.name,
        "service": span.service,
        "kind": span.kind,
        "at_ms": round((span.start_ns - int(started_s * 1e6) * 1000) / 1e6, 3),
        "ms": (span.end_ns - span.start_ns) / 1e6,
        "error": span.is_error,
        "whose": row.whose.value,
        "of_this_call": row.whose is Whose.THIS_CALL,
        "call": _page_of(span.call_id) if row.whose in (Whose.CHILD_CALL, Whose.OTHER_CALL) else None,
        "parent_missing": row.is_orphan,
        "near": row.is_near,
        "first_of_kind": row.is_first_of_kind,
        "outside": window.misses(span),
        "skew_ms": round(row.skew_ms, 3) or None,
        "left": left,
        "width": width,
    }


def _page_of(call_id: str | None) -> str | None:
    """A span says what it likes: only an id becomes an address."""
    try:
        return f"/debug/calls/{UUID(call_id)}"
    except (TypeError, ValueError):
        return None
