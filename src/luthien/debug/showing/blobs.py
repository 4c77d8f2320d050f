"""Long strings that nobody reads: images, audio, files and encrypted reasoning in base64. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

MIN_CHARS = 400
"""Shorter strings are shown as they are."""
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w-]+=[^;,]*)*;base64,")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}|[A-Za-z0-9_-]+={0,2}")
_SAMPLE = 2_000
_MIN_DISTINCT = 24
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"PK\x03\x04", "application/zip"),
)


@dataclass(frozen=True, slots=True)
class Blob:
    """What a string in base64 holds: its type as far as it is known, bytes once decoded, and their SHA-256."""

    kind: str
    size_bytes: int
    sha256: str


def blob_in(text: str) -> Blob | None:
    """What a long string holds, if it is base64 or a data URL; ordinary text, however long, is none."""
    if len(text) < MIN_CHARS:
        return None
    url = _DATA_URL.match(text)
    body = text[url.end() :] if url else text
    if not url and len(set(body[:_SAMPLE])) < _MIN_DISTINCT:
        return None
    if not _BASE64.fullmatch(body):
        return None
    try:
        data = base64.b64decode(body.translate({45: 43, 95: 47}) + "=" * (-len(body) % 4), validate=True)
    except binascii.Error:
        return None
    return Blob((url and url[1]) or _kind(data), len(data), hashlib.sha256(data).hexdigest())


def _kind(data: bytes) -> str:
    if data[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(data[8:12], "RIFF")
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), "base64")
