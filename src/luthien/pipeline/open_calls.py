"""The calls that are under way, so that a gateway that stops can end them and wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class OpenCalls:
    """Each is a task of the server's."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """The current task is a call, for as long as the block runs."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - async code runs in a task
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    async def end(self, deadline_s: float) -> int:
        """Ends them all; returns how many have not ended by the deadline."""
        tasks = [*self._tasks]
        if not tasks:
            return 0
        for task in tasks:
            task.cancel()
        _, left = await asyncio.wait(tasks, timeout=deadline_s)
        return len(left)
