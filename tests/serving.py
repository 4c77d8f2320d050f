"""`luthien serve` as a process of its own, in front of a scripted provider."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.acceptance.commands import Command, luthien
from tests.playbook import TOKEN, eventually
from tests.ports import reserved_port

LONG_S = 60.0


@dataclass
class Serving:
    """The process, and where it listens."""

    command: Command
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def signal(self, number: int) -> None:
        self.command.process.send_signal(number)

    def open(self, path: str, body: dict[str, Any]) -> socket.socket:
        """A call, sent and not yet answered."""
        data = json.dumps(body).encode()
        client = socket.create_connection(("127.0.0.1", self.port), timeout=LONG_S)
        client.sendall(
            b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (path.encode(), len(data)) + data
        )
        return client

    def is_up(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=LONG_S).status_code == 200
        except httpx.TransportError:
            return False


def read_until(client: socket.socket, wanted: bytes) -> bytes:
    """What comes on a connection, up to what is wanted."""
    received = b""
    while wanted not in received:
        part = client.recv(65536)
        assert part, received
        received += part
    return received


def read_response(client: socket.socket) -> tuple[http.client.HTTPResponse, bytes]:
    """The response on a connection and its whole body; fails when the body has no proper end."""
    response = http.client.HTTPResponse(client)
    response.begin()
    return response, response.read()


@contextmanager
def serving(
    data_dir: Path,
    dsn: str,
    provider_url: str,
    *arguments: str,
    policies: list[dict[str, Any]] | None = None,
    program: Sequence[str] = ("-m", "luthien"),
    **environment: str,
) -> Iterator[Serving]:
    """Runs it until the block is left, on a port that is kept for it."""
    config = data_dir / "luthien.yaml"
    upstreams = {"openai": {"url": provider_url}, "anthropic": {"url": provider_url}}
    config.write_text(yaml.safe_dump({"upstreams": upstreams, "policies": policies or []}))
    settings = {
        "DATABASE_URL": dsn,
        "LUTHIEN_CONFIG": str(config),
        "LUTHIEN_SPOOL_DIR": str(data_dir / "spool"),
        "LUTHIEN_DEBUG_TOKEN": TOKEN,
        "LUTHIEN_BATCH_MAX_AGE_MS": "5",
        "LUTHIEN_RECEIPT_DEADLINE_MS": "60000",  # a busy machine is no fault of Luthien's
    }
    with (
        reserved_port() as port,
        luthien(
            "serve",
            *arguments,
            data_dir=data_dir,
            program=program,
            **settings | environment | {"LUTHIEN_PORT": str(port)},
        ) as command,
    ):
        running = Serving(command, port)
        assert eventually(running.is_up, bool), command.output
        yield running
