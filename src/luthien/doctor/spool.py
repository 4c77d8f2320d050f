"""The spool: where records wait for the database, and what processes that died have left in it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from luthien.doctor.finding import Finding, ok, problem, warning
from luthien.doctor.words import age, size
from luthien.record.folder import FolderState, look_at, spool_root
from luthien.settings import Settings

# Less than that, and not even the segment that is being written can be finished.
_LEAST_FREE_BYTES = 64 * 1024 * 1024


def examine(settings: Settings, dsn: str | None) -> Iterator[Finding]:
    if not settings.spool:
        yield warning("spool", "off: records wait in memory only, and a crash loses them", "Unset LUTHIEN_SPOOL")
        return
    top = settings.spool_dir or settings.data_dir / "spool"
    yield _place(top, settings.spool_max_bytes)
    try:
        yield from _folders(top, _root(top, dsn))
    except OSError as error:
        yield warning("spool of the dead", f"{top} cannot be looked at: {error.strerror or type(error).__name__}")


def _root(top: Path, dsn: str | None) -> Path | None:
    try:
        return None if dsn is None else spool_root(top, dsn)
    except psycopg.ProgrammingError:
        return None


def _place(top: Path, max_bytes: int) -> Finding:
    there = next(path for path in (top, *top.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        todo = "Make it a folder of the user that runs the gateway, or set LUTHIEN_SPOOL_DIR"
        return problem("spool", f"{there} cannot be written to: records wait in memory only", todo)
    free = shutil.disk_usage(there).free
    said = f"{top}, {size(free)} free, of which each process may use {size(max_bytes)}"
    todo = "Make room, or lower LUTHIEN_SPOOL_MAX_BYTES"
    if free < _LEAST_FREE_BYTES:
        return problem("spool", f"{said}: the disk is full", todo)
    if free < max_bytes:
        return warning("spool", f"{said}: the disk is full before the spool is", todo)
    return ok("spool", said)


def _folders(top: Path, own: Path | None) -> Iterator[Finding]:
    roots = [path for path in top.iterdir() if path.is_dir()] if top.is_dir() else []
    ours = [state for root in roots if own in (None, root) for state in look_at(root)]
    others = [state for root in roots if own not in (None, root) for state in look_at(root)]
    alive = [state for state in ours if state.is_alive]
    yield ok("spool of the living", f"{len(alive)} processes, {size(_bytes(alive))}")
    left = [state for state in ours if not state.is_alive and state.size_bytes]
    if left:
        todo = (
            "A running gateway takes it over within a minute"
            if alive
            else "The next `luthien serve` or `up` here stores it"
        )
        yield warning("spool of the dead", _said(left), todo)
    else:
        yield ok("spool of the dead", "nothing is left")
    if foreign := [state for state in others if not state.is_alive and state.size_bytes]:
        yield warning(
            "spool elsewhere", f"{_said(foreign)}, for other databases", "Run a gateway for those once more"
        )


def _said(states: list[FolderState]) -> str:
    oldest_ms = min(state.since_ms for state in states if state.since_ms is not None)
    return f"{len(states)} left {size(_bytes(states))}, {age(max(0.0, time.time() - oldest_ms / 1000))} old"


def _bytes(states: list[FolderState]) -> int:
    return sum(state.size_bytes for state in states)
