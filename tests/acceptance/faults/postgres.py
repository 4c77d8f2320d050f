"""A Postgres server that can be stopped, can crash, and starts again on the same port."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from luthien.store.embedded import embedded_postgres
from luthien.store.postgres import postmaster


class PostgresServer:
    """Belongs to the main thread. `dsn` is the superuser's."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._running = ExitStack()
        self._is_running = False
        self.dsn = ""

    def start(self) -> None:
        """Does nothing when it runs."""
        if self._is_running:
            return
        before, self.dsn = self.dsn, self._running.enter_context(embedded_postgres(self._home))
        self._is_running = True
        assert self.dsn == (before or self.dsn), "somebody took its port"

    def stop(self) -> None:
        """In order: what is under way is rolled back, and all is written back."""
        self._is_running = False
        self._running.close()

    def crash(self) -> None:
        """Ends at once, with nothing written back: the next start recovers from the log."""
        running = postmaster.read(self._home / "pgdata")
        assert running is not None
        os.kill(running.pid, signal.SIGQUIT)
        self.stop()


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="luthien-test-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)  # root lends the server to an account that has to get there
        server = PostgresServer(Path(directory) / "postgres")
        server.start()
        try:
            yield server
        finally:
            server.stop()
