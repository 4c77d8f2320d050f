"""`luthien serve` as its users run it, again and again: with the same port, configuration and spool."""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import httpx
import psutil

from luthien.record.folder import spool_root
from tests.acceptance.commands import Command, luthien

DEADLINE_S = 60.0
# Below the ports of outgoing connections: who calls a port where nobody listens may otherwise end up calling itself.
_PORTS = range(20_000, 30_000)
_SERVE = ("-m", "luthien")
UNHURRIED = (
    "-c",
    """
from luthien import deadlines
deadlines.CALLS_S = deadlines.RECORD_S = 60.0
from luthien.cli import main
main()
""",
)
"""`luthien` that stops once all is stored, however long a busy machine takes for that."""


@dataclass(slots=True)
class GatewayProcess:
    """A gateway and what it has said."""

    command: Command
    url: str
    pid: int

    def wait_until_serving(self) -> None:
        ends = time.monotonic() + DEADLINE_S
        while not self._is_serving():
            assert self.command.process.poll() is None, self.command.output
            assert time.monotonic() < ends, f"it does not serve:\n{self.command.output}"
            time.sleep(0.05)

    def _is_serving(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=DEADLINE_S, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def peak_bytes(self) -> int:
        """The most resident memory that it, or a worker of its, has had."""
        workers = [child.pid for child in psutil.Process(self.pid).children()]
        return max(_peak_bytes(pid) for pid in (self.pid, *workers))

    def kill(self) -> None:
        self.command.process.send_signal(signal.SIGKILL)
        self.command.wait()

    def stop(self) -> int:
        """In order, with SIGTERM; the exit status."""
        self.command.process.terminate()
        return self.command.wait()


@dataclass(slots=True)
class Deployment:
    """What all gateways of a scenario share. `peak_bytes`: of that process which needed most memory so far."""

    folder: Path
    dsn: str
    provider_url: str
    port: int = field(default_factory=lambda: free_port())
    peak_bytes: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def spool_dir(self) -> Path:
        return self.folder / "spool"

    @property
    def spools(self) -> Path:
        """The folder of all spools for the database."""
        return spool_root(self.spool_dir, self.dsn)

    def segments(self) -> list[Path]:
        return sorted(self.spools.glob("*/*.v1"))

    def left_behind(self, alive: int) -> int:
        """How many spools there are beside those of so many processes that run."""
        return len([*self.spools.iterdir()]) - alive

    @contextmanager
    def running(
        self,
        settings: Mapping[str, str] = MappingProxyType({}),
        *,
        program: Sequence[str] = _SERVE,
        arguments: Sequence[str] = (),
        port: int | None = None,
        is_awaited: bool = True,
    ) -> Iterator[GatewayProcess]:
        """A gateway, from when it serves; ended in order at the end unless it has ended before."""
        config = self.folder / "luthien.yaml"
        config.write_text(json.dumps({"upstreams": {"openai": {"url": self.provider_url}}}))  # JSON is YAML
        port = port or self.port
        environment = {
            "DATABASE_URL": self.dsn,
            "LUTHIEN_CONFIG": str(config),
            "LUTHIEN_PORT": str(port),
            "LUTHIEN_SPOOL_DIR": str(self.spool_dir),
            "LUTHIEN_GRACE_S": "20",
            # A busy machine is no fault of the gateway's.
            "LUTHIEN_RECEIPT_DEADLINE_MS": "60000",
        }
        with luthien(
            "serve", *arguments, data_dir=self.folder, program=program, **{**environment, **settings}
        ) as command:
            gateway = GatewayProcess(command, f"http://127.0.0.1:{port}", command.process.pid)
            try:
                if is_awaited:
                    gateway.wait_until_serving()
                yield gateway
            finally:
                if command.process.poll() is None:
                    self.weigh(gateway)

    def weigh(self, gateway: GatewayProcess) -> int:
        """Notes how much memory a gateway needed, in bytes; to be called before it ends."""
        peak_bytes = gateway.peak_bytes()
        self.peak_bytes = max(self.peak_bytes, peak_bytes)
        return peak_bytes


def _peak_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):  # it has ended
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()):
            return int(found[1]) * 1024
    return 0


def free_port() -> int:
    while True:
        with socket.socket() as probe:
            port = random.choice(_PORTS)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
