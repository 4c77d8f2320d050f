"""Credentials that clients put into request bodies, masked before anything is recorded.

Tools of a provider that calls other servers carry keys for them: MCP servers in both providers' formats.
What goes over the wire is not touched, and wire hashes are those of the unmasked bytes.
"""

from __future__ import annotations

import re
from typing import Any

from luthien.formats import jsontext

MASK = "[credential masked]"

_KEYS = frozenset({"authorization", "authorization_token", "api_key", "api-key", "x-api-key", "access_token"})
_PLACES = ("tools", "mcp_servers")
# What must be in the body for a second look to be worth it. A key may be spelled with \u escapes.
_SUSPICION = re.compile(rb'"(?:tools|mcp_servers)"|\\u00', re.IGNORECASE)
_KEY_SUSPICION = re.compile(
    rb'"(?:authorization|authorization_token|api_key|api-key|x-api-key|access_token|headers)"|\\u00',
    re.IGNORECASE,
)


def masked(body: bytes) -> bytes | None:
    """The body with its credentials masked; None when there are none, so that it is kept as it came."""
    if not (_SUSPICION.search(body) and _KEY_SUSPICION.search(body)):
        return None
    try:
        value = jsontext.parse_object(body)
    except jsontext.InvalidJson:
        return None
    found = [_mask(value[place]) for place in _PLACES if place in value]
    return jsontext.render(value) if any(found) else None


def _mask(value: Any) -> bool:
    found = False
    if isinstance(value, list):
        for item in value:
            found |= _mask(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key.lower() in _KEYS and isinstance(item, str):
                value[key], found = MASK, True
            elif key.lower() == "headers" and isinstance(item, dict):
                value[key], found = dict.fromkeys(item, MASK), True
            elif key != "parameters" and key != "input_schema":  # a schema describes keys, it holds none
                found |= _mask(item)
    return found
