"""What a policy is: it is shown a request, a response or a stream, and says what becomes of it.

A policy in full:

    class Shout(Policy):
        async def on_request(self, request):
            for slot in request.texts():
                slot.set(slot.text.upper())
            return Verdict.modify("shouted")

One object lives for one call: what it keeps on `self` cannot leak into another call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from luthien.exchange import Side
from luthien.formats.blocks import Block, BlockKind
from luthien.formats.format import Json, TextSlot, WireFormat
from luthien.formats.parts import Part, PartKind
from luthien.formats.sse import Chunk
from luthien.policies.credential import NO_CREDENTIAL, Credential, Secret
from luthien.policies.details import Details, check_details
from luthien.policies.models import ModelAnswer, ModelFailed, Models, NoModels

__all__ = [
    "NO_CREDENTIAL",
    "Action",
    "Block",
    "BlockKind",
    "CallContext",
    "Chunk",
    "Credential",
    "ModelAnswer",
    "ModelFailed",
    "Needs",
    "NoConfig",
    "Part",
    "PartKind",
    "Policy",
    "RecordedAs",
    "Request",
    "Response",
    "Secret",
    "Side",
    "Verdict",
]


class Action(StrEnum):
    """What a policy decided; `error` is recorded when it broke instead of deciding."""

    ALLOW = "allow"
    MODIFY = "modify"
    ANNOTATE = "annotate"
    BLOCK = "block"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A policy's answer. `reason` is kept in the record, and a block's reason is told to the client, unless it says
    what to tell instead. `details` are for the record only.
    """

    action: Action
    reason: str = ""
    count: int = 0
    details: Details = field(default_factory=dict, hash=False)
    tell: str | None = None

    @property
    def told(self) -> str:
        """What the client hears of a block."""
        return self.reason if self.tell is None else self.tell

    def with_details(self, **details: str | int | float | bool) -> Verdict:
        """The same, with a few values to be recorded beside the reason.

        Long texts are cut. Raises ValueError when there are more than a dozen, or a number is none that can be kept.
        """
        check_details(details)
        return replace(self, details={**self.details, **details})

    @classmethod
    def allow(cls) -> Verdict:
        """Goes on as it came; whatever was done to the body is forgotten."""
        return _ALLOW

    @classmethod
    def modify(cls, reason: str = "", count: int = 1) -> Verdict:
        """Goes on as the body now is. `count` says how many changes were made."""
        return cls(Action.MODIFY, reason, count)

    @classmethod
    def annotate(cls, reason: str) -> Verdict:
        """Goes on as it came, with a remark in the record."""
        return cls(Action.ANNOTATE, reason)

    @classmethod
    def block(cls, reason: str, *, tell: str | None = None) -> Verdict:
        """Goes no further. The client is told the reason, or `tell` in its place."""
        return cls(Action.BLOCK, reason, tell=tell)


_ALLOW = Verdict(Action.ALLOW)


def _untold(_url: str) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a policy may know of the call it is part of."""

    call_id: UUID
    format: WireFormat
    model: str
    streaming: bool
    models: Models = field(default_factory=NoModels, compare=False, repr=False)
    """What the policy may ask a model with."""
    trace_headers: Callable[[str], Mapping[str, str]] = field(default=_untold, compare=False, repr=False)
    """What to send to a service at a URL, so that its spans join the trace: nothing, unless
    `LUTHIEN_PROPAGATE_TO` names its host."""


@dataclass(slots=True)
class Request:
    """A request on its way to the provider. `body` is the policy's own copy, to change as it likes."""

    call: CallContext
    body: Json

    def texts(self) -> list[TextSlot]:
        """Every text in it: instructions, messages, tool results."""
        return self.call.format.request_texts(self.body)

    def parts(self) -> list[Part]:
        """All that it is made of, in the order of the document: texts, tools, calls and results, images, files."""
        return self.call.format.request_parts(self.body)

    def tools(self) -> list[Part]:
        """The definitions of the tools that it offers."""
        return [part for part in self.parts() if part.kind is PartKind.TOOL_DEFINITION]

    def remove_tools(self, is_unwanted: Callable[[str], bool]) -> list[str]:
        """Takes tools out of it by their names, and what chooses one of them; returns their names."""
        return self.call.format.blocks.remove_tools(self.body, is_unwanted)


@dataclass(slots=True)
class Response:
    """A whole response on its way to the client. `body` is the policy's own copy."""

    call: CallContext
    body: Json

    def texts(self) -> list[TextSlot]:
        """Every text in it that is for the reader; tool arguments and signed thinking are not among them."""
        return self.call.format.response_texts(self.body)

    def parts(self) -> list[Part]:
        """All that it is made of, in the order of the document: texts, tool calls, reasoning, images, files."""
        return self.call.format.response_parts(self.body)


class Needs(StrEnum):
    """What a policy must have of a response before it can decide; so much of a stream is held for it."""

    CHUNKS = "chunks"
    """Each chunk as it comes."""
    BLOCKS = "blocks"
    """A whole text, tool call or piece of reasoning."""
    WHOLE = "whole"
    """All of it."""


class NoConfig(BaseModel):
    """For policies that have nothing to configure."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RecordedAs(NamedTuple):
    """How a policy is called in the record."""

    name: str
    version: str


class Policy:
    """Derive from this and override what you need; what is not overridden is not called.

    What it needs of a response says which method is shown it, so that streams cannot pass it by: with `Needs.CHUNKS`
    a policy that overrides `on_response` must override `on_chunk` too, with `Needs.BLOCKS` `on_block` sees the blocks
    of plain and streamed responses, with `Needs.WHOLE` `on_response` sees both.
    Raising anything ends the call: it fails closed.
    """

    Config: ClassVar[type[BaseModel]] = NoConfig
    """Its configuration: a frozen pydantic model, validated once, when the gateway starts."""

    version: ClassVar[str | None] = None
    """Recorded with each decision. Without one, a hash of its code stands for it."""

    needs: ClassVar[Needs] = Needs.CHUNKS

    kinds: ClassVar[frozenset[BlockKind]] = frozenset(BlockKind)
    """Of `Needs.BLOCKS`, the blocks it must see; others are not held for it."""

    shared: Any = None
    """What `sharing` gave for the policy's place in the chain."""

    recorded_as: RecordedAs = RecordedAs("", "")

    def __init__(self, config: Any, call: CallContext) -> None:
        self.config = config
        self.call = call

    @classmethod
    @asynccontextmanager
    async def sharing(cls, config: Any) -> AsyncIterator[Any]:
        """What the calls share, such as connections: entered before the first of them, left after the last."""
        yield None

    @classmethod
    def sides(cls, config: Any) -> Collection[Side]:
        """The sides that it must see, so configured: of the other nothing is shown to it, nor held for it."""
        return tuple(Side)

    async def on_request(self, request: Request) -> Verdict:
        """Sees the request before the provider does."""
        return Verdict.allow()

    async def on_response(self, response: Response) -> Verdict:
        """Sees a plain response before the client does."""
        return Verdict.allow()

    async def on_block(self, block: Block) -> Verdict:
        """Sees each whole block of a response, in order. It is the policy's own copy, to change or to drop."""
        return Verdict.allow()

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        """Sees each frame of a stream, except its end marker.

        Returns the chunks to give on now, in order: this one, others, or none to hold it. A verdict can only
        block.
        """
        return (chunk,)

    async def on_stream_end(self) -> Sequence[Chunk] | Verdict:
        """The provider has finished: gives on whatever was held."""
        return ()

    def stream_verdict(self) -> Verdict:
        """What was decided over the whole stream; asked once, after its end, when it is too late to block it."""
        return Verdict.allow()
