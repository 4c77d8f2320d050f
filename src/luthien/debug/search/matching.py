"""Whether a call at hand is one that a filter lets through: the question that lists put to Postgres. Pure."""

from __future__ import annotations

from luthien.debug.search.filters import RUNNING
from luthien.store.call_filter import CallFilter
from luthien.store.stored import CallRow


def matches(wanted: CallFilter, row: CallRow) -> bool:
    """Whether the columns of a call's row are what is asked for. What needs the index is not looked at."""
    return (
        (wanted.id is None or row["call_id"].hex.startswith(wanted.id))
        and (wanted.model is None or wanted.model in (row["model_requested"], row["model_used"]))
        and all(
            asked is None or row[column] == asked
            for column, asked in (
                ("session_id", wanted.session),
                ("provider", wanted.provider),
                ("wire_format", wanted.format),
                ("gateway_key", wanted.key),
            )
        )
        and (wanted.policy is None or any(each.get("name") == wanted.policy for each in row["policies"] or ()))
        and (wanted.outcome is None or (row["outcome"] or RUNNING) in wanted.outcome)
        and _lacks(wanted, row)
        and _is_changed(wanted, row)
        and _is_in_time(wanted, row)
    )


def may_leave(wanted: CallFilter) -> bool:
    """Whether a call that the filter let through once may be one later that it does not."""
    is_of_running = wanted.outcome is not None and RUNNING in wanted.outcome
    return is_of_running or wanted.changed == "none" or wanted.without is not None


def _lacks(wanted: CallFilter, row: CallRow) -> bool:
    is_without = {
        "session": not row["session_id"],
        "model": not row["model_requested"],
        "provider": not row["provider"],
        "format": not row["wire_format"],
        "key": not row["gateway_key"],
        "policy": row["outcome"] is not None and not row["policies"],
    }
    return all(is_without.get(name, True) for name in wanted.without or ())


def _is_changed(wanted: CallFilter, row: CallRow) -> bool:
    request, response = bool(row["request_changed"]), bool(row["response_changed"])
    match wanted.changed:
        case None:
            return True
        case "request":
            return request
        case "response":
            return response
        case "any":
            return request or response
        case "none":
            return row["outcome"] is not None and not (request or response)


def _is_in_time(wanted: CallFilter, row: CallRow) -> bool:
    started = row["started_at"]
    if started is None:
        return wanted.since is None and wanted.until is None
    return (wanted.since is None or started >= wanted.since) and (wanted.until is None or started < wanted.until)
