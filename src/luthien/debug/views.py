"""Where what pages show of a call is made: beside calls in a thread, or, if it is big, in a process of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import TypeVar
from uuid import UUID

from luthien.debug.apart import Apart, CannotStart, Stopping
from luthien.debug.call.completeness import Evidence
from luthien.debug.call.lookup import Found, Lookup, Pending
from luthien.debug.diff import Differ
from luthien.debug.diffing.cache import DiffCache
from luthien.errors import StoreBusy, StoreError
from luthien.store.read import RecordReader
from luthien.store.stored import StoredCall

BIG_BYTES = 512 * 1024
"""A call with more bytes of payloads is looked at in another process: a thread would make all streams wait."""

THREADS = 1
"""How many small calls are looked at at a time: two would be no quicker, and all streams wait for each thread."""

LISTS_AT_ONCE, SMALL_AT_ONCE, BIG_AT_ONCE = 2, 3, 2
"""How many requests are under way at a time that read a whole call, small or big, or none. A list takes the event
loop for some milliseconds; a call may take much memory."""

EXPORTS_AT_ONCE = 4
"""How many exports of many calls may be under way; each has a call in memory, and may take hours."""

MOST_WAITING = 200
"""How many more may wait for that, of each sort."""

_KEPT_BYTES = 128 * 1024 * 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sought:
    """A call that was found. If it is big, its records are there without their payloads."""

    found: Found
    is_big: bool


class Lane:
    """Lets so many through at a time; others wait, in the order in which they came."""

    def __init__(self, at_once: int, most_waiting: int = MOST_WAITING) -> None:
        self._going = asyncio.Semaphore(at_once)
        self._most_waiting = most_waiting
        self._waiting = 0
        self._is_closed = False

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Raises StoreBusy when there is no more room to wait in, Stopping when there is no more time."""
        if self._waiting >= self._most_waiting:
            raise StoreBusy(f"{self._waiting} others wait for calls to be read: try again in a moment")
        self._waiting += 1
        try:
            await self._going.acquire()
        finally:
            self._waiting -= 1
        try:
            if self._is_closed:
                raise Stopping("the gateway stops")
            yield
        finally:
            self._going.release()

    def close(self) -> None:
        """Nobody waits any longer."""
        self._is_closed = True
        for _ in range(self._waiting):
            self._going.release()


class Room:
    """For so many at a time, and nobody waits."""

    def __init__(self, at_once: int) -> None:
        self._left = at_once

    def take(self) -> bool:
        """Whether there was room; then it is to be given back."""
        if not self._left:
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        self._left += 1


class Views:
    """Makes views; so many at once, and big ones one at a time. Who asks for more waits."""

    def __init__(self, dsn: str, differ: Differ, *, big_bytes: int = BIG_BYTES) -> None:
        self._dsn = dsn
        self._differ = differ
        self._big_bytes = big_bytes
        self._apart = Apart()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="luthien-pages")
        self._is_alone = asyncio.Lock()
        self._lists, self._small, self._big = Lane(LISTS_AT_ONCE), Lane(SMALL_AT_ONCE), Lane(BIG_AT_ONCE)
        self.exports = Room(EXPORTS_AT_ONCE)
        self._line = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, lookup: Callable[[], Lookup], call_id: str | None) -> AsyncIterator[None]:
        """Around a page: lists, small calls and big ones do not wait for each other. Raises StoreError.

        Args:
            call_id: the call that the page reads, if it is of one.
        """
        async with (self._lists if call_id is None else await self._lane_of(lookup(), call_id)).turn():
            yield

    async def _lane_of(self, lookup: Lookup, call_id: str) -> Lane:
        try:
            return self._big if await self._is_big(lookup, UUID(call_id)) else self._small
        except ValueError:
            return self._small

    async def find(self, lookup: Lookup, call_id: str) -> Sought | Pending | None:
        """What is known of the call that an address names; None also when that is no id. Raises StoreError."""
        try:
            wanted = UUID(call_id)
        except ValueError:
            return None
        is_big = await self._is_big(lookup, wanted)
        found = await lookup.call(wanted, () if is_big else None)
        return Sought(found, is_big) if isinstance(found, Found) else found

    async def make(self, make: Callable[..., T], lookup: Lookup, sought: Sought, *args: object) -> T:
        """What `make` makes of a call, a `Differ` and `args`, which another process must be able to read.

        Raises StoreError.
        """
        if not sought.is_big:
            return await self._in_thread(make, sought.found, *args)
        call_id = sought.found.call.row["call_id"]
        try:
            return await self._apart.run(made_of_call, self._dsn, call_id, sought.found.evidence, make, args)
        except CannotStart:
            async with self._is_alone:
                found = await lookup.call(call_id)
                if not isinstance(found, Found):
                    raise StoreError("this call was removed from the record just now") from None
                return await self._in_thread(make, found, *args)

    async def make_resting(self, make: Callable[..., T], lookup: Lookup, sought: Sought, *args: object) -> T:
        """As `make`, for exports, which go on and on: one after the other, and for half of the time at most."""
        async with self._line:
            began = time.monotonic()
            made = await self.make(make, lookup, sought, *args)
            await asyncio.sleep(0 if sought.is_big else time.monotonic() - began)
        return made

    def end(self) -> None:
        """Who waits for a big call, or for a turn, is told that the gateway stops."""
        for lane in (self._lists, self._small, self._big):
            lane.close()
        self._apart.end()

    def close(self) -> None:
        """Ends what is being made."""
        self._apart.close()
        self._threads.shutdown(cancel_futures=True)

    async def _is_big(self, lookup: Lookup, call_id: UUID) -> bool:
        return (await lookup.payload_bytes([call_id])).get(call_id, 0) > self._big_bytes

    async def _in_thread(self, make: Callable[..., T], found: Found, *args: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: make(found, self._differ, *args))


def made_of_call(dsn: str, call_id: UUID, evidence: Evidence, make: Callable[..., T], args: tuple[object, ...]) -> T:
    """What `make(found, differ, *args)` makes of a stored call; for another process. Raises StoreError."""
    call = asyncio.run(_read(dsn, call_id))
    if call is None:
        raise StoreError("this call was removed from the record just now")
    return make(Found(call, evidence), _differ(), *args)


async def _read(dsn: str, call_id: UUID) -> StoredCall | None:
    reader = RecordReader(dsn)
    await reader.open()
    try:
        return await reader.call(call_id)
    finally:
        await reader.close()


@cache
def _differ() -> Differ:
    return DiffCache(max_bytes=_KEPT_BYTES)
