"""How much of a diff one page may hold, in characters of HTML, and which folded part was asked for. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from luthien.debug.showing.options import DiffOptions

SHOWN_CHARS = 450_000
"""What is shown at once, of one diff."""
FOLDED_CHARS = 200_000
"""What lies in closed folds, of one diff; what does not fit is behind links."""
ONE_FOLD_CHARS = 60_000
ASKED_CHARS = 400_000
"""What a reader gets on top by asking for a folded part."""
PIECE_CHARS, LINE_CHARS, FIELD_CHARS, BLOCK_CHARS, OP_CHARS = 30, 120, 200, 400, 320
"""What the tags around each cost."""


class Room:
    """What is left. Never refuses: who asks `is_empty` first stops in time."""

    def __init__(self, options: DiffOptions) -> None:
        self._options = options
        self._target = options.unfold
        self._left = SHOWN_CHARS
        self._folded = FOLDED_CHARS

    @property
    def is_empty(self) -> bool:
        return self._left <= 0

    def take(self, chars: int) -> None:
        self._left -= chars

    def leads_to(self, anchor: str) -> bool:
        """Whether what the reader asked for is this part, or in it."""
        target = self._target
        return bool(target) and target.startswith(anchor) and target[len(anchor) : len(anchor) + 1] in ("", "/", "@")

    def is_asked_for(self, anchor: str) -> bool:
        return bool(self._target) and self._target == anchor

    def reach(self, anchor: str) -> None:
        """Makes room if this is what the reader asked for."""
        if self.is_asked_for(anchor):
            self._left = max(self._left, 0) + ASKED_CHARS

    def link(self, anchor: str) -> str:
        return self._options.unfolding(anchor)

    def has_folded(self, chars: int) -> bool:
        """Whether so much may lie in one fold, and still fits in."""
        return chars <= min(ONE_FOLD_CHARS, self._folded)

    @contextmanager
    def in_fold(self) -> Iterator[None]:
        """What is written meanwhile counts as folded."""
        shown, self._left = self._left, self._folded
        try:
            yield
        finally:
            self._folded, self._left = self._left, shown
