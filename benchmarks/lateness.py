"""How late does a stream through the gateway get while debug pages are made?

    python -m benchmarks.lateness [--seconds S]

A provider sends a chunk each 10 ms, with the time at which it did; the client looks at how old each is when it comes
through. The gateway has one core, all else the other. Meanwhile nothing happens; or the page of the biggest call is
asked for again and again; or eight of them at once; or the indexer works through calls. Memory is the resident set
of the gateway and of its children, at most.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.gateways import LOAD_CORE, TOKEN, GatewayProcess, Variant, running
from luthien.store.embedded import embedded_postgres
from luthien.store.migrate import migrate
from tests.wire import openai_response

_PAUSE_S = 0.01
_TIMEOUT_S = 120.0
_POLICIES = [{"policy": "replace_text", "config": {"rules": [{"find": "needle", "replace": "pin"}]}}]
_AUTHORIZATION = {"authorization": f"Bearer {TOKEN}"}
_PAGE = _AUTHORIZATION | {"accept": "text/html"}


class Provider:
    """Answers at once, or with a chunk each 10 ms for as long as is asked for in `seconds`."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-len"))
                body = await reader.readexactly(size)
                if size < 1_000 and json.loads(body).get("stream"):
                    await self._stream(writer, float(json.loads(body)["seconds"]))
                else:
                    answer = json.dumps(openai_response()).encode()
                    start = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                    writer.write(start % len(answer) + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def _stream(writer: asyncio.StreamWriter, seconds: float) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            delta = {"index": 0, "delta": {"content": f"{time.monotonic():.6f}"}, "finish_reason": None}
            _send(writer, b"data: " + json.dumps({"id": "c", "choices": [delta]}).encode() + b"\n\n")
            await asyncio.sleep(_PAUSE_S)
        _send(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")


def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


async def lateness(client: httpx.AsyncClient, seconds: float) -> list[float]:
    """How old the chunks of a stream are when they arrive, in milliseconds, sorted."""
    asked = {"model": "m", "stream": True, "seconds": seconds, "messages": [{"role": "user", "content": "Hello"}]}
    ages = list[float]()
    async with client.stream("POST", "/v1/chat/completions", json=asked) as response:
        async for line in response.aiter_lines():
            if '"content"' in line:
                sent = float(json.loads(line[6:])["choices"][0]["delta"]["content"])
                ages.append((time.monotonic() - sent) * 1000)
    return sorted(ages)


def bodies() -> dict[str, bytes]:
    """The biggest calls, by name."""
    line = "a word of thirty megabytes, " * 1_070_000
    talk = [{"role": "user", "content": f"a needle of message {number} " * 40} for number in range(17_000)]
    changed = [{"role": "user", "content": f"needle {number} " * 20} for number in range(2_000)]
    return {
        "one line of 30 MB": _body([{"role": "user", "content": f"{line} needle"}]),
        "17,000 messages, 20 MB": _body(talk),
        "2,000 messages changed": _body(changed),
    }


def _body(messages: Sequence[dict[str, str]]) -> bytes:
    return json.dumps({"model": "m", "messages": messages}).encode()


async def send(client: httpx.AsyncClient, body: bytes) -> str:
    """The id of a call, once all of it is stored."""
    response = await client.post("/v1/chat/completions", content=body)
    call_id = response.headers["luthien-call-id"]
    while True:
        [row] = (await client.get(f"/debug/calls.json?id={call_id}", headers=_AUTHORIZATION)).json()["calls"] or [{}]
        if row.get("outcome") and row.get("completeness", {}).get("state") == "complete":
            return str(call_id)
        await asyncio.sleep(0.1)


async def meanwhile(
    client: httpx.AsyncClient, seconds: float, work: Callable[[], Awaitable[Any]], times: int
) -> tuple[list[float], list[float]]:
    """Measures while it does something again and again, so many times at once; and how long each took, in seconds."""
    took, is_over = list[float](), asyncio.Event()

    async def go_on() -> None:
        while not is_over.is_set():
            began = time.monotonic()
            await work()
            took.append(time.monotonic() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(times):
            group.create_task(go_on())
        ages = await lateness(client, seconds)
        is_over.set()
    return ages, took


def peak_mb(pid: int) -> float:
    """The largest resident set so far of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0
    for each in (str(pid), *children):
        lines = Path(f"/proc/{each}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return total / 1024


def say(name: str, ages: Sequence[float], took: Sequence[float], pid: int) -> None:
    middle, late = (ages[int(len(ages) * share)] for share in (0.5, 0.99))
    pages = f"{len(took):4} pages, {max(took):5.1f} s at most" if took else ""
    print(f"{name:42} {middle:8.1f} {late:8.1f} {ages[-1]:8.1f}   {peak_mb(pid):6.0f} MB  {pages}", flush=True)


async def measure(gateway: GatewayProcess, seconds: float) -> None:
    url = f"http://127.0.0.1:{gateway.port}"
    limits = httpx.Limits(max_connections=50)
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=limits) as client:
        say("nothing else", await lateness(client, seconds), [], gateway.pid)
        for name, body in bodies().items():
            call_id = await send(client, body)

            async def visit(call_id: str = call_id) -> None:
                page = await client.get(f"/debug/calls/{call_id}", headers=_PAGE)
                assert page.status_code == 200, page.status_code

            for times in (1, 8):
                ages, took = await meanwhile(client, seconds, visit, times)
                say(f"{name}, {times} at once", ages, took, gateway.pid)


async def measure_indexer(gateway: GatewayProcess, seconds: float) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", timeout=_TIMEOUT_S) as client:
        say("the indexer, at hostile calls", await lateness(client, seconds), [], gateway.pid)


async def race(dsn: str, folder: Path, seconds: float) -> None:
    server = await asyncio.start_server(Provider().serve, "127.0.0.1", 0, limit=64 * 1024 * 1024)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    config = folder / "luthien.yaml"
    config.write_text(json.dumps({"upstreams": {"openai": {"url": url}}, "policies": _POLICIES}))
    settings = {
        "DATABASE_URL": dsn,
        "LUTHIEN_CONFIG": str(config),
        "LUTHIEN_DATA_DIR": str(folder),
        "LUTHIEN_DEBUG_TOKEN": TOKEN,
        "LUTHIEN_LOG_LEVEL": "WARNING",
        "LUTHIEN_PORT": "{port}",
    }
    plain = Variant("luthien", ("luthien", "serve"), settings | {"LUTHIEN_INDEX": "false"})
    async with running(plain) as gateway:
        await measure(gateway, seconds)
        hostile = _body([{"role": "user", "content": f"needle {n} word{n} " * 20} for n in range(5_000)])
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", timeout=_TIMEOUT_S) as client:
            for _ in range(6):
                await send(client, hostile)
    async with running(Variant("luthien", ("luthien", "serve"), settings)) as gateway:
        await measure_indexer(gateway, seconds)
    server.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    seconds = parser.parse_args().seconds
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory(prefix="luthien-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with embedded_postgres(folder / "postgres") as dsn:
            migrate(dsn)
            print(f"{'age of chunks in ms':42} {'p50':>8} {'p99':>8} {'max':>8}   {'peak':>9}")
            asyncio.run(race(dsn, folder, seconds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
