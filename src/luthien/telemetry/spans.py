"""Starting and ending spans, and the one way in which a payload gets onto one."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import Span

from luthien.exchange import EventType
from luthien.record.sink import Receipt
from luthien.telemetry import conventions as names
from luthien.telemetry.processor import RECEIPTS

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MAX_NAME = 128
_MAX_TEXT = 1024
_MAX_INT = 2**63


@dataclass(frozen=True, slots=True)
class Wire:
    """What passed over the wire on one side of a stage: SHA-256 digest and length in bytes.

    `is_payload` says that a plain body passed, which is recorded as it is; a stream is recorded assembled.
    """

    sha256: bytes
    size_bytes: int
    is_payload: bool = False

    @classmethod
    def of(cls, body: bytes) -> Wire:
        return cls(hashlib.sha256(body).digest(), len(body), is_payload=True)


@dataclass(frozen=True, slots=True)
class StageEvent:
    """One record of a call on its way onto a span.

    `scalars` are named by `telemetry.conventions`; a None among them is left out.
    """

    event_type: EventType
    sequence: int
    payload: bytes | None = None
    payload_sha256: bytes | None = None
    payload_ref: int | None = None
    wire: Wire | None = None
    scalars: Mapping[str, Any] | None = None


def emit_stage(span: Span, event: StageEvent) -> None:
    """Puts a record on a span: the only caller of `add_event` for payloads.

    The payload's bytes are kept by reference and never converted.
    """
    attributes: dict[str, Any] = {names.STAGE: event.event_type.value, names.SEQUENCE: event.sequence}
    if event.payload is not None:
        sha256 = event.payload_sha256 or hashlib.sha256(event.payload).digest()
        attributes[names.PAYLOAD_SHA256] = sha256
        attributes[names.PAYLOAD_BYTES] = len(event.payload)
        if event.payload_ref is None:
            attributes[names.PAYLOAD] = event.payload
        else:
            attributes[names.PAYLOAD_REF] = event.payload_ref
    if event.wire is not None:
        attributes[names.WIRE_SHA256] = event.wire.sha256
        attributes[names.WIRE_BYTES] = event.wire.size_bytes
    if event.scalars:
        attributes |= safe_attributes(event.scalars)
    span.add_event(names.STAGE_EVENT, attributes)


def end_span(span: Span) -> list[Receipt]:
    """Ends a span; the receipts say when the records on it are safe."""
    receipts: list[Receipt] = []
    token = RECEIPTS.set(receipts)
    try:
        span.end()
    finally:
        RECEIPTS.reset(token)
    return receipts


def safe_attributes(values: Mapping[str, Any]) -> dict[str, bool | int | float | str | Sequence[str]]:
    """Those values that are fit for an exporter."""
    return {key: scalar for key, value in values.items() if (scalar := safe_scalar(value)) is not None}


def clean_name(text: str) -> str:
    """A client's word made fit for a span name: a lone surrogate there fails a whole export batch."""
    return _UNSAFE.sub("\ufffd", text[:_MAX_NAME])


def safe_scalar(value: Any) -> bool | int | float | str | Sequence[str] | None:
    """The value as an attribute that every exporter can encode, bounded in length; None when it is none."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _UNSAFE.sub("\ufffd", value[:_MAX_TEXT])
    if isinstance(value, int):
        return value if -_MAX_INT <= value < _MAX_INT else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return tuple(_UNSAFE.sub("\ufffd", item[:_MAX_TEXT]) for item in value[:_MAX_NAME])
    return None
