"""Where a spool lives on the disk: a folder for each process, a lock that dies with it, and segments of frames.

    <root>/<process>-<random>/lock                       locked (flock) for as long as the process lives
    <root>/<process>-<random>/<ms>-<number>-<marker>.v1  a segment: Unix time at its beginning, its frames' marker

Whoever gets the lock of a folder owns what is in it. The kernel gives the lock back when its process dies, however
that happens.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from uuid import UUID

from psycopg.conninfo import conninfo_to_dict

from luthien.record.frames import new_marker

_log = logging.getLogger(__name__)

_LOCK = "lock"
_SEGMENT = re.compile(r"(?P<ms>\d{13})-\d{8}-(?P<marker>[0-9a-f]{16})\.v1")
_OWNED = re.compile(r"(?P<owner>[0-9a-f]{32})-[0-9a-f]{8}")
_LOCAL_HOSTS = frozenset({"", "localhost", "127.0.0.1", "::1"})
# How often to look whether a segment is still there.
_LOOK_S = 1.0
# The kernel takes at most so many parts at once.
_MAX_PARTS = 1024
# macOS has no fdatasync.
_sync_data = getattr(os, "fdatasync", os.fsync)
_NUMBERS = itertools.count()


class Segment:
    """One append-only file of frames. It is written by one thread, and never again once it is sealed.

    `holds` counts who still needs the file: its writer, records that are not in the database yet, parts that have
    yet to be read. At 0 it can go.
    """

    __slots__ = ("_file", "_look_at_s", "folder", "holds", "marker", "path", "since_ms", "size_bytes")

    def __init__(self, folder: Folder, path: Path, marker: bytes, since_ms: int, size_bytes: int) -> None:
        self.folder = folder
        self.path = path
        self.marker = marker
        self.since_ms = since_ms
        self.size_bytes = size_bytes
        self.holds = 0
        self._file: FileIO | None = None
        self._look_at_s = 0.0

    @classmethod
    def create(cls, folder: Folder) -> Segment:
        """A new segment to write to. Raises OSError."""
        now_ms, marker = time.time_ns() // 1_000_000, new_marker()
        path = folder.path / f"{now_ms:013}-{next(_NUMBERS) % 10**8:08}-{marker.hex()}.v1"
        segment = cls(folder, path, marker, now_ms, 0)
        segment._file = FileIO(path, "xb", opener=_private)
        segment.holds = 1
        folder.segments.add(segment)
        return segment

    def append(self, parts: Sequence[bytes], *, sync: bool = False) -> int:
        """Hands frames to the kernel; returns their size in bytes.

        After an OSError some of it may be there: the segment must not be written to again.
        """
        if self._file is None:
            raise ValueError("the segment is sealed")
        fd = self._file.fileno()
        now_s = time.monotonic()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + _LOOK_S
            if os.fstat(fd).st_nlink == 0:
                raise FileNotFoundError("somebody removed the segment")
        size = 0
        for first in range(0, len(parts), _MAX_PARTS):
            size += _write_all(fd, parts[first : first + _MAX_PARTS])
        if sync:
            _sync_data(fd)
        self.size_bytes += size
        return size

    def seal(self) -> None:
        """Ends writing. Raises OSError, after which it is sealed all the same."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Raises OSError."""
        self.path.unlink(missing_ok=True)
        self.folder.segments.discard(self)


class Folder:
    """A folder of segments whose lock this process holds. `owner` is the id of the process that made it, if known."""

    __slots__ = ("_lock", "owner", "path", "segments")

    def __init__(self, path: Path, lock: FileIO) -> None:
        self.path = path
        named = _OWNED.fullmatch(path.name)
        self.owner = UUID(named["owner"]) if named else None
        self._lock = lock
        self.segments: set[Segment] = set()

    @classmethod
    def create(cls, root: Path, owner: UUID, *, sync: bool = False) -> Folder:
        """A folder of our own; the process `owner` is us. Raises OSError."""
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        while True:
            path = root / f"{owner.hex}-{secrets.token_hex(4)}"
            path.mkdir(mode=0o700)
            # Another process may take it for a dead one's until it is locked; then we try again.
            with contextlib.suppress(FileNotFoundError):
                lock = FileIO(path / _LOCK, "xb", opener=_private)
                if _is_locked_by_us(lock):
                    if sync:
                        _sync_directory(root)
                        _sync_directory(root.parent)
                    return cls(path, lock)

    @classmethod
    def adopt_all(cls, root: Path) -> list[Folder]:
        """The folders of dead processes, ours from now on; no two processes get the same one."""
        try:
            return list(_adopted(root))
        except OSError as error:
            _log.error("what earlier processes left cannot be taken over: %s", error)
            return []

    def new_segment(self, *, sync: bool = False) -> Segment:
        """Raises OSError; FileNotFoundError when the folder is gone."""
        segment = Segment.create(self)
        if sync:
            _sync_directory(self.path)
        return segment

    def find_segments(self) -> list[Segment]:
        """What the folder's last owner left, oldest first."""
        try:
            for path in self.path.iterdir():
                if match := _SEGMENT.fullmatch(path.name):
                    marker = bytes.fromhex(match["marker"])
                    self.segments.add(Segment(self, path, marker, int(match["ms"]), path.stat().st_size))
                elif path.name != _LOCK:
                    _log.warning("%s is not of this version, and stays where it is", path)
        except OSError as error:
            _log.error("what an earlier process left cannot be read: %s", error)
        return sorted(self.segments, key=lambda segment: segment.path.name)

    def release(self) -> None:
        """Gives the folder back: removes it if nothing is in it, else leaves it to the next process."""
        if not self.segments:
            with contextlib.suppress(OSError):
                if [path.name for path in self.path.iterdir()] == [_LOCK]:
                    (self.path / _LOCK).unlink()
                    self.path.rmdir()
        self.close()

    def close(self) -> None:
        """Closes the lock's file: the lock is given back when no process has it open any more."""
        self._lock.close()


@dataclass(frozen=True, slots=True)
class FolderState:
    """A folder as it was found: whether its process lives, what is in it, and since when (Unix time)."""

    path: Path
    is_alive: bool
    segments: int
    size_bytes: int
    since_ms: int | None


def look_at(root: Path) -> list[FolderState]:
    """The folders of all processes, without taking any of them over. Raises OSError."""
    return [state for path in sorted(root.iterdir()) if path.is_dir() and (state := _state(path))]


def _state(path: Path) -> FolderState | None:
    try:
        is_alive = _is_locked(path / _LOCK)
        segments = [each for each in path.iterdir() if _SEGMENT.fullmatch(each.name)]
        size = sum(each.stat().st_size for each in segments)
    except FileNotFoundError:  # it went while we looked
        return None
    return FolderState(
        path, is_alive, len(segments), size, min((int(each.name[:13]) for each in segments), default=None)
    )


def _is_locked(path: Path) -> bool:
    """Whether somebody has that lock. Shared, so that two who look see the same; and given back at once."""
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def spool_root(spool_dir: Path, dsn: str) -> Path:
    """Where the spools for one database are: what waits for another one must not end up in it.

    A database on this machine is known by its name alone, since the embedded Postgres may change its port.
    """
    parameters = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
    host = parameters.get("host", parameters.get("hostaddr", ""))
    where = "local" if host in _LOCAL_HOSTS or host.startswith("/") else f"{host}:{parameters.get('port', '5432')}"
    name = parameters.get("dbname", parameters.get("service", ""))
    return spool_dir / hashlib.sha256(f"{where}/{name}".encode()).hexdigest()[:16]


def _adopted(root: Path) -> Iterator[Folder]:
    for path in root.iterdir():
        if not path.is_dir():
            continue
        try:
            lock = FileIO(path / _LOCK, "r+b", opener=_private)
            if _is_locked_by_us(lock):
                yield Folder(path, lock)
        except FileNotFoundError:
            with contextlib.suppress(OSError):  # just being made, or half removed
                path.rmdir()
        except OSError as error:
            _log.error("what an earlier process left cannot be taken over: %s", error)


def _is_locked_by_us(lock: FileIO) -> bool:
    """Takes the lock if nobody has it and nobody has removed it meanwhile; closes the file otherwise."""
    is_ours = False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = os.fstat(lock.fileno()).st_nlink > 0
    except BlockingIOError:
        pass
    finally:
        if not is_ours:
            lock.close()
    return is_ours


def _write_all(fd: int, parts: Sequence[bytes]) -> int:
    size = sum(len(part) for part in parts)
    written = os.writev(fd, parts)
    if written < size:
        rest = memoryview(b"".join(parts))
        while written < size:
            written += os.write(fd, rest[written:])
    return size


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | (os.O_APPEND if flags & os.O_WRONLY else 0), 0o600)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
