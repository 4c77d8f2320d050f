"""The state of a call's record: one for all that may be known of it, and "complete" only where that is proved."""

from __future__ import annotations

import itertools
from typing import Any, Literal, get_args

import pytest

from luthien.debug.call.completeness import Evidence, Loss, State, completeness_of, state_of

COMPLETE, PENDING, PARTIAL, INTERRUPTED, FAILED = State

PROCESSES: tuple[Literal["alive", "dead", "unknown"], ...] = ("alive", "dead", "unknown")
WHOLE: dict[str, Any] = {"emitted": 7, "stored": 7, "stages_stored": 4}
HOLE: dict[str, Any] = {"emitted": 7, "stored": 6, "stages_stored": 3}
OPEN: dict[str, Any] = {"stored": 4, "stages_stored": 2}

EVERYTHING = [
    Evidence(
        emitted=emitted,
        stored=stored,
        stages_stored=stages,
        tombstoned=tombstoned,
        set_aside=aside,
        refused=refused,
        unreadable=unreadable,
        end_is_lost=end_is_lost,
        process=process,
        may_come=may_come,
    )
    for emitted, stored, stages, tombstoned, aside, refused, unreadable, end_is_lost, process, may_come in (
        itertools.product(
            (None, 1, 4),
            (0, 1, 3, 4),
            (0, 2),
            (0, 1),
            (0, 1),
            (0, 1),
            (0, 1),
            (False, True),
            PROCESSES,
            (False, True),
        )
    )
    if stages <= stored and tombstoned + stages <= stored and (emitted is None or not end_is_lost)
]


@pytest.mark.parametrize(
    ("known", "states"),
    [
        # In the order of PROCESSES; first when nothing is on its way, then when something may be.
        ((WHOLE, {}), (COMPLETE,) * 6),
        ((HOLE, {}), (PARTIAL,) * 3 + (PENDING,) * 3),
        ((HOLE, {"set_aside": 1}), (PARTIAL,) * 6),
        ((HOLE, {"refused": 1}), (PARTIAL,) * 6),
        ((HOLE, {"refused": 1, "tombstoned": 1}), (PARTIAL,) * 3 + (PENDING,) * 3),
        ((WHOLE, {"stages_stored": 3, "tombstoned": 1}), (PARTIAL,) * 6),
        ((WHOLE, {"set_aside": 1}), (PARTIAL,) * 6),
        ((WHOLE, {"unreadable": 1}), (PARTIAL,) * 6),
        ((WHOLE, {"refused": 1}), (PARTIAL,) * 6),
        ((WHOLE, {"stages_stored": 0, "tombstoned": 4}), (FAILED,) * 6),
        (({"emitted": 7, "stored": 1}, {}), (FAILED,) * 3 + (PENDING,) * 3),
        (({"emitted": 1, "stored": 1}, {}), (COMPLETE,) * 6),
        ((OPEN, {}), (PENDING, INTERRUPTED, PARTIAL) + (PENDING,) * 3),
        ((OPEN, {"tombstoned": 1}), (PENDING, INTERRUPTED, PARTIAL) + (PENDING,) * 3),
        ((OPEN, {"end_is_lost": True, "set_aside": 1}), (PARTIAL,) * 6),
        (({}, {"end_is_lost": True, "set_aside": 7}), (FAILED,) * 6),
        (({"stored": 1}, {"tombstoned": 1}), (PENDING, FAILED, FAILED) + (PENDING,) * 3),
        (({"stored": 1}, {}), (PENDING, INTERRUPTED, PARTIAL) + (PENDING,) * 3),
    ],
)
def test_the_state(known: tuple[dict[str, Any], dict[str, Any]], states: tuple[State, ...]) -> None:
    values = known[0] | known[1]
    assert (
        tuple(
            state_of(Evidence(**values, process=process, may_come=may_come))
            for may_come in (False, True)
            for process in PROCESSES
        )
        == states
    )


def test_holds_of_everything_that_may_be_known() -> None:
    for known in EVERYTHING:
        check(known)


def check(known: Evidence) -> None:
    state = state_of(known)
    is_over = known.emitted is not None
    is_flawless = not (known.tombstoned or known.set_aside or known.refused or known.unreadable)
    is_whole = known.emitted is not None and known.stored >= known.emitted
    assert (state is COMPLETE) == (is_whole and is_flawless)
    if state is PENDING:
        assert known.may_come or (known.process == "alive" and not is_over)
        assert not known.end_is_lost
    if state is INTERRUPTED:
        assert not is_over
        assert known.process == "dead"
        assert not known.may_come
    if state is FAILED:
        assert not known.stages_stored
    said = completeness_of(known)
    assert said.state is state
    assert said.is_running == (state is PENDING and not is_over)
    if state in (PARTIAL, FAILED) and is_over:
        assert said.losses or known.refused
    assert "nobody knows" not in said.sentence or state in (PARTIAL, FAILED)


def test_of_everything_is_something_of_each() -> None:
    assert {state_of(known) for known in EVERYTHING} == set(State)
    assert {known.process for known in EVERYTHING} == set(get_args(Literal["alive", "dead", "unknown"]))


def test_says_what_is_lost_and_what_to_do() -> None:
    said = completeness_of(Evidence(**HOLE, set_aside=1), [Loss("spool_full", 1, ("response_final",))], missing=[5])
    assert (
        said.sentence == "Part of this call's record is lost: 1 record (the spool was full). What is here is exact."
    )
    assert "LUTHIEN_SPOOL_MAX_BYTES" in said.advice
    assert said.as_dict() == {
        "state": "partial",
        "sentence": said.sentence,
        "advice": said.advice,
        "reasons": [{"reason": "spool_full", "records": 1, "stages": ("response_final",)}],
        "lost": 1,
        "missing": [5],
        "crash_proof": True,
        "not_crash_proof": {},
    }


def test_of_counts_alone_says_as_much_as_they_do() -> None:
    said = completeness_of(Evidence(emitted=9, stored=6, stages_stored=3, tombstoned=2, set_aside=1, process="dead"))
    assert said.losses == (Loss("refused", 2), Loss("set_aside", 1), Loss("unknown", 2))
    assert "nobody knows why" in said.sentence


@pytest.mark.parametrize(
    ("ended_how", "words"), [("died", "died before"), ("stopped", "stopped before"), (None, "not heard of any more")]
)
def test_says_what_became_of_the_process(ended_how: str | None, words: str) -> None:
    assert words in completeness_of(Evidence(**OPEN, process="dead"), ended_how=ended_how).sentence
