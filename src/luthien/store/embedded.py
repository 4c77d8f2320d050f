"""A real Postgres of Luthien's own, for as long as somebody needs it.

One Luthien process owns the server: it holds the lock of the data directory, starts the server as its own child
and stops it at the end. Others find the lock taken and share the server. An owner that dies, however suddenly,
takes the server with it (`postgres/leash.py`); whoever comes next gets the lock, sees that shutdown through, and
starts anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psycopg

from luthien.store.postgres import EmbeddedPostgresError, postmaster
from luthien.store.postgres.child import Child
from luthien.store.postgres.cluster import (
    INIT_TIMEOUT_S,
    Cluster,
    Progress,
    check_version,
    create_cluster,
    silent,
)
from luthien.store.postgres.pginstall import find_binaries, make_home, server_home, unprivileged_account
from luthien.store.postgres.server import START_TIMEOUT_S, end_leftover, start_server

__all__ = ["EmbeddedPostgresError", "embedded_postgres"]


@contextlib.contextmanager
def embedded_postgres(data_dir: Path, *, run_as: str = "nobody", progress: Progress = silent) -> Iterator[str]:
    """Have a Postgres with its data in `data_dir`, started or shared; yields its DSN.

    Started here, it stops here; shared, it goes on, and goes when its owner does. `run_as` is the user whom root
    lends it to; if that user cannot reach `data_dir`, the data is elsewhere (`pginstall.server_home`), which
    `progress` is told. Call it on the main thread. Raises EmbeddedPostgresError.
    """
    if threading.current_thread() is not threading.main_thread():
        raise EmbeddedPostgresError(
            "The embedded Postgres must be started on the main thread: it ends with the thread that started it."
        )
    with contextlib.ExitStack() as stack:
        try:
            dsn = stack.enter_context(_share_or_own(data_dir, run_as, progress))
        except (OSError, psycopg.Error) as error:
            raise EmbeddedPostgresError(f"No embedded Postgres in {data_dir}: {error}") from error
        yield dsn


def running_dsn(data_dir: Path, *, run_as: str = "nobody") -> str | None:
    """The DSN of the Postgres that somebody runs in `data_dir`; None when nobody does, or that may not be read."""
    try:
        account = unprivileged_account(run_as)
        cluster = Cluster(server_home(data_dir, account), account, silent)
        running = postmaster.read(cluster.data)
        return cluster.dsn(running.port) if running and running.is_ready else None
    except (OSError, EmbeddedPostgresError):
        return None


@contextlib.contextmanager
def _share_or_own(data_dir: Path, run_as: str, progress: Progress) -> Iterator[str]:
    account = unprivileged_account(run_as)
    cluster = Cluster(server_home(data_dir, account), account, progress)
    if account and cluster.home != data_dir.resolve():
        progress(f"Postgres runs as {account.name}, who cannot reach {data_dir}: its data is in {cluster.home}")
    make_home(cluster.home, account)
    with os.fdopen(os.open(cluster.lock, os.O_RDWR | os.O_CREAT, 0o600)) as lock:
        shared_dsn = _share_or_lock(cluster, lock)
        if shared_dsn is not None:
            progress(f"Sharing the Postgres of another Luthien in {cluster.home}; it stops when that one does")
            yield shared_dsn
            return
        server, dsn = _own(cluster)
        try:
            yield dsn
        finally:
            server.stop()


def _share_or_lock(cluster: Cluster, lock: IO[str]) -> str | None:
    """The DSN of a running server that somebody owns, or None once the lock, and with it the server, is ours."""
    for _ in cluster.poll(INIT_TIMEOUT_S + START_TIMEOUT_S, "another Luthien to start or stop Postgres"):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        running = postmaster.read(cluster.data)
        if running and running.is_ready:
            dsn = cluster.dsn(running.port)
            with contextlib.suppress(psycopg.OperationalError):  # going down, or its database not made yet
                psycopg.connect(dsn, connect_timeout=5).close()
                return dsn
    raise EmbeddedPostgresError(
        f"Another Luthien process holds {cluster.lock}, but its Postgres does not answer; {cluster.log} may say why."
    )


def _own(cluster: Cluster) -> tuple[Child, str]:
    binaries = find_binaries(cluster.account)
    create_cluster(cluster, binaries)
    check_version(cluster, binaries)
    end_leftover(cluster)
    return start_server(cluster, binaries)
