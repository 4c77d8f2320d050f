"""Do list, search and a call's page answer within 100 ms with a million calls?

    python -m benchmarks.pages [--calls N] [--days N] [--rounds N] [--data DIRECTORY] [--no-plans]

Fills a Postgres, the one that `luthien up` brings along, with `--calls` calls and ten times as many records, most of
them of today, and their index. Then it runs the gateway as `luthien serve` does, asks it over HTTP for lists by every
filter (values that are common, rare, and nowhere), words, deep pages, calls, neighbours and sessions, and prints how
long the answers took: the time until the last byte, on a kept connection. It ends with status 1 when anything takes
more than 100 ms for more than one of twenty requests.

A million calls take about 12 GB and a quarter of an hour. With `--data` the filled database is kept, and used again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import parse_qsl
from uuid import UUID

import httpx
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.filling_pages import RECORDS_A_CALL, fill_pages
from benchmarks.gateways import TOKEN, luthien, running
from luthien.debug.search.filters import read_filter
from luthien.store.embedded import embedded_postgres
from luthien.store.facets import tsquery
from luthien.store.migrate import migrate
from luthien.store.windows import NEWEST, id_range, search_windows

LIMIT_MS = 100.0

_FILTERS = (
    "",
    "model=gpt-4o-mini",
    "model=gpt-rare",
    "model=none-such",
    "provider=anthropic",
    "format=anthropic_messages",
    "key=ci",
    "key=nobody",
    "policy=redact",
    "policy=judge",
    "policy=nobody",
    "outcome=completed",
    "outcome=policy_error",
    "outcome=rejected",
    "outcome=running",
    "without=session",
    "without=key",
    "without=model,provider",
    "changed=none",
    "changed=request",
    "changed=response",
    "outcome=upstream_error,policy_error",
    "outcome=rejected,running",
    "policy=redact&side=request",
    "policy=redact&version=3f2a91c0",
    "policy=redact&version=nowhere",
    "policy=redact&version=3f2a91c0&side=response&decided=change",
    "policy=redact&decided=error",
    "policy=redact&decided=block&mode=shadow",
    "changed_by=redact&side=request&version=3f2a91c0",
    "path=/messages/*/content",
    "changed_by=judge&path=/messages/*/content&side=response",
    "changed_by=redact",
    "changed_by=judge",
    "changed_by=nobody",
    "part=message",
    "part=tool_arguments",
    "part=refusal",
    "changed_by=redact&part=tool_arguments",
    "changed_by=judge&part=message",
    "text=word1",
    "text=word2+word3+word5",
    "text=word700",
    "text=word28000",
    "text=needle",
    "text=absentword",
    "text=word1+absentword",
    "model=gpt-4o&provider=anthropic",
    "model=gpt-4o-mini&outcome=blocked&changed=response",
    "text=word2&model=claude-haiku&outcome=upstream_error",
    "text=word1&policy=judge",
    "since=1h",
    "since=3d&until=2d&outcome=blocked",
    "until=10d&text=word40",
    "id=0",
    "session={session}",
    "session=nobody",
    "id={id}",
)


_EXPLAIN = """
    EXPLAIN (ANALYZE, BUFFERS)
    WITH matching AS MATERIALIZED (
        SELECT call_id FROM conversation_search
        WHERE document @@ %(query)s::tsquery AND call_id >= %(since)s AND call_id < %(before)s
    )
    SELECT call_id FROM matching ORDER BY call_id DESC LIMIT 50
"""
_PLANNED = (
    "text=word1",
    "text=absentword",
    "model=gpt-rare",
    "changed_by=judge",
    "policy=redact&version=3f2a91c0&side=response",
    "policy=redact&decided=error",
    "model=gpt-4o&provider=anthropic",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """Calls of every age, in no order: their ids and sessions."""

    calls: Sequence[tuple[UUID, str | None]]
    day: date
    days: int


@dataclass(frozen=True, slots=True)
class Question:
    """A page: its addresses, from which each request takes one, and the status that it is to have."""

    name: str
    address: Callable[[random.Random], str]


def questions(sample: Sample) -> Iterator[Question]:
    sessions = [session for _, session in sample.calls if session]

    def told(text: str, some: random.Random) -> str:
        call_id, _ = some.choice(sample.calls)
        return text.replace("{session}", some.choice(sessions)).replace("{id}", str(call_id)[:13])

    def listed(text: str) -> Callable[[random.Random], str]:
        return lambda some: f"/debug/calls.json?{told(text, some)}"

    def deep(text: str) -> Callable[[random.Random], str]:
        return lambda some: f"/debug/calls.json?{text}&before={some.choice(sample.calls)[0]}"

    for each in _FILTERS:
        yield Question(f"list {each or 'of all'}", listed(each))
    for each in ("", "model=gpt-4o-mini", "text=word2", "outcome=blocked"):
        yield Question(f"deep page {each}", deep(each))
    yield Question("list as HTML", lambda some: "/debug/calls?limit=50")
    yield Question("list as HTML, text=word2", lambda some: "/debug/calls?text=word2")
    yield Question("call as JSON", lambda some: f"/debug/calls/{some.choice(sample.calls)[0]}.json")
    yield Question("call as HTML", lambda some: f"/debug/calls/{some.choice(sample.calls)[0]}")
    yield Question("diff of a call", lambda some: f"/debug/calls/{some.choice(sample.calls)[0]}/diff.json")


async def measure(base: str, asked: Sequence[Question], rounds: int) -> dict[str, list[float]]:
    """Milliseconds by question; in turn, so that none finds its own pages in the caches."""
    some = random.Random(11)
    times: dict[str, list[float]] = {question.name: [] for question in asked}
    async with httpx.AsyncClient(base_url=base, timeout=60.0) as client:
        for number in range(rounds + 2):
            for question in asked:
                address = question.address(some)
                accept = "text/html" if "HTML" in question.name else "application/json"
                headers = {"authorization": f"Bearer {TOKEN}", "accept": accept}
                began = time.perf_counter()
                response = await client.get(address, headers=headers)
                took_ms = (time.perf_counter() - began) * 1000
                if response.status_code not in (200, 202):
                    raise RuntimeError(f"{address}: {response.status_code} {response.text[:200]}")
                if number >= 2:
                    times[question.name].append(took_ms)
    return times


async def neighbours(dsn: str, sample: Sample, rounds: int) -> dict[str, list[float]]:
    """The same for what a call's page asks beside the call: the next newer and older one of a filter."""
    from luthien.store.read import RecordReader

    reader = RecordReader(dsn)
    await reader.open()
    some = random.Random(3)
    times: dict[str, list[float]] = {}
    try:
        for each in ("", "model=gpt-4o-mini", "model=gpt-rare", "text=word2", "text=absentword", "changed_by=judge"):
            wanted = read_filter(parse_qsl(each))
            times[f"neighbours {each or 'of all'}"] = taken = []
            for number in range(rounds + 2):
                began = time.perf_counter()
                await reader.neighbours(wanted, some.choice(sample.calls)[0])
                if number >= 2:
                    taken.append((time.perf_counter() - began) * 1000)
    finally:
        await reader.close()
    return times


def report(times: dict[str, list[float]]) -> tuple[str, list[str]]:
    lines = [f"{'':58}{'p50 ms':>9}{'p95 ms':>9}{'max ms':>9}"]
    slow = []
    for name, taken in times.items():
        p95 = quantiles(taken, n=20)[-1]
        lines.append(f"{name:58}{median(taken):>9.1f}{p95:>9.1f}{max(taken):>9.1f}")
        if p95 > LIMIT_MS:
            slow.append(f"{name}: {p95:.0f} ms")
    return "\n".join(lines), slow


def plans(dsn: str) -> Iterator[str]:
    """How `luthien_found` goes about some searches, in the window where each begins, and in a whole day."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for name in ("enable_seqscan", "enable_indexscan", "jit"):
            conn.execute(sql.SQL("SET {} = off").format(sql.Identifier(name)))
        conn.execute("SET cpu_operator_cost = 0.1")
        for each in _PLANNED:
            wanted = read_filter(parse_qsl(each))
            first, behind = id_range(wanted)
            windows = list(search_windows(first, min(behind, NEWEST), newest_first=True))
            for window in (windows[1], next(each for each in windows[1:] if not each.slots)):
                parameters = {"query": tsquery(wanted, window.slots), "since": window.since, "before": window.before}
                lines = conn.execute(_EXPLAIN, parameters).fetchall()
                yield f"{each}, from {window.since} up to {window.before}:"
                yield from (f"    {line[:150]}" for (line,) in lines)


@contextmanager
def filled(directory: Path | None, calls: int, now: datetime, days: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="luthien-pages-", ignore_cleanup_errors=True) as temporary:
        home = directory or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o755)
        Path(temporary).chmod(0o755)
        with embedded_postgres(home / "postgres", progress=_progress) as dsn:
            yield _database(dsn, calls, now, days)


def _database(dsn: str, calls: int, now: datetime, days: int) -> str:
    name = f"pages_{calls}_{days}_{now:%Y%m%d}"
    database = make_conninfo(dsn, dbname=name)
    with psycopg.connect(dsn, autocommit=True) as conn:
        if conn.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
            unfinished = sql.Identifier(f"{name}_unfinished")
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(unfinished))
            conn.execute(sql.SQL("CREATE DATABASE {}").format(unfinished))
            began = time.monotonic()
            own = make_conninfo(dsn, dbname=f"{name}_unfinished")
            migrate(own)
            with psycopg.connect(own, autocommit=True) as filling:
                fill_pages(filling, calls, now, days, _progress)
                rows = filling.execute(
                    "SELECT relname, pg_size_pretty(sum(pg_total_relation_size(inhrelid))) FROM pg_inherits"
                    " JOIN pg_class ON pg_class.oid = inhparent WHERE relkind = 'p' GROUP BY 1 ORDER BY 1"
                ).fetchall()
                [(size,)] = filling.execute("SELECT pg_size_pretty(pg_database_size(current_database()))").fetchall()
            print(
                f"filled with {calls:,} calls and {calls * RECORDS_A_CALL:,} records in"
                f" {time.monotonic() - began:.0f} s: {size} ({', '.join(f'{a} {b}' for a, b in rows)})"
            )
            conn.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(unfinished, sql.Identifier(name)))
    return database


def sample_of(dsn: str, day: date, days: int) -> Sample:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SELECT setseed(0.5)")
        rows = conn.execute(
            "SELECT call_id, session_id FROM conversation_calls TABLESAMPLE SYSTEM (5)"
            " WHERE random() < 0.2 LIMIT 10000"
        ).fetchall()
    random.Random(5).shuffle(rows)
    return Sample(rows, day, days)


async def ask(dsn: str, sample: Sample, rounds: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory(prefix="luthien-pages-") as folder:
        variant = luthien("luthien", "http://127.0.0.1:9", dsn, Path(folder), record=True)
        async with running(variant) as gateway:
            times = await measure(f"http://127.0.0.1:{gateway.port}", list(questions(sample)), rounds)
    return times | await neighbours(dsn, sample, rounds)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--data", type=Path, help="where the database is kept and found again")
    parser.add_argument("--no-plans", action="store_true", help="only the times")
    options = parser.parse_args()
    now = datetime.now(UTC) - timedelta(seconds=5)
    with filled(options.data, options.calls, now, options.days) as dsn:
        sample = sample_of(dsn, now.date(), options.days)
        text, slow = report(asyncio.run(ask(dsn, sample, options.rounds)))
        print(text, flush=True)
        if not options.no_plans:
            print(*plans(dsn), sep="\n")
    print(*slow, sep="\n", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
