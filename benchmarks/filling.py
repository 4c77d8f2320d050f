"""A record as months of traffic leave it, made inside Postgres."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import psycopg

from luthien.store.partitions import PartitionKeeper, day_range

_WEEKEND = 0.4
"""How many calls a day at the weekend has, for each of a working day."""

# The number of a call becomes a time of its day, most of them in the afternoon; the rest of the id is random, as in
# any UUIDv7.
_CALLS = """
    INSERT INTO conversation_calls (
        call_id, trace_id, session_id, started_at, ended_at, wire_format, provider, model_requested, model_used,
        streaming, outcome, http_status, error_type, policies, request_changed, response_changed, decisions,
        input_tokens, output_tokens, duration_ms, gateway_ms, policy_ms, upstream_ms, upstream_first_chunk_ms,
        client_first_chunk_ms, records_emitted, records_stored
    )
    SELECT
        (lpad(to_hex(ms), 12, '0') || '7' || substr(hash, 1, 3) || 'a' || substr(hash, 4, 15))::uuid,
        hash,
        CASE WHEN n %% 10 < 7 THEN 'session-' || %(day)s || '-' || n / 20 END,
        to_timestamp(ms / 1000.0),
        to_timestamp((ms + spread %% 30000) / 1000.0),
        CASE WHEN n %% 3 = 0 THEN 'anthropic_messages' ELSE 'openai_chat' END,
        CASE WHEN n %% 3 = 0 THEN 'anthropic' ELSE 'openai' END,
        (ARRAY['gpt-4o-mini', 'gpt-4o', 'claude-sonnet-4-5', 'claude-haiku-4-5'])[1 + spread %% 4],
        (ARRAY['gpt-4o-mini-2024-07-18', 'gpt-4o-2024-11-20', 'claude-sonnet-4-5-20250929'])[1 + spread %% 3],
        n %% 2 = 0,
        CASE WHEN spread %% 100 >= 5 THEN 'completed'
             ELSE (ARRAY['blocked', 'client_disconnected', 'upstream_error', 'rejected', NULL])[1 + spread %% 5] END,
        CASE WHEN spread %% 100 >= 5 THEN 200 ELSE 403 END,
        CASE WHEN spread %% 100 < 5 THEN 'policy_blocked' END,
        '[{"name": "replace_text", "version": "3f2a91c0"}]',
        n %% 4 = 0, n %% 5 = 0, 2, spread %% 8000, spread %% 900,
        spread %% 30000, 1.5, 0.4, spread %% 29000, spread %% 900, spread %% 900, 2, 2
    FROM (
        SELECT
            n, hash, ('x' || substr(hash, 20, 7))::bit(28)::int AS spread,
            %(first_ms)s + floor(86400000 * (u - 0.12 * sin(2 * pi() * (u + 0.1)) + 0.12 * sin(0.2 * pi())))::bigint
                AS ms
        FROM (
            SELECT n, md5(%(day)s || '/' || n) AS hash, (n - 1)::float8 / %(calls)s AS u
            FROM generate_series(1, %(calls)s) AS n
        ) AS numbered
    ) AS timed
"""
_EVENTS = """
    INSERT INTO conversation_events (
        call_id, sequence, event_type, recorded_at, trace_id, span_id, payload, payload_sha256, payload_bytes,
        payload_is_jsonb_safe, attributes
    )
    SELECT
        call_id, sequence, (ARRAY['request_original', 'call_outcome'])[1 + sequence], started_at, trace_id,
        substr(trace_id, 1, 16), payload, sha256(payload), length(payload), payload IS NOT NULL,
        '{"luthien.wire_format": "openai_chat"}'
    FROM conversation_calls
    CROSS JOIN generate_series(0, 1) AS sequence
    CROSS JOIN LATERAL (
        SELECT CASE WHEN sequence = 0 THEN convert_to('{"model": "' || model_requested || '", "n": 1}', 'UTF8') END
    ) AS made (payload)
    WHERE call_id >= %(first)s AND call_id < %(end)s
"""


def fill(
    conn: psycopg.Connection[Any], calls: int, last_day: date, days: int, progress: Callable[[str], None]
) -> None:
    """Fills an empty record: `calls` calls in the days up to `last_day`, each with two small records of its own.

    The connection must be in autocommit mode.
    """
    conn.execute("SET synchronous_commit = off")
    listed = [last_day - timedelta(days=days - 1 - number) for number in range(days)]
    PartitionKeeper().ensure(conn, [*listed, last_day + timedelta(days=1), last_day + timedelta(days=2)])
    weights = [_WEEKEND if day.weekday() >= 5 else 1.0 for day in listed]
    made = 0
    for number, day in enumerate(listed):
        until = math.floor(calls * sum(weights[: number + 1]) / sum(weights) + 1e-6)
        first, end = day_range(day)
        asked = {"day": day.isoformat(), "calls": until - made, "first_ms": first.int >> 80}
        conn.execute(_CALLS, asked)
        conn.execute(_EVENTS, {"first": first, "end": end})
        made = until
        progress(f"{day}: {made:,} of {calls:,} calls")
    conn.execute("SET synchronous_commit = on")
    conn.execute("VACUUM (ANALYZE)")
    conn.execute("CHECKPOINT")
