-- The record: a row a call, a row a stage record, and the records that could not be stored.
--
-- Every table is partitioned by range of call_id. A call id is a UUIDv7 and begins with 48 bits of Unix
-- milliseconds, so a UTC day is a range of ids: a look-up by id touches one partition, and retention drops
-- partitions instead of deleting rows. The default partitions catch what has no day yet.

CREATE TABLE "conversation_calls" (
    "call_id" UUID NOT NULL,
    "trace_id" TEXT,
    "session_id" TEXT,
    "started_at" TIMESTAMPTZ(6),
    "ended_at" TIMESTAMPTZ(6),
    "wire_format" TEXT,
    "provider" TEXT,
    "model_requested" TEXT,
    "model_used" TEXT,
    "streaming" BOOLEAN,
    "outcome" TEXT,
    "http_status" INTEGER,
    "error_type" TEXT,
    "error_message" TEXT,
    "policies" JSONB,
    "request_changed" BOOLEAN,
    "response_changed" BOOLEAN,
    "decisions" INTEGER NOT NULL DEFAULT 0,
    "input_tokens" BIGINT,
    "output_tokens" BIGINT,
    "duration_ms" DOUBLE PRECISION,
    "gateway_ms" DOUBLE PRECISION,
    "policy_ms" DOUBLE PRECISION,
    "upstream_ms" DOUBLE PRECISION,
    "upstream_first_chunk_ms" DOUBLE PRECISION,
    "client_first_chunk_ms" DOUBLE PRECISION,
    "records_emitted" INTEGER,
    "records_stored" INTEGER NOT NULL DEFAULT 0,

    CONSTRAINT "conversation_calls_pkey" PRIMARY KEY ("call_id"),
    CONSTRAINT "conversation_calls_outcome_check" CHECK ("outcome" IN (
        'completed', 'blocked', 'client_disconnected', 'upstream_error', 'policy_error', 'rejected'
    ))
) PARTITION BY RANGE ("call_id");

-- A session's calls, newest first.
CREATE INDEX "conversation_calls_session_id_call_id_idx" ON "conversation_calls" ("session_id", "call_id");

-- What was blocked or went wrong, newest first. Partial: most calls complete, and an entry for each of them would
-- cost a third of the speed of the updates that set the outcome.
CREATE INDEX "conversation_calls_outcome_call_id_idx" ON "conversation_calls" ("outcome", "call_id")
    WHERE "outcome" <> 'completed';

CREATE TABLE "conversation_events" (
    "call_id" UUID NOT NULL,
    "sequence" INTEGER NOT NULL,
    "event_type" TEXT NOT NULL,
    "recorded_at" TIMESTAMPTZ(6) NOT NULL,
    "trace_id" TEXT,
    "span_id" TEXT,
    "payload" BYTEA,
    "payload_sha256" BYTEA,
    "payload_bytes" BIGINT,
    "payload_is_jsonb_safe" BOOLEAN NOT NULL DEFAULT false,
    "payload_ref" INTEGER,
    "wire_sha256" BYTEA,
    "wire_bytes" BIGINT,
    "attributes" JSONB NOT NULL DEFAULT '{}',

    CONSTRAINT "conversation_events_pkey" PRIMARY KEY ("call_id", "sequence")
) PARTITION BY RANGE ("call_id");

CREATE TABLE "conversation_quarantine" (
    "call_id" UUID NOT NULL,
    "sequence" INTEGER NOT NULL,
    "record_sha256" BYTEA NOT NULL,
    "quarantined_at" TIMESTAMPTZ(6) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "reason" TEXT NOT NULL,
    "error" TEXT,
    "event_type" TEXT,
    "payload" BYTEA,
    "attributes" TEXT,

    CONSTRAINT "conversation_quarantine_pkey" PRIMARY KEY ("call_id", "sequence", "record_sha256")
) PARTITION BY RANGE ("call_id");

CREATE TABLE "conversation_calls_default" PARTITION OF "conversation_calls" DEFAULT;
CREATE TABLE "conversation_events_default" PARTITION OF "conversation_events" DEFAULT;
CREATE TABLE "conversation_quarantine_default" PARTITION OF "conversation_quarantine" DEFAULT;

-- Makes the partitions of one UTC day, named <table>_YYYYMMDD, and moves rows of that day out of the default
-- partitions. Does nothing where they exist; says whether it made one. Call it in a transaction of its own.
--
-- ATTACH needs SHARE UPDATE EXCLUSIVE on the parent, so inserts and reads of other days go on, where
-- CREATE TABLE ... PARTITION OF would shut them out; taken first, that lock also lets one caller in at a time.
-- The default partition has to be shut: a row that slipped into it after the move would make ATTACH fail. A reader
-- that holds it would make every later reader queue up behind this function, so it gives up after lock_timeout;
-- until a later attempt succeeds, the day's rows go to the default partition.
--
-- Whoever may execute it need not own the tables (SECURITY DEFINER), so the gateway's role can do without DDL.
CREATE FUNCTION luthien_create_day(day date) RETURNS boolean
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET lock_timeout = '2s'
AS $$
DECLARE
    day_ms constant bigint := 86400000;
    first_ms constant bigint := (day - date '1970-01-01') * day_ms;
    first_id uuid;
    end_id uuid;
    parent text;
    partition text;
    made boolean := false;
BEGIN
    IF day < date '1970-01-01' OR day > date '9999-12-31' THEN
        RAISE datetime_field_overflow USING MESSAGE = format('no call id is of the day %s', day);
    END IF;
    first_id := rpad(lpad(to_hex(first_ms), 12, '0'), 32, '0')::uuid;
    end_id := rpad(lpad(to_hex(first_ms + day_ms), 12, '0'), 32, '0')::uuid;

    -- In the order in which a record is written, so that a writer and this function cannot wait for each other.
    FOREACH parent IN ARRAY ARRAY['conversation_events', 'conversation_calls', 'conversation_quarantine'] LOOP
        partition := parent || '_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        EXECUTE format('LOCK TABLE %I IN SHARE UPDATE EXCLUSIVE MODE', parent);
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
        EXECUTE format(
            'WITH moved AS (DELETE FROM %I WHERE call_id >= %L AND call_id < %L RETURNING *)'
            ' INSERT INTO %I SELECT * FROM moved',
            parent || '_default', first_id, end_id, partition
        );
        EXECUTE format(
            'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition, first_id, end_id
        );
        made := true;
    END LOOP;
    RETURN made;
END
$$;

-- A function with its owner's rights must not look names up where its caller says, and the schema's name is not
-- known here.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION luthien_create_day(date) SET search_path = %I, pg_temp', current_schema());
END
$$;

REVOKE EXECUTE ON FUNCTION luthien_create_day(date) FROM PUBLIC;

-- For people who query by hand: payloads as jsonb where the gateway found that Postgres can cast them, else null.
-- With the rights of whoever asks, so that a right to this view alone opens no payload.
CREATE VIEW "conversation_events_json" WITH (security_invoker = true) AS
SELECT
    "call_id",
    "sequence",
    "event_type",
    "recorded_at",
    "trace_id",
    "span_id",
    CASE WHEN "payload_is_jsonb_safe" THEN convert_from("payload", 'UTF8')::jsonb END AS "payload",
    "payload_sha256",
    "payload_bytes",
    "payload_is_jsonb_safe",
    "payload_ref",
    "wire_sha256",
    "wire_bytes",
    "attributes"
FROM "conversation_events";
