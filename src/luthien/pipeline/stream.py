"""The chunk loop: the provider's bytes in, whole frames through the policies, and on to the client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from luthien.errors import UpstreamError
from luthien.formats.format import WireFormat
from luthien.formats.sse import Chunk, FrameReader, FrameTooLarge
from luthien.pipeline.checkpoints import Checkpoints
from luthien.pipeline.keepalive import KeepAlive
from luthien.pipeline.measured import MAX_GAPS, Timings
from luthien.pipeline.sides import Delta, StreamSides
from luthien.pipeline.timeline import Timeline
from luthien.policies.chain import Block, StreamRun
from luthien.policies.holding import AT_ONCE

Give = Callable[[bytes, bool], Awaitable[None]]
Keep = Callable[[Sequence[Delta]], None]


class PolicyBlock(Exception):
    """A policy's verdict ends the stream."""

    def __init__(self, block: Block) -> None:
        super().__init__(block.reason)
        self.block = block


class StreamPass:
    """One stream on its way through the gateway.

    Args:
        give: hands bytes to the client, which are part of the stream or a keep-alive, and waits while it reads
            slowly; that is how back-pressure reaches the provider, from whom nothing is read meanwhile.
        max_frame_bytes: how long one frame may become.
        keep: records a checkpoint, without waiting.
        checkpoint_s: how often.
        keep_alive_s: how long the client may hear nothing while policies hold the stream.
    """

    def __init__(
        self,
        wire_format: WireFormat,
        policies: StreamRun,
        timings: Timings,
        timeline: Timeline,
        give: Give,
        max_frame_bytes: int,
        keep: Keep,
        checkpoint_s: float,
        keep_alive_s: float,
    ) -> None:
        self.sides = StreamSides(wire_format, may_change=not policies.is_empty)
        self.policies = policies
        self.timeline = timeline
        self.failure: str | None = None
        """What the provider said had gone wrong, when it said so in the stream."""
        self._format = wire_format
        self._timings = timings
        self._give = give
        self._reader = FrameReader(max_frame_bytes)
        self._checkpoints = Checkpoints(self.sides, checkpoint_s, keep)
        self._keep_alive = KeepAlive(keep_alive_s, wire_format.keep_alive, give)
        self._last_chunk = time.perf_counter()

    async def run(self, data: AsyncGenerator[bytes, None]) -> Chunk:
        """Passes on everything up to the protocol's end marker, which is returned and not yet given.

        Raises:
            UpstreamError: the provider's stream ended or broke before its end marker.
            PolicyFailure: a policy broke.
            PolicyBlock: a policy blocked.
        """
        with self._checkpoints.made():
            async with self._kept_alive():
                return await self._run(data)

    async def _run(self, data: AsyncGenerator[bytes, None]) -> Chunk:
        while True:
            received = await self._next(data)
            chunks, terminal = ([], self._last()) if received is None else self._split(received)
            if self.policies.is_empty:
                await self.release(chunks)
            else:
                for chunk in chunks:
                    self._keep_alive.is_holding = True
                    await self.release(await self.policies.feed(chunk))
                    self._check_block()
            if terminal is not None:
                await self.release(await self.policies.feed_unsaid(terminal))
                self._check_block()
                self.sides.ended()
                return terminal
            self._checkpoints.passed()

    async def finish(self) -> None:
        """Nothing more will come: gives what the policies still hold. Raises as `run` does."""
        async with self._kept_alive():
            self._keep_alive.is_holding = True
            await self.release(await self.policies.finish())
            self._check_block()

    def _kept_alive(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self.policies.is_empty else self._keep_alive.running()

    async def release(self, chunks: Sequence[Chunk]) -> None:
        """Gives chunks to the client; others have their turn meanwhile, however many a policy has let go."""
        for start in range(0, len(chunks), AT_ONCE):
            part = chunks[start : start + AT_ONCE]
            raw = part[0].raw if len(part) == 1 else b"".join([chunk.raw for chunk in part])
            if self.policies.is_empty:
                await self._give(raw, True)
            else:
                await self._keep_alive.give(raw)
            self.passed(raw, part)
            if len(chunks) > AT_ONCE:
                await asyncio.sleep(0)

    def passed(self, raw: bytes, chunks: Sequence[Chunk]) -> None:
        """The client was given these, or is given them next, without the loop."""
        self.timeline.given(chunks, time.perf_counter())
        self.sides.released(raw, chunks)

    async def _next(self, data: AsyncGenerator[bytes, None]) -> bytes | None:
        timings = self._timings
        since = time.perf_counter()
        try:
            received = await anext(data, None)
        finally:
            now = timings.waited(since)
        if received is None:
            return None
        if timings.upstream_first_chunk_s is None:
            timings.first_chunk()
        elif len(timings.chunk_gaps_s) < MAX_GAPS:
            timings.chunk_gaps_s.append(now - self._last_chunk)
        self._last_chunk = now
        return received

    def _split(self, received: bytes) -> tuple[list[Chunk], Chunk | None]:
        """The frames that have become whole; the end marker apart from the rest."""
        chunks: list[Chunk] = []
        terminal: Chunk | None = None
        try:
            for chunk in self._reader.feed(received):
                if self.failure is None and chunk.data is not None and b'"error"' in chunk.data:
                    self.failure = self._format.stream_error(chunk)
                if self._format.is_terminal(chunk):
                    terminal = chunk
                    break
                chunks.append(chunk)
        except FrameTooLarge as error:
            raise UpstreamError(str(error), code="upstream_protocol") from error
        self._arrived(chunks if terminal is None else [*chunks, terminal])
        return chunks, terminal

    def _arrived(self, chunks: Sequence[Chunk]) -> None:
        self.timeline.arrived(chunks, self._last_chunk)
        self.sides.arrived(b"".join([chunk.raw for chunk in chunks]), chunks)

    def _last(self) -> Chunk:
        """The end marker of a stream that is over without it having ended: clients take it without its blank line."""
        last = self._reader.unended()
        if last is not None and self._format.is_terminal(last):
            self._arrived([last])
            return last
        self.sides.arrived(self._reader.rest, ())
        if self.failure is not None:
            raise UpstreamError(self.failure, code="upstream_stream_error")
        raise UpstreamError("the provider's stream ended without its end marker", code="upstream_incomplete")

    def _check_block(self) -> None:
        block = self.policies.blocked
        if block is not None:
            raise PolicyBlock(block)
