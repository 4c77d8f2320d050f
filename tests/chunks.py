"""What frames of a stream are to policies and assemblers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from luthien.formats.format import WireFormat
from luthien.formats.sse import Chunk, FrameReader


def chunks_of(frames: bytes | Iterable[bytes]) -> list[Chunk]:
    """The chunks of a stream, whole or in pieces."""
    return list(FrameReader(1 << 22).feed(frames if isinstance(frames, bytes) else b"".join(frames)))


def assembled(wire_format: WireFormat, chunks: Iterable[Chunk]) -> Any:
    """The plain response that they add up to; None if they do not."""
    assembler = wire_format.assembler()
    for chunk in chunks:
        assembler.add(chunk)
    return assembler.result()
