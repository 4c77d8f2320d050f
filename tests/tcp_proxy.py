"""A network between a client and a server, for tests that break it."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.ports import reserved_port

DEADLINE_S = 20.0
_RESET = struct.pack("ii", 1, 0)


class TcpProxy:
    """Passes bytes on between whoever connects to `port` and a server, until it is told otherwise.

    Every method may be called from any thread and returns when it is done.
    """

    def __init__(self, host: str, port: int) -> None:
        self.held = threading.Event()
        """Set when the client has sent something that is not passed on since the line is stalled."""
        self.taken = 0
        """How many lines were ever opened."""
        self.answered_bytes = 0
        """How much the server has sent."""
        self._hangs_up = False
        self._target = host, port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._left: int | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._thread.start()
        self._reserved = ExitStack()
        self.port = self._reserved.enter_context(reserved_port())
        self._passing = asyncio.Event()
        self._passing.set()
        self._do(self._open())

    def dsn(self, dsn: str) -> str:
        """The same database, by way of this proxy."""
        return make_conninfo(dsn, host="127.0.0.1", port=self.port)

    def stall(self) -> None:
        """Lines stay open, new ones are taken, and nothing passes any more."""
        self.held.clear()
        self._call(self._passing.clear)

    def resume(self) -> None:
        """Everything passes again, and what was held first."""
        self._call(self._passing.set)

    def stall_after(self, sent_bytes: int) -> None:
        """Stalls once the client has sent so many bytes more."""
        self.held.clear()
        self._call(lambda: setattr(self, "_left", sent_bytes))

    def cut(self) -> None:
        """Ends every line, in order; new ones are taken."""

        def cut() -> None:
            for writer in self._writers:
                writer.close()

        self._call(cut)

    def reset(self) -> None:
        """Breaks every line, without a word; new ones are taken."""
        self._call(self._reset)

    def hang_up(self) -> None:
        """Breaks every line, and from now on each new one as soon as it is open."""
        self._hangs_up = True
        self._call(self._reset)

    def refuse(self) -> None:
        """Breaks every line and takes no new ones."""

        async def refuse() -> None:
            # A line that was just taken loses its server if that closes before it begins, and would never be closed.
            for listener in self._server.sockets:
                self._loop.remove_reader(listener.fileno())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self._server.close()
            self._reset()

        self._do(refuse())

    def accept(self) -> None:
        """Takes new lines again, on the same port, and keeps them."""
        self._hangs_up = False
        if not self._server.is_serving():
            self._do(self._open())

    def close(self) -> None:
        self.refuse()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()
        self._reserved.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._line, "127.0.0.1", self.port)

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _line(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.taken += 1
        if self._hangs_up:
            writer.transport.abort()
            return
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            self._writers.add(server_writer)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, server_writer, is_client=True))
                    group.create_task(self._pump(server_reader, writer, is_client=False))
            finally:
                self._writers.discard(server_writer)
                server_writer.close()
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_client: bool) -> None:
        while data := await reader.read(65536):
            if is_client and self._left is not None:
                self._left -= len(data)
                if self._left <= 0:
                    self._left = None
                    self._passing.clear()
            if is_client and not self._passing.is_set():
                self.held.set()
            await self._passing.wait()
            self.answered_bytes += 0 if is_client else len(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    def _reset(self) -> None:
        for writer in self._writers:
            if writer.transport.is_closing():
                continue
            line: socket.socket = writer.get_extra_info("socket")
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    def _call(self, act: Callable[[], object]) -> None:
        async def call() -> None:
            act()

        self._do(call())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)


@contextmanager
def proxy_to(dsn: str) -> Iterator[TcpProxy]:
    """A proxy before the Postgres of that DSN."""
    target = conninfo_to_dict(dsn)
    proxy = TcpProxy(str(target["host"]), int(str(target["port"])))
    try:
        yield proxy
    finally:
        proxy.close()
