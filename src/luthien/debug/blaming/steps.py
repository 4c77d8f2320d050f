"""What each policy of a call made of what it was given, put together from the records. Pure.

Every policy leaves one decision for each side, and if it changed something, what it gave on. So the documents of one
side make a chain, from what came to what went on. Where a part of it is not there, the chain has a stretch of which
it is known who may have made it, and not who did. Policies in shadow stand beside the chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from luthien.debug.call.losses import Records
from luthien.debug.diffing.ops import Blame
from luthien.exchange import EventType, Outcome, Side, StageRecord

MAX_REASON_CHARS = 300
"""So much of a policy's reason goes with each operation; the decision itself has all of it."""

LOST = "the record of a step is missing"
ENDED = "{} ended the stream, and what it let go on until then was not recorded apart from what others did"
GATEWAY = "no policy's doing: it is how the gateway ended the response"
OWN = "no recorded step made it"


@dataclass(frozen=True, slots=True)
class Stretch:
    """What became of one known document until the next one that is known.

    `by` are the steps that may have had a part, in order: none where it was no policy. `is_open` says that others
    may have had one, too; `why` says why it cannot be told, where it cannot.
    """

    before: bytes
    after: bytes
    by: tuple[Blame, ...]
    is_open: bool = False
    why: str | None = None

    @property
    def author(self) -> Blame | None:
        """The one step that made it, if that is certain."""
        return self.by[0] if len(self.by) == 1 and not self.is_open else None


@dataclass(frozen=True, slots=True)
class Shadow:
    """A step that was recorded only: the document that it saw, and what it would have made of it.

    Either is None where it is not known; `why` says why.
    """

    step: Blame
    side: Side
    action: str
    before: bytes | None
    after: bytes | None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Steps:
    """The chain of one side, the shadows beside it, and who made the gateway end a stream with an error."""

    side: Side
    stretches: tuple[Stretch, ...] = ()
    shadows: tuple[Shadow, ...] = ()
    stopped_by: Blame | None = None
    is_cut: bool = False
    """Whether the gateway ended the stream itself, or the client did."""


def steps_of(records: Records, side: Side) -> Steps:
    """The chain from what came on a side to what went on, as far as there are documents of it."""
    original = _document(records, EventType(f"{side}_original"))
    final = _document(records, EventType(f"{side}_final"))
    chain = _Chain(records, side, original, final)
    for entry in _entries(records, side):
        chain.take(entry)
    return chain.result()


def _document(records: Records, stage: EventType) -> bytes | None:
    """The payload of a stage that passed there whole."""
    record = records.of_stage(stage)
    if (
        record is None
        or record.attributes.get("luthien.generated")
        or record.attributes.get("luthien.payload.capped")
    ):
        return None
    return records.payload_of(record)


@dataclass(frozen=True, slots=True)
class _Lost:
    """A decision of which there is no record: `step` where it can only be one policy's."""

    step: Blame | None = None


def _entries(records: Records, side: Side) -> Iterator[StageRecord | _Lost]:
    """The decisions of a side in order, and in their places those that are missing."""
    decisions = [each for each in records.all if _is_decision(each, side)]
    lost = _lost(records, side)
    policies = records.policies
    last = -1
    for record in [*decisions, None]:
        position = len(policies) if record is None else _position(record)
        gone = [number for number in lost if record is None or number < record.sequence]
        lost = lost[len(gone) :]
        between = policies[last + 1 : position] if position is not None else []
        if len(between) == len(gone):
            yield from (
                _Lost(Blame(name, version, "", number)) for number, (name, version) in zip(gone, between, strict=True)
            )
        else:
            yield from (_Lost() for _ in gone)
        if record is not None:
            yield record
            last = len(policies) if position is None else position


def _is_decision(record: StageRecord, side: Side) -> bool:
    is_one = record.event_type == EventType.POLICY_DECISION
    return is_one and record.attributes.get("luthien.policy.side") == side.value


def _position(record: StageRecord) -> int | None:
    position = record.attributes.get("luthien.policy.position")
    return position if isinstance(position, int) else None


def _lost(records: Records, side: Side) -> list[int]:
    """The numbers of missing records that are, or may be, decisions of a side."""
    missing = records.missing
    if not missing:
        return []
    first, last = (records.of_stage(EventType(f"{side}_{state}")) for state in ("original", "final"))
    if first is None or last is None:
        return []
    begin = first.sequence + 1
    has_timeline = records.of_stage(EventType.RESPONSE_TIMELINE) is not None
    if side is Side.RESPONSE and "luthien.chunks" in first.attributes and not has_timeline:
        begin += 1  # of a stream, the timeline comes before the decisions
    known = (None, EventType.POLICY_DECISION)
    return [each for each in missing if begin <= each < last.sequence and records.kind_aside(each) in known]


@dataclass(slots=True)
class _Chain:
    records: Records
    side: Side
    known: bytes | None
    """The last document that is known."""
    final: bytes | None
    _stretches: list[Stretch] = field(default_factory=list)
    _shadows: list[Shadow] = field(default_factory=list)
    _by: list[Blame] = field(default_factory=list)
    """The steps since then."""
    _is_open: bool = False
    _why: str | None = None
    _stopped_by: Blame | None = None

    def take(self, entry: StageRecord | _Lost) -> None:
        if isinstance(entry, _Lost):
            self._miss(LOST, entry.step)
        elif entry.attributes.get("luthien.policy.shadow") is True:
            self._stand_beside(entry)
        else:
            self._go_on(entry)

    def result(self) -> Steps:
        if self.final is not None and (self._by or self._is_open or self.known != self.final):
            self._reach(self.final)
        stretches = tuple(each for each in self._stretches if each.before != each.after)
        is_cut = self.side is Side.RESPONSE and self.records.outcome not in (None, Outcome.COMPLETED)
        return Steps(self.side, stretches, tuple(self._shadows), self._stopped_by, is_cut)

    def _go_on(self, record: StageRecord) -> None:
        step = blame_of(record)
        is_stopper = self._has_stopped(record)
        if is_stopper:
            self._stopped_by = step
        if record.attributes.get("luthien.policy.changed") is not True:
            if is_stopper:
                self._miss(ENDED.format(step.policy), step)
            return
        output, why = self._output(record)
        if output is None:
            self._miss(f"what {step.policy} gave on is not in the record: {why}", step)
        else:
            self._by.append(step)
            self._reach(output)

    def _has_stopped(self, record: StageRecord) -> bool:
        """Whether this step ended the call."""
        action, outcome = record.attributes.get("luthien.policy.action"), self.records.outcome
        return (action, outcome) in (("block", Outcome.BLOCKED), ("error", Outcome.POLICY_ERROR))

    def _output(self, record: StageRecord) -> tuple[bytes | None, str]:
        """What a step gave on, and why that is not there."""
        if record.attributes.get("luthien.payload.capped") is True:
            return None, "only its beginning was kept"
        if record.payload_sha256 is not None:
            return self.records.payload_of(record), str(self.records.flaw_of(record)).replace("_", " ")
        if record.attributes.get("luthien.policy.output.sha256") is None:
            return None, "nothing of it had passed"
        return self.final, "it is that of a stage that is missing"  # what went on is kept once, as a stage

    def _miss(self, why: str, step: Blame | None) -> None:
        self._why = self._why or why
        if step is None:
            self._is_open = True
        else:
            self._by.append(step)

    def _reach(self, document: bytes) -> None:
        if self.known is not None:
            by = tuple(self._by)
            if not by and not self._is_open and self._stopped_by is not None:
                by = (self._stopped_by,)
            why = self._why or (None if by else GATEWAY if self._stretches else OWN)
            self._stretches.append(Stretch(self.known, document, by, self._is_open, why))
        self.known, self._by, self._is_open, self._why = document, [], False, None

    def _stand_beside(self, record: StageRecord) -> None:
        step, action = blame_of(record), str(record.attributes.get("luthien.policy.action", ""))
        is_known = not self._by and not self._is_open
        before = self.known if is_known else None
        after: bytes | None = None
        why = None if is_known else self._why
        if action in ("block", "error"):
            why = "it would have ended the call here"
        elif record.attributes.get("luthien.policy.changed") is True:
            after, flaw = self._output(record)
            why = why if after is not None else f"what it would have given on is not in the record: {flaw}"
        else:
            after = before
        self._shadows.append(Shadow(step, self.side, action, before, after, why))


def blame_of(record: StageRecord) -> Blame:
    """The step that left a decision."""
    get = record.attributes.get
    reason = str(get("luthien.policy.reason") or "")
    if len(reason) > MAX_REASON_CHARS:
        reason = f"{reason[:MAX_REASON_CHARS]}…"
    return Blame(str(get("luthien.policy.name", "")), str(get("luthien.policy.version", "")), reason, record.sequence)


def names_of(steps: Sequence[Blame]) -> list[str]:
    """The policies, each once, in order."""
    return list(dict.fromkeys(step.policy for step in steps))
