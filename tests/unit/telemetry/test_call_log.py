"""Which calls leave a line, and how many when somebody sends requests as fast as they can."""

from __future__ import annotations

import logging

import pytest

from luthien.exchange import Outcome
from luthien.telemetry import conventions as names
from luthien.telemetry.call_log import CallLog


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "luthien.calls")


def end(log: CallLog, outcome: Outcome, *, has_key: bool = False) -> bool:
    is_told = log.tells(outcome, has_key)
    if is_told:
        log.tell("an-id", outcome, {names.ERROR_TYPE: "some_code", names.REQUEST_MODEL: None})
    return is_told


@pytest.mark.parametrize(
    ("which", "left_out"), [("all", set()), ("unusual", {Outcome.COMPLETED}), ("none", set(Outcome))]
)
def test_which_calls_leave_a_line(which: str, left_out: set[Outcome]) -> None:
    log = CallLog(which)
    assert {outcome for outcome in Outcome if not end(log, outcome)} == left_out


def test_only_what_an_operator_should_look_at_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    log = CallLog("all")
    for outcome in Outcome:
        end(log, outcome)
    warnings = {vars(record)[names.OUTCOME] for record in caplog.records if record.levelno == logging.WARNING}
    assert warnings == {"upstream_error", "policy_error"}
    assert {record.levelno for record in caplog.records} == {logging.WARNING, logging.INFO}


def test_nothing_is_told_below_the_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "luthien.calls")
    log = CallLog("all")
    assert {outcome for outcome in Outcome if log.tells(outcome, has_key=False)} == {
        Outcome.UPSTREAM_ERROR,
        Outcome.POLICY_ERROR,
    }


def test_a_flood_of_rejected_calls_leaves_some_lines_and_their_number(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log = CallLog(clock=clock)
    assert [end(log, Outcome.REJECTED) for _ in range(100)] == [True] * 20 + [False] * 80
    clock.now_s += 2.5
    assert [end(log, Outcome.REJECTED) for _ in range(4)] == [True, True, False, False]
    clock.now_s += 3600
    assert [end(log, Outcome.REJECTED) for _ in range(21)] == [True] * 20 + [False]
    counts = [vars(record).get(names.CALLS_LEFT_OUT) for record in caplog.records]
    assert [count for count in counts if count is not None] == [80, 2]
    assert "; 80 rejected before it have no line" in caplog.messages[20]


def test_calls_that_came_with_a_gateway_key_and_those_that_went_further_all_have_a_line(clock: Clock) -> None:
    log = CallLog(clock=clock)
    while end(log, Outcome.REJECTED):
        pass
    assert all(end(log, Outcome.REJECTED, has_key=True) for _ in range(100))
    for outcome in set(Outcome) - {Outcome.REJECTED, Outcome.COMPLETED}:
        assert all(end(log, outcome) for _ in range(100))


def test_what_is_not_known_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    end(CallLog(), Outcome.BLOCKED)
    [record] = caplog.records
    assert names.REQUEST_MODEL not in vars(record)
    assert record.getMessage() == "blocked (some_code): call an-id, None, status none, after 0 ms"
