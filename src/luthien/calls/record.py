"""The record as the commands read it: straight from the database, whether a gateway runs or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from luthien.debug.call.lookup import Found, Listed, Lookup
from luthien.record.queue import RecordQueue
from luthien.store.call_filter import CallFilter
from luthien.store.read import RecordReader

NEWEST = ("last", "@")
"""What stands for the newest call."""


class NoSuchCall(Exception):
    """The message says what was looked for."""


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Lookup]:
    """Where calls are found. Nothing waits in this process, so what is not stored is not known."""
    reader = RecordReader(dsn)
    await reader.open()
    try:
        yield Lookup(reader, RecordQueue(1, 1))
    finally:
        await reader.close()


async def find(lookup: Lookup, reference: str, wanted: CallFilter) -> Found:
    """The call that an id, the beginning of one, or `last` names; `wanted` says which calls `last` is of.

    Raises:
        NoSuchCall: there is none, or more than one begins so.
        StoreError: the database is away.
    """
    if reference in NEWEST:
        newest = await lookup.calls(wanted, None, 1)
        if not newest:
            raise NoSuchCall("no call is in the record" if wanted == CallFilter() else "no call is as asked for")
        return await _found(lookup, newest[0].row["call_id"])
    digits = reference.lower().replace("-", "")
    if not digits or len(digits) > 32 or set(digits) - set("0123456789abcdef"):
        raise NoSuchCall(f"{reference!r} is no id of a call: say how one begins, or last")
    if len(digits) == 32:
        return await _found(lookup, UUID(digits))
    matching = await lookup.calls(CallFilter(id=digits), None, 3)
    if len(matching) > 1:
        raise NoSuchCall(f"more than one call begins with {reference}: {_some(matching)}")
    if not matching:
        raise NoSuchCall(f"no call begins with {reference}")
    return await _found(lookup, matching[0].row["call_id"])


async def _found(lookup: Lookup, call_id: UUID) -> Found:
    found = await lookup.call(call_id)
    if not isinstance(found, Found):
        young = "" if found is None else ", or not yet"
        raise NoSuchCall(f"the call {call_id} is not in the record{young}")
    return found


def _some(matching: list[Listed]) -> str:
    shown = [str(each.row["call_id"]) for each in matching[:2]]
    return ", ".join([*shown, *(["…"] if len(matching) > 2 else [])])
