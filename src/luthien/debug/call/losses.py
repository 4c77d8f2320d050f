"""What a call's records say of themselves: which are there, whole, and why others are not. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from itertools import islice

from luthien.debug.call.completeness import Completeness, Evidence, Loss, completeness_of
from luthien.exchange import EventType, StageRecord
from luthien.store.stored import SetAside, StoredCall

_REFUSED = "luthien.record.refused"
_NOT_CRASH_PROOF = "luthien.record.not_crash_proof"
_MAX_NAMED = 100
UNREADABLE = "unreadable"
_FOR_PEOPLE = {"refused": "refused_by_database"}


class Records:
    """The stored records of a call; every payload is compared with its hash once."""

    def __init__(self, call: StoredCall) -> None:
        self._call = call
        self.all = call.records
        self.wire_format: str | None = call.row["wire_format"]
        self._by_sequence = {record.sequence: record for record in call.records}
        self._first = {record.event_type: record for record in reversed(call.records)}
        self._aside: dict[int, SetAside] = {}
        for each in call.set_aside:
            self._aside.setdefault(each.sequence, each)
        self._whole = {record.sequence for record in call.records if _is(record.payload, record)}
        emitted = call.row["records_emitted"]
        self.are_all_there = emitted is not None and len(self._by_sequence) >= emitted
        """Whether a stage that is not among them was never reached."""

    @property
    def outcome(self) -> str | None:
        """How the call ended, if that is known."""
        outcome: str | None = self._call.row["outcome"]
        return outcome

    @property
    def policies(self) -> list[tuple[str, str]]:
        """Name and version of each policy of the call's chain, in order; empty when that is not known."""
        return [(str(each["name"]), str(each["version"])) for each in self._call.row["policies"] or ()]

    @property
    def missing(self) -> list[int]:
        """The numbers of the records that are not there, the first hundred."""
        return [*islice(self._missing(), _MAX_NAMED)]

    def kind_aside(self, sequence: int) -> str | None:
        """The kind of a record that is not there; None when nobody told."""
        aside = self._aside.get(sequence)
        return aside.event_type if aside is not None and aside.event_type else None

    def of_stage(self, name: EventType) -> StageRecord | None:
        return self._first.get(name)

    def payload_of(self, record: StageRecord) -> bytes | None:
        """The record's exact payload, wherever it is; None when it is not there."""
        if record.payload_ref is None:
            return record.payload if record.sequence in self._whole else None
        # Both stages are lost when the one that holds the bytes is: what is there must be what was sent.
        held = self._by_sequence.get(record.payload_ref)
        is_there = held is not None and held.sequence in self._whole
        return held.payload if is_there and held and held.payload_sha256 == record.payload_sha256 else None

    def flaw_of(self, record: StageRecord) -> str | None:
        """Why the record's payload is not there; None when nothing is wrong with it."""
        if self.payload_of(record) is not None:
            return None
        held = self._by_sequence.get(record.payload_ref) if record.payload_ref is not None else record
        refused = held.attributes.get(_REFUSED) if held is not None else self._reason_aside(record.payload_ref)
        if refused is not None:
            return str(refused)
        # A checkpoint of a stream keeps its hash and loses its payload when the stage is recorded.
        is_superseded = record.event_type == EventType.RESPONSE_PARTIAL and record.payload is None
        return None if record.payload_sha256 is None or is_superseded else UNREADABLE

    def reason_of_stage(self, name: EventType) -> str | None:
        """Why a stage has no record; None when nobody knows, or there is nothing to explain."""
        sequence = next((each.sequence for each in self._call.set_aside if each.event_type == name), None)
        return self._reason_aside(sequence)

    def _reason_aside(self, sequence: int | None) -> str | None:
        aside = None if sequence is None else self._aside.get(sequence)
        return None if aside is None else _FOR_PEOPLE.get(aside.reason, aside.reason)

    def completeness(self, evidence: Evidence) -> Completeness:
        flaws = [(each, flaw) for each in self._call.records if (flaw := self.flaw_of(each))]
        damaged = sum(_REFUSED not in each.attributes for each, _ in flaws)
        crash_proof = Counter(
            str(reason) for each in self._call.records if (reason := each.attributes.get(_NOT_CRASH_PROOF))
        )
        return completeness_of(
            replace(evidence, unreadable=damaged),
            self._losses([(flaw, each.event_type) for each, flaw in flaws]),
            self.missing,
            dict(crash_proof),
            self._call.row["process_ended_how"],
        )

    def _missing(self) -> list[int]:
        emitted = self._call.row["records_emitted"]
        end = max(self._by_sequence, default=-1) + 1 if emitted is None else emitted
        return [number for number in range(end) if number not in self._by_sequence]

    def _losses(self, flaws: list[tuple[str, str]]) -> list[Loss]:
        """By reason; what nobody can explain comes last."""
        found = [
            *flaws,
            *((_FOR_PEOPLE.get(each.reason, each.reason), each.event_type) for each in self._aside.values()),
        ]
        unknown = sum(number not in self._aside for number in self._missing())
        counts = Counter(reason for reason, _ in found)
        losses = [
            Loss(reason, count, tuple(dict.fromkeys(kind for each, kind in found if each == reason and kind)))
            for reason, count in counts.items()
        ]
        return losses + ([Loss("unknown", unknown)] if unknown else [])


def _is(payload: bytes | None, record: StageRecord) -> bool:
    return payload is not None and hashlib.sha256(payload).digest() == record.payload_sha256
