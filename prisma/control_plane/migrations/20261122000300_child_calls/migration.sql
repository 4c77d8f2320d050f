-- Child calls: a policy asks a model, and that is a call of its own, which names the one it is part of.

ALTER TABLE "conversation_calls" ADD COLUMN "parent_call_id" UUID;

-- The children of a call. Partial: most calls are nobody's children.
CREATE INDEX "conversation_calls_parent_call_id_call_id_idx" ON "conversation_calls" ("parent_call_id", "call_id")
    WHERE "parent_call_id" IS NOT NULL;
