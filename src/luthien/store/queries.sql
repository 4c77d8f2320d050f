-- name: stage_incoming
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_events (LIKE conversation_events) ON COMMIT DELETE ROWS

-- name: stage_incoming_calls
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_calls (LIKE conversation_calls INCLUDING DEFAULTS) ON COMMIT DELETE ROWS

-- name: copy_events
COPY incoming_events (
    call_id, sequence, event_type, recorded_at, trace_id, span_id, payload, payload_sha256, payload_bytes,
    payload_is_jsonb_safe, payload_ref, wire_sha256, wire_bytes, attributes
) FROM STDIN (FORMAT BINARY)

-- name: insert_events
-- The order keeps two writers from waiting for each other.
INSERT INTO conversation_events
SELECT * FROM incoming_events ORDER BY call_id, sequence
ON CONFLICT (call_id, sequence) DO NOTHING
RETURNING call_id, sequence

-- name: conflicting_events
-- What was there already with other bytes: not a replay, but a second record under the same key.
SELECT incoming.call_id, incoming.sequence
FROM incoming_events AS incoming
JOIN conversation_events AS stored USING (call_id, sequence)
WHERE incoming.event_type IS DISTINCT FROM stored.event_type
   OR incoming.payload_sha256 IS DISTINCT FROM stored.payload_sha256
   OR incoming.wire_sha256 IS DISTINCT FROM stored.wire_sha256

-- name: copy_calls
COPY incoming_calls (
    call_id, trace_id, session_id, started_at, ended_at, wire_format, provider, model_requested, model_used,
    streaming, outcome, http_status, error_type, error_message, policies, request_changed, response_changed,
    decisions, input_tokens, output_tokens, duration_ms, gateway_ms, policy_ms, upstream_ms,
    upstream_first_chunk_ms, client_first_chunk_ms, records_emitted, records_stored
) FROM STDIN (FORMAT BINARY)

-- name: merge_calls
-- Every column is owned by one kind of record, so the order in which records arrive does not matter.
INSERT INTO conversation_calls AS known
SELECT * FROM incoming_calls ORDER BY call_id
ON CONFLICT (call_id) DO UPDATE SET
    trace_id = COALESCE(known.trace_id, EXCLUDED.trace_id),
    session_id = COALESCE(EXCLUDED.session_id, known.session_id),
    started_at = COALESCE(EXCLUDED.started_at, known.started_at),
    ended_at = COALESCE(EXCLUDED.ended_at, known.ended_at),
    wire_format = COALESCE(EXCLUDED.wire_format, known.wire_format),
    provider = COALESCE(EXCLUDED.provider, known.provider),
    model_requested = COALESCE(EXCLUDED.model_requested, known.model_requested),
    model_used = COALESCE(EXCLUDED.model_used, known.model_used),
    streaming = COALESCE(EXCLUDED.streaming, known.streaming),
    outcome = COALESCE(EXCLUDED.outcome, known.outcome),
    http_status = COALESCE(EXCLUDED.http_status, known.http_status),
    error_type = COALESCE(EXCLUDED.error_type, known.error_type),
    error_message = COALESCE(EXCLUDED.error_message, known.error_message),
    policies = COALESCE(EXCLUDED.policies, known.policies),
    request_changed = COALESCE(EXCLUDED.request_changed, known.request_changed),
    response_changed = COALESCE(EXCLUDED.response_changed, known.response_changed),
    decisions = known.decisions + EXCLUDED.decisions,
    input_tokens = COALESCE(EXCLUDED.input_tokens, known.input_tokens),
    output_tokens = COALESCE(EXCLUDED.output_tokens, known.output_tokens),
    duration_ms = COALESCE(EXCLUDED.duration_ms, known.duration_ms),
    gateway_ms = COALESCE(EXCLUDED.gateway_ms, known.gateway_ms),
    policy_ms = COALESCE(EXCLUDED.policy_ms, known.policy_ms),
    upstream_ms = COALESCE(EXCLUDED.upstream_ms, known.upstream_ms),
    upstream_first_chunk_ms = COALESCE(EXCLUDED.upstream_first_chunk_ms, known.upstream_first_chunk_ms),
    client_first_chunk_ms = COALESCE(EXCLUDED.client_first_chunk_ms, known.client_first_chunk_ms),
    records_emitted = COALESCE(EXCLUDED.records_emitted, known.records_emitted),
    records_stored = known.records_stored + EXCLUDED.records_stored

-- name: notify
-- Empty: it only wakes readers up, who then look for themselves.
NOTIFY luthien_records

-- name: quarantine
INSERT INTO conversation_quarantine
    (call_id, sequence, record_sha256, reason, error, event_type, payload, attributes)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING

-- name: list_calls
SELECT
    call_id, trace_id, session_id, started_at, ended_at, wire_format, provider, model_requested, model_used,
    streaming, outcome, http_status, error_type, error_message, policies, request_changed, response_changed,
    decisions, input_tokens, output_tokens, duration_ms, gateway_ms, policy_ms, upstream_ms,
    upstream_first_chunk_ms, client_first_chunk_ms, records_emitted, records_stored
FROM conversation_calls
WHERE call_id < %(before)s
ORDER BY call_id DESC
LIMIT %(limit)s

-- name: get_call
SELECT
    call_id, trace_id, session_id, started_at, ended_at, wire_format, provider, model_requested, model_used,
    streaming, outcome, http_status, error_type, error_message, policies, request_changed, response_changed,
    decisions, input_tokens, output_tokens, duration_ms, gateway_ms, policy_ms, upstream_ms,
    upstream_first_chunk_ms, client_first_chunk_ms, records_emitted, records_stored
FROM conversation_calls
WHERE call_id = %(call_id)s

-- name: get_events
SELECT
    call_id, sequence, event_type, recorded_at, trace_id, span_id, payload, payload_sha256, payload_bytes,
    payload_ref, wire_sha256, wire_bytes, attributes
FROM conversation_events
WHERE call_id = %(call_id)s
ORDER BY sequence
