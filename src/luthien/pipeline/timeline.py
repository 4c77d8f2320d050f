"""When the frames of a stream came, when the client was given them, and what policies did to them meanwhile."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from luthien.formats import jsontext
from luthien.formats.sse import Chunk

MAX_ENTRIES = 4096
"""How many are kept of a stream. Then two neighbours become one, however often that is needed."""


class Timeline:
    """The frames of one stream, in entries of one frame each, or 2, 4, 8, … of a long one.

    Args:
        started: the beginning of the call, on the clock of `time.perf_counter`.
    """

    def __init__(self, started: float) -> None:
        self.frames = 0
        """How many have come."""
        self._started = started
        self._shift = 0
        self._last_given = -1
        # Times as the clock has them. What was given lags behind what arrived.
        self._arrived = array("d")
        self._bytes = array("Q")
        self._given = array("d")
        self._given_bytes = array("Q")
        self._given_frames = array("I")
        self._held: dict[int, tuple[int, int]] = {}
        self._rewritten: dict[int, tuple[int, int]] = {}
        self._dropped_by: dict[int, int] = {}

    def arrived(self, chunks: Sequence[Chunk], at: float) -> None:
        """The provider's next frames have come."""
        for chunk in chunks:
            entry = self.frames >> self._shift
            if entry == MAX_ENTRIES:
                self._halve()
                entry >>= 1
            self.frames += 1
            if entry == len(self._arrived):
                self._arrived.append(at)
                self._bytes.append(len(chunk.raw))
            else:
                self._bytes[entry] += len(chunk.raw)

    def given(self, chunks: Sequence[Chunk], at: float) -> None:
        """The client was given these. One that stands for no frame counts as part of the one before."""
        for chunk in chunks:
            frame = chunk.frame if chunk.frame >= 0 else max(self._last_given, 0)
            entry = frame >> self._shift
            if entry == len(self._given):  # the next, as mostly
                self._given.append(at)
                self._given_bytes.append(len(chunk.raw))
                self._given_frames.append(1)
            else:
                self._give(entry, at, len(chunk.raw), frame != self._last_given)
            self._last_given = frame

    def _give(self, entry: int, at: float, size: int, is_another: bool) -> None:
        self._fill(entry + 1)
        self._given[entry] = at
        self._given_bytes[entry] += size
        self._given_frames[entry] += is_another

    def _fill(self, entries: int) -> None:
        """Of entries that were passed over nothing was given yet."""
        for column in (self._given, self._given_bytes, self._given_frames):
            column.extend([0] * (entries - len(column)))

    def held(self, frame: int, position: int, seconds: float) -> None:
        """A policy held a frame, or took so long for it; who did so longest is kept."""
        entry = frame >> self._shift
        self._held[entry] = max(self._held.get(entry, (0, 0)), (round(seconds * 1e6), position))

    def rewrote(self, frame: int, position: int) -> None:
        """A policy put something else in the place of a frame; who did so last is kept."""
        entry = frame >> self._shift
        _, count = self._rewritten.get(entry, (0, 0))
        self._rewritten[entry] = (position, min(count + 1, 1 << self._shift))

    def dropped(self, frame: int, position: int) -> None:
        """A policy gave nothing on for a frame, or put it into another; who did so last is kept."""
        self._dropped_by[frame >> self._shift] = position

    def payload(self, policies: Sequence[str]) -> bytes:
        """As it is recorded (docs/record.md); `policies` are named in the order of the chain."""
        size, count = 1 << self._shift, len(self._arrived)
        self._fill(count)
        arrived = [self._offset(at) for at in self._arrived]
        given = [self._offset(at) for at in self._given]
        sizes = [min(size, self.frames - entry * size) for entry in range(count)]
        counts = self._given_frames
        dropped = [[entry, size - counts[entry]] for entry, size in enumerate(sizes) if counts[entry] < size]
        by = self._dropped_by
        value: dict[str, Any] = {
            "version": 1,
            "frames": self.frames,
            "frames_per_entry": size,
            "policies": list(policies),
            "arrived_us": [after - before for before, after in zip([0, *arrived], arrived, strict=False)],
            "bytes": list(self._bytes),
            "delay_us": [given[entry] - arrived[entry] if counts[entry] else None for entry in range(count)],
            "held": [[entry, position, micros] for entry, (micros, position) in sorted(self._held.items())],
            "rewritten": [[entry, position, count] for entry, (position, count) in sorted(self._rewritten.items())],
            "dropped": dropped,
            "dropped_by": [[entry, by[entry]] for entry, _ in dropped if entry in by],
        }
        if self._given_bytes != self._bytes:
            value["given_bytes"] = list(self._given_bytes)
        return jsontext.render(value)

    def _offset(self, at: float) -> int:
        return max(0, round((at - self._started) * 1e6))

    def _halve(self) -> None:
        self._fill(len(self._arrived))
        self._arrived = self._arrived[::2]
        self._given = array("d", map(max, self._given[::2], self._given[1::2]))
        self._bytes, self._given_bytes = _sums(self._bytes), _sums(self._given_bytes)
        self._given_frames = _sums(self._given_frames)
        held, rewritten = self._held, self._rewritten
        self._held, self._rewritten = {}, {}
        for entry, known in held.items():
            self._held[entry >> 1] = max(self._held.get(entry >> 1, (0, 0)), known)
        for entry, (position, count) in rewritten.items():
            _, before = self._rewritten.get(entry >> 1, (0, 0))
            self._rewritten[entry >> 1] = (position, before + count)
        self._dropped_by = {entry >> 1: position for entry, position in self._dropped_by.items()}
        self._shift += 1


def _sums(values: array[int]) -> array[int]:
    return array(values.typecode, map(int.__add__, values[::2], values[1::2]))
