"""*The record*: is it whole, and if not, what was lost and why?"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboards import parts
from dashboards.parts import INSTANCES, AnyPanel, Query, grown, promql, promql_now
from dashboards.reports import IN_TIME

_ENDED: Final = f"{IN_TIME} AND outcome <> 'running'"
_DROPPED: Final = "luthien_record_dropped_total"
_NOT_CRASH_PROOF: Final = "luthien_record_not_crash_proof_total"


def record() -> Dashboard:
    made = parts.dashboard(
        "record",
        "Luthien: the record",
        "Whether everything that passed is kept: what was dropped, how far the database is behind, what it holds.",
    ).with_variable(parts.instance_variable())
    for title, panels in (
        ("Is the record whole?", _whole()),
        ("What was lost, or might have been", _lost()),
        ("From the gateway to the database", _flow()),
        ("Batches", _batches()),
        ("Calls whose record is not complete", _incomplete()),
        ("Days and their sizes", _partitions()),
        ("Search", _index()),
        ("Processes", _processes()),
    ):
        made = made.with_row(Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    return made


def _whole() -> list[AnyPanel]:
    incomplete = parts.dashboard_link("Calls, with how complete they are", "calls")
    spool = f"luthien_record_spool_size_bytes{{{INSTANCES}}} / luthien_record_spool_limit_bytes{{{INSTANCES}}}"
    return [
        parts.number(
            "Dropped",
            "Records, or their payloads, that were lost in this time; good is 0 and nothing else.",
            "locale",
            promql_now(f"sum({grown(_DROPPED, INSTANCES, '$__range')})", "records"),
            parts.steps((1, "red")),
            link=incomplete,
        ),
        parts.number(
            "Complete calls",
            "Share of this time's ended calls that have every record; good is 100%.",
            "percentunit",
            parts.sql(
                f"SELECT avg(is_complete::int)::float8 AS complete FROM report_calls WHERE {_ENDED}"  # noqa: S608
            ),
            parts.steps_down(0.999, 1),
            link=incomplete,
            decimals=2,
        ),
        parts.number(
            "Oldest unsaved",
            "How long the oldest record has waited for the database; good is below a few seconds.",
            "s",
            promql(f"max(luthien_record_oldest_unsaved_age_seconds{{{INSTANCES}}})", "age"),
            parts.steps((10, "orange"), (60, "red")),
            link=parts.calls_link("Calls that run, or whose end is not stored", "outcome=running"),
        ),
        parts.number(
            "Spool in use",
            "The fullest process's spool, of what it may take on the disk; good is nearly nothing.",
            "percentunit",
            promql(f"max({spool})", "share"),
            parts.steps((0.5, "orange"), (0.8, "red")),
            link=parts.calls_link("Calls that run, or whose end is not stored", "outcome=running"),
        ),
        parts.number(
            "In no day's partition",
            "Rows that wait in the default partitions; good is 0, and `luthien repair` moves them.",
            "locale",
            promql(f"max(luthien_record_default_partition_rows{{{INSTANCES}}})", "rows"),
            parts.steps((1, "red")),
            link=parts.calls_link("Calls"),
        ),
        parts.number(
            "Search is behind",
            "How long the first call that is not indexed has waited; good is below half a minute.",
            "s",
            promql(f"max(luthien_index_lag_seconds{{{INSTANCES}}})", "lag"),
            parts.steps((60, "orange"), (600, "red")),
            link=parts.calls_link("Calls"),
        ),
    ]


def _lost() -> list[AnyPanel]:
    reasons = "sum by (luthien_record_reason)"
    broken = parts.dashboard_link("Calls, with how complete they are", "calls")
    return [
        parts.graph(
            "Dropped, by reason",
            "What was lost since each process began; good is flat at 0. docs/record.md says what a reason means.",
            "locale",
            [promql(f"{reasons} ({_DROPPED}{{{INSTANCES}}})", "{{luthien_record_reason}}")],
            link=broken,
        ),
        parts.graph(
            "Not crash-proof, and late receipts",
            "Records that waited in memory only, and calls that went on without a receipt; good is flat at 0.",
            "locale",
            [
                promql(f"{reasons} ({_NOT_CRASH_PROOF}{{{INSTANCES}}})", "in memory: {{luthien_record_reason}}"),
                promql(f"sum(luthien_record_receipt_timeouts_total{{{INSTANCES}}})", "late receipts"),
                promql(f"sum(luthien_record_tombstones_total{{{INSTANCES}}})", "kept without payload"),
            ],
            link=broken,
        ),
    ]


def _flow() -> list[AnyPanel]:
    def rate(name: str) -> str:
        return f"sum(rate(luthien_record_{name}_total{{{INSTANCES}}}[$__rate_interval]))"

    by_process = "sum by (instance)"
    return [
        parts.graph(
            "Taken in and stored",
            "Records a second; good is two lines on top of each other.",
            "short",
            [promql(rate("appended"), "taken in"), promql(rate("stored"), "stored")],
            link=parts.calls_link("Calls"),
        ),
        parts.graph(
            "Tried again, found there, adopted",
            "Batches that the database did not take at once, records that it had already, records of dead processes; "
            "good is 0 but after a restart.",
            "short",
            [
                promql(rate("retried"), "batches tried again"),
                promql(rate("replayed"), "records that were there"),
                promql(rate("adopted"), "records of dead processes"),
            ],
            link=parts.calls_link("Calls"),
        ),
        parts.graph(
            "Waiting for the database",
            "Records in the spool or in memory that are not committed, by process; good is hundreds at most.",
            "short",
            [promql(f"{by_process} (luthien_record_unsaved{{{INSTANCES}}})", "{{instance}}")],
            link=parts.calls_link("Calls that run, or whose end is not stored", "outcome=running"),
            width=8,
        ),
        parts.graph(
            "Age of the oldest",
            "How far the database is behind, by process; good is below a few seconds.",
            "s",
            [promql(f"max by (instance) (luthien_record_oldest_unsaved_age_seconds{{{INSTANCES}}})", "{{instance}}")],
            link=parts.calls_link("Calls that run, or whose end is not stored", "outcome=running"),
            bad_above=60,
            width=8,
        ),
        parts.graph(
            "Spool on the disk",
            "What spools take, what waits in memory, and what one process's spool may take; good is far below.",
            "bytes",
            [
                promql(f"{by_process} (luthien_record_spool_size_bytes{{{INSTANCES}}})", "{{instance}}"),
                promql(f"sum(luthien_record_unsaved_size_bytes{{{INSTANCES}}})", "waiting, in memory"),
                promql(f"min(luthien_record_spool_limit_bytes{{{INSTANCES}}})", "limit"),
            ],
            link=parts.calls_link("Calls that run, or whose end is not stored", "outcome=running"),
            width=8,
        ),
    ]


def _batches() -> list[AnyPanel]:
    return [
        parts.graph(title, f"{what}; {good}.", unit, parts.quantiles(metric, INSTANCES), link=link, width=8)
        for title, what, good, unit, metric, link in (
            (
                "Records in a batch",
                "How many are written at once",
                "good is more under load",
                "short",
                "luthien_record_batch_size",
                parts.calls_link("Calls"),
            ),
            (
                "Size of a batch",
                "What they take",
                "good is a few megabytes at most",
                "bytes",
                "luthien_record_batch_bytes",
                parts.calls_link("Calls"),
            ),
            (
                "Time for a batch",
                "How long the database takes for one",
                "good is below 0.1 s",
                "s",
                "luthien_record_batch_duration_seconds",
                parts.calls_link("Calls"),
            ),
        )
    ]


def _incomplete() -> list[AnyPanel]:
    over_time = parts.graph(
        "Completeness",
        "Share of ended calls that have every record, by when they began; good is a line at 100%.",
        "percentunit",
        [
            parts.sql(
                f"""
SELECT $__timeGroupAlias(started_at, $__interval), avg(is_complete::int)::float8 AS complete
FROM report_calls
WHERE $__timeFilter(started_at) AND {_ENDED}
GROUP BY 1
ORDER BY 1""",  # noqa: S608
                "time_series",
            )
        ],
        link=parts.calls_link("Calls"),
        width=8,
    ).max(1)
    listed = parts.rows_of(
        "Incomplete calls",
        "The newest fifty that lack a record or a payload; each leads to its page, which says why; good is `none`.",
        [
            parts.sql(
                f"""
SELECT call_id::text AS call_id, started_at, outcome, records_emitted, records_stored, records_refused,
    records_tombstoned, trace_id
FROM report_calls
WHERE {_ENDED} AND is_complete IS NOT TRUE
ORDER BY report_calls.call_id DESC
LIMIT 50"""  # noqa: S608
            )
        ],
        width=16,
        height=8,
    )
    page = parts.page_link("Its page", f"/debug/calls/{parts.column('call_id')}")
    same = parts.calls_link("All with this outcome", f"outcome={parts.column('outcome')}")
    listed = parts.column_of(listed, "call_id", shown="Call", link=page, width=320)
    listed = parts.column_of(listed, "started_at", shown="Began", width=180)
    listed = parts.column_of(listed, "outcome", shown="Outcome", link=same)
    for name, shown in (
        ("records_emitted", "Left"),
        ("records_stored", "Stored"),
        ("records_refused", "Refused"),
        ("records_tombstoned", "Without payload"),
    ):
        listed = parts.column_of(listed, name, shown=shown)
    return [over_time, parts.column_of(listed, "trace_id", shown="Trace", link=parts.trace_link())]


def _partitions() -> list[AnyPanel]:
    days = parts.rows_of(
        "Days",
        "Each day's tables with their indexes, newest first; good is even, and `default` with no row.",
        [
            parts.sql(
                """
SELECT COALESCE(day::text, 'default') AS day, sum(bytes)::bigint AS bytes,
    sum(estimated_rows) FILTER (WHERE table_name = 'conversation_calls')::bigint AS calls,
    sum(estimated_rows) FILTER (WHERE table_name = 'conversation_events')::bigint AS records,
    day::text AS since, (day + 1)::text AS until
FROM report_partitions
GROUP BY day
ORDER BY report_partitions.day DESC NULLS LAST
LIMIT 400"""
            )
        ],
        width=12,
    )
    link = parts.page_link(
        "Calls of this day", f"/debug/calls?since={parts.column('since')}&until={parts.column('until')}"
    )
    days = parts.column_of(days, "day", shown="Day (UTC)", link=link)
    days = parts.column_of(days, "bytes", shown="Size", unit="bytes")
    days = parts.column_of(days, "calls", shown="Calls, about", unit="locale")
    days = parts.column_of(days, "records", shown="Records, about", unit="locale")
    days = parts.column_of(parts.column_of(days, "since", hidden=True), "until", hidden=True)
    tables = parts.rows_of(
        "Tables",
        "What each table takes over all days, and what is in no day's partition; good is growth that you plan for.",
        [
            parts.sql(
                """
SELECT table_name, count(*) FILTER (WHERE NOT is_default) AS days, sum(bytes)::bigint AS bytes,
    sum(estimated_rows)::bigint AS rows, sum(estimated_rows) FILTER (WHERE is_default)::bigint AS in_default
FROM report_partitions
GROUP BY table_name
ORDER BY bytes DESC"""
            )
        ],
        width=12,
    )
    for name, shown, unit in (
        ("table_name", "Table", None),
        ("days", "Days", None),
        ("bytes", "Size", "bytes"),
        ("rows", "Rows, about", "locale"),
        ("in_default", "In no day's", "locale"),
    ):
        tables = parts.column_of(tables, name, shown=shown, unit=unit)
    return [days, tables]


def _index() -> list[AnyPanel]:
    return [
        parts.graph(
            "Indexed",
            "Calls a second that became searchable, and those of which no text could be; good is 0 failed.",
            "reqps",
            [
                promql(f"sum(rate(luthien_index_{name}_total{{{INSTANCES}}}[$__rate_interval]))", name)
                for name in ("indexed", "failed")
            ],
            link=parts.calls_link("Calls"),
        ),
        parts.graph(
            "Waiting to be indexed",
            "Calls that searches do not know yet, counted to 10,000; good goes back to 0.",
            "short",
            [promql(f"max(luthien_index_waiting{{{INSTANCES}}})", "calls")],
            link=parts.calls_link("Calls"),
        ),
    ]


def _processes() -> list[AnyPanel]:
    panel = parts.rows_of(
        "Gateway processes",
        "Each process of this time, and whether it ended as it should; good is alive, or ended with nothing unsaved.",
        [_process_rows()],
    )
    for name, shown in (
        ("process_id", "Process"),
        ("host", "Host"),
        ("version", "Version"),
        ("started_at", "Began"),
        ("seen_at", "Last seen"),
        ("saved_until", "Saved until"),
        ("state", "State"),
        ("appended", "Taken in"),
        ("stored", "Stored"),
        ("dropped", "Dropped"),
    ):
        panel = parts.column_of(panel, name, shown=shown)
    since = parts.page_link(
        "Calls since it began", f"/debug/calls?since={parts.column('since')}&until=${{__to:date:iso}}"
    )
    panel = parts.column_of(panel, "process_id", shown="Process", link=since, width=320)
    return [parts.column_of(panel, "since", hidden=True)]


def _process_rows() -> Query:
    return parts.sql(
        """
SELECT process_id::text AS process_id, host, version, started_at, seen_at, saved_until,
    CASE WHEN is_alive THEN 'alive' WHEN ended_at IS NOT NULL THEN ended_how ELSE 'not seen any more' END AS state,
    (stats ->> 'appended')::bigint AS appended, (stats ->> 'stored')::bigint AS stored,
    (SELECT sum(value::bigint)::bigint FROM jsonb_each_text(
        CASE jsonb_typeof(stats -> 'dropped') WHEN 'object' THEN stats -> 'dropped' ELSE '{}' END
    )) AS dropped,
    to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since
FROM report_processes
WHERE started_at < $__timeTo() AND COALESCE(ended_at, seen_at) >= $__timeFrom()
ORDER BY started_at DESC
LIMIT 100"""
    )
