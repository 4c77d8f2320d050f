"""Which of the provider's frames a policy holds, rewrote or dropped, and what a chunk of its own stands for."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from luthien.formats.sse import Chunk

_TOLD_FROM_S = 0.0005
_MAX_DUE = 65_536


class Trail(Protocol):
    """What is told about the frames of a stream. Policies are named by their positions in the chain."""

    def held(self, frame: int, position: int, seconds: float) -> None: ...

    def rewrote(self, frame: int, position: int) -> None: ...

    def dropped(self, frame: int, position: int) -> None: ...


class Due:
    """The frames that a policy was shown and has not answered for.

    A chunk that it gives on answers for its frame and all before; one that it made itself stands for the oldest.
    """

    def __init__(self, trail: Trail, position: int) -> None:
        self._trail = trail
        self._position = position
        # A policy may swallow a stream without end: what it was shown longest ago is forgotten then.
        self._frames: deque[tuple[int, float]] = deque(maxlen=_MAX_DUE)
        self._last = -1

    def shown(self, frame: int, at: float) -> None:
        """The policy was shown a chunk for that frame, at a time on the clock of `time.perf_counter`."""
        self._frames.append((frame, at))

    def answered(self, given: Chunk, agreed: Chunk, now: float) -> Chunk:
        """The chunk that goes on as `agreed` for what the policy gave, said to stand for a frame."""
        since, frame = now, given.frame
        if frame < 0:
            frame, since = self._frames.popleft() if self._frames else (self._last, now)
        else:
            while self._frames and self._frames[0][0] <= frame:
                passed, since = self._frames.popleft()
                if passed < frame:
                    self._drop(passed)
        if frame < 0:
            return agreed  # nobody counts the frames of this stream
        self._last = frame
        if now - since >= _TOLD_FROM_S:
            self._trail.held(frame, self._position, now - since)
        if agreed.frame < 0:
            self._trail.rewrote(frame, self._position)
            return agreed.standing_for(frame)
        return agreed

    def ended(self) -> None:
        """Nothing more comes from the policy."""
        while self._frames:
            self._drop(self._frames.popleft()[0])

    def _drop(self, frame: int) -> None:
        if frame > self._last:  # it may have been shown several times, and answered for
            self._trail.dropped(frame, self._position)
