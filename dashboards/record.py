"""*The record*: is it whole, and if not, what was lost and why?"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboards import parts, record_tables
from dashboards.parts import INSTANCES, AnyPanel, grown, promql, promql_now

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
        ("Calls whose record is not complete", record_tables.incomplete()),
        ("Days and their sizes", record_tables.partitions()),
        ("Search", _index()),
        ("Processes", record_tables.processes()),
        ("Telemetry on its way", _telemetry()),
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
                f"SELECT avg(is_complete::int)::float8 AS complete FROM report_calls WHERE {record_tables.ENDED}"  # noqa: S608
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
            "Taken in and stored, a second",
            "Records a second; good is two lines on top of each other.",
            "short",
            [promql(rate("appended"), "taken in"), promql(rate("stored"), "stored")],
            link=parts.calls_link("Calls"),
        ),
        parts.graph(
            "Tried again, found there, adopted, a second",
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
            many=True,
            width=8,
        ),
        parts.graph(
            "Age of the oldest",
            "How far the database is behind, by process; good is below a few seconds.",
            "s",
            [promql(f"max by (instance) (luthien_record_oldest_unsaved_age_seconds{{{INSTANCES}}})", "{{instance}}")],
            link=parts.calls_link("Calls that run, or whose end is not stored", "outcome=running"),
            bad_above=60,
            many=True,
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
            many=True,
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


def _index() -> list[AnyPanel]:
    return [
        parts.graph(
            "Indexed, a second",
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


def _telemetry() -> list[AnyPanel]:
    queue = "otelcol_exporter_queue"
    return [
        parts.graph(
            "Telemetry that was lost",
            "Spans and lines that did not reach the Collector, by why; the record needs none; good is flat at 0.",
            "locale",
            [
                promql(
                    f"sum by (luthien_signal, error_type) (luthien_export_dropped_total{{{INSTANCES}}})",
                    "{{luthien_signal}}: {{error_type}}",
                )
            ],
            link=parts.calls_link("Calls"),
            width=8,
        ),
        parts.graph(
            "Payloads that the Collector found",
            "Spans and lines of the gateway from which the Collector took something; good is empty.",
            "locale",
            [
                promql(
                    f"sum by (luthien_collector_signal) (luthien_collector_payloads_total{{{INSTANCES}}})",
                    "{{luthien_collector_signal}}",
                )
            ],
            link=parts.calls_link("Calls"),
            width=8,
        ),
        parts.graph(
            "The Collector's queues",
            "How full the queue to each backend is; good is nearly empty.",
            "percentunit",
            [
                promql(
                    f'max by (exporter) ({queue}_size{{job="collector"}} / {queue}_capacity{{job="collector"}})',
                    "{{exporter}}",
                )
            ],
            link=parts.calls_link("Calls"),
            bad_above=0.8,
            width=8,
        ),
    ]
