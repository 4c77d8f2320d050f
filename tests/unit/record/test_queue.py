"""What the queue takes, what it gives to the writer, and how it accounts for every record."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from luthien.exchange import StageRecord, new_call_id
from luthien.record.queue import RecordQueue
from luthien.record.sink import DiscardingSink, Receipt
from tests.records import call_at, record

DEADLINE_S = 20.0
ENDLESS_S = 3600.0
OVERHEAD = record(payload=None).size_bytes


def roomy() -> RecordQueue:
    return RecordQueue(1000, 1_000_000)


def records(count: int) -> list[StageRecord]:
    return [record(sequence=n, payload=b"%d" % n) for n in range(count)]


@contextmanager
def taking(queue: RecordQueue, max_records: int, max_bytes: int = 10**9) -> Iterator[list[list[StageRecord]]]:
    """A thread that waits in `take` for as long as it may; what it got is in the list once the block is left."""
    got: list[list[StageRecord]] = []
    thread = threading.Thread(target=lambda: got.append(queue.take(max_records, max_bytes, ENDLESS_S)), daemon=True)
    thread.start()
    yield got
    thread.join(DEADLINE_S)
    assert not thread.is_alive(), "the taker was not woken up"


class TestAReceipt:
    async def test_is_settled_from_the_start_by_a_sink_that_needs_no_time(self) -> None:
        receipt = Receipt.settled(2)
        assert await receipt.wait(0)
        assert receipt.refused == 2

    async def test_can_be_settled_by_another_thread_while_it_is_waited_for(self) -> None:
        receipt = Receipt()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(receipt.wait(DEADLINE_S))
            await asyncio.to_thread(receipt.settle, 1)
        assert waiting.result()
        assert receipt.refused == 1

    async def test_that_is_not_settled_in_time_says_so_and_may_be_settled_later(self) -> None:
        receipt = Receipt()
        assert not await receipt.wait(0)
        assert receipt.refused is None
        receipt.settle()
        assert await receipt.wait(0)

    async def test_keeps_to_what_it_said_first(self) -> None:
        receipt = Receipt()
        receipt.settle(1)
        receipt.settle(0)
        assert receipt.refused == 1

    async def test_reaches_those_who_still_wait_when_another_has_gone_with_its_event_loop(self) -> None:
        receipt = Receipt()

        def wait_in_vain() -> None:
            with asyncio.Runner() as runner:
                assert not runner.run(receipt.wait(0.01))

        await asyncio.to_thread(wait_in_vain)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(receipt.wait(DEADLINE_S))
            await asyncio.sleep(0)
            receipt.settle()
        assert waiting.result()

    async def test_of_a_sink_that_records_nothing_refuses_nothing(self) -> None:
        assert DiscardingSink().submit([record()]).refused == 0


class TestBounds:
    def test_hold_for_what_waits_and_what_is_being_written_together(self) -> None:
        queue = RecordQueue(3, 10**6)
        assert queue.submit(records(2)).refused == 0
        assert len(queue.take(1, 10**6, 0)) == 1
        assert queue.submit(records(3)).refused == 2
        assert queue.stats().dropped == {"queue_full_records": 2}
        assert queue.stats().unsaved == 3

    def test_hold_for_bytes_to_the_last_one(self) -> None:
        payload = b"x" * 100
        size = OVERHEAD + len(payload)
        queue = RecordQueue(1000, 2 * size)
        fitting = [record(payload=payload), record(payload=payload)]
        assert queue.submit(fitting).refused == 0
        assert queue.submit([record(payload=None)]).refused == 1
        assert queue.stats().dropped == {"queue_full_bytes": 1}
        batch = queue.take(1, 10**6, 0)
        assert queue.submit([record(payload=None)]).refused == 1
        queue.settle(batch, stored=1)
        assert queue.submit([record(payload=payload)]).refused == 0
        assert queue.stats().unsaved_bytes == 2 * size

    def test_refuse_a_record_that_could_never_fit_and_take_its_neighbours(self) -> None:
        queue = RecordQueue(10, 10 * OVERHEAD)
        assert queue.submit([record(), record(payload=b"x" * 10 * OVERHEAD), record()]).refused == 1
        assert queue.stats().dropped == {"too_large": 1}
        assert queue.stats().appended == 2

    def test_are_shut_once_the_queue_is_closed(self) -> None:
        queue = roomy()
        before = record()
        queue.submit([before])
        queue.close()
        assert queue.submit(records(2)).refused == 2
        assert queue.stats().dropped == {"closed": 2}
        assert queue.take(10, 10**6, ENDLESS_S) == [before]
        assert queue.take(10, 10**6, ENDLESS_S) == []


class TestABatch:
    def test_is_in_the_order_in_which_the_records_came_and_no_larger_than_asked(self) -> None:
        queue = roomy()
        many = records(10)
        queue.submit(many)
        assert queue.take(4, 10**6, 0) == many[:4]
        assert queue.take(100, 2 * (OVERHEAD + 1), 0) == many[4:6]

    def test_is_one_record_when_that_alone_is_larger_than_asked(self) -> None:
        queue = roomy()
        large, small = record(payload=b"x" * 1000), record(payload=b"")
        queue.submit([large, small])
        assert queue.take(10, 100, 0) == [large]
        assert queue.take(10, 100, 0) == [small]

    def test_waits_for_no_others_once_its_oldest_record_is_old_enough(self) -> None:
        queue = roomy()
        only = record()
        queue.submit([only])
        assert queue.take(10, 10**6, 0.001) == [only]

    @pytest.mark.parametrize(("max_records", "max_bytes"), [(3, 10**6), (100, 3 * OVERHEAD)])
    def test_is_given_as_soon_as_it_is_full(self, max_records: int, max_bytes: int) -> None:
        """Also when the writer has begun to wait for the first record to grow old."""
        queue = roomy()
        many = records(3)
        with taking(queue, max_records, max_bytes) as got:
            queue.submit(many[:1])
            wait_until(lambda: queue._awaited is not None)
            queue.submit(many[1:2])
            queue.submit(many[2:])
        assert got[0][:2] == many[:2]

    def test_is_given_when_the_queue_closes(self) -> None:
        queue = roomy()
        many = records(2)
        with taking(queue, 10) as got:
            queue.submit(many)
            wait_until(lambda: queue._awaited is not None)
            queue.close()
        assert got == [many]

    def test_is_empty_when_the_queue_closes_with_nothing_in_it(self) -> None:
        queue = roomy()
        with taking(queue, 10) as got:
            queue.close()
        assert got == [[]]


class TestTheAccounts:
    def test_of_a_batch_that_is_written_in_parts(self) -> None:
        queue = roomy()
        many = records(6)
        queue.submit(many)
        queue.take(6, 10**6, 0)
        queue.settle(many[:2], stored=2)
        queue.settle(many[2:3], dropped=1, reason="quarantined")
        assert queue.retry() == many[3:]
        assert queue.stats().unsaved == 3
        queue.settle(many[3:], stored=2, replayed=1)
        stats = queue.stats()
        assert (stats.appended, stats.stored, stats.replayed, stats.retried_batches) == (6, 4, 1, 1)
        assert (stats.dropped, stats.unsaved, stats.unsaved_bytes) == ({"quarantined": 1}, 0, 0)

    def test_of_a_record_that_was_submitted_twice(self) -> None:
        queue = roomy()
        twice = record()
        queue.submit([twice, twice])
        queue.take(2, 10**6, 0)
        queue.settle([twice], stored=1)
        assert queue.stats().unsaved == 1
        queue.settle([twice], replayed=1)
        assert queue.stats().unsaved == 0
        assert queue.stats().replayed == 1

    def test_do_not_count_twice_what_was_given_up_while_it_was_written(self) -> None:
        queue = roomy()
        queue.submit(records(3))
        batch = queue.take(2, 10**6, 0)
        assert queue.abandon("stopped") == 3
        queue.settle(batch, stored=2)
        assert queue.abandon("stopped") == 0
        stats = queue.stats()
        assert (stats.stored, stats.dropped, stats.unsaved, stats.unsaved_bytes) == (0, {"stopped": 3}, 0, 0)

    def test_of_records_that_come_after_the_rest_was_given_up(self) -> None:
        queue = roomy()
        queue.abandon("stopped")
        assert queue.submit([record()]).refused == 1
        assert queue.stats().dropped == {"closed": 1}

    def test_are_a_copy(self) -> None:
        queue = roomy()
        queue.stats().dropped["mine"] += 1
        assert queue.stats().dropped == {}

    def test_of_many_threads_that_submit_at_once(self) -> None:
        queue = RecordQueue(10_000, 10**9)
        groups = [[record(sequence=n) for n in range(50)] for _ in range(40)]
        got: list[StageRecord] = []

        def take() -> None:
            while batch := queue.take(7, 10**6, 0):
                got.extend(batch)
                queue.settle(batch, stored=len(batch))

        taker = threading.Thread(target=take, daemon=True)
        taker.start()
        with ThreadPoolExecutor(8) as pool:
            receipts = list(pool.map(queue.submit, groups))
        queue.close()
        taker.join(DEADLINE_S)
        assert not taker.is_alive()
        assert {receipt.refused for receipt in receipts} == {0}
        assert sorted(map(id, got)) == sorted(id(each) for group in groups for each in group)
        assert queue.stats().stored == queue.stats().appended == 2000
        for group in groups:
            assert [each for each in got if each.call_id in {one.call_id for one in group}] == group


class TestWhatIsUnsaved:
    def test_is_told_by_call_wherever_it_waits(self) -> None:
        queue = roomy()
        call_id = new_call_id()
        first, other, second = record(call_id, 0), record(), record(call_id, 1)
        queue.submit([first, other, second])
        queue.take(1, 10**6, 0)
        assert queue.unsaved(call_id) == [first, second]
        queue.settle([first], stored=1)
        assert queue.unsaved(call_id) == [second]
        assert queue.unsaved(new_call_id()) == []

    def test_is_as_old_as_the_time_it_waits_and_not_as_its_call(self) -> None:
        """A record of an hour-long stream that comes now is not an hour behind."""
        now_s = 100.0
        queue = RecordQueue(10, 10**6, clock=lambda: now_s)
        assert queue.oldest_unsaved_age_s() == 0
        queue.submit([record(call_at(time.time() - 3600))])
        now_s += 5
        assert queue.oldest_unsaved_age_s() == 5
        batch = queue.take(1, 10**6, 0)
        queue.submit([record()])
        now_s += 2
        assert queue.oldest_unsaved_age_s() == 7
        queue.settle(batch, stored=1)
        assert queue.oldest_unsaved_age_s() == 2


class Accounts(RuleBasedStateMachine):
    """Whatever happens in whatever order, every record is somewhere, once, and the bounds hold."""

    MAX_RECORDS = 12
    MAX_BYTES = 14 * OVERHEAD

    def __init__(self) -> None:
        super().__init__()
        self.queue = RecordQueue(self.MAX_RECORDS, self.MAX_BYTES)
        self.offered = 0
        self.refused = 0
        self.taken: list[StageRecord] = []

    @rule(sizes=st.lists(st.integers(0, 4 * OVERHEAD), max_size=6))
    def submit(self, sizes: list[int]) -> None:
        refused = self.queue.submit([record(payload=b"x" * size) for size in sizes]).refused
        assert refused is not None
        self.offered += len(sizes)
        self.refused += refused

    @rule(max_records=st.integers(1, 5), max_bytes=st.integers(1, 6 * OVERHEAD))
    def take(self, max_records: int, max_bytes: int) -> None:
        if self.queue.stats().unsaved == len(self.taken):
            return
        batch = self.queue.take(max_records, max_bytes, 0)
        assert 1 <= len(batch) <= max_records
        assert len(batch) == 1 or sum(each.size_bytes for each in batch) <= max_bytes
        self.taken += batch

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, len(self.taken)))
        done, self.taken = self.taken[:count], self.taken[count:]
        stored = data.draw(st.integers(0, count))
        self.queue.settle(done, stored=stored, dropped=count - stored, reason="quarantined")

    @rule()
    def retry(self) -> None:
        assert self.queue.retry() == self.taken

    @rule()
    def abandon(self) -> None:
        self.queue.abandon("stopped")
        self.taken = []

    @invariant()
    def nothing_is_lost_and_nothing_counted_twice(self) -> None:
        stats = self.queue.stats()
        later = stats.dropped["quarantined"] + stats.dropped["stopped"]
        assert stats.appended == stats.stored + stats.replayed + stats.unsaved + later
        assert self.refused == stats.dropped.total() - later
        assert self.offered == stats.appended + self.refused

    @invariant()
    def bounds_hold(self) -> None:
        stats = self.queue.stats()
        assert stats.unsaved <= self.MAX_RECORDS
        assert stats.unsaved_bytes <= self.MAX_BYTES
        assert (stats.unsaved_bytes == 0) == (stats.unsaved == 0)


Accounts.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAccounts = Accounts.TestCase


def wait_until(fact: object) -> None:
    assert callable(fact)
    ends = time.monotonic() + DEADLINE_S
    while not fact():
        assert time.monotonic() < ends
        time.sleep(0.001)
