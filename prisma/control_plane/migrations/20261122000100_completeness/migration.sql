-- How complete a call's record is: what was refused, what got lost, and whether its process still lives.

-- The process that served the call, and counts of the rows of conversation_events that were kept in part only.
ALTER TABLE "conversation_calls"
    ADD COLUMN "process_id" UUID,
    ADD COLUMN "records_refused" INTEGER,
    ADD COLUMN "stages_stored" INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN "records_tombstoned" INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN "records_not_crash_proof" INTEGER NOT NULL DEFAULT 0;

-- What is stored already was stored whole; of calls that are complete nobody asks.
UPDATE "conversation_calls"
SET "stages_stored" = "records_stored" - "decisions" - ("outcome" IS NOT NULL)::integer
WHERE "records_stored" IS DISTINCT FROM "records_emitted";

-- A row a process that records. It says again and again that it lives; times are of the database's clock.
CREATE TABLE "conversation_processes" (
    "process_id" UUID NOT NULL,
    "host" TEXT,
    "pid" INTEGER,
    "version" TEXT,
    "started_at" TIMESTAMPTZ(6) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "seen_at" TIMESTAMPTZ(6) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "saved_until" TIMESTAMPTZ(6),
    "ended_at" TIMESTAMPTZ(6),
    "ended_how" TEXT,
    "stats" JSONB,

    CONSTRAINT "conversation_processes_pkey" PRIMARY KEY ("process_id"),
    CONSTRAINT "conversation_processes_ended_how_check" CHECK ("ended_how" IN ('stopped', 'died'))
);

-- Whether a process has not ended and was heard of in the last minute; null when it was never heard of. A server that
-- was just started cannot have heard of anybody: that is held against nobody for a minute.
CREATE FUNCTION luthien_is_alive(seen_at timestamptz, ended_at timestamptz, server_started_at timestamptz)
RETURNS boolean
LANGUAGE sql STABLE
AS $$
    SELECT CASE
        WHEN seen_at IS NULL THEN NULL
        ELSE ended_at IS NULL AND GREATEST(seen_at, server_started_at) > now() - interval '60 seconds'
    END
$$;
