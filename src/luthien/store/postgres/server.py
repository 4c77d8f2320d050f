"""The server of a data directory: started, or, when its owner died, ended. The caller holds the directory's lock."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import psycopg

from luthien.store.postgres import EmbeddedPostgresError, postmaster
from luthien.store.postgres.child import STOP_STEPS, Child
from luthien.store.postgres.cluster import Cluster

START_TIMEOUT_S = 120.0
RETRY_S = 0.5
PASSING_TROUBLES = ("pre-existing shared memory block", "Address already in use")
"""What the log says of a start worth trying again: busy children outlive a killed server for a while, and
somebody may take the port between our look and the server's. (Messages are in English: `--locale=C`.)"""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "50",
    "fsync": "on",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] ",
    "cluster_name": "luthien",
}


def start_server(cluster: Cluster, binaries: Path) -> tuple[Child, str]:
    """Start the server and wait until Luthien's database can be used; the server and its DSN."""
    cluster.progress(f"Starting Postgres in {cluster.home}")
    if not cluster.password.exists():
        raise EmbeddedPostgresError(
            f"{cluster.password} is missing. Put it back, or move {cluster.home} away to begin an empty record."
        )
    settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
    for _ in cluster.poll(START_TIMEOUT_S, "what is left of an earlier Postgres to end", every_s=RETRY_S):
        port = _free_port(cluster)
        server = cluster.start([str(binaries / "postgres"), "-D", str(cluster.data), "-p", str(port), *settings])
        try:
            if _is_ready(cluster, server):
                _make_database(cluster.dsn(port, "postgres"))
                cluster.port.write_text(str(port))
                return server, cluster.dsn(port)
        except BaseException:
            server.stop()
            raise
        if not any(trouble in server.last_words() for trouble in PASSING_TROUBLES):
            break
    raise EmbeddedPostgresError(f"Postgres did not start. {server.last_words()}")


def _is_ready(cluster: Cluster, server: Child) -> bool:
    """Wait for the server to be ready; False if it ended instead."""
    for _ in cluster.poll(START_TIMEOUT_S, "Postgres to be ready"):
        if server.has_ended:
            return False
        running = postmaster.read(cluster.data)
        if running and running.pid == server.pid and running.is_ready:
            return True
    raise EmbeddedPostgresError(f"Postgres was not ready after {START_TIMEOUT_S:.0f} s. {server.last_words()}")


def _make_database(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        if not connection.execute("SELECT FROM pg_database WHERE datname = 'luthien'").rowcount:
            connection.execute("CREATE DATABASE luthien")


def _free_port(cluster: Cluster) -> int:
    last_port = cluster.port.read_text().strip() if cluster.port.exists() else ""
    for port in (int(last_port) if last_port.isdigit() else 0, 0):
        with socket.socket() as probe, contextlib.suppress(OSError, OverflowError):
            # As Postgres binds: connections to the last server that linger in TIME_WAIT do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise EmbeddedPostgresError("There is no free port on 127.0.0.1.")


def end_leftover(cluster: Cluster) -> None:
    """End a server that nobody owns any more, or see its shutdown through; forget one that is long gone.

    The caller has the lock, so whoever started it is dead. Postgres itself looks only at whether some process
    has the number in its file, and would refuse to start if that is another program, or a zombie, by now.
    Removing the file is safe: surviving children of a server are found by their shared memory, without it.
    """
    left = postmaster.read(cluster.data)
    if left is None:
        return
    if not _is_at_work(left.pid, cluster):
        if _exists(left.pid):
            postmaster.pid_file(cluster.data).unlink(missing_ok=True)
        return
    cluster.progress(f"Waiting for an earlier Postgres (process {left.pid}) to end")
    for stop_signal, timeout_s in STOP_STEPS:
        with contextlib.suppress(ProcessLookupError):
            os.kill(left.pid, stop_signal)
        for _ in cluster.poll(timeout_s, f"process {left.pid} to end"):
            if not _is_at_work(left.pid, cluster):
                return
    raise EmbeddedPostgresError(f"An earlier Postgres (process {left.pid}) does not stop; see {cluster.log}")


def _is_at_work(pid: int, cluster: Cluster) -> bool:
    told = postmaster.is_at_work(pid, cluster.data)
    if told is None:
        raise EmbeddedPostgresError(
            f"{postmaster.pid_file(cluster.data)} names process {pid}, and it cannot be told whether that is a "
            "Postgres at work there. If it is, stop it; if it is not, remove that file."
        )
    return told


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
