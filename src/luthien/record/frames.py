"""Records as bytes on a disk: frames that tell whether they are whole.

A frame is

    marker 8 | crc32 4 | length of the description 4 | length of the payload 4 | description | payload

with integers in network order. The checksum covers all that follows it. The description is a MessagePack array, the
payload the record's exact bytes. The marker is random, another one for each segment, and stands in the
segment's name only: behind damage the next frame is found by it, and no payload can pretend to be a frame.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Any, NamedTuple
from uuid import UUID
from zlib import crc32

import msgspec

from luthien.exchange import StageRecord

MARKER_BYTES = 8
HEADER = Struct(">8sIII")
"""Marker, checksum, length of the description, length of the payload."""

_PREFIX = Struct(">8sI")
_LENGTHS = Struct(">II")
# A payload of no bytes is something else than none. Real ones are below 4 GiB by far: bodies have a limit.
_NO_PAYLOAD = 0xFFFFFFFF
_SEARCH_BYTES = 1 << 20

Read = Callable[[int, int], bytes]
"""Reads from an offset as many bytes; fewer at the end. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where no whole frame is. `is_last`: up to the end, as when a process dies while it writes."""

    start: int
    end: int
    is_last: bool


class Unencodable(ValueError):
    """A record is not what it should be, and cannot be written down."""


class _Header(NamedTuple):
    checksum: int
    payload_bytes: int
    frame_bytes: int


def new_marker() -> bytes:
    return secrets.token_bytes(MARKER_BYTES)


def encode(record: StageRecord, marker: bytes) -> list[bytes]:
    """The parts of a record's frame; the payload is not copied. Raises Unencodable."""
    try:
        payload = record.payload
        if payload is not None and not isinstance(payload, bytes):
            raise TypeError(f"bytes are needed, not {type(payload).__name__}")
        described = _description(record)
        body = _LENGTHS.pack(len(described), _NO_PAYLOAD if payload is None else len(payload)) + described
    except (TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, struct.error) as error:
        raise Unencodable(f"{type(error).__name__}: {error}") from error
    if not payload:
        return [_PREFIX.pack(marker, crc32(body)) + body]
    return [_PREFIX.pack(marker, crc32(payload, crc32(body))) + body, payload]


class FrameReader:
    """Reads the frames of one segment in order, from a position on, and steps over what is damaged."""

    def __init__(self, read: Read, marker: bytes, position: int = 0) -> None:
        self._read = read
        self._marker = marker
        self.position = position

    def next(self, end: int, room_bytes: int | None = None) -> StageRecord | Damage | None:
        """The next record before `end`, or the damage before it; None at the end.

        None also for a record whose payload has more than `room_bytes`: it stays the next one. Raises OSError.
        """
        start = self.position
        if start >= end:
            return None
        header = self._header(start, end)
        if header is not None and room_bytes is not None and header.payload_bytes > room_bytes:
            return None
        record = header and self._record(start, header)
        if header is None or record is None:
            self.position = self._next_whole(start, end)
            return Damage(start, self.position, is_last=self.position >= end)
        self.position = start + header.frame_bytes
        return record

    def _header(self, at: int, end: int) -> _Header | None:
        """The header of the frame that may be there."""
        raw = self._read(at, HEADER.size)
        if len(raw) < HEADER.size:
            return None
        marker, checksum, described_bytes, payload_bytes = HEADER.unpack(raw)
        held_bytes = 0 if payload_bytes == _NO_PAYLOAD else payload_bytes
        header = _Header(checksum, held_bytes, HEADER.size + described_bytes + held_bytes)
        return header if marker == self._marker and at + header.frame_bytes <= end else None

    def _record(self, at: int, header: _Header) -> StageRecord | None:
        """The record, if the frame is whole."""
        size = header.frame_bytes - _PREFIX.size
        body = self._read(at + _PREFIX.size, size)
        if len(body) < size or crc32(body) != header.checksum:
            return None
        described_bytes, payload_bytes = _LENGTHS.unpack_from(body)
        described_end = _LENGTHS.size + described_bytes
        payload = None if payload_bytes == _NO_PAYLOAD else body[described_end:]
        try:
            return _described(body[_LENGTHS.size : described_end], payload)
        except (ValueError, TypeError, AttributeError, RecursionError):  # whole, but written by something else
            return None

    def _next_whole(self, at: int, end: int) -> int:
        """Where, behind damage, the next whole frame begins; `end` if nowhere."""
        while (at := self._next_marker(at + 1, end)) < end:
            header = self._header(at, end)
            if header is not None and self._record(at, header) is not None:
                break
        return at

    def _next_marker(self, start: int, end: int) -> int:
        while start < end:
            raw = self._read(start, min(_SEARCH_BYTES, end - start))
            found = raw.find(self._marker)
            if found >= 0:
                return start + found
            if len(raw) < MARKER_BYTES:
                break
            start += len(raw) - MARKER_BYTES + 1
        return end


_to_msgpack = msgspec.msgpack.Encoder().encode
_from_msgpack = msgspec.msgpack.Decoder(list[Any]).decode


def _description(record: StageRecord) -> bytes:
    return _to_msgpack(
        (
            record.call_id.bytes,
            record.sequence,
            record.event_type,
            record.recorded_at_ns,
            record.trace_id,
            record.span_id,
            record.payload_sha256,
            record.payload_bytes,
            record.wire_sha256,
            record.wire_bytes,
            record.payload_ref,
            dict(record.attributes),
        )
    )


def _described(description: bytes, payload: bytes | None) -> StageRecord:
    values = _from_msgpack(description)
    call_id, sequence, event_type, recorded_at_ns, trace_id, span_id = values[:6]
    payload_sha256, payload_bytes, wire_sha256, wire_bytes, payload_ref, attributes = values[6:]
    return StageRecord(
        call_id=UUID(bytes=call_id),
        sequence=sequence,
        event_type=event_type,
        recorded_at_ns=recorded_at_ns,
        trace_id=trace_id,
        span_id=span_id,
        payload=payload,
        payload_sha256=payload_sha256,
        payload_bytes=payload_bytes,
        wire_sha256=wire_sha256,
        wire_bytes=wire_bytes,
        payload_ref=payload_ref,
        # The SDK makes tuples of all sequences.
        attributes={key: tuple(value) if isinstance(value, list) else value for key, value in attributes.items()},
    )
