"""Running the `luthien` command as a person would, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

DEADLINE_S = 120.0


class Command:
    """A running command and what it has said so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match of the pattern in the output; fails when the command ends, or says nothing for long."""
        ends = time.monotonic() + DEADLINE_S
        while not (found := re.search(pattern, self.output)):
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.output}"
            assert time.monotonic() < ends, f"it never said {pattern!r}:\n{self.output}"
            time.sleep(0.05)
        return found

    def wait(self) -> int:
        status = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return status


@contextmanager
def luthien(
    *arguments: str, data_dir: Path, program: Sequence[str] = ("-m", "luthien"), **environment: str
) -> Iterator[Command]:
    """Runs a command with its data in `data_dir`, on a port that the system chooses; ends it at the end.

    `program` is what the interpreter is told to run.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LUTHIEN_", "OTEL_"))}
    inherited.pop("DATABASE_URL", None)
    settings = {"LUTHIEN_PORT": "0", "LUTHIEN_DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *program, *arguments],
        env=inherited | settings | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=data_dir,
    )
    command = Command(process)
    try:
        yield command
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        command._reader.join(DEADLINE_S)
        assert process.stdout is not None
        process.stdout.close()
