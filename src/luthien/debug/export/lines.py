"""Calls as NDJSON: one a line, newest first. Never more than one page of rows, and one call, at a time in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from uuid import UUID

from luthien.debug.apart import Failed, Stopping
from luthien.debug.call.call_json import row_as_dict
from luthien.debug.call.call_view import view_call
from luthien.debug.call.lookup import Found, Listed, Lookup
from luthien.debug.diff import Differ, diff_payloads
from luthien.debug.diffing.values import dumps
from luthien.debug.export.whole import stages_as_dict
from luthien.errors import StoreError
from luthien.store.call_filter import CallFilter

_log = logging.getLogger(__name__)

_ROWS = 200


Line = Callable[[Lookup, Listed], Awaitable[str]]


async def as_lines(
    lookup: Lookup,
    wanted: CallFilter,
    before: UUID | None,
    limit: int,
    *,
    payloads: bool,
    whole: Line | None = None,
) -> AsyncGenerator[str, None]:
    """The lines, some at a time, each with its end. An error on the way is the last of them: `{"error": …}`.

    That has the id of the last call before it as `after`: asked for what is before that, it goes on there.

    Args:
        whole: makes the line of a call with its payloads, of which the biggest take seconds; in a thread if not said.
    """
    make = whole or _whole
    try:
        while limit > 0:
            listed = await lookup.calls(wanted, before, min(limit, _ROWS))
            if payloads:
                for each in listed:
                    yield await _named(make, lookup, each)
                    before = each.row["call_id"]
            elif listed:
                yield await asyncio.to_thread(_rows, listed)
                before = listed[-1].row["call_id"]
            limit -= len(listed)
            if len(listed) < _ROWS:
                return
    except Exception as error:  # noqa: BLE001 - the status has been sent: whoever reads this is told in a line
        _log.warning("an export of calls broke: %s", type(error).__name__)
        said = str(error) if isinstance(error, StoreError) else f"the export failed ({type(error).__name__})"
        yield dumps({"error": said, "after": None if before is None else str(before)}) + "\n"


async def _named(make: Line, lookup: Lookup, listed: Listed) -> str:
    """Its line; where that cannot be made, however often it is asked for, the error says of which call."""
    try:
        return await make(lookup, listed)
    except Stopping:
        raise
    except Failed as error:
        raise Failed(f"call {listed.row['call_id']}: {error}") from error


async def _whole(lookup: Lookup, listed: Listed) -> str:
    found = await lookup.call(listed.row["call_id"])
    if not isinstance(found, Found):
        return line_without(listed)
    return await asyncio.to_thread(line_of, found, diff_payloads, listed)


def line_without(listed: Listed) -> str:
    """The line of a call that went away meanwhile."""
    return dumps(_listed(listed)) + "\n"


def line_of(found: Found, differ: Differ, listed: Listed) -> str:
    """The line of a call with its stages."""
    view = view_call(found.call, found.evidence, differ)
    return dumps({**_listed(listed), "verdict": view.verdict, "stages": stages_as_dict(view)}) + "\n"


def _rows(listed: list[Listed]) -> str:
    return "".join(f"{dumps(_listed(each))}\n" for each in listed)


def _listed(listed: Listed) -> dict[str, object]:
    return {**row_as_dict(listed.row), "completeness": listed.completeness.as_dict()}
