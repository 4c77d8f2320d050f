"""What no record can say is noted until the database was told: which records are lost whole, which processes died."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest

from luthien.record import untold as module
from luthien.record.folder import Folder
from luthien.record.frames import encode
from luthien.record.queue import RecordQueue
from luthien.record.sink import Receipt
from luthien.record.spool import Spool, SpoolLimits
from luthien.record.untold import Untold
from tests.unit.record.records import WAIT_S, record

LIMITS = SpoolLimits(max_bytes=1_000_000, max_memory_records=1_000, max_memory_bytes=1_000_000)


def settled(receipt: Receipt) -> Receipt:
    assert asyncio.run(receipt.wait(WAIT_S))
    return receipt


def lost(untold: Untold) -> list[tuple[int, str]]:
    return [(each.record.sequence, each.reason) for each in untold.losses()]


def test_a_full_spool_says_what_it_kept_nothing_of(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SpoolLimits(max_bytes=3_000, max_memory_records=1_000, max_memory_bytes=1_000_000))
    spool.start()
    records = [record(b"x" * 5_000, sequence=number) for number in range(30)]
    receipt = settled(spool.submit(records))
    stats = spool.stats()
    assert receipt.reasons == {"spool_full": 30}
    assert receipt.refused == 30
    assert 0 < stats.tombstones < 30
    assert lost(spool.untold) == [(number, "spool_full") for number in range(stats.tombstones, 30)]
    assert all(each.record.payload is None for each in spool.untold.losses()), "nobody wants the payload in memory"
    spool.abandon("end")


def test_a_full_memory_says_so_too(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS)
    receipt = spool.submit([record(b"x" * 2_000_000, sequence=1), record(sequence=2)])
    assert lost(spool.untold) == []
    spool.start()
    assert settled(receipt).reasons == {"too_large": 1}, "it left a tombstone"
    spool.close()
    assert settled(spool.submit([record(sequence=3)])).reasons == {"closed": 1}
    assert lost(spool.untold) == [(3, "closed")]
    spool.abandon("end")


def test_a_queue_says_so_too() -> None:
    queue = RecordQueue(1, 10_000)
    receipt = queue.submit([record(sequence=number) for number in range(3)])
    assert receipt.reasons == {"queue_full_records": 2}
    assert lost(queue.untold) == [(1, "queue_full_records"), (2, "queue_full_records")]


def test_what_was_told_is_forgotten_and_what_came_since_is_not() -> None:
    untold = Untold()
    untold.lost(record(sequence=1), "spool_full")
    untold.died(uuid4())
    losses, dead = untold.losses(), untold.dead()
    untold.lost(record(sequence=2), "spool_full")
    untold.told(losses)
    untold.told(dead)
    untold.told(losses)
    assert lost(untold) == [(2, "spool_full")]
    assert untold.dead() == []


def test_what_nobody_can_be_told_of_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_LOST", 3)
    untold = Untold()
    for number in range(5):
        untold.lost(record(sequence=number), "spool_full")
    seen = untold.losses()
    untold.lost(record(sequence=5), "spool_full")
    untold.told(seen)
    assert lost(untold) == [(5, "spool_full")]


def leave(root: Path, *, with_records: bool) -> Folder:
    dead = Folder.create(root, uuid4())
    if with_records:
        segment = dead.new_segment()
        segment.append(encode(record(), segment.marker))
        segment.seal()
    dead.close()
    return dead


def test_a_process_is_dead_when_its_folder_can_be_had_and_it_is_said_when_that_is_drained(tmp_path: Path) -> None:
    empty, full = leave(tmp_path, with_records=False), leave(tmp_path, with_records=True)
    spool = Spool(tmp_path, LIMITS)
    spool.start()
    assert spool.untold.dead() == [empty.owner]
    assert spool.taken_over() == {full.owner}
    batch = spool.take(10, 1_000_000, 0.0)
    assert spool.untold.dead() == [empty.owner]
    spool.settle(batch, stored=1)
    assert spool.untold.dead() == [empty.owner, full.owner]
    assert spool.taken_over() == frozenset()
    spool.abandon("end")


def test_the_folder_of_a_spool_is_called_after_its_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS)
    spool.start()
    [path] = tmp_path.iterdir()
    assert path.name.startswith(spool.process_id.hex + "-")
    spool.abandon("end")


def test_a_folder_of_another_version_has_no_owner_and_is_drained_all_the_same(tmp_path: Path) -> None:
    dead = leave(tmp_path, with_records=True)
    dead.path.rename(tmp_path / "0123456789abcdef0123456789abcdef")
    spool = Spool(tmp_path, LIMITS)
    spool.start()
    spool.settle(spool.take(10, 1_000_000, 0.0), stored=1)
    assert spool.untold.dead() == []
    assert len([*tmp_path.iterdir()]) == 1
    spool.abandon("end")
