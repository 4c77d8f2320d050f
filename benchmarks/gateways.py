"""Gateways as processes of their own, each on one core, and the CPU time that they use."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import canned

GATEWAY_CORE = 0
LOAD_CORE = 1
TOKEN = "a-token-for-benchmarks"  # noqa: S105 - of a server that is gone in a minute, on loopback

_START_S = 60.0
_STOP_S = 20.0
_QUIET_S = 0.25
_QUIET_CPU_S = 0.004
_SCHEDULER_CLOCK = 2


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run a gateway. The port stands for `{port}` in the command and in the environment."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    is_recorded: bool = False


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """A gateway that serves."""

    variant: Variant
    port: int
    pid: int

    def cpu_s(self) -> float:
        """CPU time of all threads so far, user and system, in seconds; to the nanosecond, unlike /proc/PID/stat."""
        # What clock_getcpuclockid(3) returns on Linux.
        return time.clock_gettime((~self.pid << 3) | _SCHEDULER_CLOCK)

    async def settle(self) -> float:
        """Waits until there is nothing left to do, the last records included; returns `cpu_s`."""
        ends = time.monotonic() + _STOP_S
        before = self.cpu_s()
        while time.monotonic() < ends:
            await asyncio.sleep(_QUIET_S)
            now = self.cpu_s()
            if now - before < _QUIET_CPU_S:
                return now
            before = now
        raise RuntimeError(f"{self.variant.name} does not come to rest")

    async def check(self) -> int:
        """Fails unless both kinds of response come through to the last byte; returns how many calls that took."""
        await asyncio.to_thread(self._check, canned.request(), canned.PLAIN_BODY)
        whole_stream = b"".join(canned.FRAMES) + canned.END_FRAME
        await asyncio.to_thread(self._check, canned.request(stream=0), whole_stream)
        return 2

    def _check(self, request: bytes, expected: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=_START_S) as connection:
            connection.sendall(request)
            response = http.client.HTTPResponse(connection)
            response.begin()
            body = response.read()
        if response.status != 200 or body != expected:
            raise RuntimeError(f"{self.variant.name} does not return what the provider sent: {response.status}")


def bare(upstream_url: str) -> Variant:
    return Variant("bare pass-through", ("benchmarks.bare", "{port}", upstream_url), {})


def luthien(
    name: str,
    upstream_url: str,
    dsn: str,
    folder: Path,
    *,
    record: bool,
    spool: bool = True,
    index: bool = True,
    export: bool = False,
    src: Path | None = None,
) -> Variant:
    """Luthien as `luthien serve` runs it, without policies; `src` is another source tree to take it from."""
    config = folder / "luthien.yaml"
    config.write_text(json.dumps({"upstreams": {"openai": {"url": upstream_url}}}))  # JSON is YAML
    environment = {
        "DATABASE_URL": dsn,
        "LUTHIEN_CONFIG": str(config),
        "LUTHIEN_DATA_DIR": str(folder),
        "LUTHIEN_DEBUG_TOKEN": TOKEN,
        "LUTHIEN_LOG_LEVEL": "WARNING",
        "LUTHIEN_PORT": "{port}",
        "LUTHIEN_RECORD": "true" if record else "false",
        "LUTHIEN_SPOOL": "true" if spool else "false",
        "LUTHIEN_INDEX": "true" if index else "false",
    }
    if export:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = upstream_url
    if src is not None:
        environment["PYTHONPATH"] = str(src)
    return Variant(name, ("luthien", "serve"), environment, is_recorded=record)


@asynccontextmanager
async def running(variant: Variant) -> AsyncIterator[GatewayProcess]:
    """The gateway as a process on `GATEWAY_CORE`, from when it is ready; stopped in order at the end."""
    port = _free_port()
    ours = ("LUTHIEN_", "OTEL_", "DATABASE_URL")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {name: value.format(port=port) for name, value in variant.environment.items()}
    command = [sys.executable, "-m", *(word.format(port=port) for word in variant.command)]
    process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=Path(__file__).parent.parent)
    try:
        os.sched_setaffinity(process.pid, {GATEWAY_CORE})
        await _wait_until_ready(variant.name, process, port)
        yield GatewayProcess(variant, port, process.pid)
    finally:
        await _stop(process)


async def _stop(process: Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _wait_until_ready(name: str, process: Process, port: int) -> None:
    ends = time.monotonic() + _START_S
    while time.monotonic() < ends:
        if process.returncode is not None:
            raise RuntimeError(f"{name} ended with status {process.returncode} before it was ready")
        if await asyncio.to_thread(_is_ready, port):
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{name} was not ready in time")


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
