-- The calls that changed after a position of the live feed, in the order in which they were written, and only those before
-- which nothing can come any more. Of all days: a spool that is adopted late brings old calls. The feed asks this again and
-- again, and to plan two months of days costs ten times what it costs to look into them: so the plan is kept. One that was
-- made while a day was empty must do when it is full, so it reads the index by which the feed is ordered and nothing else.
CREATE FUNCTION luthien_changed_after(after_xid xid8, after_id uuid, at_most integer)
RETURNS TABLE ("stored_xid" xid8, "call_id" uuid)
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET max_parallel_workers_per_gather = 0
SET jit = off
AS $$
BEGIN
    RETURN QUERY
        SELECT calls.stored_xid, calls.call_id
        FROM conversation_calls AS calls
        WHERE (calls.stored_xid, calls.call_id) > (after_xid, after_id)
            AND calls.stored_xid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY calls.stored_xid, calls.call_id
        LIMIT at_most;
END
$$;
