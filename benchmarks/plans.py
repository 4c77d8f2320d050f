"""Do the list of calls and a look-up by id stay fast with ten million calls?

    python -m benchmarks.plans [--calls N] [--days N] [--data DIRECTORY] [--no-plans]

Fills two databases of one Postgres, the one that `luthien up` brings along: one with 10,000 calls and one with
`--calls`, over the same days. Then it asks both what the debug pages ask, with the code that the pages use, and
prints how long that took, as a ratio to the small one, and how Postgres went about it. A plan that reads a table
whole, or touches a payload where none is asked for, ends it with status 1.

Ten million calls take 10 GB and some minutes. With `--data` the filled databases are kept, and used again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.filling import fill
from luthien.store.call_filter import EVERY_CALL
from luthien.store.embedded import embedded_postgres
from luthien.store.migrate import migrate
from luthien.store.partitions import day_range
from luthien.store.read import RecordReader
from luthien.store.search import of_list
from luthien.store.sql import query
from luthien.store.windows import NEWEST, windows

SMALL_CALLS = 10_000
PAGE = 51
"""What a page asks for: 50, and one more to know whether there are others."""

_ROUNDS = 300

Statement = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Question:
    """Something a page asks: through the product's own reader, and as the statements which that runs."""

    name: str
    ask: Callable[[RecordReader], Awaitable[object]]
    statements: Sequence[Statement]


@dataclass(frozen=True, slots=True)
class Answer:
    """How long a question took, in milliseconds, and how many pages of 8 KiB its statements touched."""

    median_ms: float
    slow_ms: float
    buffers: int
    from_disk: int
    plans: Sequence[str]
    faults: Sequence[str]


def questions(day: date, days: int, sample: Sequence[UUID]) -> Iterator[Question]:
    """The same for both databases, but for the ids that are asked for."""
    random_id = random.Random(4).choice
    known = sample[0]
    middle = day_range(day - timedelta(days=days // 2))[0]
    unknown = UUID(int=sample[1].int ^ 1)
    for name, before in (("first page", None), ("a page of the middle", middle)):
        since, until = next(windows(before or NEWEST))
        listed: Statement = ("list_calls", of_list(EVERY_CALL, since, until, PAGE))
        ask: Callable[[RecordReader], Awaitable[object]] = partial(_page, before)
        yield Question(f"list, {name}", ask, [listed])
    yield Question(
        "a call and its events",
        lambda reader: reader.call(random_id(sample)),
        [("get_call", {"call_id": known}), ("get_events", {"call_id": known})],
    )
    yield Question(
        "a call that nobody made",
        lambda reader: reader.call(UUID(int=random_id(sample).int ^ 1)),
        [("get_call", {"call_id": unknown})],
    )


async def _page(before: UUID | None, reader: RecordReader) -> object:
    return await reader.calls(EVERY_CALL, before, PAGE)


async def measure(dsn: str, asked: Sequence[Question]) -> list[Answer]:
    """Asks each question many times, in turn, over one connection of the reader's pool."""
    reader = RecordReader(dsn)
    await reader.open()
    times_ms: list[list[float]] = [[] for _ in asked]
    for question in asked:
        await question.ask(reader)
    for _ in range(_ROUNDS):
        for number, question in enumerate(asked):
            began = time.perf_counter()
            await question.ask(reader)
            times_ms[number].append((time.perf_counter() - began) * 1000)
    await reader.close()
    with psycopg.connect(dsn, autocommit=True) as conn:
        explained = [explain(conn, question.statements) for question in asked]
    return [
        Answer(median(times), quantiles(times, n=20)[-1], *found)
        for times, found in zip(times_ms, explained, strict=True)
    ]


def explain(conn: psycopg.Connection[Any], statements: Sequence[Statement]) -> tuple[int, int, list[str], list[str]]:
    buffers, from_disk = 0, 0
    plans: list[str] = []
    faults: list[str] = []
    for name, parameters in statements:
        asked = query(name).encode()
        lines = conn.execute(b"EXPLAIN (ANALYZE, BUFFERS) " + asked, parameters).fetchall()
        plans.append(f"{name}:\n" + "\n".join(f"    {line[:150]}" for (line,) in lines))
        [([found],)] = conn.execute(b"EXPLAIN (ANALYZE, BUFFERS, VERBOSE, FORMAT JSON) " + asked, parameters)
        buffers += found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"]
        from_disk += found["Plan"]["Shared Read Blocks"]
        faults += faults_of(name, found["Plan"])
    return buffers, from_disk, plans, faults


def faults_of(name: str, root: dict[str, Any]) -> Iterator[str]:
    nodes = [root]
    for node in nodes:
        nodes.extend(node.get("Plans", ()))
        if node["Node Type"] == "Seq Scan":
            yield f"{name} reads {node['Relation Name']} whole"
        if name != "get_events" and any("payload" in column for column in node.get("Output", ())):
            yield f"{name} reads payloads"


@contextmanager
def databases(directory: Path | None, calls: int, day: date, days: int) -> Iterator[tuple[str, str]]:
    """The small and the large one, filled."""
    with tempfile.TemporaryDirectory(prefix="luthien-plans-", ignore_cleanup_errors=True) as temporary:
        home = directory or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o755)
        with embedded_postgres(home / "postgres", progress=_progress) as dsn:
            yield filled(dsn, SMALL_CALLS, day, days), filled(dsn, calls, day, days)


def filled(dsn: str, calls: int, day: date, days: int) -> str:
    name = f"plans_{calls}_{days}_{day:%Y%m%d}"
    unfinished = f"{name}_unfinished"
    database = make_conninfo(dsn, dbname=name)
    with psycopg.connect(dsn, autocommit=True) as conn:
        if conn.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(unfinished)))
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(unfinished)))
            migrate(make_conninfo(dsn, dbname=unfinished))
            with psycopg.connect(make_conninfo(dsn, dbname=unfinished), autocommit=True) as own:
                fill(own, calls, day, days, _progress)
            renamed = sql.SQL("ALTER DATABASE {} RENAME TO {}")
            conn.execute(renamed.format(sql.Identifier(unfinished), sql.Identifier(name)))
    migrate(database)
    return database


def sample_of(dsn: str) -> list[UUID]:
    """Ids of calls of every day, in no order."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SELECT setseed(0.5)")
        percent = 100.0 if _calls(conn) <= SMALL_CALLS else 100.0 * SMALL_CALLS / _calls(conn)
        rows = conn.execute(
            "SELECT call_id FROM conversation_calls TABLESAMPLE BERNOULLI (%s)", (percent,)
        ).fetchall()
    ids = [call_id for (call_id,) in rows]
    random.Random(5).shuffle(ids)
    return ids


def _calls(conn: psycopg.Connection[Any]) -> int:
    [(count,)] = conn.execute("SELECT count(*) FROM conversation_calls")
    return int(count)


def report(asked: Sequence[Question], small: Sequence[Answer], large: Sequence[Answer], calls: int) -> str:
    head = f"{'':26}{'median ms':>12}{'of':>5} {SMALL_CALLS:,}{'ratio':>9}{'19 of 20 ms':>14}{'pages':>8}{'small':>8}"
    lines = [f"{calls:,} calls", head]
    for question, few, many in zip(asked, small, large, strict=True):
        ratio = many.median_ms / few.median_ms
        lines.append(
            f"{question.name:26}{many.median_ms:>12.2f}{few.median_ms:>12.2f}{ratio:>9.2f}{many.slow_ms:>14.2f}"
            f"{many.buffers:>8}{few.buffers:>8}"
        )
    return "\n".join(lines)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--data", type=Path, help="where the databases are kept and found again")
    parser.add_argument("--no-plans", action="store_true", help="only the times")
    options = parser.parse_args()
    day = datetime.now(UTC).date()
    with databases(options.data, options.calls, day, options.days) as (small_dsn, large_dsn):
        asked = [list(questions(day, options.days, sample_of(dsn))) for dsn in (small_dsn, large_dsn)]
        small = asyncio.run(measure(small_dsn, asked[0]))
        large = asyncio.run(measure(large_dsn, asked[1]))
    print(report(asked[1], small, large, options.calls))
    if not options.no_plans:
        for question, answer in zip(asked[1], large, strict=True):
            print(f"\n{question.name}", *answer.plans, sep="\n")
    faults = [fault for answer in [*small, *large] for fault in answer.faults]
    print(*faults, sep="\n", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
