"""The last changes of the feed, and what else its followers are told. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import takewhile

from luthien.debug.call.lookup import Listed
from luthien.store.feed import Position

PAGE = 200


@dataclass(frozen=True, slots=True)
class Change:
    """A call that changed, as it is now."""

    position: Position
    listed: Listed
    process: str | None
    """`host:pid` of the process that serves it."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What else a follower is told: `hello`, `gap`, `away`, `held`, `back`; or `alive`, which is not to be read.

    `reason` is why, or, of `held`, since when, in ISO format.
    """

    kind: str
    position: Position | None
    reason: str = ""


@dataclass(slots=True)
class Kept:
    """The last changes, in order: all of them after `floor`, up to `tip`. Both are None while nothing was read."""

    changes: deque[Change] = field(default_factory=deque)
    floor: Position | None = None
    tip: Position | None = None
    trouble: str | None = None
    """Why nothing can be read."""
    held: str | None = None
    """Since when a transaction is open that keeps what is stored from being told, in ISO format."""

    def begin(self, tip: Position) -> None:
        self.floor = self.tip = tip

    def forget(self) -> None:
        self.changes.clear()
        self.floor = self.tip = self.trouble = self.held = None

    def add(self, changes: list[Change], now_s: int, most: int) -> None:
        for change in changes:
            self.changes.append(change)
            self.tip = change.position
        while len(self.changes) > most:
            self.floor = self.changes.popleft().position
        if self.tip is not None:
            self.tip = replace(self.tip, at_s=now_s)

    def after(self, position: Position) -> list[Change]:
        """What is kept of what came after a position, a page of it."""
        newer = list(takewhile(lambda change: change.position > position, reversed(self.changes)))
        return newer[::-1][:PAGE]
