"""A process of Postgres's that we started: it writes to a log, and it can be asked to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from luthien.store.postgres import EmbeddedPostgresError, leash

STOP_STEPS = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 15.0))
"""Seconds for a fast shutdown, which writes everything back; then for an immediate one, after which the next
start recovers from the write-ahead log."""

LOG_LIMIT_BYTES = 8 * 1024 * 1024
LAST_WORDS_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True)
class Child:
    """A leashed process, and where in the log its own words begin."""

    process: subprocess.Popen[bytes]
    log: Path
    log_offset: int

    @classmethod
    def start(cls, command: list[str], log: Path, user: tuple[int, int] | None) -> Child:
        """Start `command` as `user`. The log is a file, not a pipe: nobody would read that."""
        if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as output:
            offset = output.tell()
            return cls(leash.start(command, output=output, user=user), log, offset)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.poll()

    @property
    def has_ended(self) -> bool:
        return self.exit_code is not None

    def stop(self) -> None:
        """End it, gently first, and see it gone; nothing if it has ended. Raises EmbeddedPostgresError."""
        for stop_signal, timeout_s in STOP_STEPS:
            self.process.send_signal(stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
                return
        raise EmbeddedPostgresError(f"Process {self.pid} does not stop. {self.last_words()}")

    def last_words(self) -> str:
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self.log_offset, end - LAST_WORDS_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join([f"The end of {self.log}:", *lines[-20:]])
