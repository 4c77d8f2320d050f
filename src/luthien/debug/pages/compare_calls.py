"""Any two calls compared: two turns of a session, the same request twice, one prompt through two models."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from luthien.debug.addresses import compare_page
from luthien.debug.call.call_json import links, row_as_dict
from luthien.debug.call.completeness import Completeness, State, completeness_of, state_of
from luthien.debug.call.lookup import Found, Lookup, Pending
from luthien.debug.call.stages import StageView, kinds_for, some_stages
from luthien.debug.diff import Differ
from luthien.debug.diffing.values import dumps
from luthien.debug.pages.sessions import show_calls
from luthien.debug.sessions.comparison import NAMES, Compared, Manner, compare_stage, facts_of
from luthien.debug.showing.shown_diff import DiffOptions, ShownDiff, show_diff
from luthien.debug.web import json_response, not_yet, page, wants_json
from luthien.errors import StoreError
from luthien.exchange import STAGES, EventType
from luthien.store.stored import CallRow

PREVIOUS = "previous"

_OLDEST = UUID(int=0)
"""In the place of an id: the call that the other one goes on from."""
DEFAULT_STAGES = (EventType.REQUEST_ORIGINAL, EventType.RESPONSE_FINAL)

_ID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)
_MAX_CHARS = 300
_LOOK_BACK = 12
_AT_ONCE = 1


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an address asks for; `given` is what stands in it for each call."""

    given: Mapping[str, str]
    stages: tuple[EventType, ...]
    manner: str
    options: DiffOptions


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why there is no call to compare, for the field where it is named."""

    words: str
    status: int


@dataclass(frozen=True, slots=True)
class _Result:
    """A stage compared, for the page and for its twin."""

    compared: Compared
    shown: ShownDiff | None = None
    as_dict: Mapping[str, object] = field(default_factory=dict)


def add_compare(router: APIRouter, lookup: Callable[[], Lookup], differ: Differ) -> None:
    """The page that compares two calls, and its JSON twin."""
    comparing = asyncio.Semaphore(_AT_ONCE)  # two of the largest calls may be in memory, and not more

    @router.get("/debug/compare")
    @router.get("/debug/compare.json")
    async def compare(request: Request) -> Response:
        asked, is_json = _read(request), wants_json(request)
        if PREVIOUS in asked.given.values():
            resolved = await _resolved(lookup(), asked, differ)
            if isinstance(resolved, str):
                return RedirectResponse(resolved, status_code=307)
            return _form(asked, resolved, is_json=is_json)
        a, b = [await _call(lookup(), asked.given[name]) for name in ("a", "b")]
        if isinstance(a, _Trouble) or isinstance(b, _Trouble):
            found = {"a": a, "b": b}
            return _form(asked, {n: e for n, e in found.items() if isinstance(e, _Trouble)}, is_json=is_json)
        async with comparing:
            results = [
                await _compared(lookup(), stage, (a, b), asked, differ, is_json=is_json) for stage in asked.stages
            ]
        return await asyncio.to_thread(_answer, asked, a, b, results, is_json=is_json)


def _read(request: Request) -> _Asked:
    params = request.query_params
    wanted = params.getlist("stage")
    stages = tuple(stage for stage in STAGES if stage.value in wanted) or DEFAULT_STAGES
    given = {name: params.get(name, "").strip() for name in ("a", "b")}
    return _Asked(given, stages, params.get("as", ""), DiffOptions.from_query(params))


async def _call(lookup: Lookup, given: str) -> Found | _Trouble:
    """The call that was named, without its payloads."""
    if not given:
        return _Trouble("Enter the id of a call.", 400)
    named = _ID.search(given) if len(given) <= _MAX_CHARS else None
    if named is None:
        return _Trouble("This is no id of a call: one is like 0199f3c1-5a0e-7c3b-8a54-0e6d3c1b2a90.", 400)
    found = await lookup.call(UUID(named[0]), ())
    if isinstance(found, Pending):
        return _Trouble("Nothing of this call is in the database yet. Try again in a moment.", 202)
    return found or _Trouble("There is no such call in the record.", 404)


async def _resolved(lookup: Lookup, asked: _Asked, differ: Differ) -> str | dict[str, _Trouble]:
    """The address with the call that the other one goes on from; or what is wrong."""
    [later, earlier] = ("b", "a") if asked.given["a"] == PREVIOUS else ("a", "b")
    found = await _call(lookup, asked.given[later])
    if isinstance(found, _Trouble):
        return {later: found}
    call_id, session_id = found.call.row["call_id"], found.call.row["session_id"]
    if session_id is None:
        return {earlier: _Trouble("The other call names no session, so that none is known to come before it.", 404)}
    calls = await lookup.session(session_id, _OLDEST, UUID(int=call_id.int + 1), _LOOK_BACK + 1, backwards=True)
    *before, last = [each for each in calls if each.row["parent_call_id"] is None or each.row["call_id"] == call_id]
    if not before:
        return {earlier: _Trouble("The other call is the first of its session.", 404)}
    [shown] = await show_calls(lookup, before, [last], None, differ)
    ids = {later: call_id, earlier: shown.follows or before[-1].row["call_id"]}
    return _address(asked, ids["a"], ids["b"])


def _address(asked: _Asked, a: object, b: object) -> str:
    """The same page for these two calls."""
    rest = [(name, value) for name, value in asked.options.others if name not in ("a", "b")]
    return compare_page(a, b) + (f"&{urlencode(rest, errors='replace')}" if rest else "")


async def _compared(
    lookup: Lookup, stage: EventType, calls: Sequence[Found], asked: _Asked, differ: Differ, *, is_json: bool
) -> _Result:
    """One stage of both calls; no other payloads are in memory meanwhile."""
    views: list[StageView] = []
    for call in calls:
        found = await lookup.call(call.call.row["call_id"], kinds_for(stage))
        if not isinstance(found, Found):
            raise StoreError("one of both calls was removed from the record just now")
        views.append((await asyncio.to_thread(some_stages, found.call, [stage], state_of(found.evidence)))[stage])
    rows = [call.call.row for call in calls]
    formats = (rows[0]["wire_format"], rows[1]["wire_format"])
    manner = _manner(asked, formats)
    done = await asyncio.to_thread(compare_stage, stage, views[0], views[1], formats, manner, differ)
    return await asyncio.to_thread(_result, done, views, rows, asked, is_json=is_json)


def _result(
    done: Compared, views: Sequence[StageView], rows: Sequence[CallRow], asked: _Asked, *, is_json: bool
) -> _Result:
    if is_json:
        return _Result(done, as_dict=done.as_dict())
    raw = [
        f"/debug/calls/{row['call_id']}/stages/{done.stage}/raw" if view.raw is not None else None
        for row, view in zip(rows, views, strict=True)
    ]
    shown = show_diff(
        done.stage.value,
        done.before,
        done.after,
        done.diff,
        asked.options,
        title=done.stage.value.replace("_", " ").capitalize(),
        labels=NAMES,
        raw=(raw[0], raw[1]),
        notes=done.notes,
        unchanged="No difference." if done.manner == "payload" else "No difference in what is said.",
        redacted=done.is_redacted,
    )
    return _Result(replace(done, before=None, after=None), shown)


def _manner(asked: _Asked, formats: Sequence[str | None]) -> Manner:
    """By their parts if the formats differ, unless it is asked for otherwise."""
    if asked.manner == "payload" or (asked.manner != "parts" and formats[0] == formats[1]):
        return "payload"
    return "parts"


def _form(asked: _Asked, troubles: Mapping[str, _Trouble], *, is_json: bool) -> Response:
    """The form alone, with what is wrong at each field; what is still to be entered is not."""
    status = max(trouble.status for trouble in troubles.values())
    words = {name: trouble.words for name, trouble in troubles.items()}
    if is_json:
        response: Response = json_response({"error": "two calls are needed: a and b", "fields": words}, status)
    elif not any(asked.given[name] for name in troubles):
        response = page("compare.html", {**_choices(asked), "troubles": {}, "facts": None})
    else:
        response = page("compare.html", {**_choices(asked), "troubles": words, "facts": None}, status)
    return not_yet(response) if status == 202 else response


def _choices(asked: _Asked) -> dict[str, Any]:
    """What the form has."""
    kept = [("layout", asked.options.layout)] if asked.options.layout != "unified" else []
    return {"given": asked.given, "stages": STAGES, "chosen": asked.stages, "manner": asked.manner, "hidden": kept}


def _answer(asked: _Asked, a: Found, b: Found, results: Sequence[_Result], *, is_json: bool) -> Response:
    rows, records = (a.call.row, b.call.row), (_record_of(a), _record_of(b))
    ids = [row["call_id"] for row in rows]
    is_pending = any(record.state is State.PENDING for record in records)
    facts = facts_of(*rows, *records)
    if is_json:
        twin = {
            **{name: _as_dict(row, record) for name, row, record in zip(("a", "b"), rows, records, strict=True)},
            "facts": [fact.as_dict() for fact in facts],
            "stages": {result.compared.stage.value: result.as_dict for result in results},
            "links": {"page": _address(asked, *ids)},
        }
        response = Response(dumps(twin), 202 if is_pending else 200, media_type="application/json")
        return not_yet(response) if is_pending else response
    values = {
        **_choices(asked),
        "troubles": {},
        "a": rows[0],
        "b": rows[1],
        "facts": facts,
        "results": results,
        "swap": _address(asked, *reversed(ids)),
        "json": _address(asked, *ids).replace("?", ".json?", 1),
        "is_pending": is_pending,
    }
    response = page("compare.html", values, 202 if is_pending else 200)
    return not_yet(response) if is_pending else response


def _record_of(found: Found) -> Completeness:
    return completeness_of(found.evidence, ended_how=found.call.row["process_ended_how"])


def _as_dict(row: CallRow, record: Completeness) -> dict[str, object]:
    return {**row_as_dict(row), "completeness": record.as_dict(), "links": links(row["call_id"])}
