"""A call as a case for policies: what they were given, and what they made of it. `luthien.testing` reads it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from luthien.debug.call.call_view import CallView
from luthien.debug.call.completeness import State
from luthien.debug.call.stages import StageView
from luthien.debug.diffing.values import parse
from luthien.debug.export.parties import NotInRecord, wire_format_of
from luthien.exchange import EventType, Outcome

_MAX_READABLE_BYTES = 2_000_000
"""Larger payloads are one string, which is quicker than laying them out."""
_ANSWERED = (Outcome.COMPLETED, Outcome.BLOCKED, Outcome.POLICY_ERROR)


def as_fixture(view: CallView, asked: Sequence[CallView] = ()) -> dict[str, Any]:
    """The case: a payload that is a JSON object stands as one, any other as text or in base64.

    `asked` are the calls in which its policies asked models.

    Raises:
        NotInRecord: no policy looked at the call, or what it was shown is not all there.
    """
    before = view.stages[EventType.REQUEST_ORIGINAL]
    _check(view, before)
    after = view.stages[EventType.REQUEST_FINAL]
    stopped = [decision for decision in view.decisions if not decision.shadow]
    return {
        "luthien_case": 1,
        "call_id": str(view.call_id),
        "recorded_at": view.row["started_at"].isoformat(),
        "format": view.row["wire_format"],
        "group": view.group,
        "policies": [
            {
                "policy": decision.policy,
                "version": decision.version,
                "side": decision.side,
                "action": decision.action,
                "shadow": decision.shadow,
            }
            for decision in view.decisions
        ],
        "blocked_by": _last(stopped, "block") if view.row["outcome"] == Outcome.BLOCKED else None,
        "broken_by": _last(stopped, "error") if view.row["outcome"] == Outcome.POLICY_ERROR else None,
        "request": {"before": _value(before), "after": _value(after)},
        "response": _response(view),
        "models": [
            {
                "format": each.row["wire_format"],
                "asked": _value(each.stages[EventType.REQUEST_ORIGINAL]),
                "answered": _value(each.stages[EventType.RESPONSE_FINAL]) if each.row["http_status"] == 200 else None,
            }
            for each in asked
        ],
    }


def text_of(fixture: dict[str, Any]) -> str:
    """The file's text, in ASCII."""
    return json.dumps(fixture, indent=2) + "\n"


def _check(view: CallView, before: StageView) -> None:
    if wire_format_of(view) is None:
        raise NotInRecord("no policy looks at what is passed through")
    if view.row["parent_call_id"] is not None:
        raise NotInRecord("no policy looks at what policies ask")
    if before.payload is None or before.is_capped:
        raise NotInRecord("the request that the policies were shown is not in the record")
    if view.completeness.state is not State.COMPLETE:
        raise NotInRecord(f"the record is {view.completeness.state}, so what the policies made of it cannot be said")


def _response(view: CallView) -> dict[str, Any] | None:
    """None when the policies were shown none."""
    before, after = view.stages[EventType.RESPONSE_ORIGINAL], view.stages[EventType.RESPONSE_FINAL]
    record = before.record
    if record is None or before.is_capped or view.row["outcome"] not in _ANSWERED:
        return None
    status = record.attributes.get("http.response.status_code")
    if not isinstance(status, int) or not 200 <= status < 300:
        return None
    is_streamed = "luthien.chunks" in record.attributes
    given = None if after.state != "recorded" or view.row["outcome"] != Outcome.COMPLETED else _value(after)
    return {"streamed": is_streamed, "before": _value(before), "after": given}


def _last(decisions: list[Any], action: str) -> str | None:
    return next((each.policy for each in reversed(decisions) if each.action == action), None)


def _value(stage: StageView) -> object:
    """The payload as a JSON object, if writing and reading that again gives the same; else as text, or in base64."""
    if stage.payload is None:
        return None
    try:
        text = stage.payload.decode()
    except UnicodeDecodeError:
        return {"$base64": base64.b64encode(stage.payload).decode()}
    if len(stage.payload) > _MAX_READABLE_BYTES:
        return text
    try:
        value = json.loads(text, object_pairs_hook=_unique)
        is_same = isinstance(value, dict) and "$base64" not in value and parse(json.dumps(value)) == parse(text)
    except (ValueError, RecursionError):
        return text
    return value if is_same else text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is repeated")
    return fields
