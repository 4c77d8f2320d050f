"""The two sides of a stream: what the provider sent, and what the client was given."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence

from luthien.formats import jsontext
from luthien.formats.format import Json, WireFormat
from luthien.formats.sse import Chunk
from luthien.telemetry.spans import Wire


class StreamSide:
    """Hashes the bytes of one side as they pass, and puts its chunks together as a plain response."""

    def __init__(self, wire_format: WireFormat) -> None:
        self.chunks = 0
        self._assembler = wire_format.assembler()
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    def __deepcopy__(self, memo: dict[int, object]) -> StreamSide:
        twin = copy.copy(self)
        twin.__dict__ |= {"_assembler": copy.deepcopy(self._assembler, memo), "_hash": self._hash.copy()}
        return twin

    def passed(self, raw: bytes, chunks: Sequence[Chunk]) -> None:
        """These bytes went over the wire, and these chunks are what they say."""
        self._hash.update(raw)
        self._size_bytes += len(raw)
        self.chunks += len(chunks)
        for chunk in chunks:
            self._assembler.add(chunk)

    @property
    def wire(self) -> Wire:
        return Wire(self._hash.digest(), self._size_bytes)

    @property
    def response(self) -> Json | None:
        """The response so far; None when no chunk of one has passed."""
        return self._assembler.result()

    def payload(self) -> bytes:
        """The response so far as it is recorded; empty when there is none."""
        response = self.response
        return b"" if response is None else jsontext.render(response)


class StreamSides:
    """Both sides of one stream.

    While everything is passed on as it came there is but one side: what has arrived is added to it once it
    was released, so that the client does not wait for it.
    """

    def __init__(self, wire_format: WireFormat, *, may_change: bool) -> None:
        self.original = StreamSide(wire_format)
        self._final = StreamSide(wire_format) if may_change else None
        self._arrived: list[tuple[bytes, Sequence[Chunk]]] = []

    @property
    def final(self) -> StreamSide:
        return self.original if self._final is None else self._final

    def arrived(self, raw: bytes, chunks: Sequence[Chunk]) -> None:
        """The provider sent these."""
        if self._final is None:
            self._arrived.append((raw, chunks))
        else:
            self.original.passed(raw, chunks)

    def released(self, raw: bytes, chunks: Sequence[Chunk]) -> None:
        """The client was given these: all that had arrived, unless policies come between."""
        if self._final is None:
            self._catch_up()
        else:
            self._final.passed(raw, chunks)

    def diverge(self) -> None:
        """From here on the client gets something else than the provider sent, or nothing more."""
        if self._final is None:
            self._final = copy.deepcopy(self.original)
            self._catch_up()

    def _catch_up(self) -> None:
        for raw, chunks in self._arrived:
            self.original.passed(raw, chunks)
        self._arrived.clear()
