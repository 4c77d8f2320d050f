"""Whom the server takes to read, over real connections."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from uvicorn.server import ServerState

from luthien.gateway.protocol import WRITE_TIMEOUT_S, Protocol, untaken_bytes

HELD_BYTES = 1_000_000


@asynccontextmanager
async def serving(patience_s: float, held_bytes: int) -> AsyncIterator[tuple[Protocol, socket.socket]]:
    """The server's end of a connection and the client's, which reads nothing by itself.

    Args:
        held_bytes: how much of what the server sends the system holds, or about that.
    """
    config = uvicorn.Config(lambda: None, log_config=None)
    config.load()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        connection, _ = listener.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, held_bytes)
        _, served = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: Protocol(config, ServerState(), {WRITE_TIMEOUT_S: patience_s}), connection
        )
        yield served, client
        served.transport.abort()
        await asyncio.sleep(0)


@pytest.mark.skipif(sys.platform != "linux", reason="no other system says what waits in it")
def test_who_reads_slowly_is_seen_to_read() -> None:
    """Also while the system holds so much that it takes no more from the server."""

    async def read() -> None:
        async with serving(600.0, HELD_BYTES) as (served, client):
            served.transport.write(b"x" * 10 * HELD_BYTES)
            before, waiting = untaken_bytes(served.transport), served.transport.get_write_buffer_size()
            taken = 0
            while taken < HELD_BYTES // 10:
                taken += len(client.recv(4096))
            assert served.transport.get_write_buffer_size() == waiting
            served._look(before, 600.0)
            assert not served.transport.is_closing()
            served._look(0, 600.0)
            assert served.transport.is_closing()

    asyncio.run(read())


def answered_for_the_last_time(served: Protocol) -> None:
    served.transport.close()
    served.on_response_complete()


@pytest.mark.parametrize("end", [Protocol.timeout_keep_alive_handler, answered_for_the_last_time])
def test_the_rest_of_the_last_response_waits_no_longer_than_the_others(end: Callable[[Protocol], None]) -> None:
    """It is so little that the transport takes it without a pause."""

    async def take_nothing() -> None:
        async with serving(0.01, 4096) as (served, _):
            served.transport.write(b"x" * 60_000)
            assert served.transport.get_write_buffer_size()
            assert not served.flow.write_paused
            end(served)
            async with asyncio.timeout(10):
                while served.connections:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.01)

    asyncio.run(take_nothing())
