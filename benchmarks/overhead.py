"""What does Luthien cost, against a bare pass-through and against itself without the record?

    python -m benchmarks.overhead [--rounds N] [--seconds S] [--json] [--otlp] [--src NAME=PATH]

Every gateway has a process of its own on one core; the load, the canned provider and Postgres share the other one.
The gateways are measured in turn, round after round, so that what the machine does meanwhile happens to all of them;
every ratio is the median of the ratios within the rounds. At the end the rows in Postgres are counted: a gateway that
had not recorded what it served would have been cheap for nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psycopg
import uvloop

from benchmarks.canned import CannedUpstream
from benchmarks.gateways import LOAD_CORE, GatewayProcess, Variant, bare, luthien, running
from benchmarks.load import call_plainly, call_streaming
from luthien.store.embedded import embedded_postgres
from luthien.store.migrate import migrate

CONNECTIONS = 16
RECORDS_PER_CALL = 5
"""Four stages and the outcome: there are no policies here, whose decisions would be records, too."""
TARGET = 1.6

_BARE, _RECORDED, _UNRECORDED = "bare pass-through", "luthien", "luthien, record off"
_STORED_S = 30.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What one gateway did in one round, or the medians of several."""

    cpu_us_per_call: float
    calls_per_s: float
    busy: float
    """Which part of the time under load its core was used: well below 1, the other core was the limit."""
    added_latency_us: float
    """At one connection, against a client that calls the provider directly; a median of all calls."""
    chunks_per_s: float
    cpu_us_per_chunk: float


@dataclass(slots=True)
class Contender:
    """A gateway in the race, and what it did in each round."""

    gateway: GatewayProcess
    rounds: list[Figures]
    calls: int = 0

    @property
    def name(self) -> str:
        return self.gateway.variant.name

    def medians(self) -> Figures:
        rows = [asdict(figures) for figures in self.rounds]
        return Figures(**{name: median(row[name] for row in rows) for name in rows[0]})


async def measure(contender: Contender, upstream: CannedUpstream, seconds: float, direct_us: float) -> Figures:
    """One turn of one gateway."""
    gateway = contender.gateway
    contender.calls += (await call_plainly(gateway.port, CONNECTIONS, seconds / 10)).calls

    before = await gateway.settle()
    plain = await call_plainly(gateway.port, CONNECTIONS, seconds)
    under_load_s = gateway.cpu_s() - before
    plain_cpu_s = await gateway.settle() - before

    single = await call_plainly(gateway.port, 1, seconds / 2)

    before = await gateway.settle()
    streamed = await call_streaming(gateway.port, CONNECTIONS, seconds, upstream)
    streamed_cpu_s = await gateway.settle() - before

    contender.calls += plain.calls + single.calls + streamed.calls
    return Figures(
        cpu_us_per_call=plain_cpu_s / plain.calls * 1e6,
        calls_per_s=plain.calls / plain.elapsed_s,
        busy=under_load_s / plain.elapsed_s,
        added_latency_us=median(single.latencies_s) * 1e6 - direct_us,
        chunks_per_s=streamed.chunks / streamed.elapsed_s,
        cpu_us_per_chunk=streamed_cpu_s / streamed.chunks * 1e6,
    )


async def race(variants: Sequence[Variant], upstream: CannedUpstream, rounds: int, seconds: float) -> list[Contender]:
    """Lets all gateways serve in turn. The order turns too, so that none always follows the same other one."""
    async with AsyncExitStack() as stack:
        contenders = [Contender(await stack.enter_async_context(running(variant)), []) for variant in variants]
        for contender in contenders:
            contender.calls += await contender.gateway.check()
        for number in range(rounds):
            direct = await call_plainly(upstream.port, 1, seconds / 4)
            direct_us = median(direct.latencies_s) * 1e6
            first = number % len(contenders)
            for contender in [*contenders[first:], *contenders[:first]]:
                contender.rounds.append(await measure(contender, upstream, seconds, direct_us))
            _say(f"round {number + 1} of {rounds} is done")
    return contenders


def unrecorded(dsn: str, calls: int) -> str | None:
    """What the record lacks of that many calls, once the writers are done; None when it is complete."""
    expected = (calls, calls * RECORDS_PER_CALL, calls, 0)
    query = """
        SELECT (SELECT count(*) FROM conversation_calls),
               (SELECT count(*) FROM conversation_events),
               (SELECT count(*) FROM conversation_calls
                WHERE outcome = 'completed' AND records_stored = records_emitted AND records_stored = %s),
               (SELECT count(*) FROM conversation_quarantine)
    """
    ends = time.monotonic() + _STORED_S
    with psycopg.connect(dsn, autocommit=True) as conn:
        while True:
            found = conn.execute(query, (RECORDS_PER_CALL,)).fetchone()
            if found == expected:
                return None
            if time.monotonic() > ends:
                return f"(calls, records, complete calls, quarantined): {expected} expected, {found} found"
            time.sleep(0.5)


def ratio(contender: Contender, against: Contender, name: str) -> float:
    """The median over the rounds of one figure's ratio."""
    pairs = zip(contender.rounds, against.rounds, strict=True)
    return median(getattr(ours, name) / getattr(theirs, name) for ours, theirs in pairs)


def report(contenders: Sequence[Contender], stored_calls: int) -> str:
    """The result for people."""
    columns = ("CPU us/call", "calls/s", "busy", "added us", "chunks/s", "CPU us/chunk")
    lines = [f"{'':24}" + "".join(f"{column:>14}" for column in columns)]
    for contender in contenders:
        m = contender.medians()
        cells = (
            f"{m.cpu_us_per_call:.0f}",
            f"{m.calls_per_s:.0f}",
            f"{m.busy:.0%}",
            f"{m.added_latency_us:.0f}",
            f"{m.chunks_per_s:.0f}",
            f"{m.cpu_us_per_chunk:.1f}",
        )
        lines.append(f"{contender.name:24}" + "".join(f"{cell:>14}" for cell in cells))
    lines.append("")
    for ours, theirs, ratios in comparisons(contenders):
        lines.append(
            f"{ours} / {theirs}: CPU {ratios['cpu_us_per_call']:.2f}, calls/s {ratios['calls_per_s']:.2f}, "
            f"added latency {ratios['added_latency_us']:.2f}, chunks/s {ratios['chunks_per_s']:.2f}, "
            f"CPU a chunk {ratios['cpu_us_per_chunk']:.2f}"
        )
    lines.append(f"(the aim: luthien / bare pass-through at most {TARGET} in CPU)")
    lines.append(f"Checked: {stored_calls} calls were recorded whole, {RECORDS_PER_CALL} records each; none was lost.")
    return "\n".join(lines)


def comparisons(contenders: Sequence[Contender]) -> list[tuple[str, str, dict[str, float]]]:
    """Every gateway against the bare one, and every recording one against the one that records nothing."""
    by_name = {contender.name: contender for contender in contenders}
    bare_one, unrecorded_one = by_name[_BARE], by_name[_UNRECORDED]
    pairs = [(each, bare_one) for each in contenders if each is not bare_one]
    pairs += [(each, unrecorded_one) for each in contenders if each.gateway.variant.is_recorded]
    names = ("cpu_us_per_call", "calls_per_s", "added_latency_us", "chunks_per_s", "cpu_us_per_chunk")
    return [(a.name, b.name, {name: ratio(a, b, name) for name in names}) for a, b in pairs]


def report_json(contenders: Sequence[Contender], stored_calls: int) -> str:
    """The result for programs."""
    return json.dumps(
        {
            "medians": {contender.name: asdict(contender.medians()) for contender in contenders},
            "rounds": {contender.name: [asdict(figures) for figures in contender.rounds] for contender in contenders},
            "ratios": [{"of": a, "to": b, **ratios} for a, b, ratios in comparisons(contenders)],
            "recorded_calls": stored_calls,
            "target": TARGET,
        },
        indent=2,
    )


async def _race(args: argparse.Namespace, dsn: str, folder: Path) -> list[Contender]:
    upstream = CannedUpstream()
    await upstream.start()
    url = upstream.url
    variants = [
        bare(url),
        luthien(_RECORDED, url, dsn, folder, record=True),
        luthien(_UNRECORDED, url, dsn, folder, record=False),
    ]
    if args.otlp:
        variants.append(luthien("luthien, exporting", url, dsn, folder, record=True, export=True))
    for name, path in args.src:
        variants.append(luthien(name, url, dsn, folder, record=True, src=path))
    try:
        return await race(variants, upstream, args.rounds, args.seconds)
    finally:
        upstream.close()


def _source(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (separator and name and (Path(path) / "luthien").is_dir()):
        raise argparse.ArgumentTypeError("NAME=PATH, where PATH holds the package luthien")
    return name, Path(path).resolve()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each gateway is measured (default: 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each load lasts (default: 2)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--otlp", action="store_true", help="measure Luthien with traces and metrics exported, too")
    parser.add_argument(
        "--src", type=_source, action="append", default=[], metavar="NAME=PATH", help="measure another source tree, too"
    )
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
            calls = sum(contender.calls for contender in contenders if contender.gateway.variant.is_recorded)
            missing = unrecorded(dsn, calls)
    if missing is not None:
        _say(f"The record is not complete, so the figures mean nothing. {missing}")
        return 1
    print(report_json(contenders, calls) if args.json else report(contenders, calls))
    return 0


if __name__ == "__main__":
    sys.exit(main())
