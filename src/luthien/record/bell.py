"""Waking a thread up in a way that costs few changes of threads."""

from __future__ import annotations

import os
import select
import weakref


class Bell:
    """Rung by any thread, waited for by one.

    A pipe, and no lock: a write gives the interpreter's own lock away, so that who is woken up can begin at once.
    Woken up by a lock, it would find that it must not run yet, and sleep again.
    """

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)
        self._poll = select.poll()
        self._poll.register(self._read_fd, select.POLLIN)
        self._is_rung = False
        # Not before nobody has it any more: another thread may just be ringing.
        weakref.finalize(self, _close, self._read_fd, self._write_fd)

    def ring(self) -> None:
        """What was done before is seen by whoever waits, or is awake."""
        if not self._is_rung:
            self._is_rung = True
            os.write(self._write_fd, b"\0")

    def wait(self, timeout_s: float) -> None:
        """Returns when it was rung since the last time, or after the timeout."""
        if self._poll.poll(timeout_s * 1000):
            os.read(self._read_fd, 4096)
        self._is_rung = False


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)
