"""What of *The record* stands in the database: calls that are not complete, days and tables, processes."""

from __future__ import annotations

from typing import Final

from dashboards import parts
from dashboards.parts import AnyPanel, Query
from dashboards.reports import IN_TIME

ENDED: Final = f"{IN_TIME} AND outcome <> 'running'"


def incomplete() -> list[AnyPanel]:
    over_time = (
        parts.graph(
            "Completeness",
            "Share of ended calls that have every record, by when they began; good is a line at 100%.",
            "percentunit",
            [
                parts.sql(
                    f"""
SELECT $__timeGroupAlias(started_at, $__interval), avg(is_complete::int)::float8 AS complete
FROM report_calls
WHERE $__timeFilter(started_at) AND {ENDED}
GROUP BY 1
ORDER BY 1""",  # noqa: S608
                    "time_series",
                )
            ],
            link=parts.calls_link("Calls"),
            width=8,
        )
        .max(1)
        .interval("10s")
    )
    listed = parts.rows_of(
        "Incomplete calls",
        "The newest fifty that lack a record or a payload; each leads to its page, which says why; good is no row.",
        [
            parts.sql(
                f"""
SELECT call_id::text AS call_id, started_at, outcome, records_emitted, records_stored, records_refused,
    records_tombstoned, trace_id
FROM report_calls
WHERE {ENDED} AND is_complete IS NOT TRUE
ORDER BY report_calls.call_id DESC
LIMIT 50"""  # noqa: S608
            )
        ],
        width=16,
        height=9,
    )
    page = parts.page_link("Its page", f"/debug/calls/{parts.column('call_id')}")
    same = parts.calls_link("All with this outcome", f"outcome={parts.column('outcome')}")
    listed = parts.column_of(listed, "call_id", shown="Call", link=page, width=300)
    listed = parts.column_of(listed, "started_at", shown="Began", width=160)
    listed = parts.column_of(listed, "outcome", shown="Outcome", link=same)
    for name, shown in (
        ("records_emitted", "Left"),
        ("records_stored", "Stored"),
        ("records_refused", "Refused"),
        ("records_tombstoned", "No payload"),
    ):
        listed = parts.column_of(listed, name, shown=shown)
    return [over_time, parts.column_of(listed, "trace_id", shown="Trace", link=parts.trace_link())]


def partitions() -> list[AnyPanel]:
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
    tables = parts.column_of(tables, "table_name", shown="Table", width=220)
    for name, shown, unit in (
        ("days", "Days", None),
        ("bytes", "Size", "bytes"),
        ("rows", "Rows, about", "locale"),
        ("in_default", "In no day's", "locale"),
    ):
        tables = parts.column_of(tables, name, shown=shown, unit=unit)
    return [days, tables]


def processes() -> list[AnyPanel]:
    panel = parts.rows_of(
        "Gateway processes",
        "Each process of this time, and whether it ended as it should; good is alive, or ended with nothing unsaved.",
        [_process_rows()],
        unit="locale",
        height=7,
    )
    for name, shown, width in (
        ("host", "Host", None),
        ("version", "Version", None),
        ("started_at", "Began", 190),
        ("seen_at", "Last seen", 190),
        ("saved_until", "Saved until", 190),
        ("state", "State", None),
        ("appended", "Taken in", None),
        ("stored", "Stored", None),
        ("dropped", "Dropped", None),
    ):
        panel = parts.column_of(panel, name, shown=shown, width=width)
    since = parts.page_link(
        "Calls since it began", f"/debug/calls?since={parts.column('since')}&until=${{__to:date:iso}}"
    )
    panel = parts.column_of(panel, "process_id", shown="Process", link=since, width=300)
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
