"""`replace_text`: literal text or a regular expression, in requests, responses and streams.

It reads what people read: instructions, messages, tool results, answers. Tool arguments (JSON of their own),
signed thinking, images and files are left alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from luthien.exchange import Side
from luthien.formats.format import TextSlot, WireFormat
from luthien.formats.sse import Chunk
from luthien.policies.builtin.substitution import Edit, GrowingText, Substitution, TimeLimit
from luthien.policies.policy import CallContext, Policy, Request, Response, Verdict


class Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    find: Annotated[str, StringConstraints(min_length=1)]
    """The text to look for, or a regular expression."""
    replace: str
    """What to put in its place; with `regex`, a template that may use `\\1` or `\\g<name>`."""
    regex: bool = False
    """Whether `find` is a regular expression, in the dialect of the `regex` package (a superset of `re`)."""
    sides: frozenset[Side] = Field(default=frozenset(Side), alias="in", min_length=1)
    """Where to look: `request`, `response` or both."""

    @cached_property
    def substitution(self) -> Substitution:
        return Substitution(self.find, self.replace, is_regex=self.regex)

    @model_validator(mode="after")
    def _compiles(self) -> Rule:
        _ = self.substitution
        return self


class ReplaceTextConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    """Applied in order, each to what the one before it left."""
    max_held_chars: Annotated[int, Field(gt=0)] = 8192
    """How much of a stream may be held while a match is undecided: characters of one text, and chunks. Beyond
    that, a match is decided on what is there."""
    match_timeout_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1000
    """How long matching may take in a request, a response or a chunk, in milliseconds, and as much again for each
    million characters. Beyond that the call is stopped, since all others wait meanwhile."""


class ReplaceText(Policy):
    Config = ReplaceTextConfig

    def __init__(self, config: ReplaceTextConfig, call: CallContext) -> None:
        super().__init__(config, call)
        self._limit = TimeLimit(config.match_timeout_ms / 1000)
        self._streams = [
            _StreamedRule(rule.substitution, call, config.max_held_chars, self._limit)
            for rule in config.rules
            if Side.RESPONSE in rule.sides
        ]

    async def on_request(self, request: Request) -> Verdict:
        return self._replace(request.texts(), Side.REQUEST)

    async def on_response(self, response: Response) -> Verdict:
        return self._replace(response.texts(), Side.RESPONSE)

    def _replace(self, slots: list[TextSlot], side: Side) -> Verdict:
        self._limit.restart(sum(len(slot.text) for slot in slots))
        total = 0
        rules = [rule for rule in self.config.rules if side in rule.sides]
        for slot in slots:
            text, found = slot.text, 0
            for rule in rules:
                text, count = rule.substitution.apply(text, self._limit)
                found += count
            if found:
                slot.set(text)
                total += found
        return _verdict(total)

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
        self._limit.restart(len(chunk.raw))
        return self._pass(0, [chunk])

    async def on_stream_end(self) -> Sequence[Chunk]:
        self._limit.restart()
        released: list[Chunk] = []
        for index, stream in enumerate(self._streams):
            released += self._pass(index + 1, stream.end())
        return released

    def _pass(self, first: int, chunks: list[Chunk]) -> list[Chunk]:
        for stream in self._streams[first:]:
            chunks = [released for chunk in chunks for released in stream.feed(chunk)]
        return chunks

    def stream_verdict(self) -> Verdict:
        return _verdict(sum(stream.count for stream in self._streams))


def _verdict(count: int) -> Verdict:
    if not count:
        return Verdict.allow()
    return Verdict.modify(f"replaced {count} {'match' if count == 1 else 'matches'}", count)


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


class _StreamedRule:
    """One rule over one stream: holds chunks while they are undecided, and keeps their order.

    A chunk that no match touches leaves as the very frame that came.
    """

    def __init__(self, substitution: Substitution, call: CallContext, max_held: int, limit: TimeLimit) -> None:
        self.count = 0
        self._format = call.format
        self._substitution = substitution
        self._max_held = max_held
        self._limit = limit
        self._texts: dict[str, GrowingText] = {}
        self._held: deque[_Held] = deque()

    def feed(self, chunk: Chunk) -> list[Chunk]:
        held = _Held(chunk)
        self._held.append(held)
        for key, text in _texts(self._format, chunk):
            growing = self._texts.get(key)
            if growing is None:
                growing = GrowingText(self._substitution, self._max_held, self._limit)
                self._texts[key] = growing
            held.spans.append(_Span(key, growing.length, growing.length + len(text)))
            self._place(key, growing.add(text))
        if self._texts:
            for key in self._format.ended_texts(chunk, self._texts):
                self._place(key, self._texts[key].end())
        released = self._release()
        # Behind one text that is undecided, others may pile up without end.
        return [*released, *self.end()] if len(self._held) > self._max_held else released

    def end(self) -> list[Chunk]:
        for key, growing in self._texts.items():
            self._place(key, growing.end())
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
        texts = [text for _, text in _texts(self._format, held.chunk)]
        edited = [_apply(span, text) for span, text in zip(held.spans, texts, strict=True)]
        return held.chunk if edited == texts else self._format.with_chunk_texts(held.chunk, edited)


def _texts(wire_format: WireFormat, chunk: Chunk) -> list[tuple[str, str]]:
    """What `chunk_texts` finds.

    Raises:
        ValueError: the chunk says something that is not a JSON object, so nobody knows what text is in it.
    """
    body = chunk.json
    if body is None and chunk.data:
        raise ValueError("a frame of the stream is not a JSON object")
    return wire_format.chunk_texts(body) if body is not None else []


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
