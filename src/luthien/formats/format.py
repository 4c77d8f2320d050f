"""What the rest of Luthien asks of a wire format.

A format is pure: it reads and edits JSON values that others parsed, and makes the bytes that others send.
Whatever it does not know, it leaves as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from luthien.formats.blocks import Blocks
from luthien.formats.sse import Chunk

if TYPE_CHECKING:
    from luthien.formats.parts import Part

Json = dict[str, Any]


@dataclass(slots=True)
class TextSlot:
    """A place in a request or response where text stands; `set` changes it there."""

    container: Any
    key: str | int
    role: str

    @property
    def text(self) -> str:
        text: str = self.container[self.key]
        return text

    def set(self, text: str) -> None:
        self.container[self.key] = text


@dataclass(frozen=True, slots=True)
class ResponseFacts:
    """What a response says about itself; None where the provider did not say.

    Token counts are the provider's own. `input_tokens` includes cached ones, as the GenAI semantic
    conventions define it.
    """

    model: str | None = None
    response_id: str | None = None
    finish_reasons: tuple[str, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    """Those of the input that were read from a cache."""
    reasoning_tokens: int | None = None
    """Those of the output that the model thought with."""


class Assembler(Protocol):
    """Puts a streamed response together as the plain response it would have been."""

    def add(self, chunk: Chunk) -> None: ...

    def result(self) -> Json | None:
        """What has arrived so far; None when nothing has. Adding may go on afterwards."""
        ...


class Repeats(Protocol):
    """Keeps one stream in agreement with itself, where a protocol says a text in pieces and then again whole.

    What a policy changed in the pieces must not be told by what comes after them.
    """

    def unsaid(self, chunk: Chunk) -> Sequence[Chunk]:
        """What belongs before a provider's chunk, since it says something whole that nothing before it said."""
        ...

    def offered(self, chunk: Chunk) -> None:
        """A policy was shown this."""
        ...

    def agreed(self, chunk: Chunk) -> Chunk:
        """The chunk as it must be after all that the policy gave on before it: the same one, if it agrees."""
        ...

    def numbered(self, chunk: Chunk) -> Chunk:
        """The chunk that goes to the client with the number that it has there, if the provider counts its chunks.

        For the object that is asked for what is unsaid, which has seen the provider's numbers.
        """
        ...


MAX_ASSEMBLED_BYTES = 64 * 1024 * 1024
"""How much of a stream, in bytes of its frames, is put together: 100,000 chunks of 670 bytes."""
MAX_ASSEMBLED_VALUES = 2_000_000
"""And of how many members and items, told by their commas: 100,000 chunks of 20. They cost more than their bytes."""


class BoundedAssembler:
    """Puts the beginning of a stream together; from the chunk on with which it would be too much, nothing more."""

    def __init__(self, assembler: Assembler) -> None:
        self.is_capped = False
        """Whether the result is not of all chunks."""
        self._assembler = assembler
        self._left_bytes = MAX_ASSEMBLED_BYTES
        self._left_values = MAX_ASSEMBLED_VALUES

    def add(self, chunk: Chunk) -> None:
        self._left_bytes -= len(chunk.raw)
        self._left_values -= chunk.raw.count(b",")
        if self._left_bytes < 0 or self._left_values < 0:
            self.is_capped = True
        else:
            self._assembler.add(chunk)

    def result(self) -> Json | None:
        return self._assembler.result()


class WireFormat(Protocol):
    """One provider protocol: its requests, responses, streams and errors."""

    name: str
    """Stable name, as recorded in `wire_format`."""
    provider: str
    """`gen_ai.provider.name`, and the key of the upstream in the configuration."""
    path: str
    """The path of its endpoint, the same at the gateway and at the provider."""

    blocks: Blocks
    """How its responses are cut into blocks."""
    keep_alive: bytes
    """A frame that says nothing, for a client that waits."""

    def request_attributes(self, body: Json) -> Mapping[str, Any]:
        """The GenAI semantic-convention attributes that a request states."""
        ...

    def request_texts(self, body: Json) -> list[TextSlot]: ...

    def response_texts(self, body: Json) -> list[TextSlot]: ...

    def request_parts(self, body: Json) -> list[Part]: ...

    def response_parts(self, body: Json) -> list[Part]: ...

    def add_system_message(self, body: Json, text: str) -> None:
        """Puts `text` before all other instructions."""
        ...

    def response_facts(self, body: Json) -> ResponseFacts: ...

    def assembler(self) -> Assembler: ...

    def repeats(self) -> Repeats | None:
        """For one stream; None where nothing is said twice."""
        ...

    def chunk_texts(self, body: Json) -> list[tuple[str, str]]:
        """The text that a chunk adds, as (key, text); the texts of one key make up one whole text."""
        ...

    def with_chunk_texts(self, chunk: Chunk, texts: Sequence[str]) -> Chunk:
        """The same chunk with other texts, one for each that `chunk_texts` finds in it."""
        ...

    def ended_texts(self, chunk: Chunk, open_keys: Iterable[str]) -> list[str]:
        """Those of `open_keys` to which nothing is added after this chunk, unless the provider is out of order."""
        ...

    def is_terminal(self, chunk: Chunk) -> bool:
        """Whether this is the protocol's own end marker."""
        ...

    def stream_error(self, chunk: Chunk) -> str | None:
        """The provider's message, when the chunk says that the stream failed."""
        ...

    def error_body(self, status: int, code: str, message: str) -> bytes: ...

    def error_frame(self, status: int, code: str, message: str, position: int = 0) -> bytes:
        """An error as a frame of a stream that has begun. `position` counts the frames before it."""
        ...


class Pieces:
    """Text that grows: joined once, when somebody asks."""

    __slots__ = ("parts",)

    def __init__(self, *parts: str) -> None:
        self.parts = [*parts]


def whole(value: Any) -> Any:
    """A copy of an assembled value with its `Pieces` joined."""
    if isinstance(value, Pieces):
        return "".join(value.parts)
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return value


def text_slots(container: Any, key: str | int, role: str) -> Iterable[TextSlot]:
    """The slots of a content field: a string, or a list of parts of which some are text."""
    content = container[key]
    if isinstance(content, str):
        yield TextSlot(container, key, role)
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                yield TextSlot(part, "text", role)


def objects(value: Any) -> Iterable[Json]:
    """The JSON objects of a list, and nothing when it is no list: other people's JSON may be anything."""
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def count_or_none(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def count_within(value: Any, field: str, name: str) -> int | None:
    """The count of that name in a field of usage that breaks another down."""
    details = value.get(field) if isinstance(value, dict) else None
    return count_or_none(details.get(name)) if isinstance(details, dict) else None


def number_or_none(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def index_of(value: Json) -> int:
    """Which choice or block a piece of a stream belongs to: the first, when it does not say."""
    return count_or_none(value.get("index")) or 0


def error_message(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return text_or_none(message) or "unspecified error"
