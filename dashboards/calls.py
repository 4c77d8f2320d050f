"""*Calls*: which ones were there, how did they end, and where do I read on?"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import common, stat, table, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models.dashboard import DynamicConfigValue

from dashboards import parts
from dashboards.parts import COLORS
from dashboards.reports import (
    HIDDEN,
    IN_TIME,
    Shown,
    choice_variable,
    chosen,
    chosen_overlap,
    figures,
    lacking,
    report_variable,
    rows,
    text_variable,
    written,
)

MOST_ROWS: Final = 500

_WANTED: Final = f"""{IN_TIME}
    AND {chosen("model", "model_requested", "model_used")}
    AND {chosen("provider", "provider")}
    AND {chosen("outcome", "outcome")}
    AND {written("session", "session_id")}
    AND {chosen_overlap("policy", "policies")}"""
_FAILED: Final = "('upstream_error', 'policy_error', 'client_disconnected')"
_IN_LISTS: Final = "outcome=upstream_error,policy_error,client_disconnected"


def calls() -> Dashboard:
    made = parts.dashboard(
        "calls",
        "Luthien: calls",
        "Each call with its outcome, its changes and its costs; from here to its page and to its trace.",
    )
    for name, label, column in (("model", "Model", "model_requested"), ("provider", "Provider", "provider")):
        found = f"SELECT DISTINCT {column} FROM report_calls WHERE {IN_TIME} AND {column} <> '' ORDER BY 1 LIMIT 500"  # noqa: S608
        made = made.with_variable(report_variable(name, label, found))
    made = made.with_variable(choice_variable("outcome", "Outcome", COLORS))
    policies = f"SELECT DISTINCT policy FROM report_decisions WHERE {IN_TIME} AND policy <> '' ORDER BY 1 LIMIT 500"  # noqa: S608
    made = made.with_variable(report_variable("policy", "Policy", policies))
    made = made.with_variable(text_variable("session", "Session"))
    return made.with_panel(_sums()).with_panel(_outcomes()).with_panel(_models()).with_panel(_calls())


def _sums() -> stat.Panel:
    statement = f"""
SELECT
    count(*) AS calls,
    count(*) FILTER (WHERE is_changed) AS changed,
    count(*) FILTER (WHERE outcome = 'blocked') AS blocked,
    count(*) FILTER (WHERE outcome IN {_FAILED}) AS failed,
    count(*) FILTER (WHERE outcome = 'rejected') AS rejected,
    count(*) FILTER (WHERE outcome = 'running') AS running,
    count(*) FILTER (WHERE outcome <> 'running' AND NOT is_complete) AS incomplete,
    sum(input_tokens)::bigint AS input_tokens,
    sum(output_tokens)::bigint AS output_tokens,
    avg(duration_ms) AS duration_ms,
    avg(policy_ms) AS policy_ms
FROM report_calls
WHERE {_WANTED}
"""  # noqa: S608
    columns = {
        "calls": Shown("Calls", link=parts.calls_link("The calls of this time")),
        "changed": Shown("Changed", link=parts.calls_link("Changed calls", "changed=any")),
        "blocked": Shown("Blocked", link=parts.calls_link("Blocked calls", "outcome=blocked")),
        "failed": Shown("Failed", link=parts.calls_link("Failed calls", _IN_LISTS)),
        "rejected": Shown("Rejected", link=parts.calls_link("Rejected calls", "outcome=rejected")),
        "running": Shown("Running", link=parts.calls_link("Running calls", "outcome=running")),
        "incomplete": Shown("Records not complete", link=parts.dashboard_link("The record", "record")),
        "input_tokens": Shown("Input tokens"),
        "output_tokens": Shown("Output tokens"),
        "duration_ms": Shown("Mean duration", "ms"),
        "policy_ms": Shown("of it, policies", "ms"),
    }
    description = (
        "Of the calls that began in this time and are chosen above, those that policies made included. Failed: the "
        "provider, a policy or the client broke off. A running call has no outcome yet, or its process died. A "
        "record that is not complete lacks something, or is still on its way. The links open lists of this time, of "
        "every model, provider, policy and session."
    )
    return figures("In this time", description, statement, columns)


def _outcomes() -> timeseries.Panel:
    statement = f"""
SELECT $__timeGroupAlias(started_at, $__interval), outcome AS metric, count(*) AS value
FROM report_calls
WHERE {_WANTED}
GROUP BY 1, 2
ORDER BY 1
"""  # noqa: S608
    description = "How many calls began in each interval, by how they ended. Of the calls that are chosen above."
    made = parts.graph(
        "Outcomes",
        description,
        "short",
        [parts.sql(statement, "time_series")],
        link=parts.calls_link("The calls of this time"),
        bars=True,
        many=True,
        width=24,
        height=8,
    )
    return parts.coloured_outcomes(made.interval("10s"))


def _models() -> table.Panel:
    statement = f"""
SELECT
    COALESCE(model_requested, '') AS model,
    COALESCE(provider, '') AS provider,
    count(*) AS calls,
    count(*) FILTER (WHERE is_changed) AS changed,
    count(*) FILTER (WHERE outcome = 'blocked') AS blocked,
    count(*) FILTER (WHERE outcome IN {_FAILED}) AS failed,
    sum(input_tokens)::bigint AS input_tokens,
    sum(output_tokens)::bigint AS output_tokens,
    avg(duration_ms) AS duration_ms,
    avg(policy_ms) AS policy_ms,
    avg(upstream_first_chunk_ms) AS upstream_first_chunk_ms,
    avg(client_first_chunk_ms) AS client_first_chunk_ms,
    {lacking(model="model_requested", provider="provider")}
FROM report_calls
WHERE {_WANTED}
GROUP BY 1, 2
ORDER BY calls DESC, 1, 2
LIMIT 100
"""  # noqa: S608
    filters = "&".join(f"{each}={parts.column(each)}" for each in ("model", "provider", "without"))
    link = parts.calls_link("Its calls", filters)
    columns = {
        "model": Shown("Model", "string", link, 160),
        "provider": Shown("Provider", "string", link),
        "calls": Shown("Calls", link=link),
        "changed": Shown("Changed", link=parts.calls_link("Its changed calls", f"{filters}&changed=any")),
        "blocked": Shown("Blocked", link=parts.calls_link("Its blocked calls", f"{filters}&outcome=blocked")),
        "failed": Shown("Failed", link=parts.calls_link("Its failed calls", f"{filters}&{_IN_LISTS}")),
        "input_tokens": Shown("Tokens in"),
        "output_tokens": Shown("Tokens out"),
        "duration_ms": Shown("Mean duration", "ms"),
        "policy_ms": Shown("of it, policies", "ms"),
        "upstream_first_chunk_ms": Shown("Provider's first", "ms"),
        "client_first_chunk_ms": Shown("Client's first", "ms"),
        "without": HIDDEN,
    }
    description = (
        "The hundred that were asked for most often. A row opens its calls; those of one without a "
        "provider reached none, or not yet. The last two columns are of streams: from the start of the call to "
        "the provider's first chunk, and to the client's."
    )
    return rows("By model and provider", description, statement, columns)


def _calls() -> table.Panel:
    statement = f"""
SELECT
    started_at,
    outcome,
    COALESCE(trace_id, '') AS trace_id,
    COALESCE(model_requested, '') AS model,
    COALESCE(provider, '') AS provider,
    CASE
        WHEN request_changed AND response_changed THEN 'both'
        WHEN request_changed THEN 'request'
        WHEN response_changed THEN 'response'
        ELSE ''
    END AS changed,
    array_to_string(policies, ', ') AS policies,
    http_status,
    COALESCE(error_type, '') AS error_type,
    input_tokens,
    output_tokens,
    duration_ms,
    upstream_ms,
    policy_ms,
    gateway_ms,
    COALESCE(session_id, '') AS session,
    CASE WHEN is_complete THEN 'complete' ELSE records_stored || ' of ' || COALESCE(records_emitted::text, '?') END
        AS record,
    call_id::text AS call_id,
    {lacking("without_model", model="model_requested")},
    {lacking("without_provider", provider="provider")},
    {lacking("without_session", session="session_id")}
FROM report_calls
WHERE {_WANTED}
ORDER BY report_calls.call_id DESC
LIMIT {MOST_ROWS}
"""  # noqa: S608
    page = parts.page_link("Its page", f"/debug/calls/{parts.column('call_id')}")
    of_model, of_provider, of_session = (
        f"{each}={parts.column(each)}&without={parts.column(f'without_{each}')}"
        for each in ("model", "provider", "session")
    )
    columns = {
        "started_at": Shown("Began", "dateTimeAsIso", page, 170),
        "outcome": Shown(
            "Outcome", "string", parts.calls_link("Calls that ended so", f"outcome={parts.column('outcome')}"), 130
        ),
        "trace_id": Shown("Trace", "string", parts.trace_link(), 90),
        "model": Shown("Model", "string", parts.calls_link("Calls of this model", of_model), 160),
        "provider": Shown("Provider", "string", parts.calls_link("Calls to this provider", of_provider), 110),
        "changed": Shown("Changed", "string", page, 90),
        "policies": Shown("Policies", "string", page, 150),
        "http_status": Shown("Status", "none", page, 70),
        "error_type": Shown("Error", "string", page),
        "input_tokens": Shown("Tokens in", link=page, width=90),
        "output_tokens": Shown("Tokens out", link=page, width=90),
        "duration_ms": Shown("Duration", "ms", page, 90),
        "upstream_ms": Shown("Provider took", "ms", page, 110),
        "policy_ms": Shown("Policies took", "ms", page, 110),
        "gateway_ms": Shown("Gateway took", "ms", page, 110),
        "session": Shown("Session", "string", parts.calls_link("Calls of this session", of_session)),
        "record": Shown("Record", "string", page, 100),
        "call_id": Shown("Call", "string", page, 300),
        **dict.fromkeys(("without_model", "without_provider", "without_session"), HIDDEN),
    }
    description = (
        f"The newest {MOST_ROWS} of those that are chosen above. A row opens its page, where the payloads and the "
        "diffs are; the column Trace opens its spans in Tempo."
    )
    made = rows("Calls", description, statement, columns)
    options = {outcome: {"color": color, "index": place} for place, (outcome, color) in enumerate(COLORS.items())}
    coloured = [
        DynamicConfigValue(id_val="mappings", value=[{"type": "value", "options": options}]),
        DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}),
    ]
    made = made.override_by_name("outcome", coloured)
    return made.height(18).footer(common.TableFooterOptions().show(False))
