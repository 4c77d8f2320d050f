-- Which gateway key a call came with: its name, never the key.
ALTER TABLE "conversation_calls" ADD COLUMN "gateway_key" TEXT;
