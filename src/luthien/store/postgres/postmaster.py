"""What `postmaster.pid` says about the server of a data directory, and how far to believe it.

The file outlives a server that was killed, and its process id may by then be another program's. Format:
"Database File Layout" in the Postgres manual, `LOCK_FILE_LINE_*` in `miscadmin.h`.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Postmaster:
    """The server as its file describes it; `port` is 0 and `status` empty while it is still starting."""

    pid: int
    port: int
    status: str

    @property
    def is_ready(self) -> bool:
        return self.status == "ready" and self.port > 0


def pid_file(data: Path) -> Path:
    return data / "postmaster.pid"


def read(data: Path) -> Postmaster | None:
    """The server that the file describes; None if there is no file, or not yet anything in it."""
    try:
        lines = [line.strip() for line in pid_file(data).read_text().splitlines()]
    except FileNotFoundError:
        return None
    lines += [""] * (8 - len(lines))
    # A standalone backend (`postgres --single`, initdb) writes its process id negated.
    pid = abs(_number(lines[0]))
    return Postmaster(pid, port=_number(lines[3]), status=lines[7]) if pid else None


def is_at_work(pid: int, data: Path) -> bool | None:
    """Whether process `pid` is a Postgres that has `data` open; None when that cannot be told."""
    command = _command_line(pid)
    if "postgres" not in command:
        return False  # gone, or a program that has the number now
    if f"-D {data} " in f"{command} ":
        return True
    try:
        return Path(f"/proc/{pid}/cwd").samefile(data)  # where every process of a server stands
    except FileNotFoundError:
        return False if Path("/proc/self").exists() else None
    except PermissionError:
        return None


def _command_line(pid: int) -> str:
    """The command line of a process, its arguments apart by spaces; empty if it is gone or a zombie."""
    proc = Path("/proc")
    if (proc / "self").exists():
        try:
            return (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    told = subprocess.run(["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
    return told.stdout.decode(errors="replace").strip()


def _number(text: str) -> int:
    return int(text) if text.lstrip("-").isdigit() else 0
