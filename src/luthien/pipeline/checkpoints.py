"""Checkpoints of an open stream: what has passed is recorded from time to time, so that a crash leaves that much.

Each holds only what passed since the one before, so that all of them together cost as much as the stream is long.
The final records supersede them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from luthien.pipeline.sides import Delta, StreamSides

MAX_UNSAVED_BYTES = 256 * 1024
"""A checkpoint is made as soon as so much has passed since the last one, whatever the time."""


class Checkpoints:
    """Makes the checkpoints of one stream.

    Args:
        interval_s: how long after the last one the next is made, if anything has passed meanwhile.
        record: records deltas; must return at once.
    """

    def __init__(self, sides: StreamSides, interval_s: float, record: Callable[[Sequence[Delta]], None]) -> None:
        self._sides = sides
        self._interval_s = interval_s
        self._record = record

    @contextmanager
    def made(self) -> Iterator[None]:
        """Makes them while the block runs, whoever is waited for there, and never afterwards."""
        self._wait()
        try:
            yield
        finally:
            self._timer.cancel()

    def passed(self) -> None:
        """Something has passed: makes one if it was much."""
        if self._sides.unsaved_bytes >= MAX_UNSAVED_BYTES:
            self._make()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._due)

    def _due(self) -> None:
        self._wait()
        self._make()

    def _make(self) -> None:
        deltas = self._sides.take_deltas()
        if deltas:
            self._record(deltas)
