"""Writing stage records: a whole batch in one transaction, any number of times with the same result."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from luthien.exchange import EventType, StageRecord, call_time_ms
from luthien.store.sql import query

Connection = psycopg.Connection[Any]
Key = tuple[UUID, int]
Row = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVENT_TYPES = (
    *("uuid", "int4", "text", "timestamptz", "text", "text", "bytea", "bytea", "int8"),
    *("bool", "int4", "bytea", "int8", "jsonb"),
)

# Which attribute of which kind of record fills which column of a call. Each column has one owner.
_COLUMNS: dict[str, dict[str, str]] = {
    EventType.REQUEST_ORIGINAL: {
        "luthien.wire_format": "wire_format",
        "gen_ai.request.model": "model_requested",
        "luthien.streaming": "streaming",
        "gen_ai.conversation.id": "session_id",
    },
    EventType.REQUEST_FINAL: {
        "gen_ai.provider.name": "provider",
        "luthien.changed": "request_changed",
    },
    EventType.RESPONSE_ORIGINAL: {
        "gen_ai.response.model": "model_used",
        "gen_ai.usage.input_tokens": "input_tokens",
        "gen_ai.usage.output_tokens": "output_tokens",
    },
    EventType.RESPONSE_FINAL: {"luthien.changed": "response_changed"},
    EventType.CALL_OUTCOME: {
        "luthien.outcome": "outcome",
        "http.response.status_code": "http_status",
        "error.type": "error_type",
        "luthien.error.message": "error_message",
        "luthien.duration": "duration_ms",
        "luthien.duration.gateway": "gateway_ms",
        "luthien.duration.policy": "policy_ms",
        "luthien.duration.upstream": "upstream_ms",
        "luthien.first_chunk.upstream": "upstream_first_chunk_ms",
        "luthien.first_chunk.client": "client_first_chunk_ms",
        "luthien.records.emitted": "records_emitted",
    },
}

_CALL_TYPES = {
    "call_id": "uuid",
    "trace_id": "text",
    "session_id": "text",
    "started_at": "timestamptz",
    "ended_at": "timestamptz",
    "wire_format": "text",
    "provider": "text",
    "model_requested": "text",
    "model_used": "text",
    "streaming": "bool",
    "outcome": "text",
    "http_status": "int4",
    "error_type": "text",
    "error_message": "text",
    "policies": "jsonb",
    "request_changed": "bool",
    "response_changed": "bool",
    "decisions": "int4",
    "input_tokens": "int8",
    "output_tokens": "int8",
    "duration_ms": "float8",
    "gateway_ms": "float8",
    "policy_ms": "float8",
    "upstream_ms": "float8",
    "upstream_first_chunk_ms": "float8",
    "client_first_chunk_ms": "float8",
    "records_emitted": "int4",
    "records_stored": "int4",
}


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch: records stored, there already, and set aside since their key was taken."""

    stored: int
    replayed: int
    conflicting: int


def prepare(conn: Connection) -> None:
    """Makes the temporary tables that batches pass through; once per connection."""
    conn.execute(query("stage_incoming"))
    conn.execute(query("stage_incoming_calls"))


def write_batch(conn: Connection, records: Sequence[StageRecord]) -> Written:
    """Stores records and what they say of their calls, all or nothing. Replaying them changes nothing.

    Raises:
        psycopg.Error: nothing was stored.
    """
    with conn.transaction(), conn.cursor() as cursor:
        with cursor.copy(query("copy_events")) as copy:
            copy.set_types(_EVENT_TYPES)
            for record in records:
                copy.write_row(_event_row(record))
        inserted = cursor.execute(query("insert_events")).fetchall()
        conflicting: list[StageRecord] = []
        if len(inserted) == len(records):
            new: Iterable[StageRecord] = records
        else:
            keys = {(call_id, sequence) for call_id, sequence in inserted}
            new = _once(records, keys)
            taken = {(call_id, sequence) for call_id, sequence in cursor.execute(query("conflicting_events"))}
            conflicting = [record for record in records if _key(record) in taken and _key(record) not in keys]
        _merge_calls(cursor, new)
        for record in conflicting:
            quarantine(conn, record, "conflict", "another record has this call's sequence number")
        cursor.execute(query("notify"))
    stored = len(inserted)
    return Written(stored, len(records) - stored - len(conflicting), len(conflicting))


def quarantine(conn: Connection, record: StageRecord, reason: str, error: str) -> None:
    """Sets a record aside that cannot be stored where it belongs, with the reason."""
    attributes = json.dumps(dict(record.attributes), default=str)
    conn.execute(
        query("quarantine"),
        (
            record.call_id,
            _int4(record.sequence),
            _digest(record, attributes),
            reason,
            _text(error),
            _text(record.event_type),
            record.payload,
            _text(attributes),
        ),
    )


def _key(record: StageRecord) -> Key:
    return record.call_id, record.sequence


def _once(records: Sequence[StageRecord], keys: set[Key]) -> list[StageRecord]:
    """The records with these keys, the first of each."""
    left = set(keys)
    chosen: list[StageRecord] = []
    for record in records:
        if _key(record) in left:
            left.remove(_key(record))
            chosen.append(record)
    return chosen


def _event_row(record: StageRecord) -> tuple[Any, ...]:
    return (
        record.call_id,
        record.sequence,
        record.event_type,
        _time(record.recorded_at_ns),
        record.trace_id,
        record.span_id,
        record.payload,
        record.payload_sha256,
        record.payload_bytes,
        record.payload is not None and is_jsonb_safe(record.payload),
        record.payload_ref,
        record.wire_sha256,
        record.wire_bytes,
        Jsonb(dict(record.attributes)),
    )


def _merge_calls(cursor: psycopg.Cursor[Any], records: Iterable[StageRecord]) -> None:
    calls: dict[UUID, Row] = {}
    for record in records:
        row = calls.get(record.call_id)
        if row is None:
            started_at = _EPOCH + timedelta(milliseconds=call_time_ms(record.call_id))
            row = calls[record.call_id] = {
                "call_id": record.call_id,
                "trace_id": record.trace_id,
                "started_at": started_at,
                "decisions": 0,
                "records_stored": 0,
            }
        row["records_stored"] += 1
        _contribute(row, record)
    if not calls:
        return
    with cursor.copy(query("copy_calls")) as copy:
        copy.set_types(tuple(_CALL_TYPES.values()))
        for row in calls.values():
            copy.write_row([row.get(column) for column in _CALL_TYPES])
    cursor.execute(query("merge_calls"))


def _contribute(row: Row, record: StageRecord) -> None:
    """What a record says of its call."""
    get = record.attributes.get
    for attribute, column in _COLUMNS.get(record.event_type, {}).items():
        row[column] = get(attribute)
    if record.event_type == EventType.POLICY_DECISION:
        row["decisions"] += 1
    elif record.event_type == EventType.CALL_OUTCOME:
        row["ended_at"] = _time(record.recorded_at_ns)
        steps = [str(step).rpartition("@") for step in get("luthien.policies") or ()]
        row["policies"] = Jsonb([{"name": name, "version": version} for name, _, version in steps])


_JSONB_TRAPS = re.compile(rb"\\u0000|\\u[dD][89a-fA-F]|[0-9.][eE][+-]?[0-9]{4}|[0-9]{1000}")
_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"[{]}", b"\x01\x01\x02\x02")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_MAX_DEPTH = 500


def is_jsonb_safe(payload: bytes) -> bool:
    """Whether Postgres can cast these bytes to `jsonb` without an error; in doubt, it is said that it cannot."""
    try:
        json.loads(payload, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return payload[:3] != b"\xef\xbb\xbf" and not _JSONB_TRAPS.search(payload) and _depth(payload) <= _MAX_DEPTH


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _depth(payload: bytes) -> int:
    if payload.count(b"[") + payload.count(b"{") <= _MAX_DEPTH:
        return 0
    brackets = _JSON_STRING.sub(b"", payload).translate(_BRACKETS, _NOT_BRACKETS)
    return max(accumulate(1 if bracket == 1 else -1 for bracket in brackets), default=0)


def _digest(record: StageRecord, attributes: str) -> bytes:
    digest = hashlib.sha256(record.payload or b"")
    digest.update(f"{record.event_type}|{record.payload_sha256!r}|{attributes}".encode("utf-8", "replace"))
    return digest.digest()


def _time(ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ns // 1000)


def _int4(value: int) -> int:
    return max(-(2**31), min(value, 2**31 - 1))


def _text(value: str) -> str:
    """Without what a text column cannot hold."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
