-- part: call_columns
-- The columns of a call that a writer fills and a page shows, as in `calls.CALL_COLUMNS`.
call_id, trace_id, session_id, gateway_key,
started_at, ended_at, wire_format, provider, model_requested, model_used,
streaming, outcome, http_status, error_type, error_message, policies, request_changed, response_changed,
decisions, input_tokens, output_tokens, duration_ms, gateway_ms, policy_ms, upstream_ms,
upstream_first_chunk_ms, client_first_chunk_ms, records_emitted, records_stored, process_id, records_refused,
stages_stored, records_tombstoned, records_not_crash_proof, parent_call_id

-- part: told_of_call
-- All that is told of the calls `listed`, with `process_of_call` and, as `aside`, `set_aside_of_call` joined to them.
listed.*,
luthien_is_alive(process.seen_at, process.ended_at, pg_postmaster_start_time()) AS process_is_alive,
process.saved_until AS process_saved_until, process.ended_how AS process_ended_how,
aside.records_set_aside, aside.is_end_set_aside,
NOT EXISTS (SELECT FROM conversation_unindexed WHERE conversation_unindexed.call_id = listed.call_id) AS is_indexed

-- part: process_of_call
LEFT JOIN conversation_processes AS process
    ON process.process_id = listed.process_id
    AND (listed.records_emitted IS NULL OR listed.records_stored < listed.records_emitted)

-- part: set_aside_of_call
count(DISTINCT sequence)::int4 AS records_set_aside,
COALESCE(bool_or(event_type = 'call_outcome'), false) AS is_end_set_aside

-- part: call_fits
-- Whether a filter lets one of `calls` through. What is null falls away when the statement is planned.
(%(session)s::text IS NULL OR calls.session_id = %(session)s)
AND (%(model)s::text IS NULL OR calls.model_requested = %(model)s OR calls.model_used = %(model)s)
AND (%(provider)s::text IS NULL OR calls.provider = %(provider)s)
AND (%(format)s::text IS NULL OR calls.wire_format = %(format)s)
AND (%(key)s::text IS NULL OR calls.gateway_key = %(key)s)
AND (%(policy)s::text IS NULL
    OR calls.policies @> jsonb_build_array(jsonb_build_object('name', %(policy)s::text)))
AND (%(outcome)s::text[] IS NULL OR COALESCE(calls.outcome, 'running') = ANY(%(outcome)s))
AND (%(changed)s::text IS NULL OR CASE %(changed)s
    WHEN 'request' THEN calls.request_changed
    WHEN 'response' THEN calls.response_changed
    WHEN 'any' THEN calls.request_changed OR calls.response_changed
    ELSE calls.outcome IS NOT NULL AND (calls.request_changed OR calls.response_changed) IS NOT TRUE
END)
AND (%(without)s::text[] IS NULL OR %(without)s <@ ARRAY[
    CASE WHEN COALESCE(calls.session_id, '') = '' THEN 'session' END,
    CASE WHEN COALESCE(calls.model_requested, '') = '' THEN 'model' END,
    CASE WHEN COALESCE(calls.provider, '') = '' THEN 'provider' END,
    CASE WHEN COALESCE(calls.wire_format, '') = '' THEN 'format' END,
    CASE WHEN COALESCE(calls.gateway_key, '') = '' THEN 'key' END,
    CASE WHEN calls.outcome IS NOT NULL AND COALESCE(calls.policies, '[]') = '[]' THEN 'policy' END
])

-- part: unindexed_that_fit
-- The calls of a range that wait for the index and that a filter lets through, looked at one by one; none if only the
-- index knows.
SELECT waiting.call_id
FROM conversation_unindexed AS waiting
CROSS JOIN LATERAL (
    SELECT FROM conversation_calls AS calls
    WHERE calls.call_id = waiting.call_id
        AND calls.call_id >= %(since)s AND calls.call_id < %(before)s
        AND <<call_fits>>
    LIMIT 1
) AS fitting
WHERE NOT %(needs_index)s
    AND waiting.call_id >= %(since)s AND waiting.call_id < %(before)s

-- name: session
-- A server that works must not keep the writer for ever either. What waits for a lock is tried again. The time zone is
-- UTC, since a time just before the year 10000 may be in a year that Python has not got elsewhere.
SET statement_timeout = '30s';
SET lock_timeout = '5s';
SET idle_in_transaction_session_timeout = '60s';
SET TIME ZONE 'UTC'

-- name: be_patient
SET LOCAL statement_timeout = 0

-- name: stage_incoming
-- The columns are named here and not taken from the tables: those may come later, or change, while we are connected.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_events (
    call_id uuid, sequence int4, event_type text, recorded_at timestamptz, trace_id text, span_id text,
    payload bytea, payload_sha256 bytea, payload_bytes int8, payload_is_jsonb_safe bool, payload_ref int4,
    wire_sha256 bytea, wire_bytes int8, attributes jsonb
) ON COMMIT DELETE ROWS

-- name: stage_incoming_calls
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_calls (
    call_id uuid, trace_id text, session_id text, gateway_key text, started_at timestamptz, ended_at timestamptz,
    wire_format text, provider text, model_requested text, model_used text, streaming bool, outcome text,
    http_status int4, error_type text, error_message text, policies jsonb, request_changed bool, response_changed bool,
    decisions int4, input_tokens int8, output_tokens int8, duration_ms float8, gateway_ms float8, policy_ms float8,
    upstream_ms float8, upstream_first_chunk_ms float8, client_first_chunk_ms float8, records_emitted int4,
    records_stored int4, process_id uuid, records_refused int4, stages_stored int4, records_tombstoned int4,
    records_not_crash_proof int4, parent_call_id uuid
) ON COMMIT DELETE ROWS

-- name: copy_events
COPY incoming_events (
    call_id, sequence, event_type, recorded_at, trace_id, span_id, payload, payload_sha256, payload_bytes,
    payload_is_jsonb_safe, payload_ref, wire_sha256, wire_bytes, attributes
) FROM STDIN (FORMAT BINARY)

-- name: insert_events
-- The order keeps two writers from waiting for each other.
INSERT INTO conversation_events (
    call_id, sequence, event_type, recorded_at, trace_id, span_id, payload, payload_sha256, payload_bytes,
    payload_is_jsonb_safe, payload_ref, wire_sha256, wire_bytes, attributes
)
SELECT
    call_id, sequence, event_type, recorded_at, trace_id, span_id, payload, payload_sha256, payload_bytes,
    payload_is_jsonb_safe, payload_ref, wire_sha256, wire_bytes, attributes
FROM incoming_events
ORDER BY call_id, sequence
ON CONFLICT (call_id, sequence) DO NOTHING
RETURNING call_id, sequence

-- name: known_events
-- What is stored under the keys of a batch, to tell a replay from a second record with the same key.
SELECT
    call_id, sequence, stored.event_type, stored.span_id, stored.recorded_at, stored.payload_sha256,
    stored.payload_ref, stored.wire_sha256
FROM incoming_events
JOIN conversation_events AS stored USING (call_id, sequence)

-- name: copy_calls
COPY incoming_calls (<<call_columns>>) FROM STDIN (FORMAT BINARY)

-- name: merge_calls
-- Every column is owned by one kind of record, so the order in which records arrive does not matter.
INSERT INTO conversation_calls AS known (<<call_columns>>)
SELECT <<call_columns>>
FROM incoming_calls
ORDER BY call_id
ON CONFLICT (call_id) DO UPDATE SET
    trace_id = COALESCE(EXCLUDED.trace_id, known.trace_id),
    session_id = COALESCE(EXCLUDED.session_id, known.session_id),
    gateway_key = COALESCE(EXCLUDED.gateway_key, known.gateway_key),
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
    records_stored = known.records_stored + EXCLUDED.records_stored,
    process_id = COALESCE(EXCLUDED.process_id, known.process_id),
    records_refused = COALESCE(EXCLUDED.records_refused, known.records_refused),
    stages_stored = known.stages_stored + EXCLUDED.stages_stored,
    records_tombstoned = known.records_tombstoned + EXCLUDED.records_tombstoned,
    records_not_crash_proof = known.records_not_crash_proof + EXCLUDED.records_not_crash_proof,
    parent_call_id = COALESCE(EXCLUDED.parent_call_id, known.parent_call_id),
    stored_xid = EXCLUDED.stored_xid

-- name: supersede
-- Checkpoints whose side is recorded whole lose their payloads. Run when the rows of the calls are locked: of two
-- writers that have records of one call, the later one sees what the other has stored. The calls are named for each
-- table, so that only their days are looked into.
WITH concerned AS (
    SELECT unnest(%(ended)s::uuid[]) AS call_id
    UNION
    SELECT call_id
    FROM conversation_calls
    WHERE call_id = ANY(%(open)s) AND (response_changed IS NOT NULL OR outcome IS NOT NULL)
), final AS MATERIALIZED (
    SELECT call_id, event_type, COALESCE(payload_ref, sequence) AS sequence
    FROM concerned
    JOIN conversation_events AS stage USING (call_id)
    WHERE stage.call_id = ANY(%(calls)s) AND event_type IN ('response_original', 'response_final')
), whole AS (
    SELECT call_id, array_agg(final.event_type) AS stages
    FROM final
    JOIN conversation_events AS holder USING (call_id, sequence)
    WHERE holder.call_id = ANY(%(calls)s) AND holder.payload IS NOT NULL
    GROUP BY call_id
)
UPDATE conversation_events AS partial
SET payload = NULL, payload_is_jsonb_safe = false
FROM whole
WHERE partial.call_id = whole.call_id
    AND partial.call_id = ANY(%(calls)s)
    AND partial.event_type = 'response_partial'
    AND partial.payload IS NOT NULL
    AND whole.stages @> CASE partial.attributes ->> 'luthien.checkpoint.sides'
        WHEN 'original' THEN ARRAY['response_original']
        WHEN 'final' THEN ARRAY['response_final']
        ELSE ARRAY['response_original', 'response_final']
    END

-- name: notify
-- Empty: it only wakes readers up, who then look for themselves.
NOTIFY luthien_records

-- name: quarantine
INSERT INTO conversation_quarantine
    (call_id, sequence, record_sha256, reason, error, event_type, payload, attributes)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING

-- name: reading_session
SET statement_timeout = '10s';
SET TIME ZONE 'UTC'

-- name: list_calls
-- Bounded on both sides, so that it does not touch every day there is (decision 9). Of a search, the calls that it
-- found, which are looked at once more: what is indexed may be older than what is stored. What is null falls away when
-- the statement is planned.
SELECT <<told_of_call>>
FROM (
    SELECT <<call_columns>>
    FROM conversation_calls AS calls
    WHERE call_id >= %(since)s AND call_id < %(before)s
        AND (%(ids)s::uuid[] IS NULL OR call_id = ANY(%(ids)s))
        AND <<call_fits>>
    ORDER BY call_id DESC
    LIMIT %(limit)s
) AS listed
<<process_of_call>>
CROSS JOIN LATERAL (
    SELECT <<set_aside_of_call>>
    FROM conversation_quarantine
    WHERE conversation_quarantine.call_id = listed.call_id
        AND conversation_quarantine.call_id >= %(since)s AND conversation_quarantine.call_id < %(before)s
) AS aside
ORDER BY listed.call_id DESC

-- name: found_before
-- The newest calls of a range that a filter may let through.
SELECT call_id
FROM (
    (SELECT luthien_found(%(query)s::tsquery, %(since)s, %(before)s, true, %(limit)s) AS call_id)
    UNION
    (<<unindexed_that_fit>>
    ORDER BY waiting.call_id DESC
    LIMIT %(limit)s)
) AS found
ORDER BY call_id DESC
LIMIT %(limit)s

-- name: found_after
-- The same, the oldest of the range.
SELECT call_id
FROM (
    (SELECT luthien_found(%(query)s::tsquery, %(since)s, %(before)s, false, %(limit)s) AS call_id)
    UNION
    (<<unindexed_that_fit>>
    ORDER BY waiting.call_id
    LIMIT %(limit)s)
) AS found
ORDER BY call_id
LIMIT %(limit)s

-- name: next_older
SELECT call_id FROM conversation_calls WHERE call_id >= %(since)s AND call_id < %(before)s
ORDER BY call_id DESC LIMIT 1

-- name: next_newer
SELECT call_id FROM conversation_calls WHERE call_id >= %(since)s AND call_id < %(before)s
ORDER BY call_id LIMIT 1

-- name: count_unindexed
-- Of the newest of a range, no more than can be said: how many there are, and how many of them a filter may let through.
SELECT count(*) AS looked_at, count(fitting.call_id) AS calls
FROM (
    SELECT call_id FROM conversation_unindexed
    WHERE call_id >= %(since)s AND call_id < %(before)s
    ORDER BY call_id DESC
    LIMIT %(limit)s
) AS waiting
LEFT JOIN LATERAL (
    SELECT calls.call_id FROM conversation_calls AS calls
    WHERE calls.call_id = waiting.call_id
        AND calls.call_id >= %(since)s AND calls.call_id < %(before)s
        AND <<call_fits>>
    LIMIT 1
) AS fitting ON true

-- name: queue_for_index
SELECT luthien_unindexed(array_agg(call_id ORDER BY call_id), array_agg(records_emitted IS NOT NULL ORDER BY call_id))
FROM incoming_calls

-- name: queue_call
SELECT luthien_unindexed(ARRAY[%(call_id)s::uuid], ARRAY[false])

-- name: claim_unindexed
-- Nobody else gets these for a while; whoever dies over them leaves them to others. The newest first: they are
-- what people look for.
UPDATE conversation_unindexed AS claimed
SET due_at = now() + make_interval(secs => %(lease_s)s), attempts = attempts + 1
FROM (
    SELECT call_id FROM conversation_unindexed
    WHERE due_at <= now()
    ORDER BY call_id DESC
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
) AS due
WHERE claimed.call_id = due.call_id
RETURNING claimed.call_id, claimed.changed_in, claimed.attempts

-- name: settle_unindexed
-- Not those of which more was stored meanwhile, or is being stored just now: so no indexer waits for a writer, and none
-- can be in a deadlock with one.
DELETE FROM conversation_unindexed
WHERE call_id = ANY(ARRAY(
    SELECT call_id
    FROM conversation_unindexed AS known
    JOIN unnest(%(call_ids)s::uuid[], %(changed_in)s::xid8[]) AS indexed (call_id, changed_in)
        USING (call_id, changed_in)
    ORDER BY call_id
    FOR UPDATE OF known SKIP LOCKED
))
RETURNING call_id

-- name: give_back_unindexed
UPDATE conversation_unindexed SET due_at = now() + make_interval(secs => %(after_s)s), attempts = attempts - 1
WHERE call_id = ANY(%(ids)s) AND attempts > 0

-- name: index_calls
SELECT calls.*, COALESCE(held.bytes, 0)::int8 AS held_bytes
FROM (
    SELECT <<call_columns>>
    FROM conversation_calls
    WHERE call_id = ANY(%(call_ids)s)
) AS calls
LEFT JOIN (
    SELECT call_id, sum(octet_length(payload)) AS bytes
    FROM conversation_events
    WHERE call_id = ANY(%(call_ids)s)
    GROUP BY call_id
) AS held USING (call_id)

-- name: index_events
-- All records of calls, without payloads if those of a call are more than so many bytes; the beginning of each, then.
SELECT
    call_id, sequence, event_type, recorded_at, trace_id, span_id,
    CASE WHEN sum(octet_length(payload)) OVER (PARTITION BY call_id) <= %(max_bytes)s THEN payload END AS payload,
    payload_sha256, payload_bytes, payload_ref, wire_sha256, wire_bytes, attributes,
    CASE WHEN sum(octet_length(payload)) OVER (PARTITION BY call_id) > %(max_bytes)s
        THEN substring(payload FROM 1 FOR %(beginning)s) END AS beginning
FROM conversation_events
WHERE call_id = ANY(%(call_ids)s) AND event_type <> 'response_timeline'
ORDER BY call_id, sequence

-- name: forget_counted
-- Before it is written anew, and of a call that is not there any more.
WITH changes AS (
    DELETE FROM conversation_changes WHERE call_id = ANY(%(call_ids)s)
)
DELETE FROM conversation_decisions WHERE call_id = ANY(%(call_ids)s)

-- name: write_index
-- All that is indexed of some calls.
WITH search AS (
    INSERT INTO conversation_search (call_id, document, algo, indexed_at, capped, error)
    SELECT call_id, array_to_tsvector(lexemes), algo, now(), capped, error
    FROM json_to_recordset(%(search)s) AS search (call_id uuid, lexemes text[], algo int4, capped text[], error text)
    ON CONFLICT (call_id) DO UPDATE SET
        document = EXCLUDED.document, algo = EXCLUDED.algo, indexed_at = EXCLUDED.indexed_at,
        capped = EXCLUDED.capped, error = EXCLUDED.error
), changes AS (
    INSERT INTO conversation_changes
        (call_id, number, side, op_id, action, kind, part, before_ptr, after_ptr, policy, version, path, message,
        bytes_removed, bytes_added)
    SELECT
        call_id, number, side, op_id, action, kind, part, before_ptr, after_ptr, policy, version, path, message,
        bytes_removed, bytes_added
    FROM json_to_recordset(%(changes)s) AS change (
        call_id uuid, number int4, side text, op_id text, action text, kind text, part text, before_ptr text,
        after_ptr text, policy text, version text, path text, message int4, bytes_removed int8, bytes_added int8
    )
)
INSERT INTO conversation_decisions
    (call_id, sequence, recorded_at, side, policy, version, action, changed, shadow, duration_ms, count)
SELECT call_id, sequence, recorded_at, side, policy, version, action, changed, shadow, duration_ms, count
FROM json_to_recordset(%(decisions)s) AS decision (
    call_id uuid, sequence int4, recorded_at timestamptz, side text, policy text, version text, action text,
    changed boolean, shadow boolean, duration_ms float8, count int8
)

-- name: forget_index
-- Of a call that is not there any more.
DELETE FROM conversation_search WHERE call_id = %(call_id)s

-- name: sweep_calls
-- A step of a walk over all calls: those without an index as this version makes it, or a later one, wait for one. Says
-- how far it came.
WITH step AS (
    SELECT call_id FROM conversation_calls WHERE call_id < %(before)s AND call_id >= %(since)s
    ORDER BY call_id DESC LIMIT %(limit)s
), queued AS (
    INSERT INTO conversation_unindexed (call_id)
    SELECT call_id FROM step
    WHERE %(anew)s OR NOT EXISTS (
        SELECT FROM conversation_search AS known
        WHERE known.call_id = step.call_id AND known.algo >= %(algo)s
            AND known.call_id < %(before)s AND known.call_id >= %(since)s
    )
    ORDER BY call_id
    ON CONFLICT (call_id) DO NOTHING
    RETURNING call_id
)
SELECT (SELECT count(*) FROM step), (SELECT call_id FROM step ORDER BY call_id LIMIT 1), (SELECT count(*) FROM queued)

-- name: index_lag
-- How many calls wait, no more than so many, and for how many seconds the one that is due for longest.
SELECT count(*), COALESCE(extract(epoch FROM now() - min(due_at)), 0)::float8
FROM (SELECT due_at FROM conversation_unindexed WHERE due_at <= now() LIMIT %(limit)s) AS waiting

-- name: sweeping
SELECT pg_try_advisory_xact_lock(%(key)s)

-- name: get_call
SELECT <<told_of_call>>
FROM (
    SELECT <<call_columns>>
    FROM conversation_calls
    WHERE call_id = %(call_id)s
) AS listed
<<process_of_call>>
CROSS JOIN LATERAL (
    SELECT <<set_aside_of_call>>
    FROM conversation_quarantine
    WHERE conversation_quarantine.call_id = %(call_id)s
) AS aside
ORDER BY listed.call_id DESC

-- name: session_after
SELECT call_id
FROM conversation_calls
WHERE session_id = %(session)s AND call_id >= %(since)s AND call_id < %(before)s
ORDER BY call_id
LIMIT %(limit)s

-- name: session_before
SELECT call_id
FROM conversation_calls
WHERE session_id = %(session)s AND call_id >= %(since)s AND call_id < %(before)s
ORDER BY call_id DESC
LIMIT %(limit)s

-- name: session_totals
-- Of the latest calls only: anybody may name one session in millions of calls.
SELECT
    count(*)::int4 AS calls,
    (array_agg(call_id ORDER BY call_id))[1] AS oldest,
    (array_agg(call_id ORDER BY call_id DESC))[1] AS newest,
    count(*) FILTER (WHERE parent_call_id IS NOT NULL)::int4 AS asked_by_policies,
    count(*) FILTER (WHERE outcome = 'blocked')::int4 AS blocked,
    count(*) FILTER (WHERE outcome NOT IN ('completed', 'blocked'))::int4 AS failed,
    count(*) FILTER (WHERE outcome IS NULL)::int4 AS unfinished,
    count(*) FILTER (WHERE request_changed OR response_changed)::int4 AS changed,
    count(*) FILTER (WHERE input_tokens IS NOT NULL OR output_tokens IS NOT NULL)::int4 AS with_tokens,
    sum(input_tokens)::int8 AS input_tokens,
    sum(output_tokens)::int8 AS output_tokens,
    sum(duration_ms) AS duration_ms,
    sum(policy_ms) AS policy_ms,
    sum(upstream_ms) AS upstream_ms,
    min(started_at) AS started_at,
    max(COALESCE(ended_at, started_at)) AS ended_at,
    array_agg(DISTINCT model_requested) FILTER (WHERE model_requested IS NOT NULL) AS models
FROM (
    SELECT *
    FROM conversation_calls
    WHERE session_id = %(session)s AND call_id >= %(since)s AND call_id < %(before)s
    ORDER BY call_id DESC
    LIMIT %(limit)s
) AS latest

-- name: session_count
SELECT count(*)::int4 AS calls
FROM conversation_calls
WHERE session_id = %(session)s AND call_id >= %(since)s AND call_id < %(before)s

-- name: list_sessions
-- The sessions that the latest calls of a window belong to; one row without a session when there is none. `oldest` is
-- the first of the calls that were looked at.
WITH latest AS MATERIALIZED (
    SELECT call_id, session_id, started_at, model_requested, outcome, request_changed, response_changed
    FROM conversation_calls
    WHERE call_id >= %(since)s AND call_id < %(before)s
    ORDER BY call_id DESC
    LIMIT %(limit)s
), seen AS (
    SELECT count(*)::int4 AS seen, (SELECT call_id FROM latest ORDER BY call_id LIMIT 1) AS oldest FROM latest
), sessions AS (
    SELECT
        session_id,
        count(*)::int4 AS calls,
        min(started_at) AS first_at,
        max(started_at) AS last_at,
        (array_agg(call_id ORDER BY call_id DESC))[1] AS last_call,
        count(*) FILTER (WHERE outcome = 'blocked')::int4 AS blocked,
        count(*) FILTER (WHERE request_changed OR response_changed)::int4 AS changed,
        array_agg(DISTINCT model_requested) FILTER (WHERE model_requested IS NOT NULL) AS models
    FROM latest
    WHERE session_id IS NOT NULL
    GROUP BY session_id
)
SELECT * FROM seen LEFT JOIN sessions ON true ORDER BY last_call DESC

-- name: payload_bytes
SELECT call_id, COALESCE(sum(payload_bytes) FILTER (WHERE payload IS NOT NULL), 0)::int8 AS bytes
FROM conversation_events
WHERE call_id = ANY(%(calls)s) AND call_id >= %(first)s AND call_id <= %(last)s
GROUP BY call_id

-- name: get_events_of
-- Payloads only of some kinds of record, and of those that they refer to.
SELECT
    call_id, sequence, event_type, recorded_at, trace_id, span_id,
    CASE WHEN event_type = ANY(%(kinds)s) OR sequence IN (
        SELECT payload_ref
        FROM conversation_events AS referring
        WHERE referring.call_id = %(call_id)s AND referring.event_type = ANY(%(kinds)s)
    ) THEN payload END AS payload,
    payload_sha256, payload_bytes, payload_ref, wire_sha256, wire_bytes, attributes
FROM conversation_events
WHERE call_id = %(call_id)s
ORDER BY sequence

-- name: feed_position
-- Everything below the first is stored for good; a transaction from the second on has not begun.
SELECT
    pg_snapshot_xmin(pg_current_snapshot())::text AS xmin, pg_snapshot_xmax(pg_current_snapshot())::text AS xmax,
    extract(epoch FROM now())::bigint AS now_s

-- name: feed_held
-- Which open transaction keeps back what is stored, and since when it is open. Whose sessions they are not may see no
-- more of them than that they are there.
SELECT
    pg_snapshot_xmin(pg_current_snapshot())::text AS xid,
    COALESCE(
        (SELECT xact_start FROM pg_stat_activity WHERE backend_xid = pg_snapshot_xmin(pg_current_snapshot())::xid),
        now()
    ) AS since
WHERE EXISTS (SELECT FROM conversation_calls WHERE stored_xid >= pg_snapshot_xmin(pg_current_snapshot()))

-- name: feed_missed
-- Counts no further than it is asked to.
SELECT count(*) AS missed
FROM (
    SELECT
    FROM conversation_calls
    WHERE (stored_xid, call_id) > (%(xid)s::text::xid8, %(call_id)s)
        AND stored_xid < pg_snapshot_xmin(pg_current_snapshot())
    LIMIT %(limit)s
) AS changed

-- name: feed_next
-- In the order in which they were written, and only those before which nothing can come any more.
SELECT stored_xid, call_id
FROM luthien_changed_after(%(xid)s::text::xid8, %(call_id)s, %(limit)s)
ORDER BY stored_xid, call_id

-- name: feed_changes
-- Those that feed_next has found, unless they have changed since: then they come later. Bounded like a list, so that not
-- every day there is takes part in the plan.
SELECT <<told_of_call>>
FROM (
    SELECT <<call_columns>>, stored_xid
    FROM conversation_calls
    WHERE (stored_xid, call_id) > (%(xid)s::text::xid8, %(call_id)s)
        AND (stored_xid, call_id) <= (%(last_xid)s::text::xid8, %(last_id)s)
        AND call_id >= %(since)s AND call_id <= %(until)s
) AS listed
<<process_of_call>>
LEFT JOIN LATERAL (
    SELECT <<set_aside_of_call>>
    FROM conversation_quarantine
    WHERE conversation_quarantine.call_id = listed.call_id
        AND conversation_quarantine.call_id >= %(since)s AND conversation_quarantine.call_id <= %(until)s
) AS aside ON true
ORDER BY listed.stored_xid, listed.call_id

-- name: feed_listen
LISTEN luthien_records

-- name: name_processes
SELECT process_id, host, pid FROM conversation_processes WHERE process_id = ANY(%(ids)s)

-- name: get_children
-- They began while their parent ran, so only the days of that are looked into.
SELECT call_id, model_requested, model_used, outcome, duration_ms, input_tokens, output_tokens
FROM conversation_calls
WHERE parent_call_id = %(call_id)s AND call_id > %(call_id)s AND call_id < %(until)s
ORDER BY call_id
LIMIT 100

-- name: get_events
SELECT
    call_id, sequence, event_type, recorded_at, trace_id, span_id, payload, payload_sha256, payload_bytes,
    payload_ref, wire_sha256, wire_bytes, attributes
FROM conversation_events
WHERE call_id = %(call_id)s
ORDER BY sequence

-- name: get_set_aside
-- Not the payloads: they are for those who mend the record by hand.
SELECT sequence, event_type, reason, error
FROM conversation_quarantine
WHERE call_id = %(call_id)s
ORDER BY sequence, quarantined_at

-- name: say_alive
-- Whoever says so lives, whatever was said of it before.
INSERT INTO conversation_processes AS known
    (process_id, host, pid, version, saved_until, stats)
VALUES
    (%(process_id)s, %(host)s, %(pid)s, %(version)s, now() - make_interval(secs => %(unsaved_s)s), %(stats)s)
ON CONFLICT (process_id) DO UPDATE SET
    host = EXCLUDED.host,
    pid = EXCLUDED.pid,
    version = EXCLUDED.version,
    seen_at = now(),
    saved_until = EXCLUDED.saved_until,
    ended_at = NULL,
    ended_how = NULL,
    stats = EXCLUDED.stats

-- name: say_stopped
UPDATE conversation_processes SET ended_at = now(), ended_how = 'stopped' WHERE process_id = %(process_id)s

-- name: say_died
-- It may have died before it could say anything.
INSERT INTO conversation_processes AS known (process_id, ended_at, ended_how)
VALUES (%(process_id)s, now(), 'died')
ON CONFLICT (process_id) DO UPDATE SET ended_at = now(), ended_how = 'died' WHERE known.ended_at IS NULL

-- name: note_call
-- A call of which perhaps nothing else is stored.
INSERT INTO conversation_calls (call_id, started_at, process_id)
VALUES (%(call_id)s, %(started_at)s, %(process_id)s)
ON CONFLICT (call_id) DO NOTHING

-- name: oldest_call
SELECT call_id FROM conversation_calls ORDER BY call_id LIMIT 1

-- name: forget_processes
-- Those that ended, or were last heard of, before the oldest call that is kept.
DELETE FROM conversation_processes
WHERE NOT luthien_is_alive(seen_at, ended_at, pg_postmaster_start_time())
AND COALESCE(ended_at, seen_at) < LEAST(%(oldest)s, now() - interval '1 day')

-- name: stored_days
-- The numbers of calls are Postgres's guesses: counting would read what is about to be dropped.
SELECT
    right(relname, 8),
    coalesce(sum(CASE WHEN reltuples >= 0 THEN reltuples ELSE pg_stat_get_live_tuples(pg_class.oid) END)
        FILTER (WHERE tables.name = 'conversation_calls'), 0)::bigint,
    coalesce(sum(pg_total_relation_size(pg_class.oid)), 0)::bigint
FROM luthien_tables() AS tables
JOIN pg_inherits ON inhparent = tables.oid
JOIN pg_class ON pg_class.oid = inhrelid
WHERE relname ~ ('^' || tables.name || '_[0-9]{8}$')
GROUP BY 1
ORDER BY 1

-- name: drop_day
SELECT luthien_drop_day(%s, %s)

-- name: drop_strays
SELECT luthien_drop_strays(%s, %s)

-- name: strays
SELECT parent, day, rows FROM luthien_strays()

-- name: doctor_server
SELECT
    clock_timestamp(), current_setting('server_version'),
    pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean

-- name: lacking_tables
SELECT name
FROM unnest(%(names)s::text[]) WITH ORDINALITY AS wanted (name, place)
WHERE NOT (SELECT bool_and(has_table_privilege(name, right_to)) FROM unnest(%(rights)s::text[]) AS right_to)
ORDER BY place

-- name: lacking_functions
-- Of each name there is one.
SELECT name
FROM unnest(%(names)s::text[]) WITH ORDINALITY AS wanted (name, place)
WHERE NOT (SELECT bool_and(has_function_privilege(name::regproc, right_to)) FROM unnest(%(rights)s::text[]) AS right_to)
ORDER BY place

-- name: doctor_quarantine
-- Reasons, how often, and how many seconds ago for the last time, the newest first. Not the errors: they may quote a
-- record.
SELECT reason, count(*), extract(epoch FROM now() - max(quarantined_at))::float8
FROM conversation_quarantine
GROUP BY reason
ORDER BY max(quarantined_at) DESC

-- name: doctor_processes
SELECT
    ended_at IS NULL AND seen_at > now() - interval '60 seconds', ended_how, stats ->> 'trouble', stats -> 'dropped'
FROM conversation_processes
WHERE seen_at > now() - interval '7 days'

-- name: reader_rights
-- No row if there is no such role. Which reports there are not, whose they are, whether that is us, whether the role may
-- read everything anyway, and to which other tables and views of the record it has any right.
SELECT
    ARRAY(SELECT name FROM unnest(%(reports)s::text[]) AS name WHERE to_regclass(name) IS NULL),
    owner.rolname,
    pg_has_role(owner.oid, 'USAGE'),
    reader.rolsuper OR pg_has_role(reader.oid, owner.oid, 'MEMBER')
        OR pg_has_role(reader.oid, 'pg_read_all_data', 'MEMBER'),
    ARRAY(
        SELECT pg_class.relname
        FROM pg_class
        WHERE pg_class.relnamespace = to_regnamespace(current_schema()::text)
            AND (pg_class.relname LIKE 'conversation\_%%' OR pg_class.relname = '_prisma_migrations')
            AND pg_class.relkind IN ('r', 'p', 'v')
            AND (
                has_any_column_privilege(reader.oid, pg_class.oid, 'SELECT, INSERT, UPDATE, REFERENCES')
                OR has_table_privilege(reader.oid, pg_class.oid, 'DELETE, TRUNCATE, TRIGGER')
            )
        ORDER BY 1
    )
FROM pg_roles AS reader
LEFT JOIN pg_class AS calls ON calls.oid = to_regclass('report_calls')
LEFT JOIN pg_roles AS owner ON owner.oid = calls.relowner
WHERE reader.rolname = %(role)s
