"""Writing stage records: a whole batch in one transaction, any number of times with the same result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from luthien.exchange import EventType, StageRecord
from luthien.store.calls import CALL_COLUMNS, as_text, as_time, call_rows, is_integer
from luthien.store.jsonb import is_jsonb_safe
from luthien.store.sql import query

Connection = psycopg.Connection[Any]
Key = tuple[UUID, int]

# Data exceptions, integrity violations, limits of the program, raised by a trigger, internal.
_ABOUT_CONTENT = frozenset({"22", "23", "54", "P0", "XX"})
# States of a transaction, rollbacks, rights and what is missing in the schema, resources, locks.
_ABOUT_DATABASE = frozenset({"25", "40", "42", "53", "55"})
_EVENT_TYPES = (
    *("uuid", "int4", "text", "timestamptz", "text", "text", "bytea", "bytea", "int8"),
    *("bool", "int4", "bytea", "int8", "jsonb"),
)


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


def write_batch(conn: Connection, records: Sequence[StageRecord], *, is_patient: bool = False) -> Written:
    """Stores records and what they say of their calls, all or nothing. Replaying them changes nothing.

    `is_patient` lifts the time limit for statements; a server that says nothing at all is not waited for, still.

    Raises nearly anything that Python or psycopg does, when a record is not what it should be; nothing was stored
    then, unless the connection broke while it committed.
    """
    first = {_key(record): record for record in reversed(records)}
    rows = [_event_row(record) for record in first.values()]
    with conn.transaction(), conn.cursor() as cursor:
        if is_patient:
            cursor.execute(query("be_patient"))
        with cursor.copy(query("copy_events")) as copy:
            copy.set_types(_EVENT_TYPES)
            for row in rows:
                copy.write_row(row)
        inserted = {key: first[key] for key in cursor.execute(query("insert_events"))}
        conflicting: list[StageRecord] = []
        if len(inserted) < len(records):
            known = {(row[0], row[1]): row[2:] for row in cursor.execute(query("known_events"))}
            conflicting = [record for record in records if known.get(_key(record)) != _identity(record)]
        _merge_calls(cursor, inserted.values())
        _supersede(cursor, inserted.values())
        for record in conflicting:
            quarantine(conn, record, "conflict", "another record has this call's sequence number")
        if inserted:
            cursor.execute(query("notify"))
    return Written(len(inserted), len(records) - len(inserted) - len(conflicting), len(conflicting))


def quarantine(conn: Connection, record: StageRecord, reason: str, error: str) -> None:
    """Sets a record aside that cannot be stored where it belongs, whatever is wrong with it, with the reason."""
    payload = record.payload if isinstance(record.payload, bytes) else None
    rest = _rest(record)
    conn.execute(
        query("quarantine"),
        (
            record.call_id,
            record.sequence if is_integer(record.sequence, "int4") else -1,
            hashlib.sha256((payload or b"") + rest.encode()).digest(),
            reason,
            as_text(error),
            as_text(str(record.event_type)),
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


def is_of_no_batch(error: psycopg.Error) -> bool:
    """Whether the database says that any batch would have failed now. A lost connection may be due to the batch."""
    return (error.sqlstate or "")[:2] in _ABOUT_DATABASE


def is_too_slow(error: Exception) -> bool:
    """Whether a statement was ended by its time limit."""
    return isinstance(error, psycopg.errors.QueryCanceled)


def _key(record: StageRecord) -> Key:
    return record.call_id, record.sequence


def _identity(record: StageRecord) -> tuple[Any, ...]:
    """What two records with the same key have in common if they are one; as `known_events` tells it."""
    return (
        record.event_type,
        record.span_id,
        as_time(record.recorded_at_ns),
        record.payload_sha256,
        record.payload_ref,
        record.wire_sha256,
    )


def _event_row(record: StageRecord) -> tuple[Any, ...]:
    payload = _bytes(record.payload)
    return (
        record.call_id,
        _integer(record.sequence, "int4"),
        record.event_type,
        as_time(record.recorded_at_ns),
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
    if value is not None and not is_integer(value, kind):
        raise OverflowError(f"{value} is no {kind}")
    return value


def _merge_calls(cursor: psycopg.Cursor[Any], records: Iterable[StageRecord]) -> None:
    rows = call_rows(records)
    if not rows:
        return
    with cursor.copy(query("copy_calls")) as copy:
        copy.set_types(tuple(CALL_COLUMNS.values()))
        for row in rows:
            copy.write_row([row.get(column) for column in CALL_COLUMNS])
    cursor.execute(query("merge_calls"))
    cursor.execute(query("queue_for_index"))


def _supersede(cursor: psycopg.Cursor[Any], records: Collection[StageRecord]) -> None:
    """Checkpoints lose their payloads when the stages they led to are stored, whichever of them comes first."""
    opened = {record.call_id for record in records if record.event_type == EventType.RESPONSE_PARTIAL}
    ended = {record.call_id for record in records if "luthien.checkpoints" in record.attributes}
    if opened or ended:
        calls = {"open": [*opened], "ended": [*ended], "calls": [*opened | ended]}
        cursor.execute(query("supersede"), calls)


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
    return value.hex() if isinstance(value, bytes) else str(value)
