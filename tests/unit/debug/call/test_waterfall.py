"""The waterfall of a call: only what its records say, or what follows from that."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from luthien.debug.call.timeline import Entry, Lanes
from luthien.debug.call.waterfall import Bar, Waterfall, waterfall_of
from luthien.exchange import EventType, StageRecord, call_time_ms

CALL = UUID("01a20340-0000-7000-8000-000000000001")
BEGAN_NS = call_time_ms(CALL) * 1_000_000 + 400_000
ROW: dict[str, Any] = {
    "call_id": CALL,
    "upstream_ms": 50.0,
    "upstream_first_chunk_ms": 20.0,
    "client_first_chunk_ms": 71.0,
}


def record(sequence: int, kind: EventType, at_ms: float, **attributes: Any) -> StageRecord:
    named = {f"luthien.{name.replace('__', '.')}": value for name, value in attributes.items()}
    return StageRecord(CALL, sequence, kind, BEGAN_NS + round(at_ms * 1e6), "", "", attributes=named)


def decision(sequence: int, at_ms: float, side: str, took_ms: float, name: str = "redact") -> StageRecord:
    return record(
        sequence,
        EventType.POLICY_DECISION,
        at_ms,
        policy__name=name,
        policy__side=side,
        policy__duration=took_ms,
    )


PLAIN = [
    record(0, EventType.REQUEST_ORIGINAL, 2.0),
    decision(1, 9.0, "request", 3.0, "first"),
    decision(2, 9.0, "request", 4.0, "second"),
    record(3, EventType.REQUEST_FINAL, 9.5),
    record(4, EventType.RESPONSE_ORIGINAL, 62.0),
    decision(5, 70.0, "response", 6.0),
    record(6, EventType.RESPONSE_FINAL, 70.5),
    record(7, EventType.CALL_OUTCOME, 72.0, duration=72.0),
]


def made(
    records: list[StageRecord],
    lanes: Lanes | None = None,
    children: list[dict[str, Any]] | None = None,
    *,
    is_running: bool = False,
    all_there: bool = True,
    **row: Any,
) -> Waterfall:
    return waterfall_of(records, {**ROW, **row}, children or [], lanes, is_running=is_running, all_there=all_there)


def placed(bar: Bar) -> tuple[str, float | None, float | None]:
    return (
        bar.label,
        None if bar.start_ms is None else round(bar.start_ms, 3),
        None if bar.end_ms is None else round(bar.end_ms, 3),
    )


def test_the_parts_of_a_plain_call_stand_where_its_records_say() -> None:
    waterfall = made(PLAIN)
    assert waterfall.is_exact
    assert waterfall.began_ns == BEGAN_NS
    assert round(waterfall.total_ms, 3) == 72.0
    assert [placed(bar) for bar in waterfall.bars] == [
        ("Receive the request", 0.0, 2.0),
        ("first, request", 2.0, 5.0),
        ("second, request", 5.0, 9.0),
        ("Make the record safe", 9.5, 12.0),
        ("Provider", 12.0, 62.0),
        ("redact, response", 62.0, 68.0),
        ("To the client", 71.0, 72.0),
    ]
    provider = waterfall.bars[4]
    assert provider.first_ms is not None
    assert round(provider.first_ms, 3) == 32.0


def test_policies_on_a_stream_are_spread_and_its_timeline_says_when_the_provider_was_asked() -> None:
    lanes = Lanes(1, 1, [Entry(0, 1, 40.0, 10, 41.0, 10)])
    bars = made(PLAIN, lanes).bars
    assert placed(bars[4]) == ("Provider", 20.0, 62.0)
    assert placed(bars[5]) == ("redact, response", 40.0, 70.0)
    assert bars[5].is_spread
    assert bars[5].ms == 6.0


def test_what_has_no_record_has_no_place() -> None:
    for is_running, all_there, said in (
        (True, False, "not recorded yet"),
        (False, True, "not reached"),
        (False, False, "not recorded"),
    ):
        waterfall = made(
            PLAIN[:4], upstream_ms=None, client_first_chunk_ms=None, is_running=is_running, all_there=all_there
        )
        assert not waterfall.is_exact
        assert waterfall.began_ns == call_time_ms(CALL) * 1_000_000
        missing = {bar.label: bar for bar in waterfall.bars if bar.start_ms is None}
        assert {label: bar.note for label, bar in missing.items()} == {"Provider": said, "To the client": said}


def test_a_provider_that_never_answered_has_the_time_it_was_waited_for_and_no_place() -> None:
    [provider] = [bar for bar in made(PLAIN[:4] + PLAIN[7:]).bars if bar.kind == "provider"]
    assert (provider.start_ms, provider.ms) == (None, 50.0)
    assert provider.note == "when it answered is not reached"


def test_a_call_of_which_nothing_is_recorded_is_all_not_recorded() -> None:
    waterfall = made([], all_there=False, upstream_ms=None, client_first_chunk_ms=None)
    assert waterfall.total_ms == 0.0
    assert all(bar.note == "not recorded" for bar in waterfall.bars)


def test_the_calls_of_policies_are_in_it() -> None:
    child = {"call_id": UUID(int=CALL.int + (5 << 80)), "model_requested": "judge", "duration_ms": 2.0}
    bar = made(PLAIN, children=[child]).bars[-1]
    assert placed(bar) == ("asked judge", 4.6, 6.6)
    assert bar.call_id == child["call_id"]
