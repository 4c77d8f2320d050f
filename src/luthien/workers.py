"""Serving with several processes, and the one that starts, watches and ends them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time

import uvicorn
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from luthien.gateway.reload import has_terminal

_log = logging.getLogger("uvicorn.error")
_ENDS_S = 60.0
"""How long a process may take beside its calls' grace period. It needs 15 on a machine that is not busy."""
_FAILED_TO_START = 3  # as uvicorn ends a process whose application or socket cannot be had


class WorkerConfig(uvicorn.Config):
    """What each of several processes serves, and that it ends when its parent says so.

    Ctrl-C is heard by all processes of a terminal: uvicorn's would take a second one for a reason to drop everything.
    """

    def load(self) -> None:
        super().load()
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class Worker(Process):
    """A process that is asked how it is, and is not waited for.

    uvicorn's parent waits for each answer. Meanwhile it hears no signal, and does not see that who was asked has
    died: it could not be stopped for as long as a worker has to load its modules.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._asked_at: float | None = None

    def is_alive(self, timeout: float = 5) -> bool:
        """Whether it runs, and owes no answer for longer than `timeout` seconds."""
        if not self.process.is_alive():
            return False
        now = time.monotonic()
        try:
            if self._asked_at is not None and self.parent_conn.poll():
                self.parent_conn.recv()
                self._asked_at = None
            if self._asked_at is None:
                self.parent_conn.send(b"ping")
                self._asked_at = now
        except (EOFError, OSError):
            return False
        return now - self._asked_at <= timeout


class Workers(Multiprocess):
    """uvicorn's parent of processes, which no longer seem to listen once they are told to end.

    SIGHUP is for each of them: they take a changed configuration, and no call is ended for it.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._had_terminal = has_terminal()

    def init_processes(self) -> None:
        self.processes = [self._begun() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Puts another in the place of each that has ended, or does not answer; gives up if one cannot start."""
        for place, worker in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if worker.is_alive(self.config.timeout_worker_healthcheck):
                continue
            status = worker.exitcode
            worker.kill()
            worker.join()
            if status == _FAILED_TO_START:
                _log.error("process %s could not start: the others are ended, too", worker.pid)
                self.should_exit.set()
                return
            became = "did not answer" if status is None else f"ended with status {status}"
            _log.error("process %s %s: another takes its place", worker.pid, became)
            self.processes[place] = self._begun()

    def handle_ttin(self) -> None:
        self.processes_num += 1
        self.processes.append(self._begun())

    def handle_hup(self) -> None:
        if self._had_terminal and not has_terminal():
            self.handle_term()
            return
        for process in self.processes:
            if process.pid is not None and process.process.is_alive():
                os.kill(process.pid, signal.SIGHUP)

    def terminate_all(self) -> None:
        # The system would go on to take connections for as long as one process has the socket open.
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    def join_all(self) -> None:
        """Kills who does not end, as one that hangs: what it had not stored waits in its spool for another."""
        ends_at = time.monotonic() + (self.config.timeout_graceful_shutdown or 0) + _ENDS_S
        for worker in self.processes:
            worker.process.join(max(0.0, ends_at - time.monotonic()))
            if worker.exitcode is None:
                _log.error("process %s does not end: it is killed", worker.pid)
                worker.kill()
            worker.join()

    def _begun(self) -> Worker:
        worker = Worker(self.config, self.sockets)
        worker.start()
        return worker
