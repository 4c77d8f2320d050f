"""`redact`: personal data and secrets are masked, stop the call, or are kept from the provider and given back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Annotated, ParamSpec, TypeVar

import phonenumbers
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from luthien.exchange import Side
from luthien.formats.arguments import ArgumentSlot, arguments_of, change_text
from luthien.formats.format import TextSlot
from luthien.formats.sse import Chunk
from luthien.policies.builtin.redaction.detection import Detector
from luthien.policies.builtin.redaction.patterns import Kind
from luthien.policies.builtin.redaction.placeholders import Placeholders, Restorer, in_words
from luthien.policies.builtin.redaction.streams import AllTexts, WholeText, is_argument
from luthien.policies.builtin.redaction.values import change_all, changed_value
from luthien.policies.builtin.redaction.work import Avoiding, RedactAction, Redacting, Restoring, Work
from luthien.policies.builtin.streamed import Growing, StreamedTexts
from luthien.policies.builtin.substitution import GrowingText, TimeLimit
from luthien.policies.policy import CallContext, Policy, Request, Response, Verdict

# Shorter texts are looked at where they are: going to another thread costs more.
_ASIDE_CHARS = 4_096
_MAX_HELD_CHUNKS = 100_000

P = ParamSpec("P")
T = TypeVar("T")


class RedactRule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    kinds: Annotated[frozenset[Kind], Field(min_length=1)]
    """What to look for."""
    action: RedactAction = RedactAction.MASK
    """What becomes of it."""
    sides: frozenset[Side] = Field(default=frozenset({Side.REQUEST}), alias="in", min_length=1)
    """Where to look: `request`, `response` or both."""

    @model_validator(mode="after")
    def _can_be_reversed(self) -> RedactRule:
        if self.action is RedactAction.REVERSIBLE and Side.RESPONSE in self.sides:
            raise ValueError("reversible is for requests only: the client gets its own values back")
        return self


class RedactConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: Annotated[tuple[RedactRule, ...], Field(min_length=1)]
    """Each kind at most once for a side."""
    phone_regions: tuple[str, ...] = ("US",)
    """The countries (ISO 3166, two letters) whose phone numbers are known without a `+` in front."""
    max_held_chars: Annotated[int, Field(gt=0)] = 8192
    """How much of a streamed text may be held while a finding is undecided."""
    timeout_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5000
    """How long looking may take in a request, a response or a chunk, in milliseconds, and as much again for each
    million characters. Beyond that the call is stopped."""

    @field_validator("phone_regions")
    @classmethod
    def _are_regions(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [region for region in regions if region not in phonenumbers.SUPPORTED_REGIONS]
        if unknown:
            raise ValueError(f"no such country: {', '.join(unknown)}; write two capital letters")
        return regions

    @model_validator(mode="after")
    def _say_one_thing(self) -> RedactConfig:
        for side in Side:
            counts = Counter(kind for rule in self.rules if side in rule.sides for kind in rule.kinds)
            twice = sorted(kind for kind, count in counts.items() if count > 1)
            if twice:
                raise ValueError(f"two rules are about {', '.join(twice)} in the {side}")
        _ = self.detectors  # made now, and not while the first call waits
        return self

    def actions(self, side: Side) -> dict[Kind, RedactAction]:
        return {kind: rule.action for rule in self.rules if side in rule.sides for kind in rule.kinds}

    @cached_property
    def detectors(self) -> dict[Side, Detector]:
        return {side: Detector(actions, self.phone_regions) for side in Side if (actions := self.actions(side))}


class Redact(Policy):
    Config = RedactConfig

    def __init__(self, config: RedactConfig, call: CallContext) -> None:
        super().__init__(config, call)
        self._limit = TimeLimit(config.timeout_ms / 1000)
        self._placeholders = Placeholders()
        self._given_back: Counter[Kind] = Counter()
        self._sides = {
            side: Redacting(config.actions(side), detector, self._placeholders, self._limit)
            for side, detector in config.detectors.items()
        }
        self._streams: list[StreamedTexts] | None = None

    async def on_request(self, request: Request) -> Verdict:
        side = self._sides.get(Side.REQUEST)
        if side is None:
            return Verdict.allow()
        texts, arguments = request.texts(), arguments_of(self.call.format).in_request(request.body)
        chars = self._restart(texts, arguments)
        await _aside(chars, self._redact, side, texts, arguments)
        return side.verdict("request")

    async def on_response(self, response: Response) -> Verdict:
        side = self._sides.get(Side.RESPONSE)
        if side is None and not self._placeholders:
            return Verdict.allow()
        texts, arguments = response.texts(), arguments_of(self.call.format).in_response(response.body)
        chars = self._restart(texts, arguments)
        if side is not None:
            await _aside(chars, self._redact, side, texts, arguments)
        if self._placeholders:
            await _aside(chars, change_all, self._restoring, texts, arguments)
        return self._response_verdict()

    def _restart(self, texts: list[TextSlot], arguments: list[ArgumentSlot]) -> int:
        chars = sum(len(slot.text) for slot in texts) + sum(slot.chars for slot in arguments)
        self._limit.restart(chars)
        return chars

    def _redact(self, side: Redacting, texts: list[TextSlot], arguments: list[ArgumentSlot]) -> None:
        if side.is_reversible:
            change_all(Avoiding(self._placeholders), texts, arguments)
        change_all(side, texts, arguments)

    @property
    def _restoring(self) -> Restoring:
        return Restoring(Restorer(self._placeholders, self._given_back), self._limit)

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        if self._streams is None:
            self._streams = [self._streamed(work) for work in self._works()]
        if not self._streams:
            return (chunk,)
        released = await self._looking(len(chunk.raw), self._pass, 0, [chunk])
        if any(stream.held_chunks > _MAX_HELD_CHUNKS for stream in self._streams):
            raise ValueError(f"more than {_MAX_HELD_CHUNKS} chunks would have to be held")
        return self._blocked() or released

    async def on_stream_end(self) -> Sequence[Chunk] | Verdict:
        released = await self._looking(0, self._finish)
        return self._blocked() or released

    async def _looking(self, chars: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        chars += sum(stream.held_chars for stream in self._streams or ())
        self._limit.restart(chars)
        return await _aside(chars, work, *args, **kwargs)

    def _finish(self) -> list[Chunk]:
        released: list[Chunk] = []
        for index, stream in enumerate(self._streams or ()):
            released += self._pass(index + 1, stream.end())
        return released

    def _pass(self, first: int, chunks: list[Chunk]) -> list[Chunk]:
        for stream in (self._streams or [])[first:]:
            chunks = [released for chunk in chunks for released in stream.feed(chunk)]
        return chunks

    def _works(self) -> Iterable[Work]:
        """What is done to a response: what the provider said is looked at before the client's values come back."""
        if side := self._sides.get(Side.RESPONSE):
            yield side
        if self._placeholders:
            yield self._restoring

    def _streamed(self, work: Work) -> StreamedTexts:
        def grow(key: str) -> Growing:
            if is_argument(key):
                return WholeText(lambda text: change_text(text, lambda value: changed_value(value, work)))
            return GrowingText(work.replacer, self.config.max_held_chars, self._limit)

        return StreamedTexts(AllTexts(self.call.format), grow, max_held=2 * _MAX_HELD_CHUNKS)

    def _blocked(self) -> Verdict | None:
        side = self._sides.get(Side.RESPONSE)
        return side.verdict("response") if side is not None and side.blocked else None

    def stream_verdict(self) -> Verdict:
        return self._response_verdict()

    def _response_verdict(self) -> Verdict:
        side = self._sides.get(Side.RESPONSE)
        verdict = Verdict.allow() if side is None else side.verdict("response")
        count = sum(self._given_back.values())
        if not count or (side is not None and side.blocked):
            return verdict
        words = f"gave back {in_words(self._given_back.items())}"
        return Verdict.modify("; ".join(filter(None, [verdict.reason, words])), verdict.count + count)


async def _aside(chars: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Long texts are looked at in another thread, so that other calls go on."""
    if chars < _ASIDE_CHARS:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
