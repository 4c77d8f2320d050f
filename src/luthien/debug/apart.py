"""A process that makes what is too big to be made beside calls, one thing after the other.

It is started when it is first needed, ends when nothing was asked of it for a while, and ends with the gateway,
however that ends: it hangs on one end of a socket pair. See decision 18.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar
from uuid import UUID

from luthien.debug.call.completeness import Evidence
from luthien.debug.call.lookup import Found
from luthien.debug.diff import Differ
from luthien.debug.diffing.cache import DiffCache
from luthien.errors import StoreError
from luthien.settings import read_settings
from luthien.store.read import RecordReader
from luthien.telemetry.logs import configure_logging

IDLE_S = 60.0
"""It ends when nothing was asked of it for so long, and its memory is the machine's again."""
LIMIT_S = 60.0
"""What takes longer is given up, and the process with it."""

_NICENESS = 5
_KEPT_BYTES = 128 * 1024 * 1024
_log = logging.getLogger(__name__)

T = TypeVar("T")


class CannotStart(Exception):
    """There is no such process to be had."""


class Failed(StoreError):
    """It could not be made there; says why."""


@dataclass(frozen=True, slots=True)
class _Job:
    call_id: UUID
    evidence: Evidence
    make: Callable[..., Any]
    args: tuple[Any, ...]


class Apart:
    """The gateway's end. Nothing is started before something is asked for."""

    def __init__(self, dsn: str, *, idle_s: float = IDLE_S, limit_s: float = LIMIT_S) -> None:
        self._dsn = dsn
        self._idle_s = idle_s
        self._limit_s = limit_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="luthien-apart")
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, if there is one."""
        return None if self._process is None else self._process.pid

    async def make(self, make: Callable[..., T], call_id: UUID, evidence: Evidence, *args: object) -> T:
        """What `make(found, differ, *args)` makes of a stored call; others are waited for.

        It is a function of a module, which the process finds by its name.

        Raises:
            CannotStart: there is no process.
            StoreError: the call could not be read, or the process was lost over it.
        """
        job = _Job(call_id, evidence, make, args)
        made: T = await asyncio.get_running_loop().run_in_executor(self._thread, self._make, job)
        return made

    def close(self) -> None:
        """Ends the process. What is being made is not finished."""
        process = self._process
        if process is not None:
            process.kill()
        self._thread.shutdown(cancel_futures=True)
        self._end()

    def _make(self, job: _Job) -> Any:
        try:
            is_made, answer = self._ask(job)
        except (EOFError, OSError):  # it ended, as it does when it was idle
            self._end()
            try:
                is_made, answer = self._ask(job)
            except (EOFError, OSError) as error:
                self._end()
                raise Failed("the process that makes this page ended over it") from error
        if not is_made:
            raise Failed(answer)
        return answer

    def _ask(self, job: _Job) -> tuple[bool, Any]:
        connection = self._connection or self._start()
        connection.send(job)
        if not connection.poll(self._limit_s):
            self._end()
            raise Failed(f"this page was not made within {self._limit_s:.0f} seconds")
        is_made, answer = connection.recv()
        return is_made, answer

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        try:
            with theirs:
                command = [sys.executable, "-P", "-m", "luthien.debug.apart", str(theirs.fileno()), str(self._idle_s)]
                self._process = subprocess.Popen(
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
                )
            ours.send(self._dsn)
            if ours.recv() == "ready":
                self._connection = ours
                return ours
        except (EOFError, OSError) as error:
            _log.warning("no process for big pages: %s", type(error).__name__)
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
    dsn, differ = connection.recv(), DiffCache(max_bytes=_KEPT_BYTES)
    connection.send("ready")
    while connection.poll(idle_s):
        connection.send(_answer(connection.recv(), dsn, differ))


def _answer(job: _Job, dsn: str, differ: Differ) -> tuple[bool, Any]:
    try:
        return True, asyncio.run(_made(job, dsn, differ))
    except StoreError as error:
        return False, str(error)
    except Exception as error:  # noqa: BLE001 - this process's boundary: the next page must still be made
        _log.exception("a page could not be made")
        return False, f"this page could not be made: {type(error).__name__}"


async def _made(job: _Job, dsn: str, differ: Differ) -> Any:
    reader = RecordReader(dsn)
    await reader.open()
    try:
        call = await reader.call(job.call_id)
    finally:
        await reader.close()
    if call is None:
        raise StoreError("this call was removed from the record just now")
    return job.make(Found(call, job.evidence), differ, *job.args)


def main() -> None:
    """The process."""
    os.nice(_NICENESS)
    settings = read_settings()
    configure_logging(settings.log_level, settings.log_format)
    connection, idle_s = Connection(int(sys.argv[1])), float(sys.argv[2])
    with connection:
        try:
            serve(connection, idle_s)
        except (EOFError, OSError):
            return  # the gateway has ended


if __name__ == "__main__":
    # Under its own name, so that what is sent is of the same classes on both ends.
    from luthien.debug import apart

    apart.main()
