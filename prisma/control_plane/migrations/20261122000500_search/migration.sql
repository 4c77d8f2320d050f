-- What lists and searches read beside conversation_calls: made from the record after it is stored, and to be made
-- anew from it at any time. Nothing here is needed to record a call.

-- A row a call: its words, and what filters ask for, as lexemes of one index, so that any combination is one search.
CREATE TABLE "conversation_search" (
    "call_id" UUID NOT NULL,
    "document" TSVECTOR NOT NULL,
    "algo" INTEGER NOT NULL,
    "indexed_at" TIMESTAMPTZ(6) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "capped" TEXT[] NOT NULL DEFAULT ARRAY[]::TEXT[],
    "error" TEXT,

    CONSTRAINT "conversation_search_pkey" PRIMARY KEY ("call_id")
) PARTITION BY RANGE ("call_id");

-- The list of entries still to be sorted in is read by every search: it is kept short.
CREATE INDEX "conversation_search_document_idx" ON "conversation_search" USING GIN ("document")
    WITH (gin_pending_list_limit = 256);

-- A row for each place that a policy changed and each policy that had a part in it.
CREATE TABLE "conversation_changes" (
    "call_id" UUID NOT NULL,
    "number" INTEGER NOT NULL,
    "side" TEXT NOT NULL,
    "op_id" TEXT NOT NULL,
    "action" TEXT NOT NULL,
    "kind" TEXT NOT NULL,
    "part" TEXT NOT NULL,
    "before_ptr" TEXT,
    "after_ptr" TEXT,
    "policy" TEXT,
    "version" TEXT,

    CONSTRAINT "conversation_changes_pkey" PRIMARY KEY ("call_id", "number")
) PARTITION BY RANGE ("call_id");

CREATE TABLE "conversation_search_default" PARTITION OF "conversation_search" DEFAULT;
CREATE TABLE "conversation_changes_default" PARTITION OF "conversation_changes" DEFAULT;

-- The calls that are not indexed as they are stored now: whoever stores anything of a call puts it here, in the same
-- transaction, and whoever has indexed it takes it away. Short, so not partitioned.
CREATE TABLE "conversation_unindexed" (
    "call_id" UUID NOT NULL,
    "changed_in" XID8 NOT NULL DEFAULT pg_current_xact_id(),
    "due_at" TIMESTAMPTZ(6) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "attempts" INTEGER NOT NULL DEFAULT 0,

    CONSTRAINT "conversation_unindexed_pkey" PRIMARY KEY ("call_id")
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

INSERT INTO "conversation_unindexed" ("call_id") SELECT "call_id" FROM "conversation_calls";

-- Says that something of these calls was stored. A call that is over is to be indexed at once, any other when it has
-- been quiet for ten minutes. The transaction tells whoever is indexing a call just now that it has changed.
-- With the owner's rights: that a role may record does not depend on rights to search.
CREATE FUNCTION luthien_unindexed(calls uuid[], are_over boolean[]) RETURNS void
LANGUAGE sql SECURITY DEFINER
AS $$
    INSERT INTO conversation_unindexed AS known (call_id, due_at)
    SELECT call_id, now() + CASE WHEN is_over THEN interval '0' ELSE interval '10 minutes' END
    FROM unnest(calls, are_over) AS stored (call_id, is_over)
    ORDER BY call_id
    ON CONFLICT (call_id) DO UPDATE
    SET changed_in = EXCLUDED.changed_in, due_at = LEAST(known.due_at, EXCLUDED.due_at), attempts = 0
$$;

-- The calls from first to behind (not itself any more) whose documents match, the newest or the oldest first.
-- A search reads its own index and never the rows of a day one after the other, whatever the statistics promise: they
-- do not know which words occur together. So nothing may stop at the first so many rows that an ordered walk finds
-- (MATERIALIZED), and looking into a document is said to be as dear as it is.
CREATE FUNCTION luthien_found(wanted tsquery, first uuid, behind uuid, newest_first boolean, at_most integer)
RETURNS SETOF uuid
LANGUAGE plpgsql STABLE
SET enable_seqscan = off
SET enable_indexscan = off
SET cpu_operator_cost = 0.1
SET max_parallel_workers_per_gather = 0
SET jit = off
SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    IF newest_first THEN
        RETURN QUERY
            WITH matching AS MATERIALIZED (
                SELECT call_id FROM conversation_search
                WHERE document @@ wanted AND call_id >= first AND call_id < behind
            )
            SELECT call_id FROM matching ORDER BY call_id DESC LIMIT at_most;
    ELSE
        RETURN QUERY
            WITH matching AS MATERIALIZED (
                SELECT call_id FROM conversation_search
                WHERE document @@ wanted AND call_id >= first AND call_id < behind
            )
            SELECT call_id FROM matching ORDER BY call_id LIMIT at_most;
    END IF;
END
$$;

-- As it was, but of all tables of the record that there are.
CREATE OR REPLACE FUNCTION luthien_create_day(day date) RETURNS boolean
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET lock_timeout = '2s'
AS $$
DECLARE
    day_ms constant bigint := 86400000;
    first_ms constant bigint := (day - date '1970-01-01') * day_ms;
    first_id uuid;
    end_id uuid;
    each_table record;
    partition text;
    made boolean := false;
BEGIN
    IF day < date '1970-01-01' OR day > date '9999-12-31' THEN
        RAISE datetime_field_overflow USING MESSAGE = format('no call id is of the day %s', day);
    END IF;
    first_id := rpad(lpad(to_hex(first_ms), 12, '0'), 32, '0')::uuid;
    end_id := rpad(lpad(to_hex(first_ms + day_ms), 12, '0'), 32, '0')::uuid;

    -- In the order in which a record is written, so that a writer and this function cannot wait for each other.
    FOR each_table IN SELECT name, default_partition FROM luthien_tables() ORDER BY place LOOP
        partition := each_table.name || '_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        EXECUTE format('LOCK TABLE %I IN SHARE UPDATE EXCLUSIVE MODE', each_table.name);
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, each_table.name);
        IF each_table.default_partition IS NOT NULL THEN
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', each_table.default_partition);
            EXECUTE format(
                'WITH moved AS (DELETE FROM %I WHERE call_id >= %L AND call_id < %L RETURNING *)'
                ' INSERT INTO %I SELECT * FROM moved',
                each_table.default_partition, first_id, end_id, partition
            );
        END IF;
        EXECUTE format(
            'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            each_table.name, partition, first_id, end_id
        );
        made := true;
    END LOOP;
    RETURN made;
END
$$;

-- As it was, and what waited to be indexed goes with its day.
CREATE OR REPLACE FUNCTION luthien_drop_day(day date, keep_days integer) RETURNS boolean
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET lock_timeout = '200ms'
AS $$
DECLARE
    parents name[] := ARRAY(SELECT found."parent" FROM luthien_partitions(day) AS found);
    partitions name[];
    each_name name;
    first_ms constant bigint := (day - date '1970-01-01') * bigint '86400000';
BEGIN
    IF keep_days < 1 OR day >= (clock_timestamp() AT TIME ZONE 'UTC')::date - keep_days THEN
        RAISE invalid_parameter_value USING MESSAGE = format('the day %s is not older than %s days', day, keep_days);
    END IF;
    FOREACH each_name IN ARRAY parents LOOP
        EXECUTE format('LOCK TABLE ONLY %I IN ACCESS EXCLUSIVE MODE', each_name);
    END LOOP;
    -- Once more: somebody else may have dropped them while this waited.
    partitions := ARRAY(SELECT found."partition" FROM luthien_partitions(day) AS found);
    FOREACH each_name IN ARRAY partitions LOOP
        EXECUTE format('DROP TABLE %I', each_name);
    END LOOP;
    DELETE FROM conversation_unindexed
    WHERE call_id >= rpad(lpad(to_hex(first_ms), 12, '0'), 32, '0')::uuid
        AND call_id < rpad(lpad(to_hex(first_ms + 86400000), 12, '0'), 32, '0')::uuid;
    RETURN partitions <> '{}';
END
$$;

-- A function with its owner's rights must not look names up where its caller says; defining it anew forgot that.
DO $$
DECLARE
    each_function text;
BEGIN
    FOREACH each_function IN ARRAY ARRAY[
        'luthien_unindexed(uuid[], boolean[])', 'luthien_create_day(date)', 'luthien_drop_day(date, integer)'
    ] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', each_function, current_schema());
    END LOOP;
END
$$;

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
