"""The two sides of a stream: what the provider sent, and what the client was given."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from luthien.formats import jsontext
from luthien.formats.format import BoundedAssembler, Json, WireFormat
from luthien.formats.sse import Chunk
from luthien.pipeline.watch import SidesWatch
from luthien.telemetry.spans import Wire


@dataclass(frozen=True, slots=True)
class Delta:
    """The bytes that passed since the last delta was taken.

    `sides` is original, final, or both when the same bytes passed on both. `offset` is where they begin among all
    that passed there, in bytes; `chunks` counts all chunks that passed.
    """

    sides: str
    offset: int
    raw: bytes
    chunks: int


class StreamSide:
    """Hashes the bytes of one side as they pass, and puts its chunks together as a plain response."""

    def __init__(self, wire_format: WireFormat) -> None:
        self.chunks = 0
        self._assembler = BoundedAssembler(wire_format.assembler())
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._unsaved = bytearray()

    def __deepcopy__(self, memo: dict[int, object]) -> StreamSide:
        twin = copy.copy(self)
        twin.__dict__ |= {"_assembler": copy.deepcopy(self._assembler, memo), "_hash": self._hash.copy()}
        twin.__dict__["_unsaved"] = self._unsaved.copy()
        return twin

    def passed(self, raw: bytes, chunks: Sequence[Chunk]) -> None:
        """These bytes went over the wire, and these chunks are what they say."""
        self._hash.update(raw)
        self._size_bytes += len(raw)
        self._unsaved += raw
        self.chunks += len(chunks)
        for chunk in chunks:
            self._assembler.add(chunk)

    @property
    def unsaved_bytes(self) -> int:
        """How much has passed since the last delta was taken."""
        return len(self._unsaved)

    def take_delta(self, sides: str) -> Delta:
        """What has passed since the last delta was taken; belongs to the caller from now on."""
        raw, self._unsaved = bytes(self._unsaved), bytearray()
        return Delta(sides, self._size_bytes - len(raw), raw, self.chunks)

    @property
    def wire(self) -> Wire:
        return Wire(self._hash.digest(), self._size_bytes)

    @property
    def is_capped(self) -> bool:
        """Whether the response is put together of the beginning of the stream only."""
        return self._assembler.is_capped

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
    was released, so that the client does not wait for it. Where policies come between, both are watched for what
    their protocol does not allow.
    """

    def __init__(self, wire_format: WireFormat, *, may_change: bool) -> None:
        self.original = StreamSide(wire_format)
        self._final = StreamSide(wire_format) if may_change else None
        self._watch = SidesWatch(wire_format) if may_change else None
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
            if self._watch is not None:
                self._watch.arrived(chunks, len(raw))

    def ended(self) -> None:
        """The provider has sent all it had to, its end marker too."""
        self._catch_up()
        if self._watch is not None:
            self._watch.ended()

    def closed(self) -> None:
        """The client was given the end of its stream, or an error that ends it."""
        if self._watch is not None:
            self._watch.closed()

    @property
    def upstream_violations(self) -> Counter[str]:
        """How often the provider broke which rule of its protocol, if anybody watched."""
        return Counter() if self._watch is None else self._watch.upstream

    @property
    def gateway_violations(self) -> Counter[str]:
        """The rules that the client's side breaks, and the provider's does not."""
        return Counter() if self._watch is None else self._watch.gateway

    def released(self, raw: bytes, chunks: Sequence[Chunk]) -> None:
        """The client was given these: all that had arrived, unless policies come between."""
        if self._final is None:
            self._catch_up()
        else:
            self._final.passed(raw, chunks)
            if self._watch is not None:
                self._watch.given(chunks)

    @property
    def unsaved_bytes(self) -> int:
        """How much the larger of the next deltas would hold."""
        return max(self.original.unsaved_bytes, self.final.unsaved_bytes)

    def take_deltas(self) -> list[Delta]:
        """What has passed since this was called last: nothing, a delta for both sides, or one for each."""
        if self._final is None:
            deltas = [self.original.take_delta("both")]
        else:
            original, final = self.original.take_delta("original"), self._final.take_delta("final")
            is_same = (original.offset, original.raw) == (final.offset, final.raw)
            deltas = [replace(original, sides="both")] if is_same else [original, final]
        return [delta for delta in deltas if delta.raw]

    def diverge(self) -> None:
        """From here on the client gets something else than the provider sent, or nothing more."""
        if self._final is None:
            self._final = copy.deepcopy(self.original)
            self._catch_up()

    def _catch_up(self) -> None:
        for raw, chunks in self._arrived:
            self.original.passed(raw, chunks)
        self._arrived.clear()
