"""What docs/telemetry.md says a metric means, in Markdown, where that is too long for a description on the wire."""

from __future__ import annotations

from typing import Final

from luthien.telemetry import conventions as names

NOTES: Final[dict[str, str]] = {
    names.OPERATION_DURATION: "How long a call to the provider took",
    names.TOKEN_USAGE: "Tokens read and written, as the provider reports them",
    names.TIME_TO_FIRST_CHUNK: "Until the provider's first chunk",
    names.STREAM_VIOLATIONS: "Rules of its protocol that a stream broke, where policies look at it "
    "([the rules](streams.md)). `upstream`: the provider; `gateway`: Luthien or one of its policies",
    names.CALLS: "Calls that ended; with `luthien.child` if a policy asked and no client",
    names.CALL_DURATION: "From a call's first byte in to its record's end, just before its last byte out; with "
    "`luthien.streaming` once the request is read",
    names.CALL_PART_DURATION: "The same in three parts, which add up to it: waiting for the provider (`upstream`), "
    "in policies (`policy`), and all the rest (`gateway`). Each call has all three. What policies ask of models is "
    "their time, and a child call of its own",
    names.POLICY_CHANGED_SIZE: "What a step removed and what it added: the bytes from the first that differs to the "
    "last, of the JSON before and after it without formatting. Two small changes far apart count as one large. Of "
    "streams, those of the responses they add up to, if all of them passed and neither is above 4 MiB. Steps in "
    "shadow change nothing",
    names.RECORD_BATCH_BYTES: "What the records of a batch took, each with 1,024 bytes beside its payload, as "
    "`LUTHIEN_BATCH_MAX_BYTES` counts them",
    names.EXPORT_DROPPED: "Spans and log lines that did not reach their backend (`queue_full`, `export_failed`), and "
    "with points of metrics those that it took and `rejected`. Their calls are recorded all the same",
    names.POLICY_DECISIONS: "Decisions; with `luthien.policy.shadow` if it was one",
    names.POLICY_DURATION: "Time in a policy; with `luthien.policy.shadow` if the decision was one",
    names.CONFIG_RELOADS: "Changes of the configuration that were taken (`applied`), or kept out for their mistakes "
    "(`refused`)",
    names.RECORD_STORED: "Records committed to the database",
    names.RECORD_REPLAYED: "Records that were in the database already, after a crash or a lost answer",
    names.RECORD_RETRIED: "Batches tried again, since the database did not take them",
    names.RECORD_DROPPED: "Records lost, or at least their payloads; see [the record](record.md) for the reasons",
    names.RECORD_TOMBSTONES: "Of the records dropped, those that keep their place, hash and size",
    names.RECORD_NOT_CRASH_PROOF: "Records that waited in memory only: a crash then would have lost them",
    names.RECORD_ADOPTED: "Records read from the spools of dead processes",
    names.RECORD_UNSAVED: "Records that wait for the database",
    names.RECORD_UNSAVED_BYTES: "What the records that wait take in memory",
    names.RECORD_OLDEST: "How long the oldest of the records that wait has waited: how far the database is behind",
    names.SPOOL_BYTES: "What the spool takes on the disk",
    names.SPOOL_LIMIT: "What it may take: `LUTHIEN_SPOOL_MAX_BYTES`",
    names.RECORD_DEFAULT_PARTITION: "Rows that wait in the default partitions for their day: 0, or `luthien doctor` "
    "says what to do",
    names.RECORD_RECEIPT_TIMEOUTS: "Times a call went on before it knew that its record was safe",
    names.INDEX_INDEXED: "Calls that this process [indexed](search.md)",
    names.INDEX_FAILED: "Calls of which only what filters ask for could be indexed, and no text; "
    "`conversation_search.error` says why",
    names.INDEX_WAITING: "Calls that wait to be indexed, by whichever process; counted up to 10,000",
    names.INDEX_LAG: "How long the first of these has waited: how far searches are behind",
}
