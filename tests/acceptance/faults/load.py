"""Clients that call without end, and the ledger of what they received."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from uuid import UUID

import httpx

from tests.acceptance.faults.asks import Ask, mixed

DEADLINE_S = 120.0
_PATIENCE_S = 60.0
_PAUSE_S = 0.05
_DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Received:
    """One call as its client saw it. `call_id` is None when not even headers came."""

    ask: Ask
    request_sha256: bytes
    call_id: UUID | None = None
    status: int | None = None
    sha256: bytes = b""
    size_bytes: int = 0
    is_whole: bool = False
    """A plain body of its full length, or a stream with its end marker."""
    error: str | None = None
    ended_s: float = 0.0
    """On the monotonic clock."""


@dataclass(slots=True)
class Ledger:
    """All calls that have ended; written by the clients' thread, safe to be read by any."""

    calls: list[Received] = field(default_factory=list)
    begun: int = 0
    """Responses whose headers came."""
    failure: BaseException | None = None
    """Of the clients themselves, not of what they called."""

    @property
    def whole(self) -> list[Received]:
        return [each for each in self.calls if each.is_whole]

    @property
    def cut(self) -> list[Received]:
        """Calls whose response began and did not come to its end."""
        return [each for each in self.calls if each.call_id is not None and not each.is_whole]

    @property
    def errors(self) -> list[Received]:
        """Calls that went wrong in any way."""
        return [each for each in self.calls if not each.is_whole or each.status != 200]

    def wait_for(self, calls: int) -> None:
        """Until so many more responses have come whole."""
        wanted = len(self.whole) + calls
        self._wait(lambda: len(self.whole) >= wanted, calls)

    def wait_for_begun(self, calls: int) -> None:
        """Until so many responses have begun, from the first on."""
        self._wait(lambda: self.begun >= calls, calls)

    def _wait(self, is_enough: Callable[[], bool], calls: int) -> None:
        ends = time.monotonic() + DEADLINE_S
        while not is_enough():
            if self.failure is not None:
                raise self.failure
            assert time.monotonic() < ends, f"no {calls} calls in {DEADLINE_S} s; last: {self.calls[-3:]}"
            time.sleep(0.05)


@contextmanager
def load(
    url: str,
    clients: int,
    *,
    seed: int,
    ask: Callable[[int], Ask] = mixed,
    headers: Mapping[bytes, bytes] = MappingProxyType({}),
) -> Iterator[Ledger]:
    """So many clients, each with a connection of its own; at the end of the block they finish what they began.

    What the gateway does not answer is tried again, as another call.
    """
    ledger = Ledger()
    stop = threading.Event()
    seeds = itertools.count(seed * 1_000_000)

    async def client() -> None:
        options = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(timeout=_PATIENCE_S, limits=options, trust_env=False) as http:
            while not stop.is_set():
                received = await _call(http, f"{url}/v1/chat/completions", ask(next(seeds)), headers, ledger)
                ledger.calls.append(received)
                if received.error is not None:
                    await asyncio.sleep(_PAUSE_S)

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as failure:  # noqa: BLE001 - raised again in the test's thread
            ledger.failure = failure

    thread = threading.Thread(target=main, name="load", daemon=True)
    thread.start()
    try:
        yield ledger
    finally:
        stop.set()
        thread.join(DEADLINE_S)
    assert not thread.is_alive(), "the clients did not come to an end"
    if ledger.failure is not None:
        raise ledger.failure


async def _call(
    http: httpx.AsyncClient, url: str, ask: Ask, headers: Mapping[bytes, bytes], ledger: Ledger
) -> Received:
    body = ask.body()
    received = Received(ask, hashlib.sha256(body).digest())
    digest, tail = hashlib.sha256(), b""
    length: str | None = None
    try:
        async with http.stream("POST", url, content=body, headers=headers) as response:
            received.status = response.status_code
            received.call_id = UUID(response.headers["luthien-call-id"])
            ledger.begun += 1
            length = response.headers.get("content-length")
            async for data in response.aiter_raw():
                digest.update(data)
                received.size_bytes += len(data)
                tail = (tail + data)[-len(_DONE) :]
    except (httpx.TransportError, KeyError) as error:
        received.error = f"{type(error).__name__}: {error}"
    received.ended_s = time.monotonic()
    received.sha256 = digest.digest()
    received.is_whole = tail == _DONE if length is None else received.size_bytes == int(length)
    if received.call_id is None:
        received.is_whole = False
    return received
