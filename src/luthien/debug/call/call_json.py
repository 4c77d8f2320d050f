"""A call as JSON, for the twins of its pages. To be written with `values.dumps`."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from luthien.debug.call.call_view import CallView
from luthien.debug.call.stages import StageView
from luthien.debug.diffing.values import parse
from luthien.store.stored import CallRow

_MAX_SHOWN = 5_000_000
"""Payloads of more bytes are not put into the JSON view; they can be downloaded."""


def call_as_dict(call: CallView) -> dict[str, object]:
    """For the twin of the call's page."""
    return {
        **row_as_dict(call.row),
        "endpoint": call.endpoint,
        "group": call.group,
        "configuration": call.configuration,
        "completeness": call.completeness.as_dict(),
        "verdict": call.verdict,
        "cost": call.answers.cost,
        "trust": call.answers.trust,
        "decisions": [
            {
                "policy": decision.policy,
                "version": decision.version,
                "side": decision.side,
                "action": decision.action,
                "shadow": decision.shadow,
                "reason": decision.reason,
                "changed": decision.changed,
                "duration_ms": decision.duration_ms,
                "count": decision.count,
                "details": decision.details,
                "sequence": decision.sequence,
                "ops": decision.ops,
            }
            for decision in call.decisions
        ],
        "stages": {name.value: _stage_as_dict(stage) for name, stage in call.stages.items()},
        "timeline": call.lanes.summary() if call.lanes else None,
        "children": [
            {
                "call_id": str(child["call_id"]),
                "model": {"requested": child["model_requested"], "used": child["model_used"]},
                "outcome": child["outcome"],
                "links": links(child["call_id"]),
            }
            for child in call.children
        ],
        "links": links(call.call_id) | _timeline_link(call),
    }


def diffs_as_dict(call: CallView) -> dict[str, object]:
    """For diff.json: both diffs, or null where a stage is not there to compare."""
    return {
        "call_id": str(call.call_id),
        "completeness": call.completeness.as_dict(),
        "verdict": call.verdict,
        "capped": [name.value for name, stage in call.stages.items() if stage.is_capped],
        "request": call.request.as_dict() if call.request else None,
        "response": call.response.as_dict() if call.response else None,
        "shadow": [shadow.as_dict() for shadow in call.shadows],
    }


def timeline_as_dict(call: CallView) -> dict[str, object]:
    """For timeline.json."""
    lanes = call.lanes.as_dict() if call.lanes else None
    return {"call_id": str(call.call_id), "completeness": call.completeness.as_dict(), "timeline": lanes}


def _timeline_link(call: CallView) -> dict[str, str]:
    return {"timeline": f"/debug/calls/{call.call_id}/timeline.json"} if call.lanes else {}


def links(call_id: UUID) -> dict[str, str]:
    page = f"/debug/calls/{call_id}"
    return {"page": page, "diff": f"{page}/diff.json", "json": f"{page}.json"}


def row_as_dict(row: CallRow) -> dict[str, object]:
    """A call's row as it is listed: times in ISO 8601, durations in milliseconds."""
    return {
        "call_id": str(row["call_id"]),
        "trace_id": row["trace_id"],
        "session_id": row["session_id"],
        "gateway_key": row["gateway_key"],
        "parent": None if row["parent_call_id"] is None else str(row["parent_call_id"]),
        "started_at": _iso(row["started_at"]),
        "ended_at": _iso(row["ended_at"]),
        "wire_format": row["wire_format"],
        "provider": row["provider"],
        "model": {"requested": row["model_requested"], "used": row["model_used"]},
        "streaming": row["streaming"],
        "outcome": row["outcome"],
        "http_status": row["http_status"],
        "error": {"type": row["error_type"], "message": row["error_message"]} if row["error_type"] else None,
        "policies": row["policies"],
        "changed": {"request": row["request_changed"], "response": row["response_changed"]},
        "tokens": {"input": row["input_tokens"], "output": row["output_tokens"]},
        "ms": {
            "total": row["duration_ms"],
            "gateway": row["gateway_ms"],
            "policy": row["policy_ms"],
            "upstream": row["upstream_ms"],
            "upstream_first_chunk": row["upstream_first_chunk_ms"],
            "client_first_chunk": row["client_first_chunk_ms"],
        },
        "records": {
            "emitted": row["records_emitted"],
            "stored": row["records_stored"],
            "refused": row["records_refused"] or 0,
        },
        "indexed": row["is_indexed"],
    }


def _stage_as_dict(stage: StageView) -> dict[str, Any]:
    record, partial = stage.record, stage.partial
    if partial is not None:
        return {
            "state": stage.state,
            "reason": stage.reason,
            "note": stage.note,
            "as_of_ns": partial.as_of_ns,
            "stream_bytes": len(partial.raw),
            "chunks": partial.chunks,
            "payload": _shown(stage),
        }
    if record is None:
        return {"state": stage.state, "reason": stage.reason}
    return {
        "state": stage.state,
        "reason": stage.reason,
        "sequence": record.sequence,
        "recorded_at_ns": record.recorded_at_ns,
        "span_id": record.span_id,
        "payload_sha256": _hex(record.payload_sha256),
        "payload_bytes": record.payload_bytes,
        "wire_sha256": _hex(record.wire_sha256),
        "wire_bytes": record.wire_bytes,
        "capped": stage.is_capped,
        "violations": stage.violations,
        "note": stage.note,
        "payload": _shown(stage),
    }


def _shown(stage: StageView) -> object:
    """The payload as JSON if it is, else as text; null when it is too large or not there."""
    if stage.payload is None or len(stage.payload) > _MAX_SHOWN:
        return None
    try:
        return parse(stage.payload.decode())
    except (ValueError, RecursionError):
        return stage.text


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()


def _iso(time: Any) -> str | None:
    return None if time is None else time.isoformat()
