"""A record with all that pages read, index included, as a month of traffic leaves it; made inside Postgres.

Ten records a call, with small but real payloads, so that every page can be opened. Most of the calls are of the last
day. Models, policies and outcomes are as unequal as they are in life; words follow Zipf's law.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

import psycopg

from luthien.debug.search.indexed import ALGO
from luthien.store.facets import SLOT_MS, SPAN
from luthien.store.partitions import PartitionKeeper, day_range

RECORDS_A_CALL = 10
_LAST_DAY = 6.0
"""How many calls the last day has, for each of another working day."""
_WEEKEND = 0.4
_UNINDEXED = 50

_CALLS = """
    INSERT INTO conversation_calls (
        call_id, trace_id, session_id, started_at, ended_at, wire_format, provider, model_requested, model_used,
        streaming, outcome, http_status, error_type, policies, request_changed, response_changed, decisions,
        input_tokens, output_tokens, duration_ms, gateway_ms, policy_ms, upstream_ms, upstream_first_chunk_ms,
        client_first_chunk_ms, records_emitted, records_stored, stages_stored, gateway_key
    )
    SELECT
        call_id, hash,
        CASE WHEN n %% 10 < 7 THEN 'session-' || %(day)s || '-' || n / 20 END,
        to_timestamp(ms / 1000.0),
        CASE WHEN spread %% 10000 <> 17 THEN to_timestamp((ms + spread %% 30000) / 1000.0) END,
        CASE WHEN is_other THEN 'anthropic_messages' ELSE 'openai_chat' END,
        CASE WHEN is_other THEN 'anthropic' ELSE 'openai' END,
        model, model || '-2026-01-01', n %% 2 = 0, outcome,
        CASE WHEN outcome = 'completed' THEN 200 WHEN outcome IS NOT NULL THEN 403 END,
        CASE WHEN outcome <> 'completed' THEN 'policy_blocked' END,
        CASE WHEN outcome IS NOT NULL THEN
            '[{"name": "redact", "version": "3f2a91c0"}]'::jsonb
            || CASE WHEN spread %% 50 = 7 THEN '[{"name": "block_tools", "version": "11aa22bb"}]'::jsonb ELSE '[]' END
            || CASE WHEN spread %% 5000 = 7 THEN '[{"name": "judge", "version": "0badcafe"}]'::jsonb ELSE '[]' END
        END,
        spread %% 10 = 0, spread %% 40 = 1, 3, spread %% 8000, spread %% 900,
        spread %% 30000, 1.5, 0.4, spread %% 29000, spread %% 900, spread %% 900,
        CASE WHEN outcome IS NOT NULL THEN 10 END, 10, 4,
        (ARRAY['team-a', 'team-b', 'team-c', 'ci'])[1 + spread %% 4]
    FROM (
        SELECT
            n, hash, ms, spread, spread %% 10 < 2 AS is_other,
            (lpad(to_hex(ms), 12, '0') || '7' || substr(hash, 1, 3) || 'a' || substr(hash, 4, 15))::uuid AS call_id,
            CASE
                WHEN spread %% 10 < 2 THEN CASE WHEN spread %% 70 < 60 THEN 'claude-sonnet' ELSE 'claude-haiku' END
                WHEN spread %% 100000 = 99 THEN 'gpt-rare'
                WHEN spread %% 100 < 70 THEN 'gpt-4o-mini'
                ELSE 'gpt-4o'
            END AS model,
            CASE
                WHEN spread %% 10000 = 17 THEN NULL
                WHEN spread %% 1000 < 960 THEN 'completed'
                WHEN spread %% 1000 < 990 THEN 'blocked'
                WHEN spread %% 1000 < 998 THEN 'upstream_error'
                WHEN spread %% 1000 < 999 THEN 'client_disconnected'
                ELSE 'policy_error'
            END AS outcome
        FROM (
            SELECT
                n, hash, ('x' || substr(hash, 20, 7))::bit(28)::int AS spread,
                %(first_ms)s + floor(%(length_ms)s * (n - 1)::float8 / %(calls)s)::bigint AS ms
            FROM (SELECT n, md5(%(day)s || '/' || n) AS hash FROM generate_series(1, %(calls)s) AS n) AS numbered
        ) AS timed
    ) AS made
"""

_EVENTS = """
    INSERT INTO conversation_events (
        call_id, sequence, event_type, recorded_at, trace_id, span_id, payload, payload_sha256, payload_bytes,
        payload_is_jsonb_safe, wire_sha256, wire_bytes, attributes
    )
    SELECT
        call_id, sequence,
        (ARRAY['request_original', 'policy_decision', 'policy_decision', 'request_final', 'response_partial',
            'response_partial', 'response_original', 'policy_decision', 'response_final',
            'call_outcome'])[1 + sequence],
        started_at, trace_id, substr(trace_id, 1, 16), payload, sha256(payload), length(payload), payload IS NOT NULL,
        sha256(payload), length(payload), attributes::jsonb
    FROM conversation_calls
    CROSS JOIN generate_series(0, 9) AS sequence
    CROSS JOIN LATERAL (
        SELECT
            convert_to(CASE
                WHEN sequence IN (0, 3) THEN
                    '{"model": "' || model_requested || '", "messages": [{"role": "system", "content": "Be brief."}, '
                    '{"role": "user", "content": "Please tell me what ' || trace_id
                    || CASE WHEN sequence = 3 AND request_changed THEN ' [REDACTED]' ELSE ' alice@example.org' END
                    || ' have in common."}]}'
                WHEN sequence IN (6, 8) THEN
                    '{"id": "' || trace_id || '", "choices": [{"index": 0, "finish_reason": "stop", "message": '
                    '{"role": "assistant", "content": "Nothing'
                    || CASE WHEN sequence = 8 AND response_changed THEN '.' ELSE ' at all.' END
                    || '"}}], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}'
            END, 'UTF8'),
            CASE
                WHEN sequence IN (1, 2, 7) THEN
                    '{"luthien.policy.name": "redact", "luthien.policy.version": "3f2a91c0", "luthien.policy.side": "'
                    || CASE WHEN sequence = 7 THEN 'response' ELSE 'request' END
                    || '", "luthien.policy.action": "modify", "luthien.policy.reason": "a rule matched", '
                    '"luthien.policy.changed": ' || (sequence = 1 AND request_changed)::text
                    || ', "luthien.policy.duration": 0.4, "luthien.policy.count": 1}'
                ELSE '{"luthien.wire_format": "openai_chat", "luthien.streaming": false}'
            END
    ) AS made (payload, attributes)
    WHERE call_id >= %(first)s AND call_id < %(end)s
"""

# What a part is of a changed call: most are messages, few a tool's arguments.
_CHANGES = """
    INSERT INTO conversation_changes
        (call_id, number, side, op_id, action, kind, part, before_ptr, after_ptr, policy, version)
    SELECT
        call_id, number, CASE WHEN request_changed THEN 'request' ELSE 'response' END, 'r' || number + 1, 'change',
        'text', CASE WHEN decoded %% 200 = 10 THEN 'tool_arguments' ELSE 'message' END,
        '/messages/1/content', '/messages/1/content',
        CASE WHEN decoded %% 2000 = 10 THEN 'judge' ELSE 'redact' END, '3f2a91c0'
    FROM conversation_calls
    CROSS JOIN LATERAL (SELECT ('x' || substr(trace_id, 20, 7))::bit(28)::int) AS hash (decoded)
    CROSS JOIN generate_series(0, 1) AS number
    WHERE call_id >= %(first)s AND call_id < %(end)s AND (request_changed OR response_changed)
"""

_SEARCH = """
    INSERT INTO conversation_search (call_id, document, algo)
    SELECT call_id, array_to_tsvector(array_remove(facets || words, NULL)), %(algo)s
    FROM (
        SELECT
            call_id,
            ARRAY[
                '=slot:' || to_hex(floor(extract(epoch FROM started_at) * 1000)::bigint / %(slot_ms)s),
                '=span:' || to_hex(floor(extract(epoch FROM started_at) * 1000)::bigint / %(slot_ms)s / %(span)s),
                '=outcome:' || COALESCE(outcome, 'running'),
                '=session:' || session_id, '=provider:' || provider, '=format:' || wire_format,
                CASE WHEN session_id IS NULL THEN '=without:session' END,
                CASE WHEN gateway_key IS NULL THEN '=without:key' END,
                '=key:' || gateway_key, '=model:' || model_requested, '=model:' || model_used,
                CASE WHEN request_changed THEN '=changed:request' END,
                CASE WHEN response_changed THEN '=changed:response' END,
                CASE WHEN request_changed OR response_changed THEN '=changed:any'
                     WHEN outcome IS NOT NULL THEN '=changed:none' END,
                CASE WHEN outcome IS NOT NULL THEN '=policy:redact' END,
                CASE WHEN policies @> '[{"name": "block_tools"}]' THEN '=policy:block_tools' END,
                CASE WHEN policies @> '[{"name": "judge"}]' THEN '=policy:judge' END,
                CASE WHEN decoded %% 3333333 = 5 THEN 'needle' END
            ] AS facets,
            ARRAY(
                SELECT DISTINCT '=change:' || side || ' ' || place || ' ' || who
                FROM conversation_changes AS changes
                CROSS JOIN LATERAL (
                    VALUES ('* *'), (part || ' *'), (part || ' /messages/*/content')
                ) AS places (place)
                CROSS JOIN LATERAL (VALUES ('* *'), ('* ' || policy), (version || ' ' || policy)) AS authors (who)
                WHERE changes.call_id = calls.call_id
                    AND changes.call_id >= %(first)s AND changes.call_id < %(end)s
                    AND NOT (place = '* *' AND who = '* *')
                UNION ALL
                SELECT '=decision:' || side || ' ' || decided || ' enforce ' || version || ' redact'
                FROM (VALUES ('request'), ('response')) AS sides (side)
                CROSS JOIN LATERAL (
                    SELECT CASE side WHEN 'request' THEN request_changed ELSE response_changed END
                ) AS said (is_changed)
                CROSS JOIN LATERAL (
                    VALUES (CASE WHEN is_changed THEN 'modify' ELSE 'allow' END),
                        (CASE WHEN is_changed THEN 'change' END),
                        (CASE WHEN calls.outcome = 'policy_error' THEN 'error' END)
                ) AS actions (decided)
                CROSS JOIN (VALUES ('*'), ('3f2a91c0')) AS versions (version)
                WHERE calls.outcome IS NOT NULL
            ) || trace_id || ARRAY(
                SELECT 'word' || floor(power(30000.0, random()))::int FROM generate_series(1, %(words)s)
                WHERE calls.call_id IS NOT NULL
            ) AS words
        FROM conversation_calls AS calls
        CROSS JOIN LATERAL (SELECT ('x' || substr(trace_id, 20, 7))::bit(28)::int) AS hash (decoded)
        WHERE call_id >= %(first)s AND call_id < %(end)s
    ) AS said
"""


def fill_pages(
    conn: psycopg.Connection[Any],
    calls: int,
    last: datetime,
    days: int,
    progress: Callable[[str], None],
    words: int = 100,
) -> None:
    """Fills an empty record: so many calls in the days up to `last`, each with `words` words and ten records.

    The connection must be in autocommit mode.
    """
    conn.execute("SET synchronous_commit = off")
    conn.execute("SET maintenance_work_mem = '512MB'")
    last_day = last.date()
    listed = [last_day - timedelta(days=days - 1 - number) for number in range(days)]
    PartitionKeeper().ensure(conn, [*listed, last_day + timedelta(days=1), last_day + timedelta(days=2)])
    weights = [_LAST_DAY if day == last_day else _WEEKEND if day.weekday() >= 5 else 1.0 for day in listed]
    made = 0
    for number, day in enumerate(listed):
        until = math.floor(calls * sum(weights[: number + 1]) / sum(weights) + 1e-6)
        _fill_day(conn, day, until - made, last, words)
        made = until
        progress(f"{day}: {made:,} of {calls:,} calls")
    conn.execute(
        "INSERT INTO conversation_unindexed (call_id) SELECT call_id FROM conversation_calls"
        " ORDER BY call_id DESC LIMIT %s",
        (_UNINDEXED,),
    )
    conn.execute("SET synchronous_commit = on")
    conn.execute("VACUUM (ANALYZE)")
    conn.execute("CHECKPOINT")


def _fill_day(conn: psycopg.Connection[Any], day: date, calls: int, last: datetime, words: int) -> None:
    first, end = day_range(day)
    first_ms = first.int >> 80
    length_ms = min(86_400_000, int(last.timestamp() * 1000) - first_ms)
    bounds = {"first": first, "end": end}
    conn.execute(_CALLS, {"day": day.isoformat(), "calls": calls, "first_ms": first_ms, "length_ms": length_ms})
    conn.execute(_EVENTS, bounds)
    conn.execute(_CHANGES, bounds)
    conn.execute(f"ANALYZE conversation_changes_{day:%Y%m%d}")
    conn.execute(_SEARCH, {**bounds, "algo": ALGO, "slot_ms": SLOT_MS, "span": SPAN, "words": words})
