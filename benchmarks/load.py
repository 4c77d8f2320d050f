"""The clients of a benchmark: connections that call again as soon as they are answered, and cost next to nothing."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from benchmarks import canned

# How long an answer may be late before the run is given up, in seconds.
_PATIENCE_S = 20.0


@dataclass(slots=True)
class Load:
    """What clients have done: calls and chunks in `elapsed_s`, and how long each call took."""

    calls: int = 0
    chunks: int = 0
    elapsed_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)


class _Caller(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, load: Load, request: bytes, until: float) -> None:
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._load = load
        self._request = request
        self._until = until
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not derive from it
        self._call()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the gateway closed a connection that was in use")

    @abstractmethod
    def data_received(self, data: bytes) -> None: ...

    def _call(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def _answered(self) -> None:
        now = time.perf_counter()
        self._load.calls += 1
        self._load.latencies_s.append(now - self._sent)
        if now < self._until:
            self._call()
        elif not self.finished.done():
            self.finished.set_result(None)
            self._transport.close()

    def _fail(self, why: str) -> None:
        if not self.finished.done():
            self.finished.set_exception(RuntimeError(why))
            self._transport.close()


class _PlainCaller(_Caller):
    _head = b""
    _body_bytes = 0

    def data_received(self, data: bytes) -> None:
        if not self._head:
            self._head, _, data = data.partition(b"\r\n\r\n")
            if not self._head.startswith(b"HTTP/1.1 200 "):
                self._fail(f"the gateway answered {self._head[:80]!r}")
                return
        self._body_bytes += len(data)
        if self._body_bytes >= len(canned.PLAIN_BODY):
            self._head, self._body_bytes = b"", 0
            self._answered()


class _StreamCaller(_Caller):
    """Tells the provider of each chunk, so that it sends the next."""

    def __init__(self, load: Load, request: bytes, until: float, has_arrived: Callable[[], None]) -> None:
        super().__init__(load, request, until)
        self._has_arrived = has_arrived
        self._tail = b""
        self._chunks = 0

    def data_received(self, data: bytes) -> None:
        seen = self._tail + data
        self._tail = seen[-4:]
        for _ in range(seen.count(b"}\n\n\r\n")):
            self._chunks += 1
            self._load.chunks += 1
            self._has_arrived()
        if seen.endswith(b"0\r\n\r\n"):
            self._end()

    def _end(self) -> None:
        if self._chunks != canned.CHUNKS:
            self._fail(f"a stream of {canned.CHUNKS} chunks ended after {self._chunks}")
            return
        self._tail, self._chunks = b"", 0
        self._answered()


async def call_plainly(port: int, connections: int, seconds: float) -> Load:
    """Calls for plain responses, for that long; the last calls are waited for."""
    request = canned.request()
    load = Load()
    until = time.perf_counter() + seconds
    return await _run(port, load, [_PlainCaller(load, request, until) for _ in range(connections)], until)


async def call_streaming(port: int, connections: int, seconds: float, upstream: canned.CannedUpstream) -> Load:
    """Calls for streams in lockstep with the provider, for that long; the last streams are waited for."""
    load = Load()
    until = time.perf_counter() + seconds
    callers = []
    for stream in range(1, connections + 1):

        def has_arrived(stream: int = stream) -> None:
            upstream.has_arrived(stream)

        callers.append(_StreamCaller(load, canned.request(stream=stream), until, has_arrived))
    return await _run(port, load, callers, until)


def _itself(caller: _Caller) -> _Caller:
    return caller


async def _run(port: int, load: Load, callers: Sequence[_Caller], until: float) -> Load:
    started = time.perf_counter()
    loop = asyncio.get_running_loop()
    for caller in callers:
        await loop.create_connection(partial(_itself, caller), "127.0.0.1", port)
    async with asyncio.timeout(_PATIENCE_S + until - started):
        await asyncio.gather(*(caller.finished for caller in callers))
    load.elapsed_s = time.perf_counter() - started
    return load
