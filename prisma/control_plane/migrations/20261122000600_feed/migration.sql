-- The live feed: which transaction wrote a call's row last. Whoever follows takes only what is below the minimum of its
-- snapshot, so that a transaction that commits late is never passed by. Rows from before have none: nothing has changed
-- them since.

ALTER TABLE "conversation_calls" ADD COLUMN "stored_xid" xid8;
ALTER TABLE "conversation_calls" ALTER COLUMN "stored_xid" SET DEFAULT pg_current_xact_id();

CREATE INDEX "conversation_calls_stored_xid_call_id_idx" ON "conversation_calls" ("stored_xid", "call_id");
