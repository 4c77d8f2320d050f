"""Stage records to write, as a call would leave them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import psycopg

from luthien.exchange import EventType, StageRecord, new_call_id
from luthien.store.write import prepare, write_batch

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"


def call_at(unix_s: float) -> UUID:
    """An id as a call of that time has it."""
    return UUID(int=int(unix_s * 1000) << 80 | new_call_id().int & (1 << 80) - 1)


def record(
    call_id: UUID | None = None,
    sequence: int = 0,
    event_type: str = EventType.REQUEST_ORIGINAL,
    payload: bytes | None = b'{"model": "m"}',
    **values: Any,
) -> StageRecord:
    """A record with these values, and plausible ones for the others."""
    plausible: dict[str, Any] = {
        "recorded_at_ns": time.time_ns() // 1000 * 1000,
        "trace_id": TRACE_ID,
        "span_id": SPAN_ID,
        "payload_sha256": None if payload is None else hashlib.sha256(payload).digest(),
        "payload_bytes": None if payload is None else len(payload),
    }
    return StageRecord(call_id or new_call_id(), sequence, event_type, payload=payload, **(plausible | values))


def whole_call(call_id: UUID | None = None) -> list[StageRecord]:
    """All that a completed call with two policies leaves."""
    call_id = call_id or new_call_id()
    request, response = b'{"model": "m", "messages": []}', b'{"choices": []}'
    stages: list[tuple[str, bytes | None, dict[str, Any]]] = [
        (
            EventType.REQUEST_ORIGINAL,
            request,
            {
                "luthien.wire_format": "openai_chat",
                "gen_ai.request.model": "m",
                "luthien.streaming": False,
                "gen_ai.conversation.id": "a session",
                "luthien.gateway_key": "team-a",
            },
        ),
        (EventType.POLICY_DECISION, None, {"luthien.policy.name": "first"}),
        (EventType.POLICY_DECISION, None, {"luthien.policy.name": "second"}),
        (EventType.REQUEST_FINAL, request, {"gen_ai.provider.name": "openai", "luthien.changed": False}),
        (
            EventType.RESPONSE_ORIGINAL,
            response,
            {"gen_ai.response.model": "m-1", "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 5},
        ),
        (EventType.RESPONSE_FINAL, response, {"luthien.changed": True}),
        (
            EventType.CALL_OUTCOME,
            None,
            {
                "luthien.outcome": "completed",
                "luthien.gateway_key": "team-a",
                "http.response.status_code": 200,
                "luthien.duration": 12.5,
                "luthien.policies": ("first@1", "second@2"),
                "luthien.records.emitted": 7,
            },
        ),
    ]
    return [
        record(call_id, sequence, event_type, payload, attributes=attributes)
        for sequence, (event_type, payload, attributes) in enumerate(stages)
    ]


def keys(records: Iterable[StageRecord]) -> set[tuple[UUID, int]]:
    return {(each.call_id, each.sequence) for each in records}


def store(dsn: str, *records: StageRecord) -> None:
    """Writes them into a migrated database, as the writer would."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        prepare(conn)
        write_batch(conn, records)
