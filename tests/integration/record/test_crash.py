"""Processes that die without a word: what they were told is safe is in Postgres after the next start."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from luthien.record.spool import Spool, SpoolLimits
from luthien.record.writer import BatchLimits, RecordWriter
from tests.unit.record.records import record

LIMITS = SpoolLimits(
    max_bytes=10**9, max_memory_records=2_000, max_memory_bytes=4 * 1024**2, segment_bytes=256 * 1024
)
BATCHES = BatchLimits(max_records=200, max_bytes=10**6, max_age_s=0.02)
DEADLINE_S = 30.0
NOBODY = "postgresql://127.0.0.1:1/nobody"
AT_LEAST = 20
"""How many records a gateway is told are safe before it may be killed, however slow the machine is."""

# Submits calls for ever, and writes down what it was told is safe. Its own writer takes over what others left.
_GATEWAY = """
import asyncio, os, sys
from pathlib import Path
from luthien.record.spool import Spool
from luthien.record.writer import RecordWriter
from tests.integration.record.test_crash import BATCHES, LIMITS
from tests.records import whole_call

async def serve(spool):
    while True:
        records = whole_call()
        for part in (records[:1], records[1:4], records[4:]):
            receipt = spool.submit(part)
            if await receipt.wait(10.0) and receipt.refused == 0:
                os.write(1, "".join(f"{each.call_id} {each.sequence}\\n" for each in part).encode())

async def main():
    spool = Spool(Path(sys.argv[1]), LIMITS)
    spool.start()
    RecordWriter(spool, sys.argv[2], BATCHES).start()
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(serve(spool))

asyncio.run(main())
"""

# Takes over what is there, stores it, and says how much it was.
_DRAIN = """
import sys, time
from pathlib import Path
from luthien.record.spool import Spool
from luthien.record.writer import RecordWriter
from tests.integration.record.test_crash import BATCHES, LIMITS, wait_until_drained
spool = Spool(Path(sys.argv[1]), LIMITS)
writer = RecordWriter(spool, sys.argv[2], BATCHES)
sys.stdin.readline()
spool.start()
writer.start()
wait_until_drained(spool)
writer.stop(10.0)
print(spool.stats().adopted, spool.stats().stored, spool.stats().replayed)
"""

Key = tuple[UUID, int]


def wait_until_drained(spool: Spool) -> None:
    """Until nothing waits but what is submitted meanwhile."""
    deadline = time.monotonic() + DEADLINE_S
    while spool.oldest_unsaved_age_s() > 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def recording(root: Path, dsn: str) -> Iterator[Spool]:
    """A spool with its writer, in this process."""
    spool = Spool(root, LIMITS)
    writer = RecordWriter(spool, dsn, BATCHES)
    spool.start()
    writer.start()
    try:
        yield spool
    finally:
        assert writer.stop(DEADLINE_S) == 0


def run_and_kill(root: Path, dsn: str, after_s: float) -> list[Key]:
    """Lets a gateway record for a while and kills it; returns the keys of the records that it was told are safe."""
    command = [sys.executable, "-c", _GATEWAY, str(root), dsn]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        said = b""
        while said.count(b"\n") < AT_LEAST:
            said += (more := os.read(process.stdout.fileno(), 1 << 16))
            assert more, "it ended by itself"
        timer = subprocess.Popen(["/bin/sh", "-c", f"sleep {after_s:.3f}; kill -9 {process.pid}"])
        said += process.stdout.read()
        assert process.wait() == -signal.SIGKILL
        timer.wait()
    lines = said.decode().splitlines()
    return [(UUID(call_id), int(sequence)) for call_id, sequence in (line.split() for line in lines)]


def stored(dsn: str) -> Counter[Key]:
    """What is in Postgres; each call's own count of its records is right, and each payload is what its hash says."""
    with psycopg.connect(dsn) as conn:
        rows = conn.execute("SELECT call_id, sequence, payload, payload_sha256 FROM conversation_events").fetchall()
        counts = conn.execute("SELECT call_id, records_stored FROM conversation_calls").fetchall()
        assert conn.execute("SELECT count(*) FROM conversation_quarantine").fetchone() == (0,)
    assert Counter(row[0] for row in rows) == Counter(dict(counts))
    assert all(payload is None or hashlib.sha256(payload).digest() == sha256 for _, _, payload, sha256 in rows)
    return Counter((call_id, sequence) for call_id, sequence, _, _ in rows)


@pytest.mark.parametrize("database_is_away", [False, True])
def test_what_was_safe_when_a_process_was_killed_is_stored_exactly_once(
    record_database: str, tmp_path: Path, database_is_away: bool
) -> None:
    """Killed again and again, at any moment: while it writes, stores, or takes over what the one before left."""
    safe: list[Key] = []
    for _ in range(6):
        safe += run_and_kill(tmp_path, NOBODY if database_is_away else record_database, random.uniform(0.05, 0.6))
    assert len(safe) >= 6 * AT_LEAST
    with recording(tmp_path, record_database) as spool:
        wait_until_drained(spool)
        found = stored(record_database)
    assert set(safe) <= set(found)
    assert set(found.values()) == {1}
    assert [*tmp_path.iterdir()] == []


def test_what_dead_processes_left_is_taken_over_by_one_of_many(record_database: str, tmp_path: Path) -> None:
    safe = [key for _ in range(5) for key in run_and_kill(tmp_path, NOBODY, 0.1)]
    command = [sys.executable, "-c", _DRAIN, str(tmp_path), record_database]
    drains = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    time.sleep(0.5)
    results = [drain.communicate("go\n", timeout=DEADLINE_S * 2)[0].split() for drain in drains]
    assert [drain.returncode for drain in drains] == [0, 0, 0]
    found = stored(record_database)
    assert set(safe) <= set(found)
    assert sum(int(stored) for _, stored, _ in results) == len(found)
    assert sum(int(replayed) for _, _, replayed in results) == 0, "no two processes had the same record"
    assert [*tmp_path.iterdir()] == []


def test_an_orderly_stop_without_a_database_loses_nothing(record_database: str, tmp_path: Path) -> None:
    keys: list[Key] = []
    spool = Spool(tmp_path, LIMITS)
    writer = RecordWriter(spool, NOBODY, BATCHES)
    spool.start()
    writer.start()
    for number in range(5_000):  # more than memory has room for
        each = record(b"x" * 2_000, sequence=number)
        keys.append((each.call_id, each.sequence))
        receipt = spool.submit([each])
        assert asyncio.run(receipt.wait(DEADLINE_S))
        assert receipt.refused == 0
    assert spool.stats().unsaved == 5_000
    assert writer.stop(0.2) == 0
    with recording(tmp_path, record_database) as next_spool:
        wait_until_drained(next_spool)
    assert stored(record_database) == Counter(keys)
    assert [*tmp_path.iterdir()] == []


def test_records_flow_while_the_spools_of_others_are_taken_over(record_database: str, tmp_path: Path) -> None:
    safe = run_and_kill(tmp_path, NOBODY, 0.3)
    with recording(tmp_path, record_database) as spool:
        mine = [record(b"new", sequence=number) for number in range(500)]
        for each in mine:
            spool.submit([each])
        wait_until_drained(spool)
    found = stored(record_database)
    assert set(safe) | {(each.call_id, each.sequence) for each in mine} <= set(found)


def test_a_record_that_postgres_refuses_costs_only_itself_after_a_crash_too(
    record_database: str, tmp_path: Path
) -> None:
    first = Spool(tmp_path, LIMITS)
    first.start()
    good = [record(b"good", sequence=number) for number in range(3)]
    bad = record(b"bad", text="\x00")  # which jsonb cannot hold
    first.submit([*good[:2], bad, *good[2:]])
    assert first.abandon("stopped") == 0
    with recording(tmp_path, record_database) as spool:
        wait_until_drained(spool)
        assert spool.stats().dropped == {"quarantined": 1}
    with psycopg.connect(record_database) as conn:
        assert conn.execute("SELECT count(*) FROM conversation_events").fetchone() == (3,)
        [[payload]] = conn.execute("SELECT payload FROM conversation_quarantine").fetchall()
    assert payload == b"bad"
    assert [*tmp_path.iterdir()] == []
