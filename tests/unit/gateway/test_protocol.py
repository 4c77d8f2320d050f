"""Whom the server takes to read, over real connections."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest
import uvicorn
from uvicorn.server import ServerState

from luthien.gateway.protocol import WRITE_TIMEOUT_S, Protocol, untaken_bytes

HELD_BYTES = 1_000_000


async def serving(listener: socket.socket) -> Protocol:
    """The server's end of the next connection; the system holds so much of what it sends, and is full."""
    connection, _ = listener.accept()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HELD_BYTES)
    config = uvicorn.Config(lambda: None, log_config=None)
    config.load()

    def protocol() -> Protocol:
        return Protocol(config, ServerState(), {WRITE_TIMEOUT_S: 600.0})

    _, served = await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)
    served.transport.write(b"x" * 10 * HELD_BYTES)
    return served


@pytest.mark.skipif(sys.platform != "linux", reason="no other system says what waits in it")
def test_who_reads_slowly_is_seen_to_read() -> None:
    """Also while the system holds so much that it takes no more from the server."""

    async def read() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(listener.getsockname())
            served = await serving(listener)
            before, waiting = untaken_bytes(served.transport), served.transport.get_write_buffer_size()
            taken = 0
            while taken < HELD_BYTES // 10:
                taken += len(client.recv(4096))
            await asyncio.sleep(0)
            assert served.transport.get_write_buffer_size() == waiting
            served._look(before, 600.0)
            assert not served.transport.is_closing()
            served._look(0, 600.0)
            assert served.transport.is_closing()
            await asyncio.sleep(0)

    asyncio.run(read())
