"""What does Luthien cost, against a bare pass-through and against itself without the record?

    python -m benchmarks.overhead [--rounds N] [--seconds S] [--connections N] [--json] [--otlp] [--src NAME=PATH]

The gateway has one core to itself; the load, the canned provider and Postgres share the other one. The gateways are
measured in turn, round after round, so that what the machine does meanwhile happens to all of them.
At the end the rows in Postgres are counted: a gateway that had not recorded what it served would have been cheap for
nothing.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psycopg
import uvloop

from benchmarks.canned import CannedUpstream
from benchmarks.figures import (
    SPOOL_TARGET_US,
    TARGET,
    Comparison,
    Figures,
    Rounds,
    as_json,
    as_text,
    compare,
    median_difference,
)
from benchmarks.gateways import LOAD_CORE, Variant, bare, luthien, running
from benchmarks.load import call_plainly, call_streaming
from luthien.store.embedded import embedded_postgres
from luthien.store.migrate import migrate

RECORDS_PER_CALL = 5
"""The four stages and the outcome, at least: without policies there are no decisions, but streams have a timeline."""

_RECORDED, _IN_MEMORY, _UNRECORDED = "luthien", "luthien, spool off", "luthien, record off"
_UNINDEXED = "luthien, index off"
_STORED_S = 30.0


@dataclass(slots=True)
class Contender:
    """A gateway in the race, and what it did in each round."""

    variant: Variant
    rounds: list[Figures] = field(default_factory=list)
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """How long the loads of a turn last, and from how many connections they come."""

    seconds: float
    connections: int


async def measure(contender: Contender, upstream: CannedUpstream, turn: Turn) -> Figures:
    """One turn of one gateway. CPU time counts until it is at rest: it may record later, but not for free."""
    seconds, connections = turn.seconds, turn.connections
    direct = await call_plainly(upstream.port, 1, seconds / 4)
    async with running(contender.variant) as gateway:
        contender.calls += await gateway.check()
        warm_up = await call_plainly(gateway.port, connections, seconds / 3)
        before_s = await gateway.settle()
        plain = await call_plainly(gateway.port, connections, seconds)
        under_load_s = gateway.cpu_s() - before_s
        after_plain_s = await gateway.settle()
        alone = await call_plainly(gateway.port, 1, seconds / 2)
        after_alone_s = await gateway.settle()
        streamed = await call_streaming(gateway.port, connections, seconds, upstream)
        after_streamed_s = await gateway.settle()
    contender.calls += warm_up.calls + plain.calls + alone.calls + streamed.calls
    return Figures(
        cpu_us_per_call=(after_plain_s - before_s) / plain.calls * 1e6,
        calls_per_s=plain.calls / plain.elapsed_s,
        busy=under_load_s / plain.elapsed_s,
        cpu_us_per_call_alone=(after_alone_s - after_plain_s) / alone.calls * 1e6,
        added_latency_us=(median(alone.latencies_s) - median(direct.latencies_s)) * 1e6,
        chunks_per_s=streamed.chunks / streamed.elapsed_s,
        cpu_us_per_chunk=(after_streamed_s - after_alone_s) / streamed.chunks * 1e6,
    )


async def race(variants: Sequence[Variant], upstream: CannedUpstream, rounds: int, turn: Turn) -> list[Contender]:
    """Lets all gateways serve in turn.

    Each turn has a fresh process, because where things happen to lie in memory is worth a few percent either way;
    each round has an order of its own, so that none always follows the same other one.
    """
    contenders = [Contender(variant) for variant in variants]
    for number in range(rounds):
        for contender in random.Random(number).sample(contenders, len(contenders)):
            contender.rounds.append(await measure(contender, upstream, turn))
        _say(f"round {number + 1} of {rounds} is done")
    return contenders


def lacking(dsn: str, calls: int) -> str | None:
    """What the record lacks of that many calls, once the writers are done; None when it is complete."""
    expected = (calls, calls, 0, 0)
    query = """
        SELECT (SELECT count(*) FROM conversation_calls),
               (SELECT count(*) FROM conversation_calls
                WHERE outcome = 'completed' AND records_stored = records_emitted AND records_stored >= %s),
               (SELECT count(*) FROM conversation_quarantine),
               (SELECT count(*) FROM conversation_events) - (SELECT sum(records_stored) FROM conversation_calls)
    """
    ends = time.monotonic() + _STORED_S
    with psycopg.connect(dsn, autocommit=True) as conn:
        while True:
            found = conn.execute(query, (RECORDS_PER_CALL,)).fetchone()
            if found == expected:
                return None
            if time.monotonic() > ends:
                return f"(calls, complete ones, quarantined, records not counted): {expected} expected, {found} found"
            time.sleep(0.5)


def comparisons(rounds: Rounds, variants: Sequence[Variant]) -> list[Comparison]:
    """Every gateway against the first, the bare one; every recording one against the one that records nothing."""
    reference = variants[0].name
    recording = [variant.name for variant in variants if variant.is_recorded]
    return [
        *(compare(rounds, variant.name, reference) for variant in variants[1:]),
        compare(rounds, _RECORDED, _IN_MEMORY),
        compare(rounds, _RECORDED, _UNINDEXED),
        *(compare(rounds, name, _UNRECORDED) for name in recording),
    ]


async def _race(args: argparse.Namespace, dsn: str, folder: Path) -> list[Contender]:
    upstream = CannedUpstream()
    await upstream.start()
    url = upstream.url
    variants = [
        bare(url),
        luthien(_RECORDED, url, dsn, folder, record=True),
        luthien(_IN_MEMORY, url, dsn, folder, record=True, spool=False),
        luthien(_UNRECORDED, url, dsn, folder, record=False),
        luthien(_UNINDEXED, url, dsn, folder, record=True, index=False),
    ]
    if args.otlp:
        variants.append(luthien("luthien, exporting", url, dsn, folder, record=True, export=True))
    for name, path in args.src:
        variants.append(luthien(name, url, dsn, folder, record=True, src=path))
    try:
        return await race(variants, upstream, args.rounds, Turn(args.seconds, args.connections))
    finally:
        upstream.close()


def _source(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not (name and (Path(path) / "luthien").is_dir()):
        raise argparse.ArgumentTypeError("NAME=PATH, where PATH holds the package luthien")
    return name, Path(path).resolve()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=(__doc__ or "").split("\n")[0])
    option = parser.add_argument
    option("--rounds", type=int, default=5, help="how often each gateway is measured (default: 5)")
    option("--seconds", type=float, default=1.5, help="how long each load lasts (default: 1.5)")
    option("--connections", type=int, default=16, help="how many connections the load has (default: 16)")
    option("--json", action="store_true", help="print JSON")
    option("--otlp", action="store_true", help="measure Luthien with traces and metrics exported, too")
    option("--src", type=_source, action="append", default=[], metavar="NAME=PATH", help="measure that source, too")
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    args = _arguments()
    os.sched_setaffinity(0, {LOAD_CORE})  # Postgres inherits it
    with tempfile.TemporaryDirectory(prefix="luthien-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # started by root, Postgres runs as somebody else
        with embedded_postgres(folder / "postgres", progress=_say) as dsn:
            migrate(dsn)
            gc.freeze()
            contenders = uvloop.run(_race(args, dsn, folder))
            recorded_calls = sum(each.calls for each in contenders if each.variant.is_recorded)
            missing = lacking(dsn, recorded_calls)
    if missing is not None:
        _say(f"The record is not complete, so the figures mean nothing. {missing}")
        return 1
    variants = [each.variant for each in contenders]
    rounds = {each.variant.name: each.rounds for each in contenders}
    compared = comparisons(rounds, variants)
    if args.json:
        print(as_json(rounds, compared, recorded_calls))
        return 0
    print(as_text(rounds, compared))
    spool_us = median_difference(rounds, _RECORDED, _IN_MEMORY)
    print(
        f"\nThe spool costs {spool_us.together:.0f} CPU us/call with many connections, {spool_us.alone:.0f} with one."
    )
    print(f"The aim: at most {SPOOL_TARGET_US} CPU us/call.")
    print(f"The aim: luthien / bare pass-through at most {TARGET} in CPU us/call.")
    print(
        f"Checked: all {recorded_calls} calls of the recording gateways are stored, {RECORDS_PER_CALL} records each."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
