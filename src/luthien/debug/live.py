"""The live feed: the changes of calls, as they are stored by whichever process, for any number of followers.

One reader a process reads on from where it was, woken up by the writers' `NOTIFY` and by the clock behind it, and
keeps the last changes. Followers have no queues: each takes what comes after its own position, at its own pace, from
what is kept or else from the database. Who is too far behind is told so (`gap`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import UUID

import psycopg

from luthien.debug.call.lookup import Lookup
from luthien.debug.kept import PAGE, Change, Kept, Notice
from luthien.errors import LuthienError, StoreBusy, StoreError
from luthien.store.deadline import connection_options
from luthien.store.feed import Held, Position
from luthien.store.sql import query

_log = logging.getLogger(__name__)

KEPT = 1000
"""How many changes are kept for followers, and how many missed ones are read again for one who comes back."""
REPLAY_S = 24 * 3600
"""How old a position may be that somebody comes back with."""
FOLLOWERS = 100
"""How many may follow in one process."""
POLL_S = 1.0
KEEP_ALIVE_S = 15.0
HELD_S = 5.0
"""How long another transaction keeps back what is stored before followers are told so."""

# Commits that come in quick succession are read at once.
_PAUSE_S = 0.2
_RETRY_S = 1.0
_PROCESSES = 1000


class TooManyFollowers(LuthienError):
    """This process has as many followers as it may have."""


class Feed:
    """Follows the record while somebody follows the feed.

    Args:
        dsn: for the one connection that listens; changes are read by `lookup`.
    """

    def __init__(self, lookup: Lookup, dsn: str) -> None:
        self.kept = Kept()
        self.lookup = lookup
        self._dsn = dsn
        self._followers = 0
        self._wanted = asyncio.Event()
        self._asked = asyncio.Event()
        self._changed = asyncio.Event()
        self._is_ending = False
        self._processes: dict[UUID, str] = {}
        self._nothing_at: Position | None = None
        self._held: Held | None = None
        self._looked_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="luthien-feed")  # noqa: TID251 - awaited in stop

    def end(self) -> None:
        """Lets every follower come to its end; more than once changes nothing."""
        self._is_ending = True
        self._tell()

    async def stop(self) -> None:
        self.end()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @property
    def is_full(self) -> bool:
        return self._followers >= FOLLOWERS

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Somebody follows while the block runs. Raises TooManyFollowers."""
        if self.is_full:
            raise TooManyFollowers(f"{FOLLOWERS} follow this process already")
        self._followers += 1
        self._wanted.set()
        try:
            yield
        finally:
            self._followers -= 1

    async def follow(self, after: Position | None) -> AsyncGenerator[Change | Notice, None]:
        """What changes after a position, or from now on, until the process stops; to be closed by whoever follows.

        A call that changed several times may come once, as it is at last.
        """
        follower = _Follower(self, after)
        while not self._is_ending:
            changed = self._changed
            found = await follower.take()
            for each in found:
                yield each
            if not found:
                try:
                    await asyncio.wait_for(changed.wait(), KEEP_ALIVE_S)
                except TimeoutError:
                    yield Notice("alive", follower.position)

    async def changes(self, after: Position) -> list[Change]:
        """A page of what changed after a position. Raises StoreError."""
        found = await self.lookup.changes(after, PAGE)
        served_by = {listed.row["process_id"] for _, listed in found}
        unknown = [each for each in served_by if each is not None and each not in self._processes]
        if unknown:
            if len(self._processes) > _PROCESSES:
                self._processes.clear()
            self._processes |= await self.lookup.processes(unknown)
        return [Change(position, each, self._processes.get(each.row["process_id"])) for position, each in found]

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            try:
                async with asyncio.TaskGroup() as group:
                    listening = group.create_task(self._listen())
                    await self._read_on()
                    listening.cancel()
            except Exception:  # noqa: BLE001 - whatever it is, followers must hear of it, and it is tried again
                _log.exception("the live feed failed")
                self._fail("the live feed failed; see the gateway's log")
                await asyncio.sleep(_RETRY_S)

    async def _listen(self) -> None:
        """Asks for a look whenever a writer has committed; without it, looks come with the clock."""
        options = connection_options("luthien-feed")
        while True:
            with suppress(psycopg.Error, OSError):
                async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True, **options) as conn:
                    await conn.execute(query("feed_listen"))
                    async for _ in conn.notifies():
                        self._asked.set()
            await asyncio.sleep(_RETRY_S)

    async def _read_on(self) -> None:
        """Reads until nobody follows any more."""
        while self._followers:
            self._asked.clear()
            is_more = False
            try:
                is_more = await self._read()
            except StoreBusy:
                pass  # it is looked again soon
            except StoreError as error:
                self._fail(str(error))
            if not is_more:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._asked.wait(), POLL_S)
                await asyncio.sleep(_PAUSE_S)
        self._wanted.clear()
        self.kept.forget()

    async def _read(self) -> bool:
        """Reads what has changed; returns whether there may be more."""
        tip = await self.lookup.tip()
        if self.kept.tip is None:
            self.kept.begin(tip.position)
            self._tell()
        changes = await self._changes_up_to(tip.position)
        self.kept.add(changes, int(time.time()), KEPT)
        held = None if changes else await self._held_since()
        if changes or self.kept.trouble or self.kept.held != held:
            self.kept.trouble, self.kept.held = None, held
            self._tell()
        return len(changes) == PAGE

    async def _changes_up_to(self, tip: Position) -> list[Change]:
        """What came since the last look. Where nothing has ended since one that found nothing, there is nothing."""
        if tip == self._nothing_at:
            return []
        changes = await self.changes(self.kept.tip or tip)
        self._nothing_at = None if changes else tip
        return changes

    async def _held_since(self) -> str | None:
        """Since when one and the same transaction keeps something back, looked up now and then."""
        if time.monotonic() - self._looked_at >= HELD_S:
            self._looked_at = time.monotonic()
            known, self._held = self._held, await self.lookup.held()
            if self._held is None or known is None or known.xid != self._held.xid:
                return None
            return self.kept.held or min(known.since, self._held.since).isoformat(timespec="seconds")
        return self.kept.held

    def _fail(self, trouble: str) -> None:
        if self.kept.trouble != trouble:
            self.kept.trouble = trouble
            self._tell()


class _Follower:
    """One who follows: what it has seen, and what it has been told of the feed."""

    def __init__(self, feed: Feed, after: Position | None) -> None:
        self.position = after
        self._feed = feed
        self._is_greeted = False
        self._trouble: str | None = None
        self._held: str | None = None

    async def take(self) -> Sequence[Change | Notice]:
        """What comes next; nothing when there is nothing new."""
        trouble = self._feed.kept.trouble
        if trouble is None:
            try:
                return await self._take()
            except StoreBusy:
                return ()
            except StoreError as error:
                trouble = str(error)
        if trouble == self._trouble:
            return ()
        self._trouble = trouble
        return [Notice("away", self.position, trouble)]

    async def _take(self) -> Sequence[Change | Notice]:
        kept = self._feed.kept
        tip, floor = kept.tip, kept.floor
        if tip is None or floor is None:
            return ()
        if self._trouble is not None:
            self._trouble = self._held = None
            return [Notice("back", self.position)]
        if not self._is_greeted:
            return await self._greet(tip)
        if kept.held != self._held:
            self._held = kept.held
            return [Notice("held", self.position, kept.held) if kept.held else Notice("back", self.position)]
        position = self.position or tip
        found = kept.after(position) if position >= floor else await self._read_again(position, tip)
        if isinstance(found, Notice):
            self.position = tip
            return [found]
        if found:
            self.position = found[-1].position
        elif position < floor:
            self.position = floor
        return found

    async def _greet(self, tip: Position) -> Sequence[Notice]:
        """Where it begins; and what is wrong with the position that it came with."""
        came_with = self.position
        lost = None if came_with is None else await self._lost(came_with)
        self._is_greeted = True
        if came_with is None or lost is not None:
            self.position = tip
        hello = Notice("hello", self.position)
        return [hello] if lost is None else [hello, Notice("gap", tip, lost)]

    async def _lost(self, came_with: Position) -> str | None:
        """Why what came after a position cannot be told; None when it can."""
        if time.time() - came_with.at_s > REPLAY_S:
            return "too_old"
        tip = await self._feed.lookup.tip()
        return "unknown" if came_with.xid >= tip.beyond else None

    async def _read_again(self, position: Position, tip: Position) -> list[Change] | Notice:
        """From the database, what is not kept any more."""
        if await self._feed.lookup.missed(position, KEPT + 1) > KEPT:
            return Notice("gap", tip, "too_many")
        return await self._feed.changes(position)
