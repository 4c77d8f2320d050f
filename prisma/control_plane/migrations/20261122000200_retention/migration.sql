-- Retention: whole days are dropped, and what strayed into the default partitions is found.

-- The tables of the record: those that a writer writes first and in its order, so that whoever locks them in this
-- order and a writer never wait for each other, then any others. They are found, not listed: a table that a later
-- migration adds is not forgotten.
CREATE FUNCTION luthien_tables() RETURNS TABLE ("oid" oid, "name" name, "default_partition" name, "place" bigint)
LANGUAGE sql STABLE
AS $$
    SELECT pg_class.oid, pg_class.relname, defaults.relname, row_number() OVER (ORDER BY
        array_position(ARRAY['conversation_events', 'conversation_calls', 'conversation_quarantine']::name[],
            pg_class.relname),
        pg_class.relname)
    FROM pg_class
    JOIN pg_partitioned_table ON partrelid = pg_class.oid
    LEFT JOIN pg_class AS defaults ON defaults.oid = partdefid
    WHERE pg_class.relnamespace = to_regnamespace(current_schema()::text) AND pg_class.relname LIKE 'conversation\_%'
$$;

-- The partitions of one UTC day, as luthien_create_day names them. What was detached is no partition any more.
CREATE FUNCTION luthien_partitions(day date) RETURNS TABLE ("parent" name, "partition" name)
LANGUAGE sql STABLE STRICT
AS $$
    SELECT tables.name, pg_class.relname
    FROM luthien_tables() AS tables
    JOIN pg_inherits ON inhparent = tables.oid
    JOIN pg_class ON pg_class.oid = inhrelid
    WHERE pg_class.relname = tables.name || '_' || to_char(day, 'YYYYMMDD')
    ORDER BY tables.place
$$;

-- Drops the partitions of one UTC day, if that is older than so many whole days by this server's clock too; says
-- whether there were any. Call it in a transaction of its own.
--
-- Beside a default partition a partition can only go with ACCESS EXCLUSIVE on its parent: DETACH ... CONCURRENTLY
-- refuses. The lock is held for a change of the catalog only, the files go after it. Waiting for it is what could
-- last, with everybody who comes later queued up behind: so this gives up after lock_timeout, and whoever called it
-- tries again later.
CREATE FUNCTION luthien_drop_day(day date, keep_days integer) RETURNS boolean
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET lock_timeout = '200ms'
AS $$
DECLARE
    parents name[] := ARRAY(SELECT found."parent" FROM luthien_partitions(day) AS found);
    partitions name[];
    each_name name;
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
    RETURN partitions <> '{}';
END
$$;

-- How many rows of which day (counted from 1970) are in the default partition of which table. Reads what should be
-- empty; says nothing of anybody's data, so everybody may ask.
CREATE FUNCTION luthien_strays() RETURNS TABLE ("parent" text, "day" bigint, "rows" bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
AS $$
DECLARE
    each_table record;
BEGIN
    FOR each_table IN SELECT name, default_partition FROM luthien_tables()
        WHERE default_partition IS NOT NULL ORDER BY place
    LOOP
        RETURN QUERY EXECUTE format(
            'SELECT %L::text, (''x'' || left(replace(call_id::text, ''-'', ''''), 12))::bit(48)::bigint / 86400000,'
            ' count(*) FROM %I GROUP BY 2',
            each_table.name, each_table.default_partition
        );
    END LOOP;
END
$$;

-- Deletes rows older than so many whole days from the default partitions, at most so many of each; says how many. A
-- record that was set aside for an id of a time that has not come is as old as its quarantine.
CREATE FUNCTION luthien_drop_strays(keep_days integer, at_most integer) RETURNS bigint
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET lock_timeout = '200ms'
AS $$
DECLARE
    first_day constant date := (clock_timestamp() AT TIME ZONE 'UTC')::date - keep_days;
    first_id constant uuid := rpad(lpad(to_hex((first_day - date '1970-01-01') * bigint '86400000'), 12, '0'), 32, '0');
    each_table record;
    deleted bigint;
    total bigint := 0;
BEGIN
    IF keep_days < 1 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'at least one day is kept';
    END IF;
    FOR each_table IN SELECT name, default_partition FROM luthien_tables()
        WHERE default_partition IS NOT NULL ORDER BY place
    LOOP
        EXECUTE format(
            'DELETE FROM %1$I WHERE ctid = ANY (ARRAY('
            'SELECT ctid FROM %1$I WHERE call_id < %2$L %3$s LIMIT %4$s FOR UPDATE SKIP LOCKED))',
            each_table.default_partition,
            first_id,
            CASE each_table.name WHEN 'conversation_quarantine' THEN
                format('OR quarantined_at < %L', first_day::timestamp AT TIME ZONE 'UTC') END,
            at_most
        );
        GET DIAGNOSTICS deleted = ROW_COUNT;
        total := total + deleted;
    END LOOP;
    RETURN total;
END
$$;

-- As for luthien_create_day: a function with its owner's rights must not look names up where its caller says.
DO $$
DECLARE
    each_function text;
BEGIN
    FOREACH each_function IN ARRAY ARRAY[
        'luthien_tables()', 'luthien_partitions(date)', 'luthien_drop_day(date, integer)',
        'luthien_strays()', 'luthien_drop_strays(integer, integer)'
    ] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', each_function, current_schema());
    END LOOP;
END
$$;

REVOKE EXECUTE ON FUNCTION luthien_drop_day(date, integer), luthien_drop_strays(integer, integer) FROM PUBLIC;
