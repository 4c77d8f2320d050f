"""A process that does what is too much to be done beside calls, one thing after the other.

It is started when it is first needed, ends when nothing was asked of it for a while, and ends with the gateway,
however that ends: it hangs on one end of a socket pair. See decision 18.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

from luthien.errors import StoreError
from luthien.settings import read_settings
from luthien.telemetry.logs import configure_logging

IDLE_S = 60.0
"""It ends when nothing was asked of it for so long, and its memory is the machine's again."""
START_S = 30.0
"""So long it may take until it is there: mostly a fifth of a second."""
LIMIT_S = 60.0
"""What takes longer is given up, and the process with it."""

_NICENESS = 5
_log = logging.getLogger(__name__)

T = TypeVar("T")


class CannotStart(Exception):
    """There is no such process to be had."""


class Failed(StoreError):
    """It could not be done there; says why."""

    title = "This could not be made"


class Stopping(Failed):
    """Nothing is begun any more."""

    title = "The gateway stops"


@dataclass(frozen=True, slots=True)
class _Job:
    function: Callable[..., Any]
    args: tuple[Any, ...]


class Apart:
    """The gateway's end. Nothing is started before something is asked for.

    Args:
        memory_bytes: how much the process may have, where the system can see to that; 0 for as much as there is.
    """

    def __init__(self, *, idle_s: float = IDLE_S, limit_s: float = LIMIT_S, memory_bytes: int = 0) -> None:
        self._told = [str(idle_s), str(memory_bytes)]
        self._limit_s = limit_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="luthien-apart")
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._starting = threading.Lock()
        self._is_ended = False

    @property
    def pid(self) -> int | None:
        """Of the process, if there is one."""
        return None if self._process is None else self._process.pid

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """What `function(*args)` returns; others are waited for.

        It is a function of a module, which the process finds by its name.

        Raises:
            CannotStart: there is no process.
            StoreError: it says so, or the process was lost over it, or was not there in time.
        """
        done: T = await asyncio.get_running_loop().run_in_executor(self._thread, self._do, _Job(function, args))
        return done

    def end(self) -> None:
        """What is being done is not finished, and nothing else is begun."""
        with self._starting:
            self._is_ended = True
            process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Ends the process."""
        self.end()
        self._thread.shutdown(cancel_futures=True)
        self._end()

    def _do(self, job: _Job) -> Any:
        try:
            is_done, answer = self._ask(job)
        except (EOFError, OSError):  # it ended, as it does when it was idle
            self._end()
            try:
                is_done, answer = self._ask(job)
            except (EOFError, OSError) as error:
                self._end()
                self._go_on()
                raise Failed("the process that was to make this ended over it") from error
        if not is_done:
            raise answer
        return answer

    def _ask(self, job: _Job) -> tuple[bool, Any]:
        self._go_on()
        connection = self._connection or self._start()
        connection.send(job)
        if not connection.poll(self._limit_s):
            self._end()
            raise Failed(f"this was not made within {self._limit_s:.0f} seconds")
        is_done, answer = connection.recv()
        return is_done, answer

    def _go_on(self) -> None:
        if self._is_ended:
            raise Stopping("the gateway stops")

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        try:
            with theirs, self._starting:
                self._go_on()
                command = [sys.executable, "-P", "-m", "luthien.debug.apart", str(theirs.fileno()), *self._told]
                self._process = subprocess.Popen(
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
                )
            if not ours.poll(START_S):
                raise Failed(f"the process that was to make this did not start within {START_S:.0f} seconds")
            if ours.recv() == "ready":
                self._connection = ours
                return ours
        except (EOFError, OSError) as error:
            self._go_on()
            _log.warning("no process for what is big: %s", type(error).__name__)
        finally:
            if self._connection is None:
                ours.close()
                self._end()
        raise CannotStart

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def serve(connection: Connection, idle_s: float) -> None:
    """The other end: until nothing was asked for a while, or there is nobody any more."""
    connection.send("ready")
    while connection.poll(idle_s):
        connection.send(_answer(connection.recv()))


def _answer(job: _Job) -> tuple[bool, Any]:
    """What came of it, or the StoreError to be raised."""
    try:
        return True, job.function(*job.args)
    except StoreError as error:
        return False, error
    except Exception as error:  # noqa: BLE001 - this process's boundary: what is asked next must still be done
        _log.exception("what is big could not be made")
        return False, Failed(f"this could not be made: {type(error).__name__}")


def _bound_memory(limit_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    _, most_bytes = resource.getrlimit(resource.RLIMIT_AS)
    if most_bytes != resource.RLIM_INFINITY:  # where the gateway's own is lower, that stays
        limit_bytes = min(limit_bytes, most_bytes)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses it
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def main() -> None:
    """The process."""
    os.nice(_NICENESS)
    settings = read_settings()
    configure_logging(settings.log_level, settings.log_format)
    connection, idle_s, memory_bytes = Connection(int(sys.argv[1])), float(sys.argv[2]), int(sys.argv[3])
    if memory_bytes:
        _bound_memory(memory_bytes)
    with connection:
        try:
            serve(connection, idle_s)
        except (EOFError, OSError):
            return  # the gateway has ended


if __name__ == "__main__":
    # Under its own name, so that what is sent is of the same classes on both ends.
    from luthien.debug import apart

    apart.main()
