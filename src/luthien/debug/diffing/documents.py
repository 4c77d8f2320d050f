"""Payloads as documents, each read once for all that is made of it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from luthien.debug.diffing.values import Json, Number, Numbers, count_marks, parse

MAX_VALUES = 150_000
"""A JSON payload with more values than about this is read as text, in which it takes less time and memory."""

_CONTAINER = re.compile(rb"\s*[\[{]")


@dataclass(frozen=True, slots=True)
class Document:
    """A payload as far as it can be read. `degraded`: as text although it is, or may be, JSON."""

    value: Json
    form: Literal["json", "text", "bytes"]
    degraded: bool = False


class Documents:
    """The documents of one view. Holds them and their payloads; not for several threads at once."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self._documents: dict[int, Document] = {}
        self._digests: dict[int, bytes] = {}
        self._alive: list[bytes] = []

    def read(self, payload: bytes) -> Document:
        """A payload as JSON if it is that, else as text, else as its size and hash."""
        document = self._documents.get(id(payload))
        if document is None:
            document = self._documents[id(payload)] = self._read(payload)
            self._alive.append(payload)
        return document

    def digest(self, payload: bytes) -> bytes:
        """SHA-256."""
        digest = self._digests.get(id(payload))
        if digest is None:
            digest = self._digests[id(payload)] = hashlib.sha256(payload).digest()
            self._alive.append(payload)
        return digest

    def describe(self, payload: bytes) -> dict[str, Json]:
        """What is said of a payload that is not read."""
        return {"bytes": Number(str(len(payload))), "sha256": self.digest(payload).hex()}

    def _read(self, payload: bytes) -> Document:
        try:
            text = decode(payload)
        except UnicodeDecodeError:
            return Document(self.describe(payload), "bytes")
        if _CONTAINER.match(payload) and count_marks(payload, MAX_VALUES) > MAX_VALUES:
            return Document(text, "text", degraded=True)
        try:
            return Document(parse(text, self.numbers), "json")
        except RecursionError:
            return Document(text, "text", degraded=True)
        except ValueError:
            return Document(text, "text")


def decode(payload: bytes) -> str:
    """As leniently as `json.loads` decodes bytes: a byte order mark and lone surrogates pass."""
    return payload.decode("utf-8-sig", "surrogatepass")
