"""*Policies*: what did each decide, what did it change, and what did that cost?"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import stat, table
from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards import parts
from dashboards.parts import AnyPanel, promql
from dashboards.reports import HIDDEN, IN_TIME, Shown, chosen, figures, lacking, report_variable, rows

_DECIDED: Final = f"{IN_TIME}\n    AND {chosen('policy', 'policy')}"
_OURS: Final = 'job="luthien", luthien_policy_name=~"$policy"'
_NAME: Final = "luthien_policy_name"
_MODE: Final = "CASE WHEN shadow THEN 'shadow' ELSE 'enforce' END"
_ROW: Final = "&".join(f"{each}={parts.column(each)}" for each in ("policy", "version", "side", "mode", "without"))
"""The decisions of a row, as filters of calls."""


def _of_change(name: str) -> str:
    """The changes of a row, by policy, side, part and this, as filters of calls."""
    same = ("side", "part", name, "without")
    return "&".join([f"changed_by={parts.column('policy')}", *(f"{each}={parts.column(each)}" for each in same)])


def policies() -> Dashboard:
    made = parts.dashboard(
        "policies",
        "Luthien: policies",
        "What each policy decided, what it changed, how long it took and where it broke; each row opens its calls.",
    )
    known = f"SELECT DISTINCT policy FROM report_decisions WHERE {IN_TIME} AND policy <> '' ORDER BY 1 LIMIT 500"  # noqa: S608
    made = made.with_variable(report_variable("policy", "Policy", known))
    for panel in (_sums(), *_over_time(), _by_policy(), _decisions(), _changes(), _paths()):
        made = made.with_panel(panel)
    return made


def _sums() -> stat.Panel:
    statement = f"""
SELECT
    decided.*,
    calls.changed / NULLIF(calls.calls, 0)::float8 AS changed_share
FROM (
    SELECT
        count(*) AS decisions,
        count(*) FILTER (WHERE changed AND NOT shadow) AS changing,
        count(*) FILTER (WHERE action = 'block' AND NOT shadow) AS blocking,
        count(*) FILTER (WHERE action = 'error') AS errors,
        count(*) FILTER (WHERE shadow) AS shadow,
        avg(duration_ms) AS duration_ms
    FROM report_decisions
    WHERE {_DECIDED}
) AS decided
CROSS JOIN (
    SELECT count(*) AS calls, count(*) FILTER (WHERE is_changed) AS changed FROM report_calls WHERE {IN_TIME}
) AS calls
"""  # noqa: S608
    columns = {
        "decisions": Shown("Decisions", link=parts.calls_link("The calls of this time")),
        "changing": Shown("that changed something", link=parts.calls_link("Changed calls", "changed=any")),
        "blocking": Shown("that blocked", link=parts.calls_link("Blocked calls", "outcome=blocked")),
        "errors": Shown("that broke", link=parts.calls_link("Calls that a policy broke", "outcome=policy_error")),
        "shadow": Shown("only noted (shadow)"),
        "duration_ms": Shown("Mean time of a decision", "ms"),
        "changed_share": Shown("Calls changed", "percentunit", parts.calls_link("Changed calls", "changed=any")),
    }
    description = (
        "Decisions of the chosen policies on requests and responses of calls that began in this time, as far as they "
        "are indexed, which takes some seconds after a call. Calls changed: the share of all calls of this time, "
        "whatever is chosen above."
    )
    return figures("In this time", description, statement, columns)


def _over_time() -> tuple[AnyPanel, ...]:
    link = parts.calls_link("Calls it looked at", f"policy={parts.series_label(_NAME)}")
    errors = parts.calls_link(
        "Calls in which it broke", f"policy={parts.series_label(_NAME)}&decided=error&mode=enforce"
    )
    changed = parts.calls_link("Calls it changed", f"changed_by={parts.series_label(_NAME)}")
    by = f"{_NAME}, luthien_policy_action"
    decisions = f"sum by ({by}) (rate(luthien_policy_decisions_total{{{_OURS}}}[$__rate_interval]))"
    broke = f'luthien_policy_decisions_total{{{_OURS}, luthien_policy_action="error", luthien_policy_shadow!="true"}}'
    size = f"luthien_policy_changed_size_bytes_total{{{_OURS}}}"
    duration = "luthien_policy_duration_seconds"
    return (
        parts.graph(
            "Decisions a second",
            "By policy and action, those in shadow mode included.",
            "ops",
            [promql(decisions, f"{{{{{_NAME}}}}} {{{{luthien_policy_action}}}}")],
            link=link,
            many=True,
        ),
        parts.graph(
            "Added latency",
            "How long a policy's step takes on one side of a call: the median, and what one of twenty exceeds.",
            "s",
            [
                promql(
                    parts.quantile(q, duration, _OURS, _NAME), f"{{{{{_NAME}}}}} p{round(q * 100)}", exemplars=True
                )
                for q in (0.5, 0.95)
            ],
            link=link,
            many=True,
        ),
        parts.graph(
            "Bytes changed a second",
            "What policies took out of what they were given, and what they put in.",
            "Bps",
            [
                promql(
                    f"sum by ({_NAME}, luthien_change) (rate({size}[$__rate_interval]))",
                    f"{{{{{_NAME}}}}} {{{{luthien_change}}}}",
                )
            ],
            link=changed,
            many=True,
        ),
        parts.graph(
            "Errors a second",
            "Decisions in which a policy broke. It fails closed, unless its configuration says to go on.",
            "ops",
            [promql(f"sum by ({_NAME}) (rate({broke}[$__rate_interval]))", f"{{{{{_NAME}}}}}")],
            link=errors,
            many=True,
        ),
    )


def _by_policy() -> table.Panel:
    statement = f"""
SELECT
    policy,
    version,
    side,
    {_MODE} AS mode,
    count(*) AS calls,
    count(*) FILTER (WHERE changed) AS changed,
    count(*) FILTER (WHERE changed)::float8 / count(*) AS changed_share,
    count(*) FILTER (WHERE action = 'block') AS blocked,
    count(*) FILTER (WHERE action = 'error') AS errors,
    sum(count)::bigint AS counted,
    avg(duration_ms) AS mean_ms,
    max(duration_ms) AS max_ms,
    max(recorded_at) AS last_at,
    {lacking(version="version")}
FROM report_decisions
WHERE {_DECIDED}
GROUP BY policy, version, side, shadow
ORDER BY calls DESC, policy, version, side, shadow
LIMIT 200
"""  # noqa: S608
    link = parts.calls_link("Calls it looked at", _ROW)
    changed = parts.calls_link("Calls it changed", f"{_ROW}&decided=change")
    columns = {
        "policy": Shown("Policy", "string", link, 170),
        "version": Shown("Version", "string", link, 120),
        "side": Shown("Side", "string", link),
        "mode": Shown("Mode", "string", link),
        "calls": Shown("Calls", link=link),
        "changed": Shown("Changed", link=changed),
        "changed_share": Shown("Share", "percentunit", changed),
        "blocked": Shown("Blocked", link=parts.calls_link("Calls it blocked", f"{_ROW}&decided=block")),
        "errors": Shown("Errors", link=parts.calls_link("Calls in which it broke", f"{_ROW}&decided=error")),
        "counted": Shown("Changes", link=changed),
        "mean_ms": Shown("Mean time", "ms", link),
        "max_ms": Shown("Longest", "ms", link),
        "last_at": Shown("Last", "dateTimeAsIso", link, 170),
        "without": HIDDEN,
    }
    description = (
        "One row for each version of a policy and each side: how many calls it looked at there, which part of them "
        "it changed, and how long it took. What a policy in shadow mode would have done counts in rows of its own. "
        "A number opens its calls."
    )
    return rows("By policy and version", description, statement, columns)


def _decisions() -> table.Panel:
    statement = f"""
SELECT
    policy,
    action,
    version,
    side,
    {_MODE} AS mode,
    count(*) AS decisions,
    count(*) FILTER (WHERE changed) AS changing,
    avg(duration_ms) AS mean_ms,
    {lacking(version="version")}
FROM report_decisions
WHERE {_DECIDED}
GROUP BY policy, action, version, side, shadow
ORDER BY decisions DESC, policy, action, version, side, shadow
LIMIT 200
"""  # noqa: S608
    link = parts.calls_link("These calls", f"{_ROW}&decided={parts.column('action')}")
    columns = {
        "policy": Shown("Policy", "string", link),
        "action": Shown("Action", "string", link),
        "version": Shown("Version", "string", link),
        "side": Shown("Side", "string", link),
        "mode": Shown("Mode", "string", link),
        "decisions": Shown("Decisions", link=link),
        "changing": Shown("Changing", link=link),
        "mean_ms": Shown("Mean time", "ms", link),
        "without": HIDDEN,
    }
    description = (
        "What each version of a policy decided on each side, how many of these decisions changed something, and how "
        "long they took. A row opens the calls in which it decided so."
    )
    return rows("Decisions by action", description, statement, columns)


def _changes() -> table.Panel:
    statement = f"""
SELECT
    COALESCE(policy, '') AS policy,
    COALESCE(version, '') AS version,
    side,
    part,
    count(DISTINCT call_id) AS calls,
    count(DISTINCT (call_id, message)) FILTER (WHERE message IS NOT NULL) AS messages,
    count(*) AS places,
    sum(bytes_removed)::bigint AS bytes_removed,
    sum(bytes_added)::bigint AS bytes_added,
    {lacking(changed_by="policy", version="version")}
FROM report_changes
WHERE {IN_TIME}
    AND {chosen("policy", "COALESCE(policy, '')")}
GROUP BY 1, 2, 3, 4
ORDER BY calls DESC, 1, 2, 3, 4
LIMIT 200
"""  # noqa: S608
    link = parts.calls_link("Calls it changed", _of_change("version"))
    columns = {
        "policy": Shown("Policy", "string", link),
        "version": Shown("Version", "string", link),
        "side": Shown("Side", "string", link),
        "part": Shown("Part", "string", link),
        "calls": Shown("Calls", link=link),
        "messages": Shown("Messages", link=link),
        "places": Shown("Places", link=link),
        "bytes_removed": Shown("Removed", "bytes", link),
        "bytes_added": Shown("Added", "bytes", link),
        "without": HIDDEN,
    }
    description = (
        "What differs between what came in and what went out, by the policy and the part of a call: in how many "
        "calls, messages and places, and how many bytes of text went and came. Where several policies changed one "
        "text and it is not known whose is what, the last of them has the bytes. Without a policy: it is not known "
        "which."
    )
    return rows("Bytes and messages changed", description, statement, columns)


def _paths() -> table.Panel:
    statement = f"""
SELECT
    COALESCE(path, '') AS path,
    side,
    part,
    COALESCE(policy, '') AS policy,
    count(*) AS places,
    count(DISTINCT call_id) AS calls,
    sum(bytes_removed)::bigint AS bytes_removed,
    sum(bytes_added)::bigint AS bytes_added,
    {lacking(changed_by="policy", path="path")}
FROM report_changes
WHERE {IN_TIME}
    AND {chosen("policy", "COALESCE(policy, '')")}
GROUP BY 1, 2, 3, 4
ORDER BY places DESC, 1, 2, 3, 4
LIMIT 100
"""  # noqa: S608
    link = parts.calls_link("Calls changed there", _of_change("path"))
    columns = {
        "path": Shown("Path", "string", link, 420),
        "side": Shown("Side", "string", link),
        "part": Shown("Part", "string", link),
        "policy": Shown("Policy", "string", link),
        "places": Shown("Places", link=link),
        "calls": Shown("Calls", link=link),
        "bytes_removed": Shown("Removed", "bytes", link),
        "bytes_added": Shown("Added", "bytes", link),
        "without": HIDDEN,
    }
    description = (
        "Where policies change most: * stands for any index, and … for keys that the wire format does not define, "
        "such as a tool's arguments, which are not said here. Empty: too large to be compared."
    )
    return rows("Most changed paths", description, statement, columns)
