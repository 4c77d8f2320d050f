"""The HTTP session of the exporters; a module of its own, for only who exports over HTTP is to load `requests`."""

from __future__ import annotations

import time
from typing import Any

import requests

_MOST_BYTES = 64 * 1024


class LedAway(requests.RequestException):
    """A redirection: what was sent is not where it should be, though the exporters call any status below 400 well."""


class ExportSession(requests.Session):
    """Believes the certificate that it was told to believe, and takes an answer for no more than its status."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        # Else `REQUESTS_CA_BUNDLE` would go before it.
        wanted = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, wanted, cert)

    def request(  # type: ignore[override] # the exporters name everything, and so does this
        self, *, timeout: float | None = None, **options: Any
    ) -> requests.Response:
        """Raises LedAway, requests.RequestException."""
        until = time.monotonic() + (timeout or 0.0)
        response = super().request(timeout=timeout, **{**options, "stream": True})
        if 300 <= response.status_code < 400:
            response.close()
            raise LedAway(f"status {response.status_code} leads elsewhere")
        _read(response, until)
        return response


def _read(response: requests.Response, until: float) -> None:
    """Reads what the answer says, so that the connection can be used again; one that goes on and on costs it that."""
    left = _MOST_BYTES
    while part := response.raw.read1(left):
        left -= len(part)
        if left <= 0 or time.monotonic() > until:
            response.close()
            return
