"""Running the app in this process, on a socket of our own."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any
from urllib.parse import quote

import uvicorn
from starlette.types import ASGIApp

from luthien.errors import ConfigError
from luthien.gateway.protocol import ON_STOP, Protocol
from luthien.settings import Settings
from luthien.telemetry.logs import logging_config

_BACKLOG = 2048
_OPEN_FILES = 65_536
# A worker answers its parent once it has loaded its modules. On a busy machine, or with a small share of a core, that
# takes longer than uvicorn's five seconds, after which it would be killed and started again, for ever.
_WORKER_ANSWERS_S = 60


class Server(uvicorn.Server):
    """A uvicorn that says when it serves. `stop` may be called from any thread."""

    def __init__(self, app: ASGIApp, settings: Settings, on_started: Callable[[], None]) -> None:
        super().__init__(uvicorn.Config(app, **server_options(settings)))
        self._on_started = on_started
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tells the app first, also when nobody is connected: what it makes for who has gone is waited for, too."""
        tell = self.lifespan.state.get(ON_STOP)
        if tell is not None:
            tell()
        await super().shutdown(sockets)

    def stop(self) -> None:
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal ends the time that open calls have, and nothing else: all is closed in order."""
        if self.should_exit and self._loop is not None:
            self._loop.call_soon_threadsafe(self._end_calls)
        self.should_exit = True

    def _end_calls(self) -> None:
        for task in self.server_state.tasks:
            task.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ends gracefully on SIGINT and SIGTERM; then the caller goes on, to stop in order what it started.

        uvicorn would raise the signal once more, and the process would end right there.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def server_options(settings: Settings) -> dict[str, Any]:
    """What uvicorn is told, with one worker or many."""
    return {
        "access_log": False,
        "backlog": _BACKLOG,
        "lifespan": "on",
        "http": Protocol,
        "proxy_headers": False,
        "log_config": logging_config(settings.log_level, settings.log_format),
        "server_header": False,
        "timeout_graceful_shutdown": settings.grace_s,
        "timeout_keep_alive": 75,
        "timeout_worker_healthcheck": _WORKER_ANSWERS_S,
    }


def raise_file_limit() -> None:
    """Takes as many open files as the system permits: a stream needs two, and many systems start with 1024."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(settings: Settings) -> socket.socket:
    """A listening socket at the configured address; also takes the open files that serving needs.

    Raises:
        ConfigError: the address cannot be had.
    """
    raise_file_limit()
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {settings.host} port {settings.port} ({error.strerror});"
            " set LUTHIEN_HOST or LUTHIEN_PORT"
        ) from error
    listener.set_inheritable(True)
    return listener


def address_of(listener: socket.socket) -> str:
    """The base address that a browser on this machine would use."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{port}"


def sign_in_link(address: str, settings: Settings, page: str = "") -> str:
    """A link that signs a browser in, and leads it to a page."""
    token = settings.debug_token.get_secret_value() if settings.debug_token else ""
    return f"{address}/debug/sign-in?token={token}" + (f"&next={quote(page)}" if page else "")
