-- Reports: what somebody may read who must not see a payload, and what is counted for it. Grafana reads these views and
-- nothing else (`luthien migrate --reader`).

-- Where a change is, for counting: its place in the words of the wire formats, without indexes and without any key that
-- a client, a model or a tool chose; which message that is in; and how many bytes of text it took out and put in.
ALTER TABLE "conversation_changes"
    ADD COLUMN "path" TEXT,
    ADD COLUMN "message" INTEGER,
    ADD COLUMN "bytes_removed" BIGINT,
    ADD COLUMN "bytes_added" BIGINT;

-- What each policy decided, without its words. Filled by the indexer, as conversation_changes is: the records
-- themselves lie between payloads, and to count a day's decisions would read the whole day.
CREATE TABLE "conversation_decisions" (
    "call_id" UUID NOT NULL,
    "sequence" INTEGER NOT NULL,
    "recorded_at" TIMESTAMPTZ(6) NOT NULL,
    "side" TEXT NOT NULL,
    "policy" TEXT NOT NULL,
    "version" TEXT NOT NULL,
    "action" TEXT NOT NULL,
    "changed" BOOLEAN NOT NULL,
    "shadow" BOOLEAN NOT NULL,
    "duration_ms" DOUBLE PRECISION,
    "count" BIGINT,

    CONSTRAINT "conversation_decisions_pkey" PRIMARY KEY ("call_id", "sequence")
) PARTITION BY RANGE ("call_id");

CREATE TABLE "conversation_decisions_default" PARTITION OF "conversation_decisions" DEFAULT;

-- The days that are there already get what they lack.
DO $$
DECLARE
    each_day date;
BEGIN
    FOR each_day IN
        SELECT DISTINCT to_date(right(relname, 8), 'YYYYMMDD')
        FROM luthien_tables() AS tables
        JOIN pg_inherits ON inhparent = tables.oid
        JOIN pg_class ON pg_class.oid = inhrelid
        WHERE relname ~ ('^' || tables.name || '_[0-9]{8}$')
    LOOP
        PERFORM luthien_create_day(each_day);
    END LOOP;
END
$$;

-- Whoever fills one of the two fills the other.
DO $$
DECLARE
    each_right record;
BEGIN
    FOR each_right IN
        SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS grantee
        FROM pg_class, aclexplode(relacl) AS rights
        WHERE oid = 'conversation_changes'::regclass AND rights.grantee <> relowner
    LOOP
        EXECUTE format('GRANT %s ON conversation_decisions TO %s', each_right.privilege_type, each_right.grantee);
    END LOOP;
END
$$;

-- It writes with its owner's rights: so it is only for those who may record. Until now anybody was let in.
DO $$
DECLARE
    each_role text;
BEGIN
    REVOKE EXECUTE ON FUNCTION luthien_unindexed(uuid[], boolean[]) FROM PUBLIC;
    FOR each_role IN
        SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
        FROM pg_class, aclexplode(relacl) AS rights
        WHERE oid = 'conversation_calls'::regclass AND privilege_type = 'INSERT' AND rights.grantee <> relowner
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION luthien_unindexed(uuid[], boolean[]) TO %s', each_role);
    END LOOP;
END
$$;

-- The first id that a call of that time, to the millisecond, can have: ids from one time to another are a range, which
-- the planner knows, so that it leaves out the days beside it.
CREATE FUNCTION luthien_first_id(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN at < timestamptz '1970-01-01 00:00:00+00' THEN uuid '00000000-0000-0000-0000-000000000000'
        WHEN at >= timestamptz '10000-01-01 00:00:00+00' THEN uuid 'ffffffff-ffff-ffff-ffff-ffffffffffff'
        ELSE rpad(
            lpad(to_hex(
                floor(extract(epoch FROM at - timestamptz '1970-01-01 00:00:00+00') * 1000)::bigint
            ), 12, '0'),
            32, '0'
        )::uuid
    END
$$;

-- The views below have their owner's rights: who may read one needs no right to a table. No payload, and no text that
-- might quote one: an error's message, a policy's reason and details, keys of objects.

CREATE VIEW "report_calls" AS
SELECT
    "call_id",
    "started_at",
    "ended_at",
    "trace_id",
    "session_id",
    "parent_call_id",
    "gateway_key",
    "wire_format",
    "provider",
    "model_requested",
    "model_used",
    "streaming",
    COALESCE("outcome", 'running') AS "outcome",
    "http_status",
    "error_type",
    ARRAY(
        SELECT DISTINCT step ->> 'name'
        FROM jsonb_array_elements(CASE jsonb_typeof("policies") WHEN 'array' THEN "policies" ELSE '[]' END) AS step
        WHERE step ->> 'name' IS NOT NULL
        ORDER BY 1
    ) AS "policies",
    "request_changed",
    "response_changed",
    ("request_changed" OR "response_changed") IS TRUE AS "is_changed",
    "decisions",
    "input_tokens",
    "output_tokens",
    "duration_ms",
    "gateway_ms",
    "policy_ms",
    "upstream_ms",
    "upstream_first_chunk_ms",
    "client_first_chunk_ms",
    "records_emitted",
    "records_stored",
    "records_refused",
    "records_tombstoned",
    "records_not_crash_proof",
    -- As far as the call's own row tells: its page looks into the quarantine, too.
    "records_emitted" IS NOT NULL AND "records_stored" >= "records_emitted" AND "records_tombstoned" = 0
        AND COALESCE("records_refused", 0) = 0 AS "is_complete"
FROM "conversation_calls";

CREATE VIEW "report_decisions" AS
SELECT
    "call_id", "sequence", "recorded_at", "side", "policy", "version", "action", "changed", "shadow", "duration_ms",
    "count"
FROM "conversation_decisions";

CREATE VIEW "report_changes" AS
SELECT
    "call_id", "number", "side", "action", "kind", "part", "path", "message", "policy", "version", "bytes_removed",
    "bytes_added"
FROM "conversation_changes";

-- Of the catalog alone: how many rows there are is what Postgres guesses.
CREATE VIEW "report_partitions" AS
SELECT
    parents.relname::text AS "table_name",
    partitions.relname::text AS "partition_name",
    CASE WHEN partitions.relname ~ ('^' || parents.relname || '_[0-9]{8}$')
        THEN to_date(right(partitions.relname, 8), 'YYYYMMDD') END AS "day",
    pg_total_relation_size(partitions.oid) AS "bytes",
    CASE WHEN partitions.reltuples >= 0
        THEN partitions.reltuples::bigint ELSE pg_stat_get_live_tuples(partitions.oid) END AS "estimated_rows",
    partitions.oid = partdefid AS "is_default"
FROM pg_partitioned_table
JOIN pg_class AS parents ON parents.oid = partrelid
JOIN pg_inherits ON inhparent = parents.oid
JOIN pg_class AS partitions ON partitions.oid = inhrelid
WHERE parents.relname LIKE 'conversation\_%'
    AND parents.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'conversation_calls'::regclass);

-- The counters are numbers by name and, of what was dropped, by reason; what its trouble is, in words, is left out.
CREATE VIEW "report_processes" AS
SELECT
    "process_id",
    "host",
    "pid",
    "version",
    "started_at",
    "seen_at",
    "saved_until",
    "ended_at",
    "ended_how",
    luthien_is_alive("seen_at", "ended_at", pg_postmaster_start_time()) AS "is_alive",
    "stats" - 'trouble' AS "stats"
FROM "conversation_processes";
