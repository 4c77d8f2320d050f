"""The texts of a stream that `redact` looks at: what people read, and the arguments of tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from luthien.formats import jsontext
from luthien.formats.arguments import ToolArguments, arguments_of, with_chunk_arguments
from luthien.formats.format import Json, WireFormat
from luthien.formats.sse import Chunk
from luthien.policies.builtin.substitution import Edit

_MAX_ARGUMENT_CHARS = 1 << 20
_PREFIX = "arguments/"


def is_argument(key: str) -> bool:
    """Whether the text of this key is the arguments of a tool."""
    return key.startswith(_PREFIX)


class AllTexts:
    """What people read, and the arguments of tools."""

    def __init__(self, wire_format: WireFormat) -> None:
        self._format = wire_format
        self._arguments: ToolArguments = arguments_of(wire_format)

    def texts(self, body: Json) -> list[tuple[str, str]]:
        arguments = [(_PREFIX + key, slot.text) for key, slot in self._arguments.in_chunk(body)]
        return [*self._format.chunk_texts(body), *arguments]

    def with_texts(self, chunk: Chunk, texts: Sequence[str]) -> Chunk:
        count = len(self._format.chunk_texts(chunk.json or {}))
        if count:
            chunk = self._format.with_chunk_texts(chunk, texts[:count])
        return with_chunk_arguments(self._arguments, chunk, texts[count:]) if texts[count:] else chunk

    def ended(self, chunk: Chunk, open_keys: Iterable[str]) -> list[str]:
        keys = [*open_keys]
        read = [key for key in keys if not is_argument(key)]
        called = [key.removeprefix(_PREFIX) for key in keys if is_argument(key)]
        ended = self._arguments.ended(chunk.json or {}, called)
        return [*self._format.ended_texts(chunk, read), *(_PREFIX + key for key in ended)]


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
