"""What was changed on the way through: the stages of a call, compared, and whose each change is. Pure.

The part of a call's page that takes time for large payloads, and all of it that is indexed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from luthien.debug.blaming.blame import blame
from luthien.debug.blaming.steps import Steps, steps_of
from luthien.debug.call.completeness import State
from luthien.debug.call.losses import Records
from luthien.debug.call.stages import StageView, all_stages
from luthien.debug.diff import Differ, diff_payloads
from luthien.debug.diffing.documents import Documents
from luthien.debug.diffing.ops import Diff
from luthien.exchange import EventType, Side, StageRecord


@dataclass(frozen=True, slots=True)
class Compared:
    """The stages of a call, and what differs on each side; None where that is not known."""

    stages: dict[EventType, StageView]
    steps: Mapping[Side, Steps]
    request: Diff | None
    response: Diff | None
    documents: Documents
    """The payloads, as far as they have been read; for one thread at a time."""


def compare_stages(records: Records, state: State, differ: Differ = diff_payloads) -> Compared:
    """Compares the stages of a call whose record is in that state."""
    documents = Documents()
    stages = all_stages(records, state)
    steps = {side: steps_of(records, side) for side in Side}
    request, response = (_diff(stages, steps[side], differ, documents) for side in Side)
    return Compared(stages, steps, request, response, documents)


def _diff(stages: Mapping[EventType, StageView], steps: Steps, differ: Differ, documents: Documents) -> Diff | None:
    original, final = (stages[EventType(f"{steps.side}_{state}")] for state in ("original", "final"))
    diff = _compare(original, final, differ, documents)
    return None if diff is None else blame(diff, steps, differ, documents)


def _compare(original: StageView, final: StageView, differ: Differ, documents: Documents) -> Diff | None:
    """A diff where both sides were recorded: what the gateway made up is no change of what a provider said.

    Two beginnings are compared only where the hashes say that all the rest is the same, too.
    """
    if original.state != "recorded" or final.state != "recorded":
        return None
    if (original.is_capped or final.is_capped) and not _is_same_on_the_wire(original.record, final.record):
        return None
    return differ(original.payload, final.payload, documents=documents)


def _is_same_on_the_wire(one: StageRecord | None, other: StageRecord | None) -> bool:
    return one is not None and other is not None and None is not one.wire_sha256 == other.wire_sha256
