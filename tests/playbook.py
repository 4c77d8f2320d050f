"""The players of an integration test: a scripted provider, a gateway, and the record to look into.

Nothing here is a mock: the provider is a real HTTP server whose every byte a test decides, the gateway is the
whole app on a real socket with a real database.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import responses
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml
from pydantic import SecretStr

from luthien.app import App
from luthien.config_file import ConfigFile
from luthien.gateway.configuration import configured
from luthien.server import Server, address_of, listen
from luthien.settings import Settings

TOKEN = "a-token-for-tests"
DEADLINE_S = 60.0
"""How long anything may take on a busy machine. No test waits so long unless it fails."""

T = TypeVar("T")
Play = Callable[["Turn"], Awaitable[None]]


@dataclass
class Turn:
    """One request at the scripted provider, and the connection to answer it on."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int, headers: dict[str, str]) -> None:
        phrase = responses.get(status, "Scripted")
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def cut(self) -> None:
        """Drops the connection without a word."""
        self.writer.transport.abort()


def answers(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Play:
    """A plain response; `body` is sent as it is if it is bytes, else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def play(turn: Turn) -> None:
        base = {"content-type": "application/json", "content-length": str(len(data))}
        await turn.head(status, base | (headers or {}))
        await turn.send(data)

    return play


def streams(
    *pieces: bytes, pause_s: float = 0.0, then_cut: bool = False, headers: dict[str, str] | None = None
) -> Play:
    """A stream of exactly these pieces, each in a write of its own."""

    async def play(turn: Turn) -> None:
        base = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
        await turn.head(200, base | (headers or {}))
        for piece in pieces:
            await turn.chunk(piece)
            await asyncio.sleep(pause_s)
        if then_cut:
            turn.cut()
        else:
            await turn.send(b"0\r\n\r\n")

    return play


class ScriptedProvider:
    """A provider that plays what it is told to, one play a request, in order; the last one is repeated."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self._plays: deque[Play] = deque()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scripted-provider", daemon=True)
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def will(self, *plays: Play) -> None:
        self._plays = deque(plays)

    def gate(self) -> Gate:
        """A point in a play that waits until the test opens it."""
        return Gate(self._loop)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=64 * 1024 * 1024)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                turn = await self._turn(reader, writer)
                self.turns.append(turn)
                play = self._plays.popleft() if len(self._plays) > 1 else self._plays[0]
                await play(turn)
                if turn.headers.get("connection") == "close":
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def _turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Turn:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        method, path, _ = first.split(" ")
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Turn(method, path, headers, body, writer, reader)


class Gate:
    """Opened by the test's thread, waited for in the provider's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        await self._event.wait()


@dataclass
class Gateway:
    """A running gateway, and the way to its record."""

    url: str
    app: App
    server: Server
    headers: dict[str, str] = field(default_factory=lambda: {"authorization": f"Bearer {TOKEN}"})

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(self.url + path, content=content, timeout=DEADLINE_S, **options)

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        signed_in = self.headers if headers is None else headers
        return httpx.get(self.url + path, headers=signed_in, timeout=DEADLINE_S)

    def call(self, response_or_id: httpx.Response | str) -> dict[str, Any]:
        """The recorded call, once all of it is stored."""
        return self.wait_for(f"/debug/calls/{call_id_of(response_or_id)}.json")

    def diff(self, response_or_id: httpx.Response | str) -> dict[str, Any]:
        return self.wait_for(f"/debug/calls/{call_id_of(response_or_id)}/diff.json")

    def raw(self, response_or_id: httpx.Response | str, stage: str) -> bytes:
        self.call(response_or_id)
        response = self.get(f"/debug/calls/{call_id_of(response_or_id)}/stages/{stage}/raw")
        assert response.status_code == 200, response.text
        return response.content

    def wait_for(self, path: str) -> dict[str, Any]:
        response = eventually(lambda: self.get(path), lambda response: response.status_code != 202)
        assert response.status_code == 200, f"{path}: {response.status_code} {response.text}"
        found: dict[str, Any] = response.json()
        return found

    def metrics(self) -> str:
        """What Prometheus is given, of a gateway that was started with `metrics_exporter="prometheus"`."""
        assert self.app.metrics_url is not None, "the metrics are not served"
        return httpx.get(self.app.metrics_url, timeout=DEADLINE_S).raise_for_status().text

    def only_call_id(self, *besides: httpx.Response) -> str:
        """The id of the one call that was made besides those, once something of it is stored."""
        known = {call_id_of(response) for response in besides}

        def others() -> list[str]:
            listed = self.get("/debug/calls.json").json()["calls"]
            return [call["call_id"] for call in listed if call["call_id"] not in known]

        (only,) = eventually(others, bool)
        return only


def call_id_of(response_or_id: httpx.Response | str) -> str:
    return response_or_id if isinstance(response_or_id, str) else response_or_id.headers["luthien-call-id"]


STAGES = ("request_original", "request_final", "response_original", "response_final")


def states(call: dict[str, Any]) -> list[str]:
    """What became of each stage, of a call's JSON."""
    return [call["stages"][stage]["state"] for stage in STAGES]


def ended(call: dict[str, Any]) -> tuple[str, str | None]:
    """The outcome, and the error's type if there was one."""
    return call["outcome"], call["error"] and call["error"]["type"]


def eventually(ask: Callable[[], T], is_enough: Callable[[T], object]) -> T:
    """Asks until the answer is good enough, or the deadline has passed; returns the last answer."""
    ends = time.monotonic() + DEADLINE_S
    while True:
        answer = ask()
        if is_enough(answer) or time.monotonic() > ends:
            return answer
        time.sleep(0.02)


def settled(ask: Callable[[], T]) -> T:
    """The answer that has stayed the same for half a second, or the last before the deadline."""
    ends = time.monotonic() + DEADLINE_S
    answer, since = ask(), time.monotonic()
    while time.monotonic() < min(since + 0.5, ends):
        time.sleep(0.02)
        last, answer = answer, ask()
        if answer != last:
            since = time.monotonic()
    return answer


@contextmanager
def running_gateway(
    dsn: str,
    provider_url: str,
    policies: list[dict[str, Any]] | None = None,
    *,
    passthrough: list[str] | None = None,
    anthropic_url: str | None = None,
    more: dict[str, Any] | None = None,
    file: Path | None = None,
    **settings: Any,
) -> Iterator[Gateway]:
    """The whole app on a socket of its own, stopped in order at the end.

    `more` is what else its configuration says; it stands in `file`, if that is given, and is read again from there.
    """
    text = yaml.safe_dump(
        {
            "upstreams": {"openai": {"url": provider_url}, "anthropic": {"url": anthropic_url or provider_url}},
            "policies": policies or [],
            **({} if passthrough is None else {"passthrough": passthrough}),
            **(more or {}),
        }
    )
    if file is not None:
        file.write_text(text)
    configuration = configured(ConfigFile(str(file or "test.yaml"), text))
    spools = tempfile.TemporaryDirectory(prefix="luthien-test-spool-")
    options: dict[str, Any] = {
        "port": 0,
        "database_url": SecretStr(dsn),
        "debug_token": SecretStr(TOKEN),
        "data_dir": Path("/nonexistent"),
        "spool_dir": Path(spools.name),
        "batch_max_age_ms": 5.0,
        "grace_s": 5.0,
        # A busy machine is no fault of Luthien's.
        "receipt_deadline_ms": DEADLINE_S * 1000,
        "checkpoint_s": DEADLINE_S,
        "keep_alive_s": DEADLINE_S,
    }
    built = Settings(**(options | settings))
    app = App(built, configuration, file)
    with spools, serving(app, built) as gateway:
        yield gateway


@contextmanager
def serving(app: App, settings: Settings) -> Iterator[Gateway]:
    started = threading.Event()
    with listen(settings) as listener:
        server = Server(app.asgi, settings, started.set)
        server.config.log_config = None
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="gateway", daemon=True)
        thread.start()
        ends = time.monotonic() + DEADLINE_S
        while not started.wait(0.05):
            assert thread.is_alive(), "the gateway did not start"
            assert time.monotonic() < ends, "the gateway took too long to start"
        try:
            yield Gateway(address_of(listener), app, server)
        finally:
            server.stop()
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), "the gateway did not stop"
