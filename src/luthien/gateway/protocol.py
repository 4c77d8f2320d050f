"""What uvicorn speaks HTTP/1.1 with, made fit for responses that have no end of their own."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

ON_STOP = "luthien.on_stop"
"""Where in the state of the app's lifespan is what is called, once or more, when the server begins to stop."""
ENDLESS = "/debug/events"
STALL_S = 60.0
"""How long somebody who follows may take nothing of what was sent."""


class Protocol(H11Protocol):
    """Tells the app when the server stops, which would wait in vain for responses that go on for ever.

    Whoever follows one of them and takes nothing is cut off: after a time, and at once when the server stops.
    """

    _stall: asyncio.TimerHandle | None = None

    def shutdown(self) -> None:
        tell = self.app_state.get(ON_STOP)
        if tell is not None:
            tell()
        if self._stall is not None:
            self.transport.abort()
        super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._is_endless() and self._stall is None:
            self._stall = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._go_on()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        super().connection_lost(exc)

    def _is_endless(self) -> bool:
        return bool(self.scope) and self.scope["path"] == ENDLESS

    def _go_on(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
