"""The tables of the record, and rows for each of them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg

TABLES = (
    "conversation_calls",
    "conversation_events",
    "conversation_quarantine",
    "conversation_search",
    "conversation_changes",
    "conversation_decisions",
)


def insert_everywhere(conn: psycopg.Connection[Any], call_id: UUID, payload: bytes = b"x") -> None:
    """A row of a call in each table."""
    conn.execute("INSERT INTO conversation_calls (call_id) VALUES (%s)", (call_id,))
    conn.execute(
        "INSERT INTO conversation_events (call_id, sequence, event_type, recorded_at, payload)"
        " VALUES (%s, 0, 'request_original', now(), %s)",
        (call_id, payload),
    )
    conn.execute(
        "INSERT INTO conversation_quarantine (call_id, sequence, record_sha256, reason) VALUES (%s, 0, '', 'x')",
        (call_id,),
    )
    conn.execute("INSERT INTO conversation_search (call_id, document, algo) VALUES (%s, '', 1)", (call_id,))
    conn.execute(
        "INSERT INTO conversation_changes (call_id, number, side, op_id, action, kind, part)"
        " VALUES (%s, 0, 'request', 'r1', 'add', 'text', 'message')",
        (call_id,),
    )
    conn.execute(
        "INSERT INTO conversation_decisions"
        " (call_id, sequence, recorded_at, side, policy, version, action, changed, shadow)"
        " VALUES (%s, 0, now(), 'request', 'redact', '1', 'allow', false, false)",
        (call_id,),
    )
