"""Where what pages show of a call is made: beside calls in a thread, or, if it is big, in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from luthien.debug.apart import Apart, CannotStart
from luthien.debug.call.lookup import Found, Lookup, Pending
from luthien.debug.diff import Differ
from luthien.errors import StoreError

BIG_BYTES = 512 * 1024
"""A call with more bytes of payloads is looked at in another process: a thread would make all streams wait."""

THREADS = 2
"""How many small calls are looked at at a time."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sought:
    """A call that was found. If it is big, its records are there without their payloads."""

    found: Found
    is_big: bool


class Views:
    """Makes views; so many at once, and big ones one at a time. Who asks for more waits."""

    def __init__(self, dsn: str, differ: Differ, *, big_bytes: int = BIG_BYTES) -> None:
        self._differ = differ
        self._big_bytes = big_bytes
        self._apart = Apart(dsn)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="luthien-pages")
        self._is_alone = asyncio.Lock()

    async def find(self, lookup: Lookup, call_id: str) -> Sought | Pending | None:
        """What is known of the call that an address names; None also when that is no id. Raises StoreError."""
        try:
            wanted = UUID(call_id)
        except ValueError:
            return None
        is_big = (await lookup.payload_bytes([wanted])).get(wanted, 0) > self._big_bytes
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
            return await self._apart.make(make, call_id, sought.found.evidence, *args)
        except CannotStart:
            async with self._is_alone:
                found = await lookup.call(call_id)
                if not isinstance(found, Found):
                    raise StoreError("this call was removed from the record just now") from None
                return await self._in_thread(make, found, *args)

    def close(self) -> None:
        """Ends what is being made."""
        self._apart.close()
        self._threads.shutdown(cancel_futures=True)

    async def _in_thread(self, make: Callable[..., T], found: Found, *args: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: make(found, self._differ, *args))
