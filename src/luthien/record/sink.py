"""What the span processor knows of the record: it hands records in, and gets a receipt for them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Protocol

from luthien.exchange import StageRecord

_NO_REASONS: Mapping[str, int] = MappingProxyType({})


class Receipt:
    """Says, once it is known, whether records that were handed in are safe from then on.

    It may be settled from any thread.

    Args:
        on_awaited: called when somebody waits for it, once all that is ready in the event loop has had its turn.
    """

    __slots__ = ("_callbacks", "_lock", "_on_awaited", "_reasons", "_refused")

    def __init__(self, on_awaited: Callable[[], None] | None = None) -> None:
        self._on_awaited = on_awaited
        self._lock = threading.Lock()
        self._refused: int | None = None
        self._reasons = _NO_REASONS
        self._callbacks: list[Callable[[], object]] = []

    @classmethod
    def settled(cls, refused: int = 0, reasons: Mapping[str, int] = _NO_REASONS) -> Receipt:
        return _SAFE if refused == 0 else cls._of(refused, reasons)

    @classmethod
    def _of(cls, refused: int, reasons: Mapping[str, int] = _NO_REASONS) -> Receipt:
        receipt = cls()
        receipt._refused, receipt._reasons = refused, reasons
        return receipt

    @property
    def refused(self) -> int | None:
        """How many of the records were refused; None while it is not known."""
        return self._refused

    @property
    def reasons(self) -> Mapping[str, int]:
        """How many were refused for which reason; none while it is not known."""
        return self._reasons or ({"unknown": self._refused} if self._refused else _NO_REASONS)

    def settle(self, refused: int = 0, reasons: Mapping[str, int] = _NO_REASONS) -> None:
        """Says so; what was said first stays."""
        with self._lock:
            if self._refused is not None:
                return
            self._refused, self._reasons = refused, reasons
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            with contextlib.suppress(RuntimeError):  # that event loop is closed
                callback()

    async def wait(self, deadline_s: float) -> bool:
        """Waits until the receipt is settled; False when that took longer than the deadline."""
        if self._refused is not None:
            return True
        loop = asyncio.get_running_loop()
        # Not `wait_for`: on Python 3.11 it makes a task of its own, and every call waits twice.
        settled: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._refused is not None:
                return True
            self._callbacks.append(partial(loop.call_soon_threadsafe, _resolve, settled))
        if self._on_awaited is not None:
            loop.call_soon(self._on_awaited)
        timer = loop.call_later(deadline_s, _resolve, settled)
        try:
            await settled
        finally:
            timer.cancel()
        return self._refused is not None


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_SAFE = Receipt._of(0)  # noqa: SLF001 - one for all: a settled receipt never changes


class RecordSink(Protocol):
    """All that the span processor knows of the record."""

    def submit(self, records: Sequence[StageRecord]) -> Receipt:
        """Takes records in, or refuses them, at once; never blocks and never raises."""
        ...


class DiscardingSink:
    """Stands where nothing is to be recorded."""

    def submit(self, records: Sequence[StageRecord]) -> Receipt:
        return Receipt.settled()
