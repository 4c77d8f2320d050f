"""Keep-alives for a client that waits while policies hold its stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from luthien.pipeline.client import ClientGone


class KeepAlive:
    """Gives the client a frame that says nothing whenever it has waited for so long, and something is held.

    Args:
        frame: what says nothing.
        give: gives the client bytes, said to be part of the stream or not.
    """

    def __init__(self, interval_s: float, frame: bytes, give: Callable[[bytes, bool], Awaitable[None]]) -> None:
        self.is_holding = False
        """Whether something was shown to policies of which nothing has come out yet."""
        self._interval_s = interval_s
        self._frame = frame
        self._give = give
        self._at_work = asyncio.Lock()
        self._last_given = asyncio.get_running_loop().time()
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Gives them while the block runs, and never afterwards."""
        self._wait()
        try:
            yield
        finally:
            self._timer.cancel()
            await self._stop()

    async def give(self, raw: bytes) -> None:
        """Gives the client a part of the stream, and never within a keep-alive."""
        async with self._at_work:
            await self._give(raw, True)
        self.is_holding = False
        self._last_given = asyncio.get_running_loop().time()

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        due = max(self._last_given + self._interval_s, loop.time() + 0.001)
        self._timer = loop.call_at(due, self._due)

    def _due(self) -> None:
        now = asyncio.get_running_loop().time()
        is_due = self.is_holding and now >= self._last_given + self._interval_s
        if is_due and not self._at_work.locked() and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._give_one(), name="luthien-keep-alive")  # noqa: TID251 - see _stop
        if not self.is_holding or is_due:
            self._last_given = now
        self._wait()

    async def _give_one(self) -> None:
        async with self._at_work:
            # Whoever listens for a hang-up hears of it, too.
            with suppress(ClientGone):
                await self._give(self._frame, False)

    async def _stop(self) -> None:
        task, current = self._task, asyncio.current_task()
        if task is None:
            return
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            if current is not None and current.cancelling():  # it is not only the keep-alive that was cancelled
                raise
