"""Folders: each belongs to one living process, and a dead one's goes to exactly one other."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from luthien.record.folder import Folder, Segment, spool_root
from luthien.record.frames import encode
from tests.unit.record.records import record

_OWNER = """
import sys, time
from pathlib import Path
from uuid import uuid4
from luthien.record.folder import Folder
from luthien.record.frames import encode
from tests.unit.record.records import record
segment = Folder.create(Path(sys.argv[1]), uuid4()).new_segment()
segment.append(encode(record(b"left behind"), segment.marker))
print(segment.path, flush=True)
time.sleep(600)
"""

# Each begins at the same moment, and says whom it got.
_ADOPTER = """
import sys
from pathlib import Path
from luthien.record.folder import Folder
sys.stdin.readline()
folders = Folder.adopt_all(Path(sys.argv[1]))
print(*(folder.path.name for folder in folders), flush=True)
sys.stdin.readline()
"""


@contextmanager
def _process(script: str, root: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _leave_dead(root: Path, count: int) -> set[str]:
    """Folders with a record in each, whose process is gone without a word."""
    names: set[str] = set()
    for _ in range(count):
        folder = Folder.create(root, uuid4())
        segment = folder.new_segment()
        segment.append(encode(record(b"left behind"), segment.marker))
        segment.seal()
        folder.close()
        names.add(folder.path.name)
    return names


def test_a_living_process_keeps_its_folder_and_a_dead_one_loses_it(tmp_path: Path) -> None:
    with _process(_OWNER, tmp_path) as owner:
        path = Path(_line(owner))
        assert Folder.adopt_all(tmp_path) == []
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        [folder] = Folder.adopt_all(tmp_path)
        assert folder.path == path.parent
        [segment] = folder.find_segments()
        assert segment.path == path
        assert segment.size_bytes == path.stat().st_size > 0
        folder.close()


def test_of_processes_that_adopt_at_once_each_folder_goes_to_one(tmp_path: Path) -> None:
    dead = _leave_dead(tmp_path, 40)
    with (
        _process(_ADOPTER, tmp_path) as one,
        _process(_ADOPTER, tmp_path) as two,
        _process(_ADOPTER, tmp_path) as three,
    ):
        for adopter in (one, two, three):
            assert adopter.stdin is not None
            adopter.stdin.write("go\n")
            adopter.stdin.flush()
        got = [_line(adopter).split() for adopter in (one, two, three)]
    assert sorted(name for names in got for name in names) == sorted(dead)


def test_a_folder_that_was_drained_between_looking_and_locking_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process had the lock, removed the folder, and gave the lock back: what is locked now is no folder."""
    _leave_dead(tmp_path, 1)
    flock = fcntl.flock

    def drain_first(lock: int, operation: int) -> None:
        for path in [*tmp_path.glob("*/*"), *tmp_path.glob("*")]:
            path.rmdir() if path.is_dir() else path.unlink()
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", drain_first)
    assert Folder.adopt_all(tmp_path) == []


def test_a_folder_in_the_making_that_somebody_removes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To another process, a folder without a lock looks like a dead one's that is empty."""
    mkdir = Path.mkdir
    made: list[Path] = []

    def meddle(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        mkdir(path, mode, parents, exist_ok)
        if path != tmp_path:
            made.append(path)
            if len(made) == 1:
                assert Folder.adopt_all(tmp_path) == []

    monkeypatch.setattr(Path, "mkdir", meddle)
    folder = Folder.create(tmp_path, uuid4())
    assert made[1:] == [folder.path]
    assert [*tmp_path.iterdir()] == [folder.path]
    folder.close()


def test_a_folder_is_removed_when_it_is_given_back_empty(tmp_path: Path) -> None:
    folder = Folder.create(tmp_path / "spools", uuid4())
    segment = folder.new_segment()
    segment.seal()
    segment.remove()
    folder.release()
    assert [*(tmp_path / "spools").iterdir()] == []


def test_a_folder_with_something_in_it_is_left_to_the_next_process(tmp_path: Path) -> None:
    folder = Folder.create(tmp_path, uuid4())
    segment = folder.new_segment()
    segment.append(encode(record(b"x"), segment.marker))
    segment.seal()
    folder.release()
    [adopted] = Folder.adopt_all(tmp_path)
    assert len(adopted.find_segments()) == 1
    adopted.close()


def test_what_another_version_wrote_is_left_alone(tmp_path: Path) -> None:
    [name] = _leave_dead(tmp_path, 1)
    foreign = tmp_path / name / "1700000000000-00000000-0011223344556677.v9"
    foreign.write_bytes(b"of the future")
    [folder] = Folder.adopt_all(tmp_path)
    [segment] = folder.find_segments()
    segment.remove()
    folder.release()
    assert foreign.read_bytes() == b"of the future"
    [again] = Folder.adopt_all(tmp_path)
    again.close()


def test_segments_are_found_oldest_first(tmp_path: Path) -> None:
    folder = Folder.create(tmp_path, uuid4())
    made = [folder.new_segment() for _ in range(20)]
    for segment in made:
        segment.seal()
    folder.close()
    [adopted] = Folder.adopt_all(tmp_path)
    assert [segment.path for segment in adopted.find_segments()] == [segment.path for segment in made]
    adopted.close()


def test_nobody_else_may_read_a_spool(tmp_path: Path) -> None:
    folder = Folder.create(tmp_path / "spools", uuid4())
    segment = folder.new_segment()
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "spools").rglob("*")}
    assert modes == {folder.path: 0o700, folder.path / "lock": 0o600, segment.path: 0o600}
    assert stat.S_IMODE((tmp_path / "spools").stat().st_mode) == 0o700
    segment.seal()
    folder.close()


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[Segment]:
    folder = Folder.create(tmp_path, uuid4())
    made = folder.new_segment()
    yield made
    made.seal()
    folder.close()


def test_a_write_that_comes_in_pieces_is_whole(segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may take less than it is given."""
    writev, write = os.writev, os.write
    monkeypatch.setattr(os, "writev", lambda fd, parts: writev(fd, [b"".join(parts)[:7]]))
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    segment.append([b"hello, ", b"", b"wide ", b"world"])
    assert segment.path.read_bytes() == b"hello, wide world"


def test_more_parts_than_the_kernel_takes_at_once_are_written(segment: Segment) -> None:
    parts = [b"%06d" % number for number in range(5000)]
    assert segment.append(parts) == 30_000
    assert segment.path.read_bytes() == b"".join(parts)


def test_a_segment_that_somebody_removed_is_not_written_to(segment: Segment) -> None:
    """The write would succeed, and nobody would ever find it."""
    segment.path.unlink()
    with pytest.raises(FileNotFoundError):
        segment.append([b"x"])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("postgresql://a:b@db.example/luthien", "postgresql://c:d@db.example/luthien?sslmode=require", True),
        ("postgresql://db.example/luthien", "host=db.example dbname=luthien port=5432", True),
        ("postgresql://127.0.0.1:41000/luthien", "postgresql://localhost:42000/luthien", True),
        ("postgresql://db.example/luthien", "postgresql://db.example/staging", False),
        ("postgresql://db.example/luthien", "postgresql://127.0.0.1/luthien", False),
        ("postgresql://db.example:5432/luthien", "postgresql://db.example:5433/luthien", False),
    ],
)
def test_spools_for_different_databases_are_apart(tmp_path: Path, one: str, other: str, same: bool) -> None:
    assert (spool_root(tmp_path, one) == spool_root(tmp_path, other)) is same
    assert spool_root(tmp_path, one).parent == tmp_path
