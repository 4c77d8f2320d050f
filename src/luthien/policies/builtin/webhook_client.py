"""Asking an HTTP service: signed, within one deadline, tried again where that may help, and bounded in size."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import random
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2 as httpx

from luthien.upstream.client import proxy_for

_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 2.0
_KEEPALIVE_S = 15.0
_SECRET_PREFIX = "whsec_"  # noqa: S105 - how such secrets begin


class WebhookFailed(Exception):
    """The service did not answer as it should. The message names its host, and nothing of what it said."""


class _TryAgain(Exception):
    """This attempt failed in a way that another may not. `after_s` is how long the service asks to wait."""

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


def signing_key(secret: str) -> bytes:
    """The key in a secret of Standard Webhooks: `whsec_` and base64. Raises ValueError if it is none."""
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not key:
        raise ValueError("is no secret of Standard Webhooks: whsec_ and base64")
    return key


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`, as https://www.standardwebhooks.com has it."""
    signed = b".".join([message_id.encode(), str(timestamp).encode(), body])
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


@dataclass(frozen=True, slots=True)
class Terms:
    """How a service is asked. `timeout_s` is for all attempts together."""

    url: str
    headers: Mapping[str, str]
    key: bytes | None
    timeout_s: float
    retries: int
    max_answer_bytes: int


class WebhookClient:
    """One service, over connections of its own. The transport is bare: it follows no redirect and keeps no cookie."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._url = httpx.URL(terms.url)
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=_KEEPALIVE_S)
        self._transport = httpx.AsyncHTTPTransport(limits=limits, proxy=proxy_for(self._url))

    async def close(self) -> None:
        await self._transport.aclose()

    async def ask(self, body: bytes, trace_headers: Mapping[str, str]) -> bytes:
        """The body of its answer, of status 200.

        Raises:
            WebhookFailed: there is none.
        """
        message_id = f"msg_{secrets.token_hex(12)}"
        tried = 0
        try:
            async with asyncio.timeout(self._terms.timeout_s) as deadline:
                while True:
                    tried += 1
                    try:
                        return await self._try(message_id, body, trace_headers)
                    except _TryAgain as failure:
                        await self._wait(failure, tried, deadline.when())
        except TimeoutError:
            why = f"did not answer within {self._terms.timeout_s:g} s"
            raise WebhookFailed(self._told(why, tried)) from None

    async def _wait(self, failure: _TryAgain, tried: int, ends: float | None) -> None:
        backoff_s = random.uniform(0.5, 1.0) * min(_MAX_BACKOFF_S, _BACKOFF_S * 2 ** (tried - 1))  # noqa: S311
        wait_s = max(failure.after_s, backoff_s)
        is_late = ends is not None and asyncio.get_running_loop().time() + wait_s >= ends
        if tried > self._terms.retries or is_late:
            raise WebhookFailed(self._told(str(failure), tried)) from failure
        await asyncio.sleep(wait_s)

    def _told(self, why: str, tried: int) -> str:
        return f"the webhook at {self._url.host} {why}" + (f" ({tried} attempts)" if tried > 1 else "")

    async def _try(self, message_id: str, body: bytes, trace_headers: Mapping[str, str]) -> bytes:
        headers = {**trace_headers, **self._headers(message_id, body)}
        request = httpx.Request("POST", self._url, headers=headers, content=body)
        try:
            response = await self._transport.handle_async_request(request)
            try:
                return await self._read(response)
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise _TryAgain(f"could not be asked ({type(error).__name__})") from error

    def _headers(self, message_id: str, body: bytes) -> dict[str, str]:
        now = int(time.time())
        headers = {
            "content-type": "application/json",
            "accept": "application/json",
            "accept-encoding": "identity",
            "webhook-id": message_id,
            "webhook-timestamp": str(now),
            **self._terms.headers,
        }
        if self._terms.key is not None:
            headers["webhook-signature"] = signature(self._terms.key, message_id, now, body)
        return headers

    async def _read(self, response: httpx.Response) -> bytes:
        status = response.status_code
        if status == 429 or status >= 500:
            raise _TryAgain(f"answered with status {status}", _retry_after_s(response.headers.get("retry-after")))
        if status != 200:
            raise WebhookFailed(self._told(f"answered with status {status}", 1))
        if response.headers.get("content-encoding", "identity") != "identity":
            raise WebhookFailed(self._told("answered with a body that is compressed", 1))
        received = bytearray()
        async for part in response.aiter_raw():
            received += part
            if len(received) > self._terms.max_answer_bytes:
                most = self._terms.max_answer_bytes
                raise WebhookFailed(self._told(f"answered with more than {most} bytes", 1))
        return bytes(received)


def _retry_after_s(value: str | None) -> float:
    """The seconds that a service asks to wait, or those until the time it names; 0 when it says nothing clear."""
    if not value:
        return 0.0
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        until = parsedate_to_datetime(value)
        return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return 0.0
