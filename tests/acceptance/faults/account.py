"""The ledger of the clients against what is in Postgres."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import namedtuple_row

from luthien.exchange import STAGES, EventType
from tests.acceptance.faults import asks
from tests.acceptance.faults.load import Ledger, Received

DEADLINE_S = 240.0
# Longer than the writer's longest pause before it tries again, on a machine that stands still at times.
_QUIET_S = 60.0

_EVENTS = """
SELECT
    event.call_id, event.sequence, event.event_type, event.wire_sha256, event.wire_bytes, event.recorded_at,
    event.attributes,
    CASE event.event_type WHEN 'response_partial' THEN event.payload END AS passed,
    event.payload IS NULL OR sha256(event.payload) = event.payload_sha256 AS is_sound,
    sha256(coalesce(event.payload, same.payload)) AS payload_sha256
FROM conversation_events AS event
LEFT JOIN conversation_events AS same ON same.call_id = event.call_id AND same.sequence = event.payload_ref
ORDER BY event.call_id, event.sequence
"""
_CALLS = "SELECT call_id, outcome, records_emitted, records_stored FROM conversation_calls"
_WHOLE = "SELECT call_id FROM conversation_calls WHERE records_stored >= records_emitted"


@dataclass(slots=True)
class Kept:
    """What Postgres has of one call: its row, and its events in order."""

    row: Any = None
    events: list[Any] = field(default_factory=list)

    def of(self, event_type: EventType) -> list[Any]:
        return [event for event in self.events if event.event_type == event_type]


@dataclass(slots=True)
class Account:
    """What became of the calls in a ledger. `lost`, `duplicated` and `wrong` say which, and what about them."""

    ledger: Ledger
    kept: dict[UUID, Kept]
    quarantined: int
    stored: int = 0
    checkpointed: int = 0
    """Responses that did not come whole and of which checkpoints have a beginning."""
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def assert_perfect(self, quarantined: int = 0) -> None:
        """Every response that came whole is there once, as the client has it, and nothing else is wrong."""
        assert self.ledger.whole, "nothing was tested"
        for what in (self.lost, self.duplicated, self.wrong):
            assert not what, f"{len(what)} of {len(self.ledger.whole)} calls: {what[:5]}"
        assert self.stored == len(self.ledger.whole)
        assert self.quarantined == quarantined


def wait_until_stored(dsn: str, ledger: Ledger) -> None:
    """Until all calls whose response came whole are stored, or nothing happens any more."""
    wanted = {each.call_id for each in ledger.whole}

    def missing() -> int:
        with psycopg.connect(dsn) as conn:
            return len(wanted - {row[0] for row in conn.execute(_WHOLE)})

    until_quiet(missing, is_enough=lambda count: count == 0)


def wait_until_taken_over(left_behind: Callable[[], int]) -> None:
    """Until nothing waits in the spools of the dead, be it of calls that did not come whole, or nothing happens."""
    until_quiet(left_behind, is_enough=lambda count: count <= 0)


def until_quiet(ask: Callable[[], int], is_enough: Callable[[int], bool]) -> int:
    """Asks until the answer is good enough, or has not changed for long; returns the last answer."""
    last, since = ask(), time.monotonic()
    ends = since + DEADLINE_S
    while not is_enough(last) and time.monotonic() < min(since + _QUIET_S, ends):
        time.sleep(0.2)
        answer = ask()
        if answer != last:
            last, since = answer, time.monotonic()
    return last


def account(dsn: str, ledger: Ledger) -> Account:
    """Compares. The gateway must have come to rest."""
    kept: defaultdict[UUID, Kept] = defaultdict(Kept)
    with psycopg.connect(dsn) as conn:
        rows: psycopg.Cursor[Any] = conn.cursor(row_factory=namedtuple_row)
        for row in rows.execute(_CALLS):
            kept[row.call_id].row = row
        for event in rows.execute(_EVENTS):
            kept[event.call_id].events.append(event)
        [(quarantined,)] = rows.execute("SELECT count(*) FROM conversation_quarantine").fetchall()
    found = Account(ledger, dict(kept), quarantined)
    for call_id, call in kept.items():
        _check_any(call_id, call, found)
    for received in ledger.whole:
        _check_whole(received, found)
    for received in ledger.cut:
        _check_cut(received, found)
    return found


def _check_any(call_id: UUID, call: Kept, found: Account) -> None:
    """What holds for all that is stored, whatever its client saw."""
    stages = [event.event_type for event in call.events if event.event_type in STAGES]
    emitted = call.row.records_emitted if call.row else None
    if len(stages) != len({*stages}) or (emitted is not None and len(call.events) > emitted):
        found.duplicated.append(f"{call_id}: {stages}, {emitted} emitted")
    if not all(event.is_sound for event in call.events):
        found.wrong.append(f"{call_id}: a payload is not what its hash says")
    if call.row is None or call.row.records_stored != len(call.events):
        found.wrong.append(f"{call_id}: its row counts other records than there are: {call.row}")


def _check_whole(received: Received, found: Account) -> None:
    call = found.kept.get(received.call_id) if received.call_id else None
    finals = call.of(EventType.RESPONSE_FINAL) if call else []
    if call is None or len(finals) != 1 or finals[0].wire_sha256 != received.sha256:
        found.lost.append(f"{received.call_id}: {len(finals)} response_final for {received}")
        return
    found.stored += 1
    said = _mistakes(received, call)
    if said:
        found.wrong.append(f"{received.call_id}: {', '.join(said)}")


def _mistakes(received: Received, call: Kept) -> list[str]:
    """What is wrong with the record of a call whose response came whole."""
    [final] = call.of(EventType.RESPONSE_FINAL)
    requests = [event for event in call.events if event.event_type in STAGES[:2]]
    facts = {
        "not all four stages": all(len(call.of(stage)) == 1 for stage in STAGES),
        "no outcome": call.row.outcome is not None,
        "records are missing": call.row.records_stored == call.row.records_emitted,
        "a hole in the sequence": [event.sequence for event in call.events] == [*range(len(call.events))],
        "not the request": all(event.wire_sha256 == received.request_sha256 for event in requests),
        "no payload": final.payload_sha256 is not None,
    }
    if received.status == 200:
        facts["not what the provider sent"] = received.sha256 == _answer_sha256(received)
        facts["not completed"] = call.row.outcome == "completed"
        if not received.ask.chunks:
            facts["the payload is not what the client got"] = final.payload_sha256 == received.sha256
    return [mistake for mistake, is_fine in facts.items() if not is_fine]


def _check_cut(received: Received, found: Account) -> None:
    """Nothing false is stored of a call that was cut off: what is there is what was asked, and what was answered."""
    call = found.kept.get(received.call_id) if received.call_id else None
    passed = _passed(call) if call else b""
    found.checkpointed += bool(passed)
    if not asks.whole(received.ask).startswith(passed):
        found.wrong.append(f"{received.call_id}: its checkpoints are no beginning of the answer")
    for event in call.events if call else []:
        is_request = event.event_type in STAGES[:2]
        if is_request and event.wire_sha256 != received.request_sha256:
            found.wrong.append(f"{received.call_id}: not the request")
    if call is None or call.row.outcome != "completed":
        return
    for event in call.of(EventType.RESPONSE_FINAL):
        if event.wire_sha256 != _answer_sha256(received):
            found.wrong.append(f"{received.call_id}: completed, and not what the provider sent")


def _passed(call: Kept) -> bytes:
    """What checkpoints have of a stream, as its client was given it."""
    passed = b""
    for event in call.of(EventType.RESPONSE_PARTIAL):
        if event.attributes["luthien.checkpoint.sides"] in {"both", "final"} and event.passed is not None:
            assert event.attributes["luthien.checkpoint.offset"] == len(passed), "a gap between checkpoints"
            passed += event.passed
    return passed


def _answer_sha256(received: Received) -> bytes:
    return hashlib.sha256(asks.whole(received.ask)).digest()
