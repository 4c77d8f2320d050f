"""`redact`: personal data and secrets are masked, stop the call, or are kept from the provider and given back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, ParamSpec, Protocol, TypeVar

import phonenumbers
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from luthien.exchange import Side
from luthien.formats import jsontext
from luthien.formats.arguments import ArgumentSlot, ToolArguments, arguments_of, change_text, with_chunk_arguments
from luthien.formats.format import Json, TextSlot, WireFormat
from luthien.formats.sse import Chunk
from luthien.policies.builtin.detection import Detector, Redactor
from luthien.policies.builtin.patterns import Kind, is_secret, is_secret_name
from luthien.policies.builtin.placeholders import Placeholders, Restorer, in_words
from luthien.policies.builtin.streamed import Growing, StreamedTexts
from luthien.policies.builtin.substitution import Edit, GrowingText, Replacer, TimeLimit
from luthien.policies.policy import CallContext, Policy, Request, Response, Verdict

# Shorter texts are looked at where they are: going to another thread costs more.
_ASIDE_CHARS = 4_096
_MAX_ARGUMENT_CHARS = 1 << 20
_MAX_HELD_CHUNKS = 100_000
_ARGUMENTS = "arguments/"

P = ParamSpec("P")
T = TypeVar("T")


class RedactAction(StrEnum):
    MASK = "mask"
    REVERSIBLE = "reversible"
    BLOCK = "block"


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
            side: _Side(config.actions(side), detector, self._placeholders, self._limit)
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
            await _aside(chars, _change_all, self._restoring, texts, arguments)
        return self._response_verdict()

    def _restart(self, texts: list[TextSlot], arguments: list[ArgumentSlot]) -> int:
        chars = sum(len(slot.text) for slot in texts) + sum(slot.chars for slot in arguments)
        self._limit.restart(chars)
        return chars

    def _redact(self, side: _Side, texts: list[TextSlot], arguments: list[ArgumentSlot]) -> None:
        if side.is_reversible:
            _change_all(_Avoiding(self._placeholders), texts, arguments)
        _change_all(side, texts, arguments)

    @property
    def _restoring(self) -> _Restoring:
        return _Restoring(Restorer(self._placeholders, self._given_back), self._limit)

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

    def _works(self) -> Iterable[_Work]:
        """What is done to a response: what the provider said is looked at before the client's values come back."""
        if side := self._sides.get(Side.RESPONSE):
            yield side
        if self._placeholders:
            yield self._restoring

    def _streamed(self, work: _Work) -> StreamedTexts:
        def grow(key: str) -> Growing:
            if key.startswith(_ARGUMENTS):
                return WholeText(lambda text: change_text(text, lambda value: _changed(value, work)))
            return GrowingText(work.replacer, self.config.max_held_chars, self._limit)

        return StreamedTexts(_AllTexts(self.call.format), grow, max_held=2 * _MAX_HELD_CHUNKS)

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


class _Work(Protocol):
    """What is done to every text."""

    @property
    def replacer(self) -> Replacer: ...

    def text(self, text: str, name: str = "") -> str:
        """The changed text, or the very same; `name` is that of the field it stands in."""
        ...


class _Side:
    """What was found on one side of a call, and what became of it."""

    def __init__(
        self, actions: dict[Kind, RedactAction], detector: Detector, placeholders: Placeholders, limit: TimeLimit
    ) -> None:
        self.replacer = Redactor(detector, self._replace)
        self.blocked: Counter[Kind] = Counter()
        self._redacted: Counter[Kind] = Counter()
        self._actions = actions
        self._placeholders = placeholders
        self._limit = limit

    @property
    def is_reversible(self) -> bool:
        return RedactAction.REVERSIBLE in self._actions.values()

    def text(self, text: str, name: str = "") -> str:
        # Only here, in the arguments of a tool, is the name of a value apart from it.
        if name and Kind.SECRET in self._actions and is_secret_name(name) and is_secret(text):
            return self._replace(Kind.SECRET, text)
        return self.replacer.apply(text, self._limit)

    def _replace(self, kind: Kind, value: str) -> str:
        action = self._actions[kind]
        (self.blocked if action is RedactAction.BLOCK else self._redacted)[kind] += 1
        return self._placeholders.of(kind, value) if action is RedactAction.REVERSIBLE else f"[{kind}]"

    def verdict(self, side: str) -> Verdict:
        if self.blocked:
            return Verdict.block(f"the {side} contains {in_words(self.blocked.items())}")
        if not self._redacted:
            return Verdict.allow()
        return Verdict.modify(f"redacted {in_words(self._redacted.items())}", self._redacted.total())


class _Restoring:
    def __init__(self, replacer: Restorer, limit: TimeLimit) -> None:
        self.replacer = replacer
        self._limit = limit

    def text(self, text: str, name: str = "") -> str:
        return self.replacer.apply(text, self._limit)


class _Avoiding:
    """Changes nothing: notes what placeholders stand in the request already."""

    def __init__(self, placeholders: Placeholders) -> None:
        self._placeholders = placeholders

    def text(self, text: str, name: str = "") -> str:
        self._placeholders.avoid(text)
        return text


class _Texts(Protocol):
    def text(self, text: str, name: str = "") -> str: ...


def _change_all(work: _Texts, texts: list[TextSlot], arguments: list[ArgumentSlot]) -> None:
    for slot in texts:
        changed = work.text(slot.text)
        if changed is not slot.text:
            slot.set(changed)
    for argument in arguments:
        argument.change(lambda value: _changed(value, work))


def _changed(value: Any, work: _Texts, name: str = "") -> Any:
    """The JSON value with its texts, names and whole numbers changed; the very same when nothing was."""
    if isinstance(value, str):
        return work.text(value, name)
    if isinstance(value, int) and not isinstance(value, bool):
        text = str(value)
        changed = work.text(text, name)
        return value if changed is text else changed
    if isinstance(value, list):
        items = [_changed(item, work, name) for item in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if isinstance(value, dict):
        members = [(work.text(key), _changed(item, work, key)) for key, item in value.items()]
        same = all(
            key is old_key and item is old for (key, item), (old_key, old) in zip(members, value.items(), strict=True)
        )
        return value if same else _object(members)
    return value


def _object(members: list[tuple[str, Any]]) -> Json:
    """All members, though two names may have become the same."""
    whole: Json = {}
    for name, value in members:
        free, number = name, 1
        while free in whole:
            number += 1
            free = f"{name} {number}"
        whole[free] = value
    return whole


class _AllTexts:
    """What people read, and the arguments of tools."""

    def __init__(self, wire_format: WireFormat) -> None:
        self._format = wire_format
        self._arguments: ToolArguments = arguments_of(wire_format)

    def texts(self, body: Json) -> list[tuple[str, str]]:
        arguments = [(_ARGUMENTS + key, slot.text) for key, slot in self._arguments.in_chunk(body)]
        return [*self._format.chunk_texts(body), *arguments]

    def with_texts(self, chunk: Chunk, texts: Sequence[str]) -> Chunk:
        count = len(self._format.chunk_texts(chunk.json or {}))
        if count:
            chunk = self._format.with_chunk_texts(chunk, texts[:count])
        return with_chunk_arguments(self._arguments, chunk, texts[count:]) if texts[count:] else chunk

    def ended(self, chunk: Chunk, open_keys: Iterable[str]) -> list[str]:
        keys = [*open_keys]
        read = [key for key in keys if not key.startswith(_ARGUMENTS)]
        called = [key.removeprefix(_ARGUMENTS) for key in keys if key.startswith(_ARGUMENTS)]
        ended = self._arguments.ended(chunk.json or {}, called)
        return [*self._format.ended_texts(chunk, read), *(_ARGUMENTS + key for key in ended)]


class WholeText:
    """A text that is held until it has ended: nobody can act on the beginning of a tool's arguments."""

    def __init__(self, change: Callable[[str], str], max_chars: int = _MAX_ARGUMENT_CHARS) -> None:
        self.length = 0
        self.settled = 0
        self._change = change
        self._max_chars = max_chars
        self._parts: list[str] = []

    def add(self, text: str) -> list[Edit]:
        self._parts.append(text)
        self.length += len(text)
        if self.length - self.settled > self._max_chars:
            raise ValueError(f"the arguments of a tool are longer than {self._max_chars} characters")
        return []

    def end(self) -> list[Edit]:
        text, start = "".join(self._parts), self.settled
        self._parts, self.settled = [], self.length
        shown = jsontext.paired(text)
        changed = self._change(shown) if shown else shown
        return [] if changed is shown else [Edit(start, start + len(text), changed)]


async def _aside(chars: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Long texts are looked at in another thread, so that other calls go on."""
    if chars < _ASIDE_CHARS:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
