"""A thousand streams at once, in one process that was given few open files."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.playbook import DEADLINE_S, eventually
from tests.ports import reserved_port
from tests.wire import openai_request, openai_stream

STREAMS = 1000
ALL = [("completed", True, STREAMS)]
SOFT_LIMIT = 256
FRAMES = openai_stream("Hello", " there")


@contextmanager
def serving(dsn: str, provider_url: str, folder: Path, port: int) -> Iterator[str]:
    """`luthien serve`, which may open few files until it says otherwise."""
    config = folder / "luthien.yaml"
    config.write_text(json.dumps({"upstreams": {"openai": {"url": provider_url}}}))
    environment = os.environ | {
        "DATABASE_URL": dsn,
        "LUTHIEN_CONFIG": str(config),
        "LUTHIEN_DATA_DIR": str(folder),
        "LUTHIEN_PORT": str(port),
        "LUTHIEN_LOG_LEVEL": "WARNING",
    }
    limited = f"ulimit -Sn {SOFT_LIMIT} && exec {sys.executable} -m luthien serve"
    process = subprocess.Popen(["/bin/bash", "-c", limited], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        assert eventually(lambda: _is_ready(url), bool)
        yield url
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=DEADLINE_S).status_code == 200
    except httpx.TransportError:
        return False


@asynccontextmanager
async def provider(all_are_open: asyncio.Event) -> AsyncIterator[str]:
    """Sends the beginning of a stream, and its end when all streams are open."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        writer.write(b"".join(FRAMES[:2]))
        await writer.drain()
        await all_are_open.wait()
        writer.write(b"".join(FRAMES[2:]))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=STREAMS)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
def many_files() -> Iterator[None]:
    """The clients are many, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_a_thousand_streams_are_open_at_once_and_all_end_whole(record_database: str, tmp_path: Path) -> None:
    all_are_open = asyncio.Event()

    async def call(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        body = json.dumps(openai_request(stream=True)).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await reader.readuntil(b"Hello")
        return reader, writer

    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        rest = await reader.read()
        writer.close()
        return rest

    async with asyncio.timeout(120), provider(all_are_open) as url:
        with reserved_port() as port, serving(record_database, url, tmp_path, port) as gateway:
            calls = []
            for _ in range(STREAMS // 100):
                calls += await asyncio.gather(*[call(gateway) for _ in range(100)])
            all_are_open.set()
            ends = await asyncio.gather(*[end(*each) for each in calls])
            found = await asyncio.to_thread(eventually, lambda: stored(record_database), lambda rows: rows == ALL)
    assert [each for each in ends if FRAMES[-1] not in each] == []
    assert found == ALL


def stored(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(
            "SELECT outcome, records_stored = records_emitted, count(*) FROM conversation_calls GROUP BY 1, 2"
        ).fetchall()
