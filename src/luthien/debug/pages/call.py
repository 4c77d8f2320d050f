"""The page of one call, and its JSON twins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import QueryParams

from luthien.debug.blaming.shadows import ShadowView
from luthien.debug.call.call_json import call_as_dict, diffs_as_dict, timeline_as_dict
from luthien.debug.call.call_view import CallView, view_call
from luthien.debug.call.completeness import NOTHING_YET, State
from luthien.debug.call.lookup import Found, Lookup, Pending
from luthien.debug.diff import Differ
from luthien.debug.diffing.documents import Documents
from luthien.debug.diffing.values import dumps
from luthien.debug.search.filters import NAMES, FilterError, query_of, read_filter
from luthien.debug.showing.drawing import LanesDrawing, WaterfallDrawing, draw_lanes, draw_waterfall
from luthien.debug.showing.shown_diff import DiffOptions, ShownDiff, show_diff
from luthien.debug.tempo.client import Tempo
from luthien.debug.tempo.links import Links, Times
from luthien.debug.views import Sought, Views
from luthien.debug.web import json_response, not_yet, page, wants_json
from luthien.exchange import EventType, Side
from luthien.store.call_filter import EVERY_CALL, CallFilter
from luthien.store.stored import CallRow

INLINE_BYTES = 16_384
"""Payloads of more are fetched when somebody opens them."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a call's page leads to. Addresses, the filter of the list that it was come from in their queries."""

    back: str
    previous: str | None
    following: str | None
    grafana: Links
    """The trace, and the search for the call, in Grafana."""
    asks_tempo: bool


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is worked out for a call's page beside its view."""

    diffs: list[ShownDiff]
    shadows: dict[int, tuple[ShadowView, ShownDiff | None]]
    """What is to be told of those in shadow, by the sequences of their decisions."""
    lanes: LanesDrawing | None
    waterfall: WaterfallDrawing | None


def add_call(router: APIRouter, lookup: Callable[[], Lookup], tempo: Tempo, views: Callable[[], Views]) -> None:
    """The page, diff.json and timeline.json."""

    @router.get("/debug/calls/{call_id}/diff.json")
    async def diff(call_id: str) -> Response:
        return await _twin(lookup(), call_id, views(), diffs_as_dict)

    @router.get("/debug/calls/{call_id}/timeline.json")
    async def timeline(call_id: str) -> Response:
        return await _twin(lookup(), call_id, views(), timeline_as_dict)

    @router.get("/debug/calls/{call_id}")
    async def call(request: Request, call_id: str) -> Response:
        plain_id = call_id.removesuffix(".json")
        if plain_id != call_id or wants_json(request):
            return await _twin(lookup(), plain_id, views(), call_as_dict, tempo)
        wanted = _filter_of(request.query_params)
        sought = await views().find(lookup(), plain_id)
        if sought is None:
            return page("no_call.html", {"call_id": plain_id, "back": _back(wanted)}, status=404)
        if isinstance(sought, Pending):
            return not_yet(page("pending.html", {"call_id": plain_id}, status=202))
        around = await _surroundings(lookup(), wanted, sought.found, tempo)
        options = DiffOptions.from_query(request.query_params)
        return await views().make(call_page, lookup(), sought, around, options)

    @router.get("/v2/debug/request/{call_id}")
    async def seed_name(call_id: UUID) -> Response:
        return RedirectResponse(f"/debug/calls/{call_id}", status_code=308)


def call_page(found: Found, differ: Differ, around: Surroundings, options: DiffOptions) -> Response:
    """The page of a call; 202 while it is not all there."""
    view = view_call(found.call, found.evidence, differ)
    is_pending = view.completeness.state is State.PENDING
    html = _render(view, around, options, 202 if is_pending else 200)
    return not_yet(html) if is_pending else html


def _render(view: CallView, around: Surroundings, options: DiffOptions, status: int) -> Response:
    drawn = Drawn(
        [_shown_diff(view, side, options) for side in ("request", "response")],
        {
            each.decision: (each, _shown_shadow(each, options, view.documents))
            for each in view.shadows
            if _does_something(each)
        },
        None if view.lanes is None else draw_lanes(view.lanes),
        None if view.waterfall is None else draw_waterfall(view.waterfall),
    )
    values = {"view": view, "row": view.row, "around": around, "drawn": drawn, "inline_bytes": INLINE_BYTES}
    return page("call.html", values, status=status)


def _shown_diff(view: CallView, side: str, options: DiffOptions) -> ShownDiff:
    before, after = (view.stages[EventType(f"{side}_{state}")] for state in ("original", "final"))
    diff = view.request if side == "request" else view.response
    stages = f"/debug/calls/{view.call_id}/stages"
    state = view.completeness.state
    notes: list[str] = []
    unchanged = "No change."
    if diff is None:
        notes = ["See the stages below."]
    elif state is not State.COMPLETE:
        unchanged = f"The two recorded payloads are the same, but the record is {state.value}."
    elif before.is_capped:
        unchanged = "No change: the hashes of all bytes are the same. Only the beginning is recorded."
    elif view.is_written_otherwise(side):
        unchanged = "No change in what it says, but in how the stream is written."
    return show_diff(
        side,
        before.payload,
        after.payload,
        diff,
        options,
        labels=("as it came", "as it went on"),
        raw=(
            f"{stages}/{before.name}/raw" if before.raw is not None else None,
            f"{stages}/{after.name}/raw" if after.raw is not None else None,
        ),
        notes=notes,
        unchanged=unchanged,
        redacted=Side(side) in view.redacted,
        documents=view.documents,
    )


def _does_something(shadow: ShadowView) -> bool:
    return shadow.why is not None or (shadow.diff is not None and bool(shadow.diff.ops))


def _shown_shadow(shadow: ShadowView, options: DiffOptions, documents: Documents) -> ShownDiff | None:
    if shadow.diff is None:
        return None
    return show_diff(
        f"shadow-{shadow.decision}",
        shadow.before,
        shadow.after,
        shadow.diff,
        options,
        title=f"{shadow.policy} on the {shadow.side}, in shadow",
        labels=("as it saw it", "as it would have given it on"),
        unchanged="It would have changed nothing.",
        documents=documents,
    )


def _filter_of(query: QueryParams) -> CallFilter:
    """The filter of the list that somebody came from; none, if it cannot be read."""
    try:
        return read_filter((name, value) for name, value in query.multi_items() if name in NAMES)
    except FilterError:
        return EVERY_CALL


def _back(wanted: CallFilter) -> str:
    return _with_query("/debug/calls", wanted)


def _with_query(path: str, wanted: CallFilter) -> str:
    query = query_of(wanted)
    return f"{path}?{query}" if query else path


async def _surroundings(lookup: Lookup, wanted: CallFilter, found: Found, tempo: Tempo) -> Surroundings:
    row = found.call.row
    previous, following = (
        None if each is None else _with_query(f"/debug/calls/{each}", wanted)
        for each in await lookup.neighbours(wanted, row["call_id"])
    )
    return Surroundings(
        _back(wanted),
        previous,
        following,
        tempo.links(row["call_id"], row["trace_id"], times_of(row)),
        tempo.is_configured,
    )


def times_of(row: CallRow) -> Times:
    """When a call began and ended."""
    return Times(row["started_at"].timestamp(), None if row["ended_at"] is None else row["ended_at"].timestamp())


async def find_call(lookup: Lookup, call_id: str, kinds: Sequence[EventType] | None = None) -> Found | Pending | None:
    """What is known of the call that an address names; None also when that is no id. `kinds` as in `Lookup.call`."""
    try:
        return await lookup.call(UUID(call_id), kinds)
    except ValueError:
        return None


def unknown_call(call_id: str, is_pending: bool) -> Response:
    """The JSON answer about a call that is not in the record, or not yet."""
    if is_pending:
        return not_yet(json_response({"call_id": call_id, "completeness": NOTHING_YET.as_dict()}, status=202))
    return json_response({"error": f"there is no call {call_id}"}, status=404)


async def _twin(
    lookup: Lookup,
    call_id: str,
    views: Views,
    show: Callable[[CallView], dict[str, object]],
    tempo: Tempo | None = None,
) -> Response:
    """With links into Grafana, if `tempo` has some."""
    sought = await views.find(lookup, call_id)
    if not isinstance(sought, Sought):
        return unknown_call(call_id, sought is not None)
    if tempo is not None:
        row = sought.found.call.row
        show = partial(_with_links, show, tempo.links(row["call_id"], row["trace_id"], times_of(row)))
    return await views.make(call_twin, lookup, sought, show)


def _with_links(show: Callable[[CallView], dict[str, object]], grafana: Links, view: CallView) -> dict[str, object]:
    return {**show(view), "grafana": grafana.as_dict()}


def call_twin(found: Found, differ: Differ, show: Callable[[CallView], dict[str, object]]) -> Response:
    """The JSON that `show` makes of a call; 202 while it is not all there."""
    view = view_call(found.call, found.evidence, differ)
    is_pending = view.completeness.state is State.PENDING
    response = Response(dumps(show(view)), status_code=202 if is_pending else 200, media_type="application/json")
    return not_yet(response) if is_pending else response
