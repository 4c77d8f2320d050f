"""Starts a program that does not outlive the process that started it.

Between the two stands this file, run as a script by a fresh interpreter: it gives up root if told to, asks the
kernel for an interrupt on the death of its parent (Linux; elsewhere nothing ties the two), and becomes the
program. Four things make that safe:

- No `preexec_fn`: it would run Python in the fork of a process whose other threads, and the locks they held, are
  gone. Here only the C code of `subprocess` runs between fork and exec.
- The kernel forgets the request when credentials change, so root is given up first.
- A parent that dies before the request is made sends nothing; so the script looks at its parent afterwards, and
  leaves if that is no longer the one that called it.
- The request is bound to the *thread* that forked, not to its process: `start` belongs on the main thread.

Only the standard library may be imported here: the script must not need a path to Luthien, and it reads what it
needs while it still is who called it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from typing import BinaryIO

PR_SET_PDEATHSIG = 1
"""From `linux/prctl.h`; see prctl(2)."""

ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
"""All of it: provider keys are no business of the program, and an inherited `PG*` or `LC_*` would steer it."""


def start(command: list[str], *, output: BinaryIO, user: tuple[int, int] | None) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, as `user` (uid, gid) if given, leashed to the calling process.

    In its own session Ctrl-C does not reach it: whoever started it stops it, in order. It gets SIGINT when the
    calling process dies.
    """
    uid, gid = user or (-1, -1)
    launcher = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(uid), str(gid)]
    return subprocess.Popen(
        [*launcher, *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd="/",
        start_new_session=True,
    )


def _become(parent_pid: int, uid: int, gid: int, command: list[str]) -> None:
    # Both survive exec: a shell that starts Luthien in the background has SIGINT ignored, others may block it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0) != 0:
            sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:
        sys.exit("the process that started this one is gone")
    os.execve(command[0], command, ENVIRONMENT)  # noqa: S606 - no shell is meant


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
