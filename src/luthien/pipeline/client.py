"""The client's end of an exchange: its request, and the response it is given, over ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from starlette.types import Message, Receive, Scope, Send

from luthien.errors import ClientError

STALLED_S = "luthien.stalled_s"
"""Where in the state of a request the server says that it cut the client off, which took nothing for so long."""


class ClientGone(Exception):
    """The client hung up before everything was released to it."""


class Asker(Protocol):
    """Whoever asks in an exchange, and is told how it ends: a client, or a policy in this process."""

    headers: list[tuple[bytes, bytes]]
    """Names in lower case."""
    query: bytes
    started: bool
    """Whether its response has begun."""

    @property
    def hung_up(self) -> str:
        """What is recorded when it no longer listens."""

    async def body(self, max_bytes: int) -> bytes: ...

    def attentive(self) -> AbstractAsyncContextManager[None]: ...

    def seal(self) -> None: ...

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None: ...

    async def send(self, data: bytes, *, last: bool = False) -> None: ...


class Client:
    """One request from one client. `started` says whether its response has begun."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.query: bytes = scope["query_string"]
        self.started = False
        self._state: Mapping[str, object] = scope.get("state", {})
        self._receive = receive
        self._send = send
        self._sealed = False
        self._has_read = asyncio.Event()

    @property
    def hung_up(self) -> str:
        stalled_s = self._state.get(STALLED_S)
        return "the client hung up" if stalled_s is None else f"the client took nothing for {stalled_s:g} s"

    def header(self, name: bytes) -> str | None:
        """The first header of that (lower-case) name."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), None)

    async def body(self, max_bytes: int) -> bytes:
        """The whole request body.

        Raises:
            ClientError: it is larger than `max_bytes` (413).
            ClientGone: the client hung up while sending it.
        """
        length = self.header(b"content-length") or ""
        if length.isdecimal() and int(length) > max_bytes:
            raise self._too_large(max_bytes)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > max_bytes:
                raise self._too_large(max_bytes)
            parts.append(part)
            if not message.get("more_body", False):
                self.stop_reading()
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """The request body as it arrives, of any size.

        Raises:
            ClientGone: the client hung up while sending it.
        """
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            if part:
                yield part
            if not message.get("more_body", False):
                self.stop_reading()
                return

    def stop_reading(self) -> None:
        """Of the request body nobody wants any more: what still comes is dropped, and a hang-up is noticed."""
        self._has_read.set()

    @staticmethod
    def _too_large(max_bytes: int) -> ClientError:
        message = f"the request body is larger than {max_bytes} bytes"
        return ClientError(message, status=413, code="request_too_large")

    @asynccontextmanager
    async def attentive(self) -> AsyncIterator[None]:
        """Cancels the work in the block when the client hangs up; that leaves the block as `ClientGone`.

        It is noticed as soon as the body has been read. Once `seal` was called, a hang-up no longer matters.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - async code runs in a task
        gone = False

        async def watch() -> None:
            nonlocal gone
            await self._has_read.wait()
            while (await self._receive())["type"] != "http.disconnect":
                pass
            if not self._sealed:
                gone = True
                task.cancel()

        # Not a TaskGroup: it would wrap what the block raises into an ExceptionGroup.
        watcher = asyncio.create_task(watch(), name="luthien-hang-up")  # noqa: TID251 - awaited below
        try:
            yield
        except asyncio.CancelledError:
            if gone:
                task.uncancel()
                raise ClientGone from None
            raise
        finally:
            watcher.cancel()
            try:
                await watcher
            except asyncio.CancelledError:
                if task.cancelling():  # it is not only the watcher that was cancelled
                    raise

    def seal(self) -> None:
        """From here on the call counts as completed, whether or not the client still listens."""
        self._sealed = True

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        await self._give({"type": "http.response.start", "status": status, "headers": list(headers)})
        self.started = True

    async def send(self, data: bytes, *, last: bool = False) -> None:
        """Hands bytes to the server; waits while the client reads slowly.

        Raises:
            ClientGone: the server says that nobody is there to be given anything.
        """
        await self._give({"type": "http.response.body", "body": data, "more_body": not last})

    async def _give(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError as error:
            raise ClientGone from error
