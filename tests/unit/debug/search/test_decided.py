"""Decisions as they are counted, whatever a record says."""

from __future__ import annotations

from typing import Any

import pytest

from luthien.debug.search.decided import decisions_of
from luthien.exchange import EventType
from tests.records import record


def test_only_decisions_are_counted() -> None:
    records = [record(event_type=each) for each in EventType]
    assert len([*decisions_of(records)]) == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"luthien.policy.duration": float("nan"), "luthien.policy.count": 2**70},
        {"luthien.policy.duration": "long", "luthien.policy.count": "many"},
        {"luthien.policy.duration": None, "luthien.policy.count": True},
    ],
)
def test_what_is_no_number_is_null(odd: dict[str, Any]) -> None:
    [decided] = decisions_of([record(event_type=EventType.POLICY_DECISION, attributes=odd)])
    assert (decided.duration_ms, decided.count) == (None, None)
    assert (decided.side, decided.policy, decided.action, decided.changed) == ("", "", "", False)


def test_what_no_column_can_hold_is_replaced() -> None:
    attributes = {"luthien.policy.name": "nul\0", "luthien.policy.version": "\ud800", "luthien.policy.count": 3}
    [decided] = decisions_of([record(event_type=EventType.POLICY_DECISION, attributes=attributes)])
    assert (decided.policy, decided.version, decided.count) == ("nul\ufffd", "?", 3)
