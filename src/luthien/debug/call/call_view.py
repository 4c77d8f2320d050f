"""What a call's page shows, made from its records. Pure; takes time for large payloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from luthien.debug.blaming.blame import ops_of
from luthien.debug.blaming.shadows import ShadowView, shadows_of
from luthien.debug.call.answers import Answers, cost_of, trust_of
from luthien.debug.call.basis import Basis, Decision
from luthien.debug.call.compared import compare_stages
from luthien.debug.call.completeness import Completeness, Evidence, State
from luthien.debug.call.losses import Records
from luthien.debug.call.stages import StageView, details_of
from luthien.debug.call.timeline import Lanes, lanes_of
from luthien.debug.call.verdict import Bodies, verdict_sentence
from luthien.debug.call.waterfall import Waterfall, waterfall_of
from luthien.debug.diff import Differ, diff_payloads
from luthien.debug.diffing.documents import Documents
from luthien.debug.diffing.ops import Diff
from luthien.debug.diffing.values import Json, dumps
from luthien.exchange import EventType, Side, StageRecord
from luthien.store.stored import CallRow, StoredCall

_ASKED = "asked_call_id"
"""The detail of a decision that names a child call."""


@dataclass(frozen=True, slots=True)
class PolicyView:
    """One policy's recorded decision. `ops` are the operations of its side's diff in which it had a part."""

    policy: str
    version: str
    side: str
    action: str
    shadow: bool
    reason: str
    changed: bool
    duration_ms: float
    count: int
    details: Mapping[str, Any]
    sequence: int = 0
    ops: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """The action in words: of a policy in shadow, what it would have been."""
        if not self.shadow:
            return self.action
        would_have = {"block": "blocked", "error": "failed", "modify": "changed", "annotate": "annotated"}
        return f"would have {would_have.get(self.action, 'allowed')}"

    @property
    def says_why(self) -> bool:
        """Whether it did something to the call, and said why."""
        return not self.shadow and self.action != "allow" and bool(self.reason)

    @property
    def noted(self) -> list[tuple[str, str]]:
        """The details by name, as text; the call in which it asked a model is not among them."""
        texts = {name: value if isinstance(value, str) else dumps(value) for name, value in self.details.items()}
        return [(name, text) for name, text in texts.items() if name != _ASKED or self.asked is None]

    @property
    def asked(self) -> UUID | None:
        """The call in which it asked a model."""
        try:
            return UUID(str(self.details.get(_ASKED)))
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class CallView:
    """A call as its page shows it."""

    call_id: UUID
    row: CallRow
    endpoint: str | None
    """Method and path of a request that was passed through."""
    completeness: Completeness
    verdict: str
    answers: Answers
    stages: dict[EventType, StageView]
    decisions: list[PolicyView]
    request: Diff | None
    response: Diff | None
    children: list[CallRow]
    """The calls in which its policies asked models."""
    lanes: Lanes | None = None
    """When the frames of a stream came and went."""
    waterfall: Waterfall | None = None
    group: str | None = None
    """The group whose policies looked at it, if it was not the default one."""
    configuration: str | None = None
    """The version of the configuration that it went by."""
    shadows: Sequence[ShadowView] = ()
    """What policies in shadow would have made of what they saw, in the order of their decisions."""
    documents: Documents = field(default_factory=Documents)
    """Its payloads, as far as they have been read; for one thread at a time."""
    redacted: Sequence[Side] = ()
    """The sides that differed on the wire, but only where credentials are masked in the record."""

    def is_written_otherwise(self, side: str) -> bool:
        """Whether other bytes passed than came, although both add up to the same."""
        return _is_written_otherwise(self.stages, side)


def _is_written_otherwise(stages: Mapping[EventType, StageView], side: str) -> bool:
    came, passed = (stages[EventType(f"{side}_{state}")].record for state in ("original", "final"))
    if came is None or passed is None:
        return False
    return came.payload_sha256 == passed.payload_sha256 and came.wire_sha256 != passed.wire_sha256


def view_call(call: StoredCall, evidence: Evidence, differ: Differ = diff_payloads) -> CallView:
    """Compares the stages of a call and says in a sentence what came of it, and how much of it is there."""
    records = Records(call)
    completeness = records.completeness(evidence)
    compared = compare_stages(records, completeness.state, differ)
    stages, request, response = compared.stages, compared.request, compared.response
    documents = compared.documents
    lanes = lanes_of(call.records)
    diffs = {Side.REQUEST.value: request, Side.RESPONSE.value: response}
    decisions = [_decision(each, diffs) for each in call.records if each.event_type == EventType.POLICY_DECISION]
    row = call.row
    states = {name: stage.state for name, stage in stages.items()}
    named = sum(state in ("missing", "partial") for state in states.values())
    lost = sum(loss.records for loss in completeness.losses) - named
    redacted = _redacted(row, stages, request, response)
    sentence = verdict_sentence(
        request,
        response,
        bodies=_bodies(stages, request, response, documents),
        decisions=[
            Decision(each.policy, each.side, each.action, each.changed, each.shadow, each.sequence)
            for each in decisions
        ],
        basis=Basis(
            states,
            max(0, lost),
            redacted,
            completeness.state,
            [side for side in Side if _is_written_otherwise(stages, side)],
            row["outcome"],
            row["http_status"],
        ),
    )
    endpoint = _endpoint(stages[EventType.REQUEST_ORIGINAL].record)
    return CallView(
        row["call_id"],
        row,
        endpoint,
        completeness,
        sentence,
        Answers(cost_of(row, lanes, call.children), trust_of((request, response), _masked(stages))),
        stages,
        decisions,
        request,
        response,
        call.children,
        lanes,
        waterfall_of(
            call.records,
            row,
            call.children,
            lanes,
            is_running=completeness.state is State.PENDING,
            all_there=records.are_all_there,
        ),
        group=_said(call.records, "luthien.policy.group"),
        configuration=_said(call.records, "luthien.config.version"),
        documents=documents,
        redacted=redacted,
        shadows=[shadow for side in Side for shadow in shadows_of(compared.steps[side], differ, documents)],
    )


def _said(records: Sequence[StageRecord], attribute: str) -> str | None:
    """What the first or the last record of a call says; either may be missing."""
    found = (record.attributes.get(attribute) for record in records)
    return next((value for value in found if isinstance(value, str)), None)


def _endpoint(request: StageRecord | None) -> str | None:
    method = None if request is None else request.attributes.get("http.request.method")
    return None if request is None or method is None else f"{method} {request.attributes.get('url.path', '')}"


def _bodies(
    stages: Mapping[EventType, StageView], request: Diff | None, response: Diff | None, documents: Documents
) -> Bodies:
    """What the verdict counts in: only sides that differ are parsed."""

    def document(name: EventType, diff: Diff | None) -> Json:
        payload = stages[name].payload
        return None if payload is None or diff is None or not diff.ops else documents.read(payload).value

    return Bodies(
        document(EventType.REQUEST_ORIGINAL, request),
        document(EventType.RESPONSE_ORIGINAL, response),
        document(EventType.RESPONSE_FINAL, response),
    )


def _redacted(
    row: CallRow, stages: dict[EventType, StageView], request: Diff | None, response: Diff | None
) -> list[Side]:
    """The sides that differed on the wire although their masked payloads in the record may not."""
    sides: list[Side] = []
    masked = _masked(stages)
    for side, changed, diff in (
        (Side.REQUEST, row["request_changed"], request),
        (Side.RESPONSE, row["response_changed"], response),
    ):
        if side.value in masked and changed and diff is not None and not diff.ops:
            sides.append(side)
    return sides


def _masked(stages: Mapping[EventType, StageView]) -> list[str]:
    """The sides of which credentials are masked in the record."""
    return [
        side.value
        for side in Side
        if any(stage.is_masked for name, stage in stages.items() if name.value.startswith(side.value))
    ]


def _decision(record: StageRecord, diffs: Mapping[str, Diff | None]) -> PolicyView:
    get = record.attributes.get
    side = str(get("luthien.policy.side", ""))
    return PolicyView(
        policy=str(get("luthien.policy.name", "")),
        version=str(get("luthien.policy.version", "")),
        side=side,
        action=str(get("luthien.policy.action", "")),
        shadow=get("luthien.policy.shadow") is True,
        reason=str(get("luthien.policy.reason", "")),
        changed=get("luthien.policy.changed") is True,
        duration_ms=float(get("luthien.policy.duration", 0.0)),
        count=int(get("luthien.policy.count", 0)),
        details=details_of(get("luthien.policy.details")),
        sequence=record.sequence,
        ops=ops_of(diffs.get(side), record.sequence),
    )
