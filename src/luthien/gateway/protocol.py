"""What uvicorn speaks HTTP/1.1 with, made fit for responses that have no end of their own, or that nobody takes."""

from __future__ import annotations

import asyncio
import struct
import sys

from uvicorn.protocols.http.h11_impl import H11Protocol

from luthien.pipeline.client import STALLED_S

ON_STOP = "luthien.on_stop"
"""Where in the state of the app's lifespan is what is called, once or more, when the server begins to stop."""
WRITE_TIMEOUT_S = "luthien.write_timeout_s"
"""Where there is how long a client of the gateway may take nothing of what was sent."""
STALL_S = 60.0
"""How long somebody who looks at pages may."""


class Protocol(H11Protocol):
    """Tells the app when the server stops, which would wait in vain for responses that go on for ever.

    Who takes nothing of a response is cut off: after a time, and viewers at once when the server stops. A response
    that is whole for the app may wait here in full until then.
    """

    _stall: asyncio.TimerHandle | None = None

    def shutdown(self) -> None:
        tell = self.app_state.get(ON_STOP)
        if tell is not None:
            tell()
        if self._stall is not None and self._is_page():
            self.transport.abort()
        super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._watch()

    def resume_writing(self) -> None:
        self._go_on()
        super().resume_writing()
        self._watch_rest()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_rest()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_rest()

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        super().connection_lost(exc)

    def _watch(self) -> None:
        patience_s = STALL_S if self._is_page() else self.app_state.get(WRITE_TIMEOUT_S)
        if patience_s is not None:
            left = untaken_bytes(self.transport)
            self._stall = self.loop.call_later(patience_s, self._look, left, patience_s)

    def _watch_rest(self) -> None:
        """What is left when the connection is to end may be too little for a pause, and would wait for ever."""
        if self._stall is None and self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._watch()

    def _look(self, before: int, patience_s: float) -> None:
        if untaken_bytes(self.transport) < before:
            self._watch()
            return
        if self.scope:
            self.scope["state"][STALLED_S] = patience_s
        self.transport.abort()

    def _is_page(self) -> bool:
        return bool(self.scope) and self.scope["path"].startswith("/debug/")

    def _go_on(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def untaken_bytes(transport: asyncio.Transport) -> int:
    """How much of what was sent the client has not taken, as far as can be seen.

    What the system holds is counted, too, where it says that: it takes more only when a third of its megabytes are
    gone, for which a slow client may need minutes.
    """
    return transport.get_write_buffer_size() + _queued_bytes(transport.get_extra_info("socket").fileno())


def _queued_bytes(descriptor: int) -> int:
    if sys.platform != "linux":
        return 0
    import fcntl
    import termios

    try:
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0
