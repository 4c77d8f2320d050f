"""How a policy is shown a stream: chunk by chunk here; in blocks or whole by `holding`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from luthien.formats.sse import Chunk
from luthien.policies.holding import Blocked, BlockReader, WholeReader
from luthien.policies.policy import Needs, Policy, Verdict
from luthien.policies.step import Step

Answer = Sequence[Chunk] | Verdict | Blocked


class Pending:
    """The chunks that a policy was given and has not answered for.

    A chunk it gives on answers for that chunk and all before it; one it made itself, for the oldest.
    """

    def __init__(self) -> None:
        self.chunks: deque[Chunk] = deque()
        self.size_bytes = 0
        # By identity: there may be very many, and most of what is given may be none of them.
        self._places: dict[int, int] = {}
        self._settled = 0

    def add(self, chunk: Chunk) -> None:
        self._places[id(chunk)] = self._settled + len(self.chunks)
        self.chunks.append(chunk)
        self.size_bytes += len(chunk.raw)

    def settle(self, given: Chunk) -> bool:
        """Whether this is the very chunk that was due."""
        is_due = bool(self.chunks) and self.chunks[0] is given
        last = self._settled if is_due else self._places.get(id(given), self._settled)
        while self.chunks and self._settled <= last:
            chunk = self.chunks.popleft()
            self.size_bytes -= len(chunk.raw)
            if self._places.get(id(chunk)) == self._settled:
                del self._places[id(chunk)]
            self._settled += 1
        return is_due

    def clear(self) -> None:
        self.chunks.clear()
        self._places.clear()
        self.size_bytes = 0


class Reader(Protocol):
    """Shows a policy the chunks of a stream in the way it needs them."""

    @property
    def held_bytes(self) -> int: ...

    async def feed(self, chunk: Chunk) -> Answer:
        """The chunks that may go on now, or a block."""
        ...

    async def end(self, terminal: Chunk | None) -> Answer:
        """The same for what was still held, now that no more will come but the end marker, if it has come."""
        ...

    def ended(self, terminal: Chunk) -> Chunk:
        """The end marker of what was given on."""
        ...

    def give_up(self) -> Sequence[Chunk]:
        """What is held, as it came. From here on the policy is not asked, and all that is fed goes on."""
        ...

    def verdict(self) -> Verdict:
        """What was decided over the whole stream."""
        ...


class ChunkReader:
    """For policies that see chunks as they come."""

    def __init__(self, policy: Policy, pending: Pending) -> None:
        self._policy = policy
        self._pending = pending
        self._has_given_up = False

    @property
    def held_bytes(self) -> int:
        return self._pending.size_bytes

    async def feed(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        return (chunk,) if self._has_given_up else await self._policy.on_chunk(chunk)

    async def end(self, terminal: Chunk | None) -> Sequence[Chunk] | Verdict:
        return () if self._has_given_up else await self._policy.on_stream_end()

    def ended(self, terminal: Chunk) -> Chunk:
        return terminal

    def give_up(self) -> Sequence[Chunk]:
        self._has_given_up = True
        return tuple(self._pending.chunks)

    def verdict(self) -> Verdict:
        return self._policy.stream_verdict()


def reader_of(step: Step, policy: Policy, pending: Pending) -> Reader:
    """The reader that shows a policy what it needs."""
    match step.policy.needs:
        case Needs.BLOCKS:
            return BlockReader(policy)
        case Needs.WHOLE:
            return WholeReader(policy)
    return ChunkReader(policy, pending)
