"""Where somebody stands who follows the record: after which change of a call's row.

Every row names the transaction that wrote it last. Transactions commit in another order than they begin in, so only
those are read before which none is open any more; and a late one is not passed by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

_LAST_ID = UUID(int=2**128 - 1)
_WRITTEN = re.compile(r"(\d{1,20})-([0-9a-f]{32})-(\d{1,11})")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """After the change of this call by this transaction; `at_s`, in Unix time, is when it was handed out."""

    xid: int
    call_id: UUID
    at_s: int = field(default=0, compare=False)

    @classmethod
    def before(cls, xid: int, at_s: int) -> Position:
        """Before everything that a transaction wrote."""
        return cls(max(0, xid - 1), _LAST_ID, at_s)

    @classmethod
    def read(cls, text: str) -> Position | None:
        """What `str` wrote; None when it did not."""
        found = _WRITTEN.fullmatch(text)
        if found is None or int(found[1]) >= 1 << 64:
            return None
        return cls(int(found[1]), UUID(found[2]), int(found[3]))

    def __str__(self) -> str:
        return f"{self.xid}-{self.call_id.hex}-{self.at_s}"


@dataclass(frozen=True, slots=True)
class Tip:
    """The newest position there is, and the first transaction that has not begun: a position there is no real one."""

    position: Position
    beyond: int


@dataclass(frozen=True, slots=True)
class Held:
    """Changes are stored that are not to be told before an older transaction, the one of that id, has ended."""

    xid: int
    since: datetime
    """When it began, or, if that may not be known, now."""
