"""The end of an exchange: its record is closed and safe before the client is handed the last byte."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from luthien.exchange import Outcome
from luthien.pipeline.client import Asker, ClientGone
from luthien.pipeline.ledger import Ledger
from luthien.policies.chain import Chain

FAREWELL_S = 4.0
"""How long a client may take to hear that the gateway stops."""
_RETRY_AFTER_S = 2

Headers = list[tuple[bytes, bytes]]
Error = tuple[str, str]
"""A stable name of what went wrong, and a message."""


class Ending:
    """Ends one exchange, once, however it comes to that."""

    def __init__(self, ledger: Ledger, client: Asker) -> None:
        self.is_closed = False
        """Whether the record is closed: what the outcome is, is decided."""
        self.chain = Chain()
        """The call's policies, once it is known which."""
        self._ledger = ledger
        self._client = client
        self._left: tuple[int, Headers, bytes] | None = None

    def close_now(self, outcome: Outcome, status: int | None, error: Error | None) -> None:
        """Ends the record; nothing more is handed over."""
        self._client.seal()
        self.is_closed = True
        self._ledger.close(outcome, status, self.chain, error)

    async def close(
        self, outcome: Outcome, status: int | None, error: Error | None, left: tuple[int, Headers, bytes]
    ) -> None:
        """Ends the record, makes it safe, and hands over the end of the response.

        That is the status and headers, unless the response has begun, and the last bytes.
        """
        self.close_now(outcome, status, error)
        self._left = left
        await self._ledger.safe()
        await self._give()

    async def _give(self) -> None:
        """Hands over what is left of the end of the response; interrupted, it may be called again."""
        if self._left is None:
            return
        status, headers, data = self._left
        if not self._client.started:
            await self._client.start(status, headers)
        await self._client.send(data, last=True)
        self._left = None

    async def stop(self, tell: Callable[[Outcome, int, str, str], Awaitable[None]]) -> None:
        """The gateway stops, and what is open with it: the client is told, if it listens.

        However often this is cancelled, it goes on, and it is over soon.
        """
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101 - async code runs in a task
        message = "the gateway was stopped before the response was whole"
        ends = loop.time() + FAREWELL_S
        with suppress(ClientGone, TimeoutError):
            while loop.time() < ends:
                while task.cancelling():
                    task.uncancel()
                with suppress(asyncio.CancelledError):
                    async with asyncio.timeout_at(ends):
                        if self.is_closed:
                            await self._give()
                        else:
                            await tell(Outcome.POLICY_ERROR, 503, "gateway_stopped", message)
                    return


def error_headers(outcome: Outcome, status: int, body: bytes) -> Headers:
    """The headers of an error that the gateway itself tells; they say whether it is worth trying again."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 503:
        headers.append((b"retry-after", str(_RETRY_AFTER_S).encode()))
    elif outcome is Outcome.POLICY_ERROR:
        headers.append((b"x-should-retry", b"false"))
    return headers
