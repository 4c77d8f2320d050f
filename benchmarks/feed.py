"""What does it cost the writer that rows can be followed, and what a look for changes?

    python -m benchmarks.feed [--rounds N] [--days N]

Two databases on one server, one of them without the index by which the feed is read, are given the same batches in
turn: seventy calls each, in three transactions, as calls come. Then the feed is read, with as many days of partitions
as a record has that is kept for two months.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from luthien.exchange import StageRecord
from luthien.store.embedded import embedded_postgres
from luthien.store.feed import Position
from luthien.store.migrate import migrate
from luthien.store.partitions import PartitionKeeper
from luthien.store.read import RecordReader
from luthien.store.write import prepare, write_batch
from tests.records import whole_call

_CALLS = 70
_CUTS = (0, 1, 4, 7)
"""Where the records of a call are cut: the request, what the provider is asked, the rest."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--days", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="luthien-feed-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        with embedded_postgres(Path(directory) / "postgres") as dsn:
            followed, plain = (_database(dsn, name, options.days) for name in ("followed", "plain"))
            with psycopg.connect(plain, autocommit=True) as conn:
                conn.execute("DROP INDEX conversation_calls_stored_xid_call_id_idx")
            _write(followed, plain, options.rounds)
            asyncio.run(_read(followed))


def _database(dsn: str, name: str, days: int) -> str:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    made = make_conninfo(dsn, dbname=name)
    migrate(made)
    today = datetime.now(UTC).date()
    with psycopg.connect(made, autocommit=True) as conn:
        PartitionKeeper().ensure(conn, [today - timedelta(days=ago) for ago in range(-1, days)])
    return made


def _write(followed: str, plain: str, rounds: int) -> None:
    with psycopg.connect(followed, autocommit=True) as one, psycopg.connect(plain, autocommit=True) as other:
        for conn in (one, other):
            prepare(conn)
        with_index, without = list[float](), list[float]()
        for number in range(rounds):
            turns = [(one, with_index), (other, without)]
            for conn, times in turns if number % 2 else turns[::-1]:
                times.append(_batch(conn, [whole_call() for _ in range(_CALLS)]))
    ratio = median(mine / theirs for mine, theirs in zip(with_index, without, strict=True))
    print(f"{_CALLS} calls: {median(with_index) * 1000:.1f} ms, without the index {median(without) * 1000:.1f} ms")
    print(f"with / without the index: {ratio:.2f}")


def _batch(conn: psycopg.Connection[Any], calls: list[list[StageRecord]]) -> float:
    started = time.perf_counter()
    for first, end in pairwise(_CUTS):
        write_batch(conn, [record for call in calls for record in call[first:end]])
    return time.perf_counter() - started


async def _read(dsn: str) -> None:
    reader = RecordReader(dsn)
    await reader.open()
    tip = (await reader.tip()).position
    behind = Position(tip.xid - 7, tip.call_id)
    for name, position in (("nothing new", tip), ("a batch", behind)):
        times = list[float]()
        for _ in range(100):
            started = time.perf_counter()
            found = await reader.changes(position, 200)
            times.append(time.perf_counter() - started)
        print(f"a look that finds {name} ({len(found)} calls): {median(times) * 1000:.1f} ms")
    await reader.close()


if __name__ == "__main__":
    main()
