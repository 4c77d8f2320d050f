"""The stages of a call: what is recorded of each, why others are missing, what checkpoints have instead. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from luthien.debug.call.basis import StageState
from luthien.debug.call.completeness import State
from luthien.debug.call.losses import UNREADABLE, Records
from luthien.debug.call.partial import Partial, partial_of
from luthien.debug.diffing.values import parse
from luthien.exchange import STAGES, EventType, StageRecord
from luthien.store.stored import StoredCall


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage: whether it was recorded, and what; `payload` also when another record holds the bytes.

    `reason` says why it is missing, as far as that is known. Of a stage whose record is missing, `partial` is what
    checkpoints have, and `payload` what that says.
    """

    name: EventType
    state: StageState
    record: StageRecord | None = None
    payload: bytes | None = None
    reason: str | None = None
    partial: Partial | None = None

    @property
    def raw(self) -> bytes | None:
        """The exact bytes that are recorded: of a partial stage, those of the stream."""
        return self.payload if self.partial is None else self.partial.raw

    @property
    def is_capped(self) -> bool:
        """Whether only the beginning of what passed is recorded."""
        return self.record is not None and self.record.attributes.get("luthien.payload.capped") is True

    @property
    def is_masked(self) -> bool:
        """Whether credentials in it were masked before it was recorded: other bytes passed."""
        return self.record is not None and self.record.attributes.get("luthien.credentials_masked") is True

    @property
    def violations(self) -> list[str]:
        """The rules of its protocol that a stream broke, as rule=count: of the final stage, those that we broke."""
        found = None if self.record is None else self.record.attributes.get("luthien.stream.violations")
        return [str(each) for each in found] if isinstance(found, (list, tuple)) else []

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers that were recorded with it."""
        if self.record is None:
            return []
        get = self.record.attributes.get
        kept = details_of(get("luthien.request.headers") or get("luthien.response.headers"))
        return [(name, str(value)) for name, value in sorted(kept.items())]

    @property
    def note(self) -> str | None:
        """What is to be known of a stage that is not whole before it is read."""
        if self.partial is None:
            if not self.is_capped or self.record is None:
                return None
            if "luthien.chunks" in self.record.attributes:
                return f"capped: what the beginning of the stream says; {self.record.wire_bytes} bytes of it passed"
            return (
                f"capped: {self.record.payload_bytes} of {self.record.wire_bytes} bytes, the beginning, are recorded"
            )
        as_of = datetime.fromtimestamp(self.partial.as_of_ns // 1_000_000 / 1000, UTC)
        return f"partial: as of the last checkpoint at {as_of.isoformat(timespec='milliseconds')}"

    @property
    def text(self) -> str:
        """The payload for people to read; damaged bytes show as such."""
        return (self.payload or b"").decode("utf-8", "replace")


def stage_named(stages: Sequence[EventType], name: str) -> EventType | None:
    """The stage of that name, as it stands in an address."""
    return next((stage for stage in stages if stage.value == name), None)


def all_stages(records: Records, state: State) -> dict[EventType, StageView]:
    """Every stage of a call whose record is in that state."""
    return {name: _stage(name, records, state) for name in STAGES}


def some_stages(call: StoredCall, names: Sequence[EventType], state: State) -> dict[EventType, StageView]:
    """Some stages of a call whose record is in that state; only their payloads need to have been read."""
    records = Records(call)
    return {name: _stage(name, records, state) for name in names}


def kinds_for(stage: EventType) -> list[EventType]:
    """The kinds of record whose payloads a stage is made of: it may be there in checkpoints only."""
    return [stage, EventType.RESPONSE_PARTIAL] if stage.value.startswith("response") else [stage]


def _stage(name: EventType, records: Records, state: State) -> StageView:
    record = records.of_stage(name)
    if record is None:
        return StageView(name, "not_reached") if records.are_all_there else _missing(name, records, state)
    payload = records.payload_of(record)
    if payload is None:
        return _missing(name, records, state, record)
    generated = record.attributes.get("luthien.generated") is True
    return StageView(name, "gateway_generated" if generated else "recorded", record, payload)


def _missing(name: EventType, records: Records, state: State, record: StageRecord | None = None) -> StageView:
    """What there is of a stage that is not, or not yet, recorded whole."""
    reason = records.reason_of_stage(name) if record is None else records.flaw_of(record)
    partial = partial_of(name, records.all, records.wire_format)
    if partial is not None:
        return StageView(name, "partial", record, partial.payload, reason, partial)
    is_awaited = state is State.PENDING and reason in (None, UNREADABLE)
    return StageView(name, "awaited" if is_awaited else "missing", record, reason=reason)


def details_of(text: object) -> Mapping[str, Any]:
    """What a policy noted; nothing, if that cannot be read."""
    try:
        noted = parse(str(text))
    except (ValueError, RecursionError):
        return {}
    return noted if isinstance(noted, dict) else {}
