"""Loads the corpus: see README.md beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from luthien.formats.anthropic_messages import AnthropicMessages
from luthien.formats.format import WireFormat
from luthien.formats.openai_chat import OpenAIChat
from luthien.formats.openai_responses import OpenAIResponses
from luthien.formats.sse import Chunk, FrameReader

Json = dict[str, Any]

ROOT = Path(__file__).parent
FORMATS: dict[str, WireFormat] = {
    "anthropic_messages": AnthropicMessages(),
    "openai_chat": OpenAIChat(),
    "openai_responses": OpenAIResponses(),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One stream: its bytes, the request it answers, and what it means.

    `sdk` says what the official SDK cannot do with the unchanged stream, and why: `create` reads its events, `stream`
    puts them together, `calls` are the tool calls in that.
    """

    folder: str
    name: str
    raw: bytes
    about: str
    request: Json
    response: Json
    outcome: str
    sdk: Mapping[str, str] = field(default_factory=dict)

    @property
    def format(self) -> WireFormat:
        return FORMATS[self.folder]

    @property
    def is_told_the_end(self) -> bool:
        """Whether the provider itself says that the stream is over or has failed, so that nobody needs to add it."""
        chunks, _ = self.chunks(self.raw)
        return any(self.format.is_terminal(chunk) or self.format.stream_error(chunk) for chunk in chunks)

    def chunks(self, *pieces: bytes) -> tuple[list[Chunk], bytes]:
        """The frames in these pieces of its bytes, and the rest; an end marker needs no blank line."""
        reader = FrameReader(len(self.raw))
        chunks = [chunk for piece in pieces for chunk in reader.feed(piece)]
        last = reader.unended()
        if last is not None and self.format.is_terminal(last):
            return [*chunks, last], b""
        return chunks, reader.rest

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"


@cache
def cases(folder: str = "*") -> tuple[Case, ...]:
    """All cases, or those of one folder."""
    return tuple(_case(path) for path in sorted(ROOT.glob(f"{folder}/*.sse")))


def _case(stream: Path) -> Case:
    told = json.loads(stream.with_suffix(".json").read_text(encoding="utf-8"))
    return Case(stream.parent.name, stream.stem, stream.read_bytes(), **told)


def assembled(body: Json | None) -> Any:
    """A response as those see it who read its JSON: halves of a surrogate pair that stand side by side are one."""
    return json.loads(json.dumps(body))
