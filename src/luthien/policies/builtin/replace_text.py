"""`replace_text`: literal text or a regular expression, in requests, responses and streams.

It reads what people read: instructions, messages, tool results, answers. Tool arguments (JSON of their own),
signed thinking, images and files are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from luthien.exchange import Side
from luthien.formats.format import TextSlot
from luthien.formats.sse import Chunk
from luthien.policies.builtin.streamed import ReaderTexts, StreamedTexts
from luthien.policies.builtin.substitution import GrowingText, Substitution, TimeLimit
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
            StreamedTexts(ReaderTexts(call.format), self._growing(rule.substitution), config.max_held_chars)
            for rule in config.rules
            if Side.RESPONSE in rule.sides
        ]

    def _growing(self, substitution: Substitution) -> Callable[[str], GrowingText]:
        return lambda _key: GrowingText(substitution, self.config.max_held_chars, self._limit)

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
