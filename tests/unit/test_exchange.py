"""Call ids: UUIDs of version 7 that tell the time and never run backwards."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien import exchange
from luthien.exchange import STAGES, CallIds, EventType, StageRecord, call_time_ms

MS = 1_000_000
NOW_NS = 1_790_000_000_123_456_789


class Clock:
    """Stands in for the `time` module: says what it is told to, the last thing for ever."""

    def __init__(self, *times_ns: int) -> None:
        self._times_ns = [*times_ns]

    def time_ns(self) -> int:
        return self._times_ns.pop(0) if len(self._times_ns) > 1 else self._times_ns[0]


def ids_at(times_ns: Sequence[int]) -> list[UUID]:
    """The ids made at these times."""
    ids = CallIds()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "time", Clock(*times_ns))
        return [ids.next() for _ in times_ns]


def test_an_id_is_a_uuid_of_version_7() -> None:
    call_id = CallIds().next()
    assert (call_id.version, call_id.variant) == (7, RFC_4122)
    assert str(call_id)[14] == "7"
    assert str(call_id)[19] in "89ab"


@given(st.integers(0, 2**48 * MS - 1))
def test_it_begins_with_the_time_in_milliseconds(time_ns: int) -> None:
    (call_id,) = ids_at([time_ns])
    assert call_time_ms(call_id) == time_ns // MS
    assert (call_id.version, call_id.variant) == (7, RFC_4122)
    assert int(call_id.hex[:12], 16) == time_ns // MS


@given(st.lists(st.integers(NOW_NS - 50 * MS, NOW_NS + 50 * MS), min_size=2, max_size=60))
def test_ids_ascend_even_when_the_clock_steps_back(times_ns: list[int]) -> None:
    ids = ids_at(times_ns)
    assert all(earlier < later for earlier, later in pairwise(ids))
    assert [str(call_id) for call_id in ids] == sorted(str(call_id) for call_id in ids)


@given(st.lists(st.integers(NOW_NS - 50 * MS, NOW_NS + 50 * MS), min_size=1, max_size=60))
def test_none_is_older_than_its_call_or_younger_than_the_latest_time_seen(times_ns: list[int]) -> None:
    ids = ids_at(times_ns)
    for position, call_id in enumerate(ids):
        assert times_ns[position] // MS <= call_time_ms(call_id) <= max(times_ns[: position + 1]) // MS


def test_a_millisecond_that_has_no_more_numbers_borrows_from_the_next() -> None:
    """4,096 is the most that can be told apart within one; half of them are sure to be free."""
    ids = ids_at([NOW_NS] * 10_000)
    assert ids == sorted(set(ids))
    used = sorted({call_time_ms(call_id) for call_id in ids})
    assert used == list(range(NOW_NS // MS, NOW_NS // MS + len(used)))
    assert 3 <= len(used) <= 5
    per_ms = [sum(call_time_ms(call_id) == ms for call_id in ids) for ms in used]
    assert all(2048 <= count <= 4096 for count in per_ms[:-1])


def test_ids_of_the_same_time_differ_between_processes() -> None:
    assert len({ids_at([NOW_NS])[0] for _ in range(1000)}) == 1000


def test_ids_made_in_many_threads_are_unique_and_ascend_in_each() -> None:
    ids = CallIds()
    made: list[list[UUID]] = [[] for _ in range(8)]
    begin = threading.Barrier(len(made))

    def make(mine: list[UUID]) -> None:
        begin.wait()
        for _ in range(500):
            mine.append(ids.next())  # noqa: PERF401 - what a thread has made is seen at once

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({call_id for mine in made for call_id in mine}) == 8 * 500
    assert all(mine == sorted(mine) for mine in made)


def test_a_record_counts_its_payload_and_something_for_itself() -> None:
    def record(payload: bytes | None) -> StageRecord:
        return StageRecord(UUID(int=0), 0, EventType.REQUEST_ORIGINAL, 0, "", "", payload)

    assert record(b"x" * 5000).size_bytes - record(None).size_bytes == 5000
    assert record(None).size_bytes > 0


def test_the_four_stages_are_the_requests_and_responses_in_order() -> None:
    assert [stage.value for stage in STAGES] == [
        "request_original",
        "request_final",
        "response_original",
        "response_final",
    ]
