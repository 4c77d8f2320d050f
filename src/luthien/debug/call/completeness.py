"""How much of a call's record is there: one of five states, and why. Pure.

The call says how many records it emitted, the database how many it has; the rest is about what can still come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple

from luthien.debug.showing.phrases import counted, listed


class State(StrEnum):
    """What can be said of a call's record."""

    COMPLETE = "complete"
    PENDING = "pending"
    PARTIAL = "partial"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a call's record, from its row alone or from its records, too.

    Counts are of records. `may_come`: records of the call may be on their way to the database.
    """

    emitted: int | None = None
    """As the call's last record says; None while that is not stored."""
    stored: int = 0
    stages_stored: int = 0
    """Stored with what went through a stage, not only with its hash."""
    tombstoned: int = 0
    """Stored without the payload, which was refused."""
    set_aside: int = 0
    """In quarantine, or refused and told of."""
    refused: int = 0
    """As the call itself counted, tombstones included."""
    unreadable: int = 0
    """Stored, but the payload is not what its hash says, or is not where it should be."""
    end_is_lost: bool = False
    """The last record will not come."""
    process: Literal["alive", "dead", "unknown"] = "unknown"
    may_come: bool = False


class Loss(NamedTuple):
    """So many records that are missing, or kept in part, for one reason; `stages` as far as they are known."""

    reason: str
    records: int
    stages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completeness:
    """The state of a call's record and what is wrong with it.

    `missing` are sequences of which nothing is stored, as far as the records were looked at; `not_crash_proof` says
    how many records a crash could have lost at the time, by reason.
    """

    state: State
    is_running: bool
    sentence: str
    advice: str = ""
    losses: tuple[Loss, ...] = ()
    missing: tuple[int, ...] = ()
    not_crash_proof: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return {
            "state": self.state.value,
            "sentence": self.sentence,
            "advice": self.advice or None,
            "reasons": [loss._asdict() for loss in self.losses],
            "lost": sum(loss.records for loss in self.losses),
            "missing": [*self.missing],
            "crash_proof": not self.not_crash_proof,
            "not_crash_proof": dict(self.not_crash_proof),
        }


NOTHING_YET = Completeness(State.PENDING, is_running=True, sentence="Nothing of this call is in the database yet.")


def state_of(known: Evidence) -> State:
    """The state, of which there is exactly one. "Complete" is only what is proved to be."""
    is_over = known.emitted is not None
    if is_over and not _lost(known) and not known.refused:
        return State.COMPLETE
    if _may_become_more(known):
        return State.PENDING
    if not known.stages_stored and (is_over or known.end_is_lost or _lost(known)):
        return State.FAILED
    if is_over or known.end_is_lost or known.process != "dead":
        return State.PARTIAL
    return State.INTERRUPTED


def _may_become_more(known: Evidence) -> bool:
    if known.emitted is not None:
        return known.may_come and _unexplained(known) > 0
    return not known.end_is_lost and (known.may_come or known.process == "alive")


def _missing(known: Evidence) -> int:
    return max(0, (known.emitted or 0) - known.stored)


def _lost(known: Evidence) -> int:
    """How many records are not there as they should be."""
    return max(_missing(known), known.set_aside) + known.tombstoned + known.unreadable


def _unexplained(known: Evidence) -> int:
    """How many are missing although nobody has refused them or set them aside."""
    return max(0, _missing(known) - max(known.set_aside, known.refused - known.tombstoned))


def completeness_of(
    known: Evidence,
    losses: Sequence[Loss] | None = None,
    missing: Sequence[int] = (),
    not_crash_proof: dict[str, int] | None = None,
    ended_how: str | None = None,
) -> Completeness:
    """The state in words.

    Args:
        losses: what is lost and why, if the records were looked at; else the counts say.
        missing: sequences of which nothing is stored.
        not_crash_proof: records that waited in memory only, by reason.
        ended_how: what became of the call's process: `stopped`, `died`; None when it just is not heard of any more.
    """
    state = state_of(known)
    is_running = state is State.PENDING and known.emitted is None
    found = tuple(_counted_losses(known) if losses is None else losses)
    if state is State.PENDING:  # what seems to be lost may be on its way, or what it refers to
        found = tuple(loss for loss in found if loss.reason not in ("unknown", "unreadable"))
    sentence, advice = _words(state, known, found, ended_how)
    return Completeness(state, is_running, sentence, advice, found, tuple(missing), not_crash_proof or {})


def _counted_losses(known: Evidence) -> list[Loss]:
    unknown = _unexplained(known)
    aside = max(known.set_aside, _missing(known) - unknown)
    kinds = [("refused", known.tombstoned), ("set_aside", aside), ("unreadable", known.unreadable)]
    return [Loss(reason, count) for reason, count in [*kinds, ("unknown", unknown)] if count]


_REASONS = {
    "spool_full": ("the spool was full", "Raise LUTHIEN_SPOOL_MAX_BYTES, or see why the database takes no records."),
    "disk_full": ("the disk was full", "Make room where LUTHIEN_SPOOL_DIR is."),
    "disk_failed": ("the disk of the spool failed", "Look after the disk where LUTHIEN_SPOOL_DIR is."),
    "queue_full_records": ("memory for records was full", "Raise LUTHIEN_QUEUE_MAX_RECORDS."),
    "queue_full_bytes": ("memory for records was full", "Raise LUTHIEN_QUEUE_MAX_BYTES."),
    "too_large": ("too large for the queue", "Raise LUTHIEN_QUEUE_MAX_BYTES."),
    "closed": ("the gateway was being stopped", ""),
    "malformed": ("not what a record is", ""),
    "refused": ("refused, see the call's page", ""),
    "set_aside": ("set aside, see the call's page", ""),
    "refused_by_database": ("Postgres did not take it", "It is in conversation_quarantine, with the error."),
    "conflict": ("another record has its place", "It is in conversation_quarantine."),
    "implausible": ("the call's id cannot be true", "It is in conversation_quarantine."),
    "unreadable": ("its payload is damaged or gone", ""),
    "unknown": ("nobody knows why", "Look at luthien.record.dropped in the metrics, and at the gateway's log."),
}


def reason_in_words(reason: str) -> str:
    return _REASONS.get(reason, (reason.replace("_", " "), ""))[0]


def _words(state: State, known: Evidence, losses: Sequence[Loss], ended_how: str | None) -> tuple[str, str]:
    """A sentence that says what the state means, and one that says what to do."""
    lost = listed([f"{counted(loss.records, 'record')} ({reason_in_words(loss.reason)})" for loss in losses])
    advice = " ".join(dict.fromkeys(_REASONS.get(loss.reason, ("", ""))[1] for loss in losses)).strip()
    match state:
        case State.COMPLETE:
            return "All that this call recorded is here.", ""
        case State.PENDING:
            also = f" Lost already: {lost}." if lost else ""
            if known.emitted is not None:
                return f"The call is over; records of it are still on their way.{also}", ""
            return f"The call is still running, or the record of its end is on its way.{also}", ""
        case State.INTERRUPTED:
            how = {"stopped": "stopped", "died": "died"}.get(
                ended_how or "", "is not heard of any more; it went away"
            )
            also = f" Lost: {lost}." if lost else ""
            return (
                f"The process that served this call {how} before the call ended; what it had recorded is here.{also}",
                ""
                if ended_how == "died"
                else "If records wait in its spool, the next start on that disk brings them.",
            )
        case State.FAILED:
            return f"Nothing that went through this call was kept: {lost or 'its stages are missing'}.", advice
        case State.PARTIAL:
            lost = lost or ("the record of its end" if known.emitted is None else "what the call counted as refused")
            return f"Part of this call's record is lost: {lost}. What is here is exact.", advice
