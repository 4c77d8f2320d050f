"""What does it cost to hand records to the kernel before a call goes on?

    python -m benchmarks.spool [--rounds N] [--calls N] [--connections N] [--sync] [--json]

Three places for records to wait in, on one core and in turn: a queue in memory, the spool, and a SQLite database in
WAL mode that does the same for the same receipts. Each is given the records of calls by one event loop, which waits
for receipts where a gateway does, and is emptied by a thread that throws away what it takes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import json
import os
import pickle
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

import uvloop

from luthien.exchange import EventType, StageRecord, new_call_id
from luthien.record.queue import RecordQueue
from luthien.record.sink import Receipt
from luthien.record.spool import Spool, SpoolLimits

_CORE = 0
_BATCH_RECORDS, _BATCH_BYTES, _BATCH_AGE_S = 500, 16 * 1024 * 1024, 0.1
_RECEIPT_S = 30.0
_MEMORY = SpoolLimits(max_bytes=1 << 30, max_memory_records=1 << 20, max_memory_bytes=1 << 30)

Call = Sequence[Sequence[StageRecord]]
"""The records of a call, span by span."""


class Place(Protocol):
    """Where records wait."""

    def submit(self, records: Sequence[StageRecord]) -> Receipt: ...
    def take(self) -> Sequence[StageRecord]:
        """The next batch; none at the end."""
        ...

    def settle(self, records: Sequence[StageRecord]) -> None: ...
    def close(self) -> None: ...


class InMemory:
    """Nothing outlives a crash."""

    def __init__(self, folder: Path, *, sync: bool) -> None:
        self._queue = RecordQueue(1 << 20, 1 << 30)
        self.submit = self._queue.submit

    def take(self) -> Sequence[StageRecord]:
        return self._queue.take(_BATCH_RECORDS, _BATCH_BYTES, _BATCH_AGE_S)

    def settle(self, records: Sequence[StageRecord]) -> None:
        self._queue.settle(records, stored=len(records))

    def close(self) -> None:
        self._queue.close()


class InSpool:
    """Luthien's own."""

    def __init__(self, folder: Path, *, sync: bool) -> None:
        self._spool = Spool(folder, _MEMORY, sync=sync)
        self._spool.start()
        self.submit = self._spool.submit

    def take(self) -> Sequence[StageRecord]:
        return self._spool.take(_BATCH_RECORDS, _BATCH_BYTES, _BATCH_AGE_S)

    def settle(self, records: Sequence[StageRecord]) -> None:
        self._spool.settle(records, stored=len(records))

    def close(self) -> None:
        self._spool.close()


class InSqlite:
    """The least that does with SQLite what the spool does: no bounds, no recovery, no statistics.

    A thread commits what has been submitted, many records at once, and then settles their receipts; the thread that
    takes records deletes them afterwards and moves the log into the database.
    """

    def __init__(self, folder: Path, *, sync: bool) -> None:
        self._path = folder / "spool.sqlite"
        self._sync = "FULL" if sync else "OFF"
        self._inbox: list[tuple[Sequence[StageRecord], Receipt]] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._kept = RecordQueue(1 << 20, 1 << 30)
        self._stored = 0
        self._batches = 0
        writing = self._connect()
        writing.execute("CREATE TABLE record (id INTEGER PRIMARY KEY, described BLOB, payload BLOB)")
        self._taking = self._connect()
        self._thread = threading.Thread(target=self._run, args=(writing,))
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        conn = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=30.0)
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute(f"PRAGMA synchronous = {self._sync}")
        conn.execute("PRAGMA wal_autocheckpoint = 0")
        return conn

    def submit(self, records: Sequence[StageRecord]) -> Receipt:
        receipt = Receipt(self._wake.set)
        with self._lock:
            self._inbox.append((records, receipt))
        return receipt

    def _run(self, conn: sqlite3.Connection) -> None:
        while not (self._closed and not self._inbox):
            self._wake.wait(0.1)
            self._wake.clear()
            with self._lock:
                group, self._inbox = self._inbox, []
            if not group:
                continue
            records = [record for part, _ in group for record in part]
            conn.execute("BEGIN IMMEDIATE")
            conn.executemany("INSERT INTO record (described, payload) VALUES (?, ?)", map(_row, records))
            conn.execute("COMMIT")
            self._kept.submit(records)
            for _, receipt in group:
                receipt.settle()
        self._kept.close()

    def take(self) -> Sequence[StageRecord]:
        return self._kept.take(_BATCH_RECORDS, _BATCH_BYTES, _BATCH_AGE_S)

    def settle(self, records: Sequence[StageRecord]) -> None:
        self._kept.settle(records, stored=len(records))
        self._stored += len(records)
        self._taking.execute("DELETE FROM record WHERE id <= ?", (self._stored,))
        self._batches += 1
        if self._batches % 10 == 0:
            self._taking.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()


def _row(record: StageRecord) -> tuple[bytes, bytes | None]:
    # The fastest there is in the standard library, and nothing that one would read back after a crash.
    return pickle.dumps((record.call_id.bytes, record.sequence, record.event_type, record.attributes)), record.payload


PLACES: dict[str, Callable[..., Place]] = {"memory": InMemory, "spool": InSpool, "sqlite": InSqlite}


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one place in one round, or the medians of several."""

    cpu_us_per_call: float
    wait_us_median: float
    """How long a call waited for a receipt, in microseconds."""
    wait_us_p99: float


def a_call() -> Call:
    """What a call of 2 KB each way leaves when one policy looks at it."""
    call_id, sha256 = new_call_id(), hashlib.sha256(b"").digest()
    request, response = os.urandom(1100).hex().encode(), os.urandom(1100).hex().encode()
    policy = {
        "luthien.policy.name": "replace_text",
        "luthien.policy.side": "request",
        "luthien.policy.changed": False,
    }

    def record(
        sequence: int, event_type: EventType, payload: bytes | None = None, **attributes: object
    ) -> StageRecord:
        return StageRecord(
            call_id,
            sequence,
            event_type,
            time.time_ns(),
            "0af7651916cd43dd8448eb211c80319c",
            "b7ad6b7169203331",
            payload=payload,
            payload_sha256=sha256,
            payload_bytes=2200,
            wire_sha256=sha256,
            wire_bytes=2200,
            attributes={"gen_ai.request.model": "gpt-4o-mini", "luthien.streaming": False, **attributes},
        )

    return [
        [record(0, EventType.REQUEST_ORIGINAL, request, headers=("content-type: application/json",))],
        [record(1, EventType.POLICY_DECISION, None, **policy), record(2, EventType.REQUEST_FINAL)],
        [record(3, EventType.RESPONSE_ORIGINAL, response, model="gpt-4o-mini", tokens=500)],
        [record(4, EventType.RESPONSE_FINAL)],
        [record(5, EventType.CALL_OUTCOME, outcome="completed", duration=12.3, policies=("replace_text@1",))],
    ]


async def _serve(place: Place, calls: Sequence[Call], connections: int) -> list[float]:
    """Gives the place all calls, so many at a time, and returns how long each wait took, in seconds."""
    waits: list[float] = []
    left = iter(calls)

    async def connection() -> None:
        for call in left:
            # Before the provider is called, and before the last byte is given: two waits.
            for spans in (call[:2], call[2:]):
                receipts = [place.submit(records) for records in spans]
                since = time.perf_counter()
                for receipt in reversed(receipts):
                    assert await receipt.wait(_RECEIPT_S)
                waits.append(time.perf_counter() - since)
                await asyncio.sleep(0)

    await asyncio.gather(*(connection() for _ in range(connections)))
    return waits


@contextmanager
def _emptied(place: Place) -> Iterator[None]:
    def empty() -> None:
        while batch := place.take():
            place.settle(batch)

    thread = threading.Thread(target=empty)
    thread.start()
    yield
    place.close()
    thread.join()


def measure(make: Callable[..., Place], calls: int, connections: int, *, sync: bool) -> Figures:
    """One turn of one place; CPU time counts until it is empty."""
    work = [a_call() for _ in range(calls)]
    with tempfile.TemporaryDirectory(prefix="luthien-benchmark-") as folder:
        place = make(Path(folder), sync=sync)
        gc.collect()
        gc.freeze()
        began_s = time.process_time()
        with _emptied(place):
            waits = sorted(uvloop.run(_serve(place, work, connections)))
        cpu_s = time.process_time() - began_s
    gc.unfreeze()
    return Figures(cpu_s / calls * 1e6, median(waits) * 1e6, waits[int(len(waits) * 0.99)] * 1e6)


def _medians(rounds: Sequence[Figures]) -> Figures:
    rows = [asdict(each) for each in rounds]
    return Figures(**{name: median(row[name] for row in rows) for name in rows[0]})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spool", description=(__doc__ or "").split("\n")[0])
    option = parser.add_argument
    option("--rounds", type=int, default=7, help="how often each place is measured (default: 7)")
    option("--calls", type=int, default=3000, help="how many calls a round has (default: 3000)")
    option("--connections", type=int, default=16, help="how many calls there are at a time (default: 16)")
    option("--sync", action="store_true", help="wait until the disk has the records")
    option("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    with suppress(AttributeError):  # Linux only
        os.sched_setaffinity(0, {_CORE})
    rounds: dict[str, list[Figures]] = {name: [] for name in PLACES}
    for number in range(args.rounds):
        for name in random.Random(number).sample([*PLACES], len(PLACES)):
            rounds[name].append(measure(PLACES[name], args.calls, args.connections, sync=args.sync))
    found = {name: _medians(figures) for name, figures in rounds.items()}
    if args.json:
        print(json.dumps({name: asdict(figures) for name, figures in found.items()}, indent=2))
        return 0
    print(f"{'':10}{'CPU us/call':>14}{'over memory':>14}{'wait us':>12}{'wait us, p99':>14}")
    for name, figures in found.items():
        added = median(
            ours.cpu_us_per_call - memory.cpu_us_per_call
            for ours, memory in zip(rounds[name], rounds["memory"], strict=True)
        )
        print(
            f"{name:10}{figures.cpu_us_per_call:>14.0f}{added:>14.0f}"
            f"{figures.wait_us_median:>12.0f}{figures.wait_us_p99:>14.0f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
