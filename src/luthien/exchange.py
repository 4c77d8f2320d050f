"""The words every layer shares: what a call is, how it can end, and what is kept of it.

Nothing here does I/O and nothing here knows spans, rows or wire formats.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID


class Outcome(StrEnum):
    """How a call ended; every call has exactly one."""

    COMPLETED = "completed"
    BLOCKED = "blocked"
    CLIENT_DISCONNECTED = "client_disconnected"
    UPSTREAM_ERROR = "upstream_error"
    POLICY_ERROR = "policy_error"
    REJECTED = "rejected"


class EventType(StrEnum):
    """The kinds of record a call leaves, in the order in which they usually come."""

    REQUEST_ORIGINAL = "request_original"
    POLICY_DECISION = "policy_decision"
    REQUEST_FINAL = "request_final"
    RESPONSE_PARTIAL = "response_partial"
    RESPONSE_TIMELINE = "response_timeline"
    RESPONSE_ORIGINAL = "response_original"
    RESPONSE_FINAL = "response_final"
    CALL_OUTCOME = "call_outcome"


STAGES = (
    EventType.REQUEST_ORIGINAL,
    EventType.REQUEST_FINAL,
    EventType.RESPONSE_ORIGINAL,
    EventType.RESPONSE_FINAL,
)
"""The four stages that every call's page accounts for."""


class Side(StrEnum):
    """Which half of an exchange a policy looked at."""

    REQUEST = "request"
    RESPONSE = "response"


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One event of a call as it is kept: neutral between the span it came from and the row it becomes.

    `sequence` counts from 0 without gaps within a call. `payload` is the exact bytes, None when the stage has
    none or when `payload_ref` (the sequence of another record of the same call) holds the same bytes.
    Hashes are SHA-256 digests of 32 bytes; `payload_*` describe the payload as stored, `wire_*` what passed
    over the wire on that side.
    """

    call_id: UUID
    sequence: int
    event_type: str
    recorded_at_ns: int
    trace_id: str
    span_id: str
    payload: bytes | None = None
    payload_sha256: bytes | None = None
    payload_bytes: int | None = None
    wire_sha256: bytes | None = None
    wire_bytes: int | None = None
    payload_ref: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """What this record costs in memory, roughly: its payload and a flat allowance for the rest."""
        return len(self.payload or b"") + 1024


class CallIds:
    """Makes UUIDv7 call ids that never run backwards within a process, even when the clock does.

    RFC 9562, section 5.7: 48 bits of Unix milliseconds, then randomness; 12 bits of the latter count up
    within one millisecond (method 1 of section 6.2).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ms = 0
        self._counter = 0

    def next(self) -> UUID:
        with self._lock:
            now_ms = max(self._last_ms, time.time_ns() // 1_000_000)
            if now_ms > self._last_ms:
                self._last_ms, self._counter = now_ms, secrets.randbits(11)
            elif self._counter < 0xFFF:
                self._counter += 1
            else:
                self._last_ms, self._counter = now_ms + 1, secrets.randbits(11)
            stamp, counter = self._last_ms, self._counter
        return UUID(int=stamp << 80 | 0x7 << 76 | counter << 64 | 0b10 << 62 | secrets.randbits(62))


def call_time_ms(call_id: UUID) -> int:
    """The Unix time in milliseconds at which a UUIDv7 was made."""
    return call_id.int >> 80


new_call_id = CallIds().next
