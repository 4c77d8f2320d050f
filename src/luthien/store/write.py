"""Writing stage records: a whole batch in one transaction, any number of times with the same result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from luthien.exchange import EventType, StageRecord, call_time_ms
from luthien.store.jsonb import is_jsonb_safe
from luthien.store.sql import query

Connection = psycopg.Connection[Any]
Key = tuple[UUID, int]
Row = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INTEGER_BITS = {"int4": 31, "int8": 63}
# An entry of an index has at most 2,704 bytes: whoever chose a longer one would keep the call out of the record.
_MAX_SESSION_BYTES = 1024
# Data exceptions, integrity violations, limits of the program, what is not supported, raised by a trigger, internal.
_ABOUT_CONTENT = frozenset({"22", "23", "54", "0A", "P0", "XX"})
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
    """Sets time limits, and makes the temporary tables that batches pass through; once per connection."""
    for name in ("session", "stage_incoming", "stage_incoming_calls"):
        conn.execute(query(name))


def write_batch(conn: Connection, records: Sequence[StageRecord]) -> Written:
    """Stores records and what they say of their calls, all or nothing. Replaying them changes nothing.

    Raises nearly anything that Python or psycopg does, when a record is not what it should be; nothing was stored
    then, unless the connection broke while it committed.
    """
    first, again = _first_of_each(records)
    rows = [_event_row(record) for record in first.values()]
    with conn.transaction(), conn.cursor() as cursor:
        with cursor.copy(query("copy_events")) as copy:
            copy.set_types(_EVENT_TYPES)
            for row in rows:
                copy.write_row(row)
        stored = set(cursor.execute(query("insert_events")).fetchall())
        conflicting = [record for record in again if _identity(record) != _identity(first[_key(record)])]
        if len(stored) < len(first):
            taken = set(cursor.execute(query("conflicting_events")).fetchall())
            conflicting += [first[key] for key in taken]
        _merge_calls(cursor, [record for key, record in first.items() if key in stored])
        for record in conflicting:
            quarantine(conn, record, "conflict", "another record has this call's sequence number")
        if stored:
            cursor.execute(query("notify"))
    return Written(len(stored), len(records) - len(stored) - len(conflicting), len(conflicting))


def quarantine(conn: Connection, record: StageRecord, reason: str, error: str) -> None:
    """Sets a record aside that cannot be stored where it belongs, whatever is wrong with it, with the reason."""
    payload = record.payload if isinstance(record.payload, bytes) else None
    rest = _rest(record)
    conn.execute(
        query("quarantine"),
        (
            record.call_id,
            max(-(2**31), min(int(record.sequence), 2**31 - 1)),
            hashlib.sha256((payload or b"") + rest.encode()).digest(),
            reason,
            _text(error),
            _text(str(record.event_type)),
            payload,
            rest,
        ),
    )


def is_about_content(error: Exception) -> bool:
    """Whether a batch failed for what is in it; else it is whole, and may be stored when it is tried again."""
    if not isinstance(error, psycopg.Error):
        return not isinstance(error, (OSError, MemoryError))
    if error.sqlstate is None:  # psycopg itself says so
        return not isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return error.sqlstate[:2] in _ABOUT_CONTENT


def _key(record: StageRecord) -> Key:
    return record.call_id, record.sequence


def _identity(record: StageRecord) -> tuple[Any, ...]:
    """What two records with the same key have in common if they are one; `conflicting_events` compares it too."""
    return (
        record.event_type,
        record.span_id,
        record.recorded_at_ns // 1000,
        record.payload_sha256,
        record.payload_ref,
        record.wire_sha256,
    )


def _first_of_each(records: Sequence[StageRecord]) -> tuple[dict[Key, StageRecord], list[StageRecord]]:
    """The first record of each key, and those whose key had come before."""
    first: dict[Key, StageRecord] = {}
    again = [record for record in records if first.setdefault(_key(record), record) is not record]
    return first, again


def _event_row(record: StageRecord) -> tuple[Any, ...]:
    payload = _bytes(record.payload)
    return (
        record.call_id,
        _integer(record.sequence, "int4"),
        record.event_type,
        _time(record.recorded_at_ns),
        record.trace_id,
        record.span_id,
        payload,
        _bytes(record.payload_sha256),
        _integer(record.payload_bytes, "int8"),
        payload is not None and is_jsonb_safe(payload),
        _integer(record.payload_ref, "int4"),
        _bytes(record.wire_sha256),
        _integer(record.wire_bytes, "int8"),
        Jsonb(dict(record.attributes)),
    )


def _bytes(value: bytes | None) -> bytes | None:
    # psycopg makes five NUL bytes of the number 5.
    if value is not None and not isinstance(value, bytes):
        raise TypeError(f"bytes are needed, not {type(value).__name__}")
    return value


def _integer(value: int | None, kind: str) -> int | None:
    # psycopg's binary format wraps around: 2**31 would be stored as -2**31.
    if value is not None and not _fits(value, kind):
        raise OverflowError(f"{value} is no {kind}")
    return value


def _fits(value: Any, kind: str) -> bool:
    limit: int = 1 << _INTEGER_BITS[kind]
    return isinstance(value, int) and not isinstance(value, bool) and -limit <= value < limit


def _merge_calls(cursor: psycopg.Cursor[Any], records: Sequence[StageRecord]) -> None:
    calls: dict[UUID, Row] = {}
    for record in records:
        row = calls.get(record.call_id)
        if row is None:
            started_at = _EPOCH + timedelta(milliseconds=call_time_ms(record.call_id))
            row = calls[record.call_id] = {
                "call_id": record.call_id,
                "trace_id": record.trace_id or None,
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
        row[column] = _fitting(get(attribute), _CALL_TYPES[column])
    if record.event_type == EventType.REQUEST_ORIGINAL:
        row["session_id"] = _clipped(row["session_id"])
    elif record.event_type == EventType.POLICY_DECISION:
        row["decisions"] += 1
    elif record.event_type == EventType.CALL_OUTCOME:
        row["ended_at"] = _time(record.recorded_at_ns)
        steps = [str(step).rpartition("@") for step in get("luthien.policies") or ()]
        row["policies"] = Jsonb([{"name": name, "version": version} for name, _, version in steps])


def _fitting(value: Any, kind: str) -> Any:
    """The value if its column can hold it, else None: a client's or a provider's oddity costs no record."""
    if kind == "text":
        return _text(value) if isinstance(value, str) else None
    if kind == "bool":
        return value if isinstance(value, bool) else None
    if kind == "float8":
        return value if isinstance(value, (int, float)) else None
    return value if _fits(value, kind) else None


def _clipped(session_id: str | None) -> str | None:
    return session_id and session_id.encode()[:_MAX_SESSION_BYTES].decode("utf-8", "ignore")


def _rest(record: StageRecord) -> str:
    """All of a record but its payload, as JSON in ASCII, whatever it holds."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    if isinstance(record.payload, bytes):
        del values["payload"]
    try:
        return json.dumps(values, default=_as_json, skipkeys=True)
    except (ValueError, RecursionError) as error:  # a cycle, or too deep
        values["attributes"] = type(error).__name__
        return json.dumps(values, default=_as_json)


def _as_json(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    return value.hex() if isinstance(value, bytes) else repr(value)


def _time(ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ns // 1000)


def _text(value: str) -> str:
    """Without what a text column cannot hold."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
