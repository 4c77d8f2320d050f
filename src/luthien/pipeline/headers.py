"""Which headers are kept in the record: an allow-list, so that no credential is ever among them."""

from __future__ import annotations

import json
from collections.abc import Iterable

_REQUEST = frozenset(
    {
        b"accept",
        b"anthropic-beta",
        b"anthropic-version",
        b"content-type",
        b"openai-beta",
        b"user-agent",
        b"x-stainless-lang",
        b"x-stainless-package-version",
        b"x-stainless-retry-count",
    }
)
_RESPONSE = frozenset(
    {
        b"anthropic-request-id",
        b"content-type",
        b"openai-processing-ms",
        b"openai-version",
        b"request-id",
        b"retry-after",
        b"retry-after-ms",
        b"x-request-id",
        b"x-should-retry",
    }
)


def kept_request_headers(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's headers that are recorded, as a JSON object."""
    return _kept(headers, _REQUEST)


def kept_response_headers(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The provider's headers that are recorded, as a JSON object."""
    return _kept(headers, _RESPONSE)


def _kept(headers: Iterable[tuple[bytes, bytes]], allowed: frozenset[bytes]) -> str:
    kept = {name.lower(): value for name, value in headers if name.lower() in allowed}
    return json.dumps({name.decode("latin-1"): value.decode("latin-1")[:256] for name, value in kept.items()})
