"""What the sentence about a call rests on: its stages, how it ended, and what its policies decided."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from luthien.debug.call.completeness import State
from luthien.exchange import STAGES, EventType, Side

StageState: TypeAlias = Literal["recorded", "not_reached", "gateway_generated", "missing", "partial", "awaited"]


class Decision(NamedTuple):
    """What one policy decided on one side, as recorded. `action`: allow, modify, annotate, block or error.

    In shadow it was not carried out. `sequence` is that of its record.
    """

    policy: str
    side: str
    action: str
    changed: bool
    shadow: bool = False
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Basis:
    """What the sentence rests on. A stage that `states` does not name is missing.

    `lost_records` counts what is lost besides those stages. `redacted` are the sides whose payloads
    differed on the wire although, after redaction, they may not differ in the record; `rewritten` those of which
    other bytes passed that add up to the same. `http_status` is what the client was answered with.
    """

    states: Mapping[EventType, StageState]
    lost_records: int = 0
    redacted: Collection[Side] = ()
    record: State = State.COMPLETE
    rewritten: Collection[Side] = ()
    outcome: str | None = None
    http_status: int | None = None

    def is_recorded(self, side: Side) -> bool:
        """Whether both stages of a side are there."""
        return all(self.states.get(stage) == "recorded" for stage in STAGES if stage.value.startswith(side.value))
