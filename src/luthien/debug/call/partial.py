"""What the checkpoints of a stream add up to, where its end was never recorded. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from luthien.exchange import EventType, StageRecord
from luthien.formats import jsontext
from luthien.formats.format import WireFormat
from luthien.formats.registry import FORMATS
from luthien.formats.sse import FrameReader

_SIDES = {EventType.RESPONSE_ORIGINAL: "original", EventType.RESPONSE_FINAL: "final"}


@dataclass(frozen=True, slots=True)
class Partial:
    """One side of a stream as far as its checkpoints have it without a gap.

    `raw` is the bytes of the stream, `payload` what they say as a plain response; `chunks` counts its frames.
    """

    raw: bytes
    payload: bytes
    chunks: int
    as_of_ns: int


def partial_of(stage: EventType, records: Iterable[StageRecord], wire_format: str | None) -> Partial | None:
    """What there is of a stage of the response; None when no checkpoint has anything of it."""
    side = _SIDES.get(stage)
    if side is None:
        return None
    deltas = [
        record
        for record in records
        if record.event_type == EventType.RESPONSE_PARTIAL
        and record.attributes.get("luthien.checkpoint.sides") in (side, "both")
    ]
    parts: list[bytes] = []
    offset = 0
    last: StageRecord | None = None
    for delta in sorted(deltas, key=lambda record: record.sequence):
        payload = delta.payload
        is_next = delta.attributes.get("luthien.checkpoint.offset") == offset
        if payload is None or not is_next or hashlib.sha256(payload).digest() != delta.payload_sha256:
            break
        parts.append(payload)
        offset += delta.wire_bytes or 0  # not of the payload: what is masked in it has another length
        last = delta
    if last is None:
        return None
    raw = b"".join(parts)
    known = next((each for each in FORMATS if each.name == wire_format), None)
    chunks = last.attributes.get("luthien.chunks")
    return Partial(raw, _assembled(raw, known), chunks if isinstance(chunks, int) else 0, last.recorded_at_ns)


def _assembled(raw: bytes, wire_format: WireFormat | None) -> bytes:
    """The response that the frames add up to; the frames themselves where that cannot be said."""
    if wire_format is None:
        return raw
    assembler = wire_format.assembler()
    for chunk in FrameReader(len(raw)).feed(raw):
        assembler.add(chunk)
    response = assembler.result()
    return raw if response is None else jsontext.render(response)
