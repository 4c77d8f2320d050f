"""A call with all that its record has, to be kept or sent elsewhere."""

from __future__ import annotations

import base64
from typing import Any

from luthien import __version__
from luthien.debug.call.call_json import call_as_dict, diffs_as_dict, timeline_as_dict
from luthien.debug.call.call_view import CallView
from luthien.debug.call.stages import StageView
from luthien.exchange import StageRecord
from luthien.store.stored import StoredCall

VERSION = 1
"""Of the form of the export: a field that changes its meaning makes another."""


def as_export(view: CallView, call: StoredCall) -> dict[str, Any]:
    """The call, its stages with their exact bytes, both diffs, the stream's timeline, and every record as it is."""
    told = call_as_dict(view)
    stages: Any = told["stages"]
    diffs = diffs_as_dict(view)
    return {
        "luthien_export": VERSION,
        "luthien_version": __version__,
        **told,
        "stages": {name: stages[name] | {"payload": None} | _exact(stage) for name, stage in _named(view)},
        "diff": {"request": diffs["request"], "response": diffs["response"]},
        "timeline": timeline_as_dict(view)["timeline"],
        "records": [_record(record) for record in call.records],
    }


def stages_as_dict(view: CallView) -> dict[str, Any]:
    """Each stage by name: its state, and its exact bytes where they are recorded."""
    return {name: {"state": stage.state} | _exact(stage) for name, stage in _named(view)}


def _named(view: CallView) -> list[tuple[str, StageView]]:
    return [(name.value, stage) for name, stage in view.stages.items()]


def _exact(stage: StageView) -> dict[str, str]:
    return {} if stage.raw is None else as_text(stage.raw)


def as_text(data: bytes) -> dict[str, str]:
    """Bytes for JSON: `encoding` is utf-8, or base64 for what is not that."""
    try:
        return {"encoding": "utf-8", "payload": data.decode()}
    except UnicodeDecodeError:
        return {"encoding": "base64", "payload": base64.b64encode(data).decode()}


def _record(record: StageRecord) -> dict[str, Any]:
    """One record. The payload of a stage stands with the stage, that of a policy's step only here."""
    payload = record.payload if record.event_type == "policy_decision" else None
    return {
        "sequence": record.sequence,
        "event_type": record.event_type,
        "recorded_at_ns": record.recorded_at_ns,
        "trace_id": record.trace_id,
        "span_id": record.span_id,
        "payload_sha256": None if record.payload_sha256 is None else record.payload_sha256.hex(),
        "payload_bytes": record.payload_bytes,
        "payload_ref": record.payload_ref,
        "wire_sha256": None if record.wire_sha256 is None else record.wire_sha256.hex(),
        "wire_bytes": record.wire_bytes,
        "attributes": {**record.attributes},
        **({} if payload is None else as_text(payload)),
    }
