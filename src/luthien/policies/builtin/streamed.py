"""Texts that arrive in the chunks of a stream, and are edited before they go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from luthien.formats.format import Json, WireFormat
from luthien.formats.sse import Chunk
from luthien.policies.builtin.substitution import Edit


class Growing(Protocol):
    """A text that arrives in pieces; says which edits are certain, and how far it is settled."""

    @property
    def settled(self) -> int: ...

    @property
    def length(self) -> int: ...

    def add(self, text: str) -> list[Edit]: ...

    def end(self) -> list[Edit]: ...


class Places(Protocol):
    """Which texts of a chunk are meant. The texts of one key make up one whole text."""

    def texts(self, body: Json) -> list[tuple[str, str]]: ...

    def with_texts(self, chunk: Chunk, texts: Sequence[str]) -> Chunk:
        """The same chunk with other texts, one for each that `texts` finds in it."""
        ...

    def ended(self, chunk: Chunk, open_keys: Iterable[str]) -> list[str]:
        """Those of `open_keys` to which nothing is added after this chunk."""
        ...


class ReaderTexts:
    """What people read."""

    def __init__(self, wire_format: WireFormat) -> None:
        self.texts = wire_format.chunk_texts
        self.with_texts = wire_format.with_chunk_texts
        self.ended = wire_format.ended_texts


@dataclass(slots=True)
class _Span:
    """Where in the whole text of its key a piece of a held chunk stands, and the edits that fall into it."""

    key: str
    start: int
    end: int
    edits: list[Edit] = field(default_factory=list)


@dataclass(slots=True)
class _Held:
    chunk: Chunk
    spans: list[_Span] = field(default_factory=list)


class StreamedTexts:
    """The texts of one stream: holds chunks while they are undecided, and keeps their order.

    A chunk that no edit touches leaves as the very frame that came.

    Args:
        grow: makes the text of a key.
        max_held: how many chunks may be held; beyond that, all texts are decided on what is there.
    """

    def __init__(self, places: Places, grow: Callable[[str], Growing], max_held: int) -> None:
        self.count = 0
        self._places = places
        self._grow = grow
        self._max_held = max_held
        self._texts: dict[str, Growing] = {}
        self._open: dict[str, Growing] = {}
        """Those that have not ended, of the many that a stream may have."""
        self._held: deque[_Held] = deque()

    @property
    def held_chunks(self) -> int:
        return len(self._held)

    @property
    def held_chars(self) -> int:
        return sum(text.length - text.settled for text in self._open.values())

    def feed(self, chunk: Chunk) -> list[Chunk]:
        held = _Held(chunk)
        self._held.append(held)
        for key, text in texts_of(self._places, chunk):
            growing = self._texts.get(key)
            if growing is None:
                growing = self._texts[key] = self._grow(key)
            self._open[key] = growing
            held.spans.append(_Span(key, growing.length, growing.length + len(text)))
            self._place(key, growing.add(text))
        if self._open:
            for key in dict.fromkeys(self._places.ended(chunk, self._open)):
                self._place(key, self._open.pop(key).end())
        released = self._release()
        # Behind one text that is undecided, others may pile up without end.
        return [*released, *self.end()] if len(self._held) > self._max_held else released

    def end(self) -> list[Chunk]:
        for key, growing in self._open.items():
            self._place(key, growing.end())
        self._open.clear()
        return self._release()

    def _place(self, key: str, edits: list[Edit]) -> None:
        """Gives each edit to the held pieces whose text it covers; both are in the order of the text."""
        if not edits:
            return
        self.count += len(edits)
        spans = (span for held in self._held for span in held.spans if span.key == key and span.start < span.end)
        span = next(spans, None)
        for edit in edits:
            while span is not None and span.start < edit.end:
                if edit.start < span.end:
                    span.edits.append(edit)
                if edit.end < span.end:
                    break
                span = next(spans, None)

    def _release(self) -> list[Chunk]:
        released: list[Chunk] = []
        while self._held and self._is_settled(self._held[0]):
            released.append(self._edited(self._held.popleft()))
        return released

    def _is_settled(self, held: _Held) -> bool:
        return all(span.end <= self._texts[span.key].settled for span in held.spans)

    def _edited(self, held: _Held) -> Chunk:
        if not any(span.edits for span in held.spans):
            return held.chunk
        texts = [text for _, text in texts_of(self._places, held.chunk)]
        edited = [_apply(span, text) for span, text in zip(held.spans, texts, strict=True)]
        return held.chunk if edited == texts else self._places.with_texts(held.chunk, edited)


def texts_of(places: Places, chunk: Chunk) -> list[tuple[str, str]]:
    """The texts that a chunk adds, each with its key.

    Raises:
        ValueError: the chunk says something that is not a JSON object, so nobody knows what text is in it.
    """
    body = chunk.json
    if body is None and chunk.data:
        raise ValueError("a frame of the stream is not a JSON object")
    return places.texts(body) if body is not None else []


def _apply(span: _Span, text: str) -> str:
    """The chunk's text after its edits; a replacement stands in the chunk in which its match began."""
    pieces: list[str] = []
    done = 0
    for edit in span.edits:
        begin = max(edit.start - span.start, 0)
        pieces.append(text[done:begin])
        if edit.start >= span.start:
            pieces.append(edit.text)
        done = min(edit.end - span.start, len(text))
    return "".join([*pieces, text[done:]])
