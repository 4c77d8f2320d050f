"""The words of a call: all that one would search for in it. Pure.

A call may have been made to be found hard to index: everything is bounded, and what is cut off is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthien.debug.call.compared import Compared
from luthien.debug.diffing.documents import Document
from luthien.debug.diffing.values import Json, Number, parse
from luthien.exchange import STAGES
from luthien.store.index import ReadCall
from luthien.store.lexemes import words_of

MAX_CHARS = 400_000
"""Of text, the latest of a call first."""
MAX_WORDS = 20_000
"""Different ones."""
_MAX_WORDS_BYTES = 700_000  # of a document that is one megabyte at most
_MAX_INNER_JSON_CHARS = 1_000_000
_MAX_INNER_DEPTH = 4

# What no person wrote: kinds and roles would be words of every call, signatures of none.
_NO_TEXT = {"type", "role", "object", "signature", "encrypted_content", "thought_signature"}
_ARGUMENTS = {"arguments", "input"}
_MIN_BLOB_CHARS = 512
_BLOB = re.compile(r"(?:data:[\w./+-]+[;,]|[A-Za-z0-9+/=_-]{512})\S*\s*")
_PIECE_CHARS = 10_000
_GAP = re.compile(r"[\s!-/:-@\[-^`{-~\u3001\u3002\uff0c]")
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')

Breathe = Callable[[], object]


def words_in(call: ReadCall, compared: Compared | None, breathe: Breathe = lambda: None) -> tuple[set[str], bool]:
    """The words of a call, and whether there was no room for all of them; the rest as `entry_of` has it."""
    words = _Words(breathe)
    for text in _texts(call, compared):
        words.add(text)
        if words.is_full:
            break
    words.take()
    return words.found, words.is_full


@dataclass(slots=True)
class _Words:
    """The different words of a call, as far as there is room."""

    breathe: Breathe
    found: set[str] = field(default_factory=set)
    chars: int = 0
    size_bytes: int = 0
    is_full: bool = False
    _texts: set[str] = field(default_factory=set)
    """Those that were taken: a stage mostly says what another one says."""
    _waiting: list[str] = field(default_factory=list)
    """Short texts, so many of which are looked through at once."""
    _waiting_chars: int = 0

    def add(self, text: str) -> None:
        if self.is_full or not text:
            return
        room = MAX_CHARS - self.chars
        self.chars += len(text)
        self.is_full = len(text) > room
        if text in self._texts:
            return
        self._texts.add(text)
        self._waiting.append(text[:room])
        self._waiting_chars += len(text)
        if self.is_full or self._waiting_chars >= _PIECE_CHARS:
            self.take()

    def take(self) -> None:
        """Looks through the texts that wait."""
        if not self._waiting:
            return
        # No word stands on both sides of a line's end, nor does a normal form.
        whole = "\n".join(self._waiting)
        self._waiting.clear()
        self._waiting_chars = 0
        for piece in _pieces(whole):
            if not self._take([word for word in dict.fromkeys(words_of(piece)) if word not in self.found]):
                return
            self.breathe()

    def _take(self, words: Sequence[str]) -> bool:
        """Whether there was room; else as many of the first were taken as there was room for."""
        size_bytes = self.size_bytes + len("".join(words).encode()) + 8 * len(words)
        if size_bytes <= _MAX_WORDS_BYTES and len(self.found) + len(words) <= MAX_WORDS:
            self.found.update(words)
            self.size_bytes = size_bytes
            return True
        if len(words) > 1:
            middle = len(words) // 2
            return self._take(words[:middle]) and self._take(words[middle:])
        self.is_full = True
        return False


def _pieces(text: str) -> Iterator[str]:
    """A text in pieces between which no word stands: they are cut where one ends, however far that is."""
    start = 0
    while start < len(text):
        gap = _GAP.search(text, start + _PIECE_CHARS)
        end = len(text) if gap is None else gap.end()
        yield text[start:end]
        start = end


def _texts(call: ReadCall, compared: Compared | None) -> Iterator[str]:
    """All that one would search for, the latest first: what a conversation begins with is in other calls, too."""
    yield call.row["error_message"] or ""
    for record in call.stored.records:
        yield str(record.attributes.get("luthien.policy.reason") or "")
    if compared is None:
        for beginning in reversed(call.beginnings):
            yield _ESCAPE.sub(_unescaped, beginning.decode("utf-8", "replace"))
        return
    seen: set[bytes] = set()
    for stage in reversed(STAGES):
        payload = compared.stages[stage].payload
        if payload and payload not in seen:
            seen.add(payload)
            yield from _payload_texts(payload, compared.documents.read(payload))


def _payload_texts(payload: bytes, document: Document) -> Iterator[str]:
    if document.form == "json":
        yield from strings_of(document.value)
        return
    text = payload.decode("utf-8", "replace")
    if not _is_blob(text):
        yield text


def strings_of(document: Json) -> Iterator[str]:
    """The strings of a document, the last first. Of a tool's arguments, the names and numbers, too."""
    todo: list[tuple[Json, bool, int]] = [(document, False, 0)]
    while todo:
        value, is_argument, depth = todo.pop()
        if isinstance(value, dict):
            for key, child in value.items():
                if is_argument:
                    yield key
                if is_argument or key not in _NO_TEXT:
                    todo.append((child, is_argument or (key in _ARGUMENTS and not isinstance(child, list)), depth))
        elif isinstance(value, list):
            todo.extend((child, is_argument, depth) for child in value)
        elif isinstance(value, str):
            inner = _inner(value) if depth < _MAX_INNER_DEPTH else None
            if inner is not None:
                todo.append((inner, True, depth + 1))
            elif not _is_blob(value):
                yield value
        elif is_argument and isinstance(value, Number):
            yield value.text


def _is_blob(text: str) -> bool:
    is_short = len(text) < _MIN_BLOB_CHARS and not text.startswith("data:")
    return not is_short and _BLOB.fullmatch(text) is not None


def _inner(text: str) -> Json:
    """The JSON in a string; None if there is none."""
    if text[:1] not in ("{", "[") or text[-1:] not in ("}", "]") or len(text) > _MAX_INNER_JSON_CHARS:
        return None
    try:
        return parse(text)
    except (ValueError, RecursionError):
        return None


def _unescaped(match: re.Match[str]) -> str:
    value: Any = json.loads(f'"{match[0]}"')
    return str(value)
