"""What do open streams cost, and how soon is a provider left whose client has hung up?

    python -m benchmarks.streams [--streams N]

A gateway with 1,000 open streams, without policies and with some; a stream of an hour, sixty times as fast as life;
one of 100,000 chunks; a request of 2,000 messages. Memory is the resident set of the gateway's process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from benchmarks.gateways import GatewayProcess, Variant, luthien, running
from luthien.store.embedded import embedded_postgres
from luthien.store.migrate import migrate

_MB = 1024 * 1024
_WAIT_S = 120.0
_HOUR_CHUNKS = 3600
_HOUR_PAUSE_S = 1 / 60
_HOUR_CHECKPOINT_S = 5 / 60
POLICIES: dict[str, list[dict[str, Any]]] = {
    "no policy": [],
    "replace_text, redact": [
        {"policy": "replace_text", "config": {"rules": [{"find": "secret", "replace": "[hidden]"}]}},
        {"policy": "redact", "config": {"rules": [{"kinds": ["email", "phone", "card"], "action": "reversible"}]}},
    ],
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the provider does with a stream, as the client's model name says: chunks, then wait, then more."""

    chunks: int
    then: int = 0
    pause_s: float = 0.0

    @property
    def model(self) -> str:
        return f"plan-{self.chunks}-{self.then}-{self.pause_s}"


class Provider:
    """Streams by plan; knows when each connection was closed by the gateway."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.left_at: list[float] = []
        self.was_left = asyncio.Semaphore(0)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096, limit=64 * _MB)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                body = await reader.readexactly(length)
                _, chunks, then, pause = json.loads(body)["model"].split("-", 3)
                await self._answer(reader, writer, Plan(int(chunks), int(then), float(pause)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, plan: Plan) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(plan.chunks):
            await _say(writer, number)
            if plan.pause_s:
                await asyncio.sleep(plan.pause_s)
        if plan.then:
            gone = asyncio.create_task(reader.read(1))  # noqa: TID251 - awaited or cancelled here
            waiting = asyncio.create_task(self.go_on.wait())  # noqa: TID251 - awaited or cancelled here
            await asyncio.wait({gone, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if gone.done():
                self.left_at.append(time.perf_counter())
                self.was_left.release()
                raise ConnectionResetError
            gone.cancel()
            await asyncio.wait({gone})
            for number in range(plan.then):
                await _say(writer, number)
        await _write(writer, _chunk({}, "stop") + b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795348800, "model": "m"}
    return b"data: %s\n\n" % json.dumps({**head, "choices": [choice]}).encode()


async def _say(writer: asyncio.StreamWriter, number: int) -> None:
    await _write(writer, _chunk({"content": f" word{number}"}))


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))
    await writer.drain()


class Stream:
    """A client of one stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int, plan: Plan, messages: int = 1) -> Stream:
        said = [
            {"role": "user", "content": f"Message {number}: " + "what does it do? " * 40}
            for number in range(messages)
        ]
        body = json.dumps({"model": plan.model, "stream": True, "messages": said}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=64 * _MB)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        return cls(reader, writer)

    async def read_until(self, text: bytes) -> None:
        await self._reader.readuntil(text)

    async def read_to_the_end(self) -> None:
        async with asyncio.timeout(_WAIT_S):
            while data := await self._reader.read(1 << 16):
                if data.endswith(b"0\r\n\r\n"):
                    break
        self._writer.close()

    def hang_up(self) -> None:
        self._writer.close()


def resident_bytes(gateway: GatewayProcess) -> int:
    status = Path(f"/proc/{gateway.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def open_streams(gateway: GatewayProcess, provider: Provider, count: int, chunks: int) -> dict[str, float]:
    """Memory for each stream that has had so many chunks; and how soon the provider of a lost client is left."""
    provider.go_on.clear()
    provider.left_at.clear()
    plan, last = Plan(chunks, then=10), b' word%d"' % (chunks - 1)
    await one_stream(gateway, Plan(chunks))
    before = resident_bytes(gateway)
    streams: list[Stream] = []
    for _ in range(count // 50):
        some = await asyncio.gather(*[Stream.open(gateway.port, plan) for _ in range(50)])
        await asyncio.gather(*[stream.read_until(last) for stream in some])
        streams += some
    await gateway.settle()
    grown = resident_bytes(gateway) - before
    leaving, staying = streams[:100], streams[100:]
    for stream in leaving:
        stream.hang_up()
    hung_up = time.perf_counter()
    async with asyncio.timeout(_WAIT_S):
        for _ in leaving:
            await provider.was_left.acquire()
    late_ms = sorted((at - hung_up) * 1000 for at in provider.left_at)
    provider.go_on.set()
    await asyncio.gather(*[stream.read_to_the_end() for stream in staying])
    return {
        "kB a stream": grown / len(streams) / 1024,
        "ms until a provider is left, median": median(late_ms),
        "ms until the last of 100 is left": late_ms[-1],
    }


async def one_stream(gateway: GatewayProcess, plan: Plan, messages: int = 1) -> dict[str, float]:
    """The highest memory meanwhile over that before, and how long it took."""
    before = highest = resident_bytes(gateway)
    began = time.perf_counter()
    stream = await Stream.open(gateway.port, plan, messages)
    reading = asyncio.create_task(stream.read_to_the_end())  # noqa: TID251 - awaited below
    while not reading.done():
        await asyncio.wait({reading}, timeout=0.02)
        highest = max(highest, resident_bytes(gateway))
    await reading
    return {"MB more": (highest - before) / _MB, "seconds": time.perf_counter() - began}


async def measure(
    name: str, policies: Sequence[dict[str, Any]], dsn: str, folder: Path, count: int
) -> dict[str, Any]:
    provider = Provider()
    await provider.start()
    variant = _variant(name, policies, provider.url, dsn, folder)
    found: dict[str, Any] = {}
    for chunks in (20, 200):
        async with running(variant) as gateway:
            found[f"open, {chunks} chunks each"] = await open_streams(gateway, provider, count, chunks)
    async with running(variant) as gateway:
        await one_stream(gateway, Plan(20))
        found["2,000 messages"] = await one_stream(gateway, Plan(20), messages=2000)
        found["100,000 chunks"] = await one_stream(gateway, Plan(100_000))
    hurried = replace(variant, environment={**variant.environment, "LUTHIEN_CHECKPOINT_S": str(_HOUR_CHECKPOINT_S)})
    async with running(hurried) as gateway:
        await one_stream(gateway, Plan(20))
        found["an hour"] = await one_stream(gateway, Plan(_HOUR_CHUNKS, pause_s=_HOUR_PAUSE_S))
        await gateway.settle()
    found["checkpoints of the hour"] = _checkpoints(dsn)
    return found


def _variant(name: str, policies: Sequence[dict[str, Any]], url: str, dsn: str, folder: Path) -> Variant:
    variant = luthien(name, url, dsn, folder, record=True)
    config = folder / "luthien.yaml"
    config.write_text(json.dumps({"upstreams": {"openai": {"url": url}}, "policies": list(policies)}))
    return variant


def _checkpoints(dsn: str) -> dict[str, int]:
    """Of the longest stream: how many checkpoints it left, and what they and the whole stream are in bytes."""
    query = """
        SELECT count(*) FILTER (WHERE event_type = 'response_partial'),
               sum(wire_bytes) FILTER (WHERE attributes->>'luthien.checkpoint.sides' IN ('both', 'original')),
               max(wire_bytes) FILTER (WHERE event_type = 'response_original'),
               sum(octet_length(payload)) FILTER (WHERE event_type = 'response_partial')
        FROM conversation_events WHERE call_id = (
            SELECT call_id FROM conversation_calls ORDER BY call_id DESC LIMIT 1)
    """
    with psycopg.connect(dsn) as conn:
        row = conn.execute(query).fetchone()
    assert row is not None
    names = ("records", "bytes of the provider's side", "bytes of the whole stream", "bytes still stored")
    return dict(zip(names, [int(value or 0) for value in row], strict=True))


async def _all(dsn: str, folder: Path, count: int) -> dict[str, Any]:
    return {name: await measure(name, policies, dsn, folder, count) for name, policies in POLICIES.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return round(value, 1) if isinstance(value, float) else value


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--streams", type=int, default=1000)
    args = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory(prefix="luthien-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # started by root, Postgres runs as somebody else
        with embedded_postgres(folder / "postgres", progress=lambda line: print(line, file=sys.stderr)) as dsn:
            migrate(dsn)
            found = asyncio.run(_all(dsn, folder, args.streams))
    print(json.dumps(_rounded(found), indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
