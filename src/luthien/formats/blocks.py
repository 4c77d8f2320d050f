"""Blocks: the texts, tool calls and reasoning that a response is made of, whatever its wire format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from luthien.formats import jsontext
from luthien.formats.sse import Chunk

Json = dict[str, Any]


class BlockKind(StrEnum):
    """What a block is; `other` is what the provider did itself, such as a search of its own, and what is unknown."""

    TEXT = "text"
    TOOL_CALL = "tool_call"
    REASONING = "reasoning"
    OTHER = "other"


@dataclass(slots=True)
class Block:
    """One whole block. A change counts if the policy's verdict says so.

    `index` counts all blocks of the response from 0. `text` is what is said; of a tool call, its arguments as JSON
    text, which is cut short when the provider stopped in the middle. `name` is the tool's.
    """

    kind: BlockKind
    index: int
    text: str = ""
    name: str = ""
    is_dropped: bool = False
    said: str = ""
    """The text that stands in the place of a dropped block."""

    def drop(self, said: str = "") -> None:
        """Takes it out of the response; with `said`, a text says so in its place."""
        self.is_dropped, self.said = True, said


@dataclass(slots=True)
class GrowingBlock:
    """A block of a stream, from its first piece on."""

    kind: BlockKind
    index: int
    origin: Any = None
    """What the format must remember of it."""
    names: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    is_finished: bool = False
    change: Block | None = None
    """What it was changed to."""
    place: int | None = None
    """Its index on the wire, once its first piece was written."""

    @property
    def whole(self) -> Block:
        return Block(self.kind, self.index, jsontext.paired("".join(self.texts)), "".join(self.names))

    def settle(self, judged: Block) -> None:
        """Keeps what a policy made of it, if that is another block than it was."""
        self.change = judged if judged != self.whole else None


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk adds to a block; `path` says where in the chunk."""

    block: GrowingBlock
    path: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """A chunk of a stream, and the blocks it adds to."""

    chunk: Chunk
    pieces: tuple[Piece, ...] = ()


class BlockStream(Protocol):
    """One stream, cut into blocks and put together again after some of them have changed."""

    def read(self, chunk: Chunk) -> Frame:
        """The next chunk.

        Raises:
            ValueError: nobody can say to which block something in it belongs.
        """
        ...

    def end(self) -> None:
        """No more will come: what there is of a block is all of it."""
        ...

    def written(self, frame: Frame) -> Sequence[Chunk]:
        """The frame after the changes to its blocks: the very chunk if they leave it as it is.

        Frames are written in the order in which they were read, each when its blocks are settled.
        """
        ...


class Blocks(Protocol):
    """What policies on blocks, tools and whole responses ask of a wire format."""

    def stream(self) -> BlockStream: ...

    def of_response(self, body: Json) -> list[Block]:
        """The blocks of a plain response."""
        ...

    def change_response(self, body: Json, blocks: Sequence[Block]) -> None:
        """Makes the blocks of a plain response what these are, of which there is one for each it has."""
        ...

    def as_stream(self, body: Json) -> list[Chunk]:
        """A plain response as a stream that says the same, without the end marker."""
        ...

    def as_end(self, body: Json, terminal: Chunk) -> Chunk:
        """The end marker of that stream, made of the provider's."""
        ...

    def remove_tools(self, body: Json, is_unwanted: Callable[[str], bool]) -> list[str]:
        """Takes tools out of a request, and what chooses one of them; returns their names."""
        ...


def finish(blocks: Sequence[GrowingBlock]) -> None:
    for block in blocks:
        block.is_finished = True


def numbered(kinds: Sequence[Block]) -> list[Block]:
    return [replace(block, index=index) for index, block in enumerate(kinds)]


def without_tools(
    tools: Any, name_of: Callable[[Json], str], is_unwanted: Callable[[str], bool]
) -> tuple[Any, list[str]]:
    """A list of tools without the unwanted ones, and their names; what is no list stays as it is."""
    if not isinstance(tools, list):
        return tools, []
    names = [name_of(object_of(tool)) for tool in tools]
    goes = [bool(name) and is_unwanted(name) for name in names]
    kept = [tool for tool, gone in zip(tools, goes, strict=True) if not gone]
    return kept, [name for name, gone in zip(names, goes, strict=True) if gone]


def object_of(value: Any) -> Json:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def check_readable(chunk: Chunk) -> Json | None:
    """What a chunk says; None when it carries no data.

    Raises:
        ValueError: it says something that is not a JSON object, so nobody knows what is in it.
    """
    if chunk.json is None and chunk.data:
        raise ValueError("a frame of the stream is not a JSON object")
    return chunk.json
