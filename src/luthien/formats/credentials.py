"""Credentials that clients put into request bodies, masked before anything is recorded.

Tools of a provider that calls other servers carry keys for them, some in the servers' addresses: MCP servers in
both providers' formats.
What goes over the wire is not touched, and wire hashes are those of the unmasked bytes.
"""

from __future__ import annotations

import re
from typing import Any

from luthien.formats import jsontext
from luthien.formats.sse import Chunk, FrameReader

MASK = "[credential masked]"

_KEYS = frozenset({"authorization", "authorization_token", "api_key", "api-key", "x-api-key", "access_token"})
_URL_KEYS = frozenset({"url", "server_url"})
_PLACES = ("tools", "mcp_servers")
_MASKED_FRAME = f": {MASK}\n\n".encode()
_USERINFO = re.compile(r"(?<=//)[^/?#]*(?=@)")
_QUERY = re.compile(r"\?[^#]+")
# What must be in the body, in lower case, for a second look to be worth it. Anything may be spelled with escapes.
_ESCAPE = re.compile(rb"\\u00(?:2d|3f|[4-7][0-9a-f])")
_PLACE = re.compile(rf'"(?:{"|".join(_PLACES)})"'.encode())
_KEY = re.compile(
    rf'"(?:(?:{"|".join(sorted(_KEYS))}|headers)"|(?:{"|".join(sorted(_URL_KEYS))})"\s*:\s*"[^"?@]*[?@])'.encode()
)


def masked(body: bytes) -> bytes | None:
    """The body with its credentials masked; None when there are none, so that it is kept as it came.

    A body that may hold one and cannot be read is masked as a whole.
    """
    if not _is_suspicious(body):
        return None
    try:
        value = jsontext.parse(body)
        if not isinstance(value, dict):
            return None
        found = [_mask(value[place]) for place in _PLACES if place in value]
        return jsontext.render(value) if any(found) else None
    except (jsontext.InvalidJson, RecursionError):
        return MASK.encode()


def masked_frames(raw: bytes) -> bytes | None:
    """Frames of a stream with their credentials masked, one frame at a time; None when there are none.

    What a frame says may become part of the whole response, or is within its message, response or delta. A frame
    that may hold one and cannot be read becomes a comment.
    """
    if not _is_suspicious(raw):
        return None
    reader = FrameReader(len(raw))
    frames = [_masked_frame(chunk) for chunk in reader.feed(raw)]
    rest = reader.rest
    if rest and _is_suspicious(rest):
        rest = _MASKED_FRAME
    masked_raw = b"".join(frames) + rest
    return None if masked_raw == raw else masked_raw


def _is_suspicious(text: bytes) -> bool:
    """Whether there may be a credential in a text."""
    lower = text.lower()  # an expression that ignores case, or may begin in two ways, takes several times as long
    if b"\\u00" in lower and _ESCAPE.search(lower):
        return True
    return _PLACE.search(lower) is not None and _KEY.search(lower) is not None


def _masked_frame(chunk: Chunk) -> bytes:
    raw = chunk.raw
    if not _is_suspicious(raw):
        return raw
    body = chunk.json
    if body is None:
        return _MASKED_FRAME
    parts = [body, *(value for value in body.values() if isinstance(value, dict))]
    found = [_mask(part[place]) for part in parts for place in _PLACES if place in part]
    return Chunk.of(body, chunk.event).raw if any(found) else raw


def _mask(value: Any) -> bool:
    found = False
    if isinstance(value, list):
        for item in value:
            found |= _mask(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            name = key.lower()
            if name == "headers" and isinstance(item, dict):
                value[key], found = dict.fromkeys(item, MASK), True
            elif (name in _KEYS or name == "headers") and item is not None:
                value[key], found = MASK, True
            elif name in _URL_KEYS and isinstance(item, str):
                value[key] = _QUERY.sub(f"?{MASK}", _USERINFO.sub(MASK, item))
                found |= value[key] != item
            elif key != "parameters" and key != "input_schema":  # a schema describes keys, it holds none
                found |= _mask(item)
    return found
