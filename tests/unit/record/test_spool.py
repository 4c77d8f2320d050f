"""The spool: receipts tell the truth, bounds hold, disks fail, processes die."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthien.exchange import StageRecord, new_call_id
from luthien.record import folder, journal, unsaved
from luthien.record import spool as module
from luthien.record.folder import Folder
from luthien.record.frames import encode
from luthien.record.marks import NOT_CRASH_PROOF, REFUSED
from luthien.record.queue import RecordQueue
from luthien.record.sink import Receipt, RecordSink
from luthien.record.source import RecordSource
from luthien.record.spool import Spool, SpoolLimits
from luthien.telemetry import conventions
from tests.unit.record.records import WAIT_S, record

KB = 1024
MB = 1024 * KB

MakeSpool = Callable[..., Spool]


class Disk:
    """The place where bytes go to the kernel: a test may stop it, and may let it fail."""

    def __init__(self) -> None:
        self.writes = 0
        self.error: int | None = None
        self.fails = sys.maxsize
        self.partial = 0
        self.reached = threading.Event()
        self._goes = threading.Event()
        self._goes.set()
        self._writev = os.writev

    def stop(self) -> None:
        self._goes.clear()

    def go_on(self) -> None:
        self._goes.set()

    def writev(self, fd: int, parts: Sequence[bytes]) -> int:
        self.writes += 1
        self.reached.set()
        assert self._goes.wait(WAIT_S)
        if self.error is not None and self.fails:
            self.fails -= 1
            if self.partial:
                self._writev(fd, [b"".join(parts)[: self.partial]])
            raise OSError(self.error, os.strerror(self.error))
        return self._writev(fd, parts)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(os, "writev", disk.writev)
    yield disk
    disk.go_on()


@pytest.fixture
def make(tmp_path: Path, disk: Disk) -> Iterator[MakeSpool]:
    """Starts spools in the same root, and ends them."""
    made: list[Spool] = []

    def make(
        *,
        max_bytes: int = 100 * MB,
        records: int = 10_000,
        memory_bytes: int = 100 * MB,
        segment_bytes: int = MB,
        root: Path = tmp_path,
        **options: Any,
    ) -> Spool:
        spool = Spool(root, SpoolLimits(max_bytes, records, memory_bytes, segment_bytes), **options)
        made.append(spool)
        spool.start()
        return spool

    yield make
    disk.go_on()
    for spool in made:
        spool.abandon("end of the test")


def refused(receipt: Receipt) -> int:
    """Waits until the receipt is settled."""
    assert asyncio.run(receipt.wait(WAIT_S))
    assert receipt.refused is not None
    return receipt.refused


def keep(spool: Spool, *records: StageRecord) -> None:
    assert refused(spool.submit(records)) == 0


def drain(spool: Spool, *, max_records: int = 100, max_bytes: int = 16 * MB) -> list[StageRecord]:
    """What a writer gets until there is nothing more; it stores all of it."""
    spool.close()
    records: list[StageRecord] = []
    while batch := spool.take(max_records, max_bytes, 0.0):
        records += batch
        spool.settle(batch, stored=len(batch))
    spool._thread.join(WAIT_S)  # it removes the last segment
    return records


def files(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.v1"))


def size_of_files(root: Path) -> int:
    size = 0
    for path in files(root):
        with contextlib.suppress(FileNotFoundError):  # just removed
            size += path.stat().st_size
    return size


def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# Receipts


def test_a_receipt_is_settled_only_when_the_kernel_has_the_bytes(make: MakeSpool, disk: Disk, tmp_path: Path) -> None:
    spool = make()
    disk.stop()
    one = record(b"a payload that can be found")
    receipt = spool.submit([one])
    assert disk.reached.wait(WAIT_S)
    assert receipt.refused is None
    assert asyncio.run(receipt.wait(0.01)) is False
    disk.go_on()
    assert refused(receipt) == 0
    assert b"a payload that can be found" in b"".join(path.read_bytes() for path in files(tmp_path))


def test_what_comes_during_a_write_is_written_at_once(make: MakeSpool, disk: Disk) -> None:
    spool = make()
    disk.stop()
    receipts = [spool.submit([record()])]
    assert disk.reached.wait(WAIT_S)
    receipts += [spool.submit([record(), record()]) for _ in range(100)]
    disk.go_on()
    assert [refused(receipt) for receipt in receipts] == [0] * 101
    assert disk.writes == 2


def test_many_threads_submit_and_nothing_is_lost(make: MakeSpool) -> None:
    spool = make()
    ids: list[UUID] = []

    def submit() -> None:
        for _ in range(200):
            one = record()
            keep(spool, one)
            ids.append(one.call_id)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert Counter(each.call_id for each in drain(spool)) == Counter(ids)


def test_a_receipt_is_waited_for_by_many_and_cancelled_by_some(make: MakeSpool, disk: Disk) -> None:
    spool = make()
    disk.stop()
    receipt = spool.submit([record()])

    async def wait() -> None:
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(receipt.wait(WAIT_S)) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            disk.go_on()
        assert [each.cancelled() or each.result() for each in waiting] == [True, True, True]

    asyncio.run(wait())


def test_with_sync_the_disk_has_a_record_before_its_receipt_is_settled(
    make: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(folder, "_sync_data", lambda fd: synced.append(os.fstat(fd).st_size))
    one = record(b"x" * 1000)
    keep(make(sync=True), one)
    assert len(synced) == 1
    assert synced[0] > 1000


# The writer


@pytest.fixture(params=["spool", "queue"])
def source(request: pytest.FixtureRequest, make: MakeSpool) -> RecordSource:
    """Both kinds of source keep the same promises to the writer."""
    return make() if request.param == "spool" else RecordQueue(10_000, 100 * MB)


def _sink(source: RecordSource) -> RecordSink:
    assert isinstance(source, (Spool, RecordQueue))
    return source


def test_records_come_in_order_and_are_the_very_ones(source: RecordSource) -> None:
    records = [record(b"%d" % number) for number in range(10)]
    for each in records:
        assert refused(_sink(source).submit([each])) == 0
    batch = source.take(4, MB, 0.0)
    assert batch == records[:4]
    assert all(mine is theirs for mine, theirs in zip(batch, records, strict=False))
    source.settle(batch, stored=4)
    assert source.take(100, 3 * KB, 0.0) == records[4:6]


def test_one_record_is_taken_however_large_it_is(source: RecordSource) -> None:
    large = record(b"x" * MB)
    _sink(source).submit([large])
    assert source.take(10, 10, 0.0) == [large]


def test_a_batch_waits_for_its_age_or_for_others(source: RecordSource) -> None:
    _sink(source).submit([record()])
    began = time.monotonic()
    batch = source.take(10, MB, 0.2)
    assert len(batch) == 1
    assert time.monotonic() - began > 0.1
    source.settle(batch, stored=1)

    _sink(source).submit([record()])
    timer = threading.Timer(0.05, lambda: _sink(source).submit([record() for _ in range(9)]))
    timer.start()
    assert len(source.take(10, MB, 60.0)) == 10
    timer.join()


def test_records_are_unsaved_until_they_are_settled(source: RecordSource) -> None:
    one, other = record(), record()
    _sink(source).submit([one, other])
    assert source.unsaved(one.call_id) == [one]
    batch = source.take(10, MB, 0.0)
    assert source.unsaved(one.call_id) == [one]
    assert source.oldest_unsaved_age_s() > 0
    source.settle([one], stored=1)
    assert source.unsaved(one.call_id) == []
    assert source.unsaved(other.call_id) == [other]
    assert source.retry() == [other]
    source.settle([other], dropped=1, reason="quarantined")
    source.settle(batch, stored=2)  # said twice, counted once
    assert source.oldest_unsaved_age_s() == 0.0
    stats = source.stats()
    assert (stats.appended, stats.stored, stats.unsaved, stats.retried_batches) == (2, 1, 0, 1)
    assert stats.dropped == {"quarantined": 1}


def test_a_closed_source_refuses_and_gives_what_it_has(source: RecordSource) -> None:
    one = record()
    _sink(source).submit([one])
    source.close()
    assert refused(_sink(source).submit([record(), record()])) == 2
    batch = source.take(10, MB, 60.0)
    assert batch == [one]
    source.settle(batch, stored=1)
    assert source.take(10, MB, 60.0) == []
    assert source.abandon("stopped") == 0
    assert source.stats().dropped == {"closed": 2}


def test_a_writer_that_waits_is_woken_up_by_the_end(source: RecordSource) -> None:
    timer = threading.Timer(0.05, source.close)
    timer.start()
    assert source.take(10, MB, 60.0) == []
    timer.join()


# The end


def test_nothing_is_left_on_the_disk_when_all_is_stored(make: MakeSpool, tmp_path: Path) -> None:
    spool = make(segment_bytes=10 * KB)
    for _ in range(50):
        keep(spool, record(b"x" * KB))
    assert len(files(tmp_path)) > 3
    assert len(drain(spool)) == 50
    assert spool.abandon("stopped") == 0
    assert [*tmp_path.iterdir()] == []
    assert spool.stats().spool_bytes == 0


def test_disk_space_is_given_back_while_the_spool_goes_on(make: MakeSpool, tmp_path: Path) -> None:
    spool = make(segment_bytes=10 * KB)
    for _ in range(100):
        keep(spool, record(b"x" * KB))
        batch = spool.take(10, MB, 0.0)
        spool.settle(batch, stored=len(batch))
        assert len(files(tmp_path)) <= 2
        assert spool.stats().spool_bytes == size_of_files(tmp_path)


def test_what_could_not_be_stored_is_not_lost_and_comes_with_the_next_process(make: MakeSpool) -> None:
    records = [record(b"%d" % number) for number in range(10)]
    first = make()
    keep(first, *records)
    first.settle(first.take(3, MB, 0.0), stored=3)
    first.take(3, MB, 0.0)  # these were on their way when the writer was stopped
    assert first.abandon("stopped") == 0
    assert first.stats().unsaved == 7

    second = make()
    assert drain(second) == records  # a segment at a time, so the stored ones come again
    assert second.stats().adopted == 10
    assert make().stats().spool_bytes == 0


# Bounds


def test_memory_is_bounded_while_the_disk_hangs(make: MakeSpool, disk: Disk) -> None:
    """A submission is never waited for: what there is no room for is refused, and says so in its place."""
    spool = make(memory_bytes=100 * KB)
    disk.stop()
    receipts = [spool.submit([record(b"x" * 9 * KB, sequence=number)]) for number in range(50)]
    stats = spool.stats()
    assert stats.unsaved_bytes <= 100 * KB
    assert stats.dropped == {"queue_full_bytes": 41}
    assert stats.tombstones == 10
    disk.go_on()
    assert sum(refused(receipt) for receipt in receipts) == 41
    records = drain(spool)
    stones = [each for each in records if each.payload is None]
    assert [each.sequence for each in stones] == [*range(9, 19)]
    assert {each.attributes[REFUSED] for each in stones} == {"queue_full_bytes"}
    assert {each.payload_bytes for each in stones} == {9 * KB}
    assert all(each.payload_sha256 is not None for each in stones)
    assert len(records) - len(stones) == 9


def test_the_number_of_records_in_memory_is_bounded(make: MakeSpool, disk: Disk) -> None:
    spool = make(records=100)
    disk.stop()
    for _ in range(200):
        spool.submit([record(b"")])
    assert spool.stats().pending == 100
    assert spool.stats().dropped == {"queue_full_records": 105}
    assert spool.stats().tombstones == 5


def test_a_record_that_never_fits_is_refused(make: MakeSpool) -> None:
    spool = make(memory_bytes=10 * KB)
    assert refused(spool.submit([record(b"x" * 20 * KB), record(b"fits")])) == 1
    stone, other = drain(spool)
    assert stone.attributes[REFUSED] == "too_large"
    assert other.payload == b"fits"


def test_a_full_spool_refuses_and_keeps_tombstones(make: MakeSpool, tmp_path: Path) -> None:
    spool = make(max_bytes=100 * KB)
    receipts = [spool.submit([record(b"x" * KB, sequence=number)]) for number in range(300)]
    total = sum(refused(receipt) for receipt in receipts)
    stats = spool.stats()
    assert stats.dropped == {"spool_full": total}
    assert 0 < stats.tombstones < total, "the reserve is bounded, too"
    assert 95 * KB < size_of_files(tmp_path) <= 100 * KB

    records = drain(spool)
    whole = [each for each in records if each.payload is not None]
    stones = [each for each in records if each.payload is None]
    assert len(whole) == 300 - total
    assert len(stones) == stats.tombstones
    assert {each.attributes[REFUSED] for each in stones} == {"spool_full"}
    assert all(each.payload_sha256 and each.payload_bytes == KB for each in stones)


def test_what_is_refused_is_said_once_in_a_while(make: MakeSpool, caplog: pytest.LogCaptureFixture) -> None:
    """Not everybody has a collector for metrics, and nobody wants a line for each record."""
    spool = make(max_bytes=10 * KB)
    total = sum(refused(spool.submit([record(b"x" * KB, sequence=number)])) for number in range(50))
    assert spool.abandon("stopped") == 0
    said = [entry.getMessage() for entry in caplog.records if "were not kept" in entry.getMessage()]
    assert 0 < len(said) < 5
    counts = [int(line.split("(")[1].split()[0]) for line in said]
    assert sum(counts) == total


def test_records_without_a_payload_may_use_the_reserve(make: MakeSpool) -> None:
    """The outcome of a call is worth more than a tombstone."""
    spool = make(max_bytes=100 * KB)
    while refused(spool.submit([record(b"x" * KB)])) == 0:
        pass
    keep(spool, record(None, outcome="completed"))
    assert drain(spool)[-1].attributes == {"outcome": "completed"}


def test_a_full_spool_takes_records_again_when_some_were_stored(make: MakeSpool) -> None:
    spool = make(max_bytes=100 * KB, segment_bytes=20 * KB)
    while refused(spool.submit([record(b"x" * KB)])) == 0:
        pass
    for _ in range(3):
        batch = spool.take(30, MB, 0.0)
        spool.settle(batch, stored=len(batch))
    keep(spool, record(b"x" * KB))


def test_what_dead_processes_left_counts_as_ours(make: MakeSpool) -> None:
    """Else a process that dies again and again would fill the disk."""
    before = make(max_bytes=100 * KB)
    while refused(before.submit([record(b"x" * KB)])) == 0:
        pass
    before.abandon("stopped")
    after = make(max_bytes=100 * KB)
    assert refused(after.submit([record(b"x" * KB)])) == 1
    drain(after)
    assert after.stats().spool_bytes == 0


# Spilling: more than memory has room for


def test_what_memory_has_no_room_for_waits_on_the_disk(make: MakeSpool) -> None:
    spool = make(memory_bytes=100 * KB, segment_bytes=30 * KB)
    records = [record(b"%d" % number * KB, sequence=number) for number in range(200)]
    for each in records:
        keep(spool, each)
        assert spool.stats().unsaved_bytes <= 100 * KB
    assert spool.stats().unsaved == 200
    spool.close()
    got: list[StageRecord] = []
    while batch := spool.take(7, 20 * KB, 0.0):
        assert spool.stats().unsaved_bytes <= 100 * KB
        got += batch
        spool.settle(batch, stored=len(batch))
    assert sorted(got, key=lambda each: each.sequence) == records
    stats = spool.stats()
    assert (stats.appended, stats.stored, stats.unsaved, stats.spool_bytes) == (200, 200, 0, 0)


def test_memory_is_used_again_when_the_disk_has_been_read(make: MakeSpool, disk: Disk) -> None:
    spool = make(memory_bytes=20 * KB)
    for number in range(50):
        keep(spool, record(b"x" * KB, sequence=number))
    while spool.stats().unsaved:
        batch = spool.take(100, MB, 0.0)
        spool.settle(batch, stored=len(batch))
    one = record(b"x")
    keep(spool, one)
    assert spool.take(1, MB, 0.0)[0] is one, "it came from memory, and was not read back"


def test_new_records_and_old_ones_take_turns(make: MakeSpool) -> None:
    old = make()
    keep(old, *(record(b"old") for _ in range(20)))
    old.abandon("stopped")
    spool = make()
    for _ in range(20):
        keep(spool, record(b"new"))
    payloads = [[each.payload for each in spool.take(5, MB, 0.0)] for _ in range(4)]
    assert {tuple(set(batch)) for batch in payloads} == {(b"old",), (b"new",)}
    assert payloads[0] != payloads[1]
    assert payloads[0] == payloads[2]


def test_a_spilled_record_that_was_damaged_is_counted(make: MakeSpool, tmp_path: Path) -> None:
    spool = make(memory_bytes=20 * KB)
    for number in range(20):
        keep(spool, record(b"%02d" % number * 512, sequence=number))
    [path] = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[data.index(b"17" * 512)] ^= 1
    path.write_bytes(data)
    assert sorted(each.sequence for each in drain(spool)) == [*range(17), 18, 19]
    stats = spool.stats()
    assert stats.dropped == {"damaged": 1}
    assert (stats.appended, stats.stored, stats.unsaved, stats.spool_bytes) == (20, 19, 0, 0)


def test_a_spilled_segment_that_somebody_removed_is_counted(make: MakeSpool, tmp_path: Path) -> None:
    spool = make(memory_bytes=20 * KB, segment_bytes=15 * KB)
    for number in range(40):
        keep(spool, record(b"x" * KB, sequence=number))
    files(tmp_path)[1].unlink()
    got = drain(spool)
    stats = spool.stats()
    assert stats.dropped == {"damaged": 40 - len(got)}
    assert stats.unsaved == 0


def test_a_disk_that_cannot_be_read_for_a_while_costs_nothing(
    make: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unsaved, "_RETRY_S", 0.02)
    pread, failures = os.pread, [2]

    def failing(fd: int, size: int, at: int) -> bytes:
        if failures[0]:
            failures[0] -= 1
            raise OSError(errno.EIO, "Input/output error")
        return pread(fd, size, at)

    spool = make(memory_bytes=20 * KB)
    for number in range(40):
        keep(spool, record(b"x" * KB, sequence=number))
    monkeypatch.setattr(os, "pread", failing)
    sequences: list[int] = []
    while len(sequences) < 40:
        batch = spool.take(100, MB, 0.0)
        sequences += [each.sequence for each in batch]
        spool.settle(batch, stored=len(batch))
    assert sorted(sequences) == [*range(40)]
    assert failures == [0]


def test_what_cannot_be_read_at_the_end_stays_on_the_disk(
    make: MakeSpool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spool = make(memory_bytes=20 * KB)
    for number in range(40):
        keep(spool, record(b"x" * KB, sequence=number))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", _eio)
        stored = drain(spool)
        assert spool.abandon("stopped") == 0
    assert spool.stats().unsaved == 40 - len(stored) > 0
    assert {each.sequence for each in drain(make())} == {*range(40)}


def _eio(*_: object) -> bytes:
    raise OSError(errno.EIO, "Input/output error")


_steps = st.lists(
    st.tuples(st.just("submit"), st.lists(st.none() | st.integers(0, 3000), min_size=1, max_size=6))
    | st.tuples(st.just("take"), st.integers(1, 20))
    | st.tuples(st.sampled_from(["settle", "settle half", "retry"]), st.just(0)),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_steps, st.integers(3, 40), st.integers(10, 60))
def test_whatever_happens_the_sums_are_right_and_every_record_comes_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]], memory_kb: int, spool_kb: int
) -> None:
    root = tmp_path_factory.mktemp("spools")
    spool = Spool(root, SpoolLimits(spool_kb * KB, 30, memory_kb * KB, 4 * KB))
    spool.start()
    accepted: list[UUID] = []
    got: list[UUID] = []
    batch: list[StageRecord] = []

    def check() -> None:
        stats = spool.stats()
        after = sum(count for reason, count in stats.dropped.items() if reason == "damaged")
        assert stats.appended == stats.stored + stats.unsaved + after
        assert stats.unsaved_bytes <= memory_kb * KB
        assert stats.spool_bytes <= spool_kb * KB
        eventually(lambda: spool.stats().spool_bytes == size_of_files(root))

    def settle(records: list[StageRecord]) -> None:
        got.extend(each.call_id for each in records)
        spool.settle(records, stored=len(records))

    for step, argument in steps:
        if step == "submit":
            records = [record(None if size is None else b"x" * size) for size in argument]
            lost = refused(spool.submit(records))
            assert 0 <= lost <= len(records)
            accepted += [each.call_id for each in records]
        elif step == "take" and not batch and spool.stats().unsaved:
            batch = spool.take(argument, 5 * KB, 0.0)
        elif step == "settle":
            settle(batch)
            batch = []
        elif step == "settle half":
            half, batch = batch[::2], batch[1::2]
            settle(half)
        elif batch:
            assert spool.retry() == batch
        check()
    settle(batch)
    got += [each.call_id for each in drain(spool)]
    check()
    stats = spool.stats()
    assert len(got) == len(set(got)) == stats.stored
    assert set(got) <= set(accepted)
    assert len(accepted) - len(got) == stats.dropped.total() - stats.tombstones
    assert spool.abandon("end") == 0
    assert [*root.iterdir()] == []


# A disk that fails


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EIO, "disk_failed"),
        (errno.EROFS, "disk_failed"),
    ],
)
def test_while_the_disk_fails_records_go_on_through_memory_and_say_so(
    make: MakeSpool, disk: Disk, error: int, reason: str
) -> None:
    spool = make()
    keep(spool, record(b"before"))
    disk.error = error
    keep(spool, record(b"meanwhile", sequence=3))
    assert spool.trouble == reason
    keep(spool, record(b"meanwhile"))
    before, first, second = drain(spool)
    assert before.attributes == {}
    assert first.attributes == second.attributes == {NOT_CRASH_PROOF: reason}
    assert (first.payload, first.sequence) == (b"meanwhile", 3)
    stats = spool.stats()
    assert stats.not_crash_proof == {reason: 2}
    assert (stats.appended, stats.stored, stats.dropped) == (3, 3, {})


def test_memory_is_bounded_while_the_disk_fails_and_the_reason_is_the_disks(make: MakeSpool, disk: Disk) -> None:
    spool = make(memory_bytes=50 * KB)
    disk.error = errno.ENOSPC
    results = [refused(spool.submit([record(b"x" * KB)])) for _ in range(100)]
    stats = spool.stats()
    assert stats.unsaved_bytes <= 50 * KB
    assert stats.dropped == {"disk_full": sum(results)}
    stones = [each for each in drain(spool) if REFUSED in each.attributes]
    assert len(stones) == stats.tombstones > 0
    assert stones[0].attributes == {REFUSED: "disk_full", NOT_CRASH_PROOF: "disk_full"}


def test_a_disk_that_works_again_is_used_again(
    make: MakeSpool, disk: Disk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(journal, "_RETRY_S", 0.0)
    spool = make()
    disk.error = errno.EIO
    keep(spool, record(b"meanwhile"))
    disk.error = None
    keep(spool, record(b"afterwards"))
    assert spool.trouble is None
    assert b"afterwards" in b"".join(path.read_bytes() for path in files(tmp_path))
    assert drain(spool)[-1].attributes == {}
    spool.abandon("stopped")
    assert [*tmp_path.iterdir()] == []


def test_a_failing_disk_is_looked_at_once_in_a_while(make: MakeSpool, disk: Disk, tmp_path: Path) -> None:
    spool = make()
    disk.error = errno.EIO
    for _ in range(200):
        keep(spool, record())
    assert disk.writes < 10
    assert len(files(tmp_path)) < 10


def test_a_segment_that_fails_halfway_is_replaced_and_its_remains_do_no_harm(
    make: MakeSpool, disk: Disk, tmp_path: Path
) -> None:
    """The frames that did get through are not read back: their records went elsewhere."""
    spool = make(memory_bytes=12 * KB)
    records = [record(b"x" * KB, sequence=number) for number in range(30)]
    for number, each in enumerate(records):
        if number % 5 == 4:
            receipt = _submit_failing_once(spool, disk, each)
        else:
            receipt = spool.submit([each])
        assert refused(receipt) == 0
    assert spool.trouble is None
    assert spool.stats().not_crash_proof == {}
    assert sorted(drain(spool), key=lambda each: each.sequence) == records
    spool.abandon("stopped")
    assert [*tmp_path.iterdir()] == []


def _submit_failing_once(spool: Spool, disk: Disk, each: StageRecord) -> Receipt:
    disk.error, disk.partial, disk.fails = errno.EIO, 500, 1
    return spool.submit([each])


def test_without_a_place_on_the_disk_everything_goes_through_memory(make: MakeSpool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    spool = make(root=tmp_path / "file" / "spools")
    assert spool.trouble == "disk_failed"
    keep(spool, record(b"x"))
    assert drain(spool)[0].attributes == {NOT_CRASH_PROOF: "disk_failed"}
    assert spool.abandon("stopped") == 0


def test_what_only_memory_has_is_lost_at_the_end_and_counted(make: MakeSpool, disk: Disk) -> None:
    spool = make()
    keep(spool, record(b"on the disk"))
    disk.error = errno.EIO
    keep(spool, record(), record())
    assert spool.abandon("stopped") == 2
    assert spool.stats().dropped == {"stopped": 2}
    disk.error = None
    assert [each.payload for each in drain(make())] == [b"on the disk"]


def test_an_end_while_the_disk_hangs_comes_all_the_same(
    make: MakeSpool, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STOP_S", 0.05)
    spool = make()
    disk.stop()
    receipt = spool.submit([record(), record()])
    assert disk.reached.wait(WAIT_S)
    spool.close()
    assert spool.abandon("stopped") == 2
    assert receipt.refused == 2
    assert spool.take(10, MB, 60.0) == []
    assert spool.stats().dropped == {"stopped": 2}


def test_a_folder_that_somebody_removes_is_made_again(
    make: MakeSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its segment could still be written, and nobody would ever find it."""
    monkeypatch.setattr(folder, "_LOOK_S", 0.0)
    spool = make()
    keep(spool, record(b"before"))
    for path in [*tmp_path.glob("*/*"), *tmp_path.glob("*")]:
        path.rmdir() if path.is_dir() else path.unlink()
    keep(spool, record(b"after"))
    assert spool.stats().not_crash_proof == {}
    assert b"after" in b"".join(path.read_bytes() for path in files(tmp_path))
    assert [each.payload for each in drain(spool)] == [b"before", b"after"]


_WITH_A_FILE_SIZE_LIMIT = """
import asyncio, resource, sys
from pathlib import Path
from luthien.record.spool import Spool, SpoolLimits
from luthien.telemetry import conventions
from tests.unit.record.records import record
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
spool = Spool(Path(sys.argv[1]), SpoolLimits(10**9, 10_000, 10**9))
spool.start()
receipts = [spool.submit([record(b"x" * 3000)]) for _ in range(20)]
receipts += [spool.submit([record(b"y" * 50_000)])]
assert all(asyncio.run(receipt.wait(10.0)) for receipt in receipts)
assert [receipt.refused for receipt in receipts] == [0] * 21
spool.close()
taken = []
while batch := spool.take(100, 10**9, 0.0):
    taken += batch
    spool.settle(batch, stored=len(batch))
print(len(taken), spool.trouble, *spool.stats().not_crash_proof)
spool.abandon("stopped")
"""


def test_a_real_kernel_that_refuses_to_write_costs_no_record(tmp_path: Path) -> None:
    """A limit on the size of files: writes come back short, then fail, as on a full disk."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _WITH_A_FILE_SIZE_LIMIT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=WAIT_S * 3,
        check=False,
    )
    assert done.stdout.split() == ["21", "disk_full", "disk_full"], done.stderr
    assert [*tmp_path.iterdir()] == []


# Records that are not what they should be


def test_a_record_that_cannot_be_written_down_goes_through_memory(make: MakeSpool) -> None:
    """The writer will set it aside, with its error; the spool must not be in its way."""
    spool = make()
    keep(spool, record(b"before"), record(b"odd", odd=object()), record(b"after"))
    assert sorted(str(each.payload) for each in drain(spool)) == ["b'after'", "b'before'", "b'odd'"]
    assert spool.stats().not_crash_proof == {"unencodable": 1}


def test_a_record_without_a_size_is_refused(make: MakeSpool) -> None:
    spool = make()
    malformed: Any = 5
    assert (
        refused(spool.submit([record(b"x"), record(None).__class__(new_call_id(), 0, "x", 0, "", "", malformed)]))
        == 1
    )
    assert len(drain(spool)) == 1
    assert spool.stats().dropped == {"malformed": 1}


def test_the_thread_outlives_a_failure_of_its_own(make: MakeSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = make()
    keep(spool, record(b"before"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "for_segment", lambda *_: 1 / 0)
        keep(spool, record(b"meanwhile"))
    keep(spool, record(b"afterwards"))
    assert [each.attributes for each in drain(spool)] == [{}, {NOT_CRASH_PROOF: "spool_failed"}, {}]


def test_what_records_say_of_themselves_is_among_the_conventions() -> None:
    assert (conventions.RECORD_REFUSED, conventions.RECORD_IN_MEMORY) == (REFUSED, NOT_CRASH_PROOF)


# Dead processes


def _leave(root: Path, *records: StageRecord) -> Path:
    """What a process leaves that was killed."""
    dead = Folder.create(root, uuid4())
    segment = dead.new_segment()
    for each in records:
        segment.append(encode(each, segment.marker))
    segment.seal()
    dead.close()
    return segment.path


def test_what_dead_processes_left_is_drained_and_removed(make: MakeSpool, tmp_path: Path) -> None:
    records = [record(b"%d" % number) for number in range(6)]
    for each in records:
        _leave(tmp_path, each)
    _leave(tmp_path)
    spool = make()
    assert sorted(each.payload or b"" for each in drain(spool)) == [each.payload for each in records]
    assert len([*tmp_path.iterdir()]) == 1, "our own"
    stats = spool.stats()
    assert (stats.adopted, stats.stored, stats.unsaved, stats.dropped) == (6, 6, 0, {})


def test_the_age_of_what_was_adopted_is_known(make: MakeSpool, tmp_path: Path) -> None:
    path = _leave(tmp_path, record())
    long_ago = f"{int(time.time() - 3600) * 1000:013}"
    path.rename(path.with_name(long_ago + path.name[13:]))
    spool = make()
    assert 3600 <= spool.oldest_unsaved_age_s() < 3700
    drain(spool)
    assert spool.oldest_unsaved_age_s() == 0.0


def test_what_was_torn_off_when_a_process_died_is_counted(make: MakeSpool, tmp_path: Path) -> None:
    whole, torn = record(b"whole"), record(b"torn")
    path = _leave(tmp_path, whole, torn)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    spool = make()
    assert drain(spool) == [whole]
    stats = spool.stats()
    assert stats.dropped == {"torn": 1}
    assert stats.adopted == 2
    assert len([*tmp_path.iterdir()]) == 1, "our own"


def test_damage_in_the_middle_is_counted(make: MakeSpool, tmp_path: Path) -> None:
    records = [record(b"payload %d" % number) for number in range(3)]
    path = _leave(tmp_path, *records)
    path.write_bytes(path.read_bytes().replace(b"payload 1", b"PAYLOAD 1"))
    spool = make()
    assert drain(spool) == [records[0], records[2]]
    assert spool.stats().dropped == {"damaged": 1}


_FORKING = """
import asyncio, os, signal, sys
from pathlib import Path
from luthien.record.spool import Spool, SpoolLimits
from luthien.telemetry import conventions
from tests.unit.record.records import record

def keep(spool, payload):
    receipt = spool.submit([record(payload)])
    assert asyncio.run(receipt.wait(10.0)) and receipt.refused == 0

spool = Spool(Path(sys.argv[1]), SpoolLimits(10**9, 10_000, 10**9))
spool.start()
keep(spool, b"of the parent")
child = os.fork()
if not child:
    assert spool.stats().appended == 0
    keep(spool, b"of the child")
    os.write(1, b"child %d\\n" % os.getpid())
    signal.pause()
keep(spool, b"of the parent, later")
os.write(1, b"parent %d\\n" % os.getpid())
signal.pause()
"""


def test_a_forked_child_has_a_spool_of_its_own(make: MakeSpool, tmp_path: Path) -> None:
    """And does not hold the lock of its parent's, which dies first here."""
    command = [sys.executable, "-c", _FORKING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            said = dict(process.stdout.readline().split() for _ in range(2))
            process.kill()
            process.wait()
            first = make()
            assert [each.payload for each in drain(first)] == [b"of the parent", b"of the parent, later"]
            assert first.abandon("stopped") == 0
        finally:
            os.killpg(process.pid, signal.SIGKILL)
        assert set(said) == {b"parent", b"child"}
        deadline = time.monotonic() + WAIT_S
        while not (last := drain(make())):  # it is only dead when its last thread is
            assert time.monotonic() < deadline
        assert [each.payload for each in last] == [b"of the child"]


def test_what_a_process_leaves_later_is_taken_over_too(
    make: MakeSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is replaced may stop, or die, after the one that replaces it has started."""
    monkeypatch.setattr(module, "_ADOPT_S", 0.05)
    spool = make()
    later = record(b"later")
    _leave(tmp_path, later)
    assert spool.take(10, MB, 0.0) == [later]
