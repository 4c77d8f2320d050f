"""The chunk loop alone, in this process: what something costs a stream, with it and without in turn.

What the machine does meanwhile happens to both. The whole gateway takes far longer for a chunk than the loop alone,
so what is measured is a smaller part there: `benchmarks.overhead` says how long, and with `--src` compares versions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from statistics import median

from luthien.exchange import new_call_id
from luthien.formats.format import WireFormat
from luthien.pipeline.measured import Timings
from luthien.pipeline.stream import StreamPass
from luthien.pipeline.timeline import Timeline
from luthien.policies.chain import Chain
from luthien.policies.policy import CallContext
from luthien.policies.registry import BUILTIN, make_step
from luthien.policies.trail import Trail

CONFIGS = {"replace_text": {"rules": [{"find": "secret", "replace": "[hidden]"}]}, "noop": {}}
_NEVER_S = 1e9

Figures = dict[str, float]


def chain_of(*names: str) -> Chain:
    policies = {name: BUILTIN[name] for name in names}
    steps = [make_step(name, each, each.Config.model_validate(CONFIGS[name])) for name, each in policies.items()]
    return Chain(tuple(steps))


def stream_pass(wire_format: WireFormat, chain: Chain, timeline: Timeline, trail: Trail | None) -> StreamPass:
    """A stream on its way to a client that takes everything at once."""

    async def give(raw: bytes, is_stream: bool) -> None:
        pass

    run = chain.open(CallContext(new_call_id(), wire_format, "m", streaming=True))
    return StreamPass(
        wire_format,
        run.stream(trail),
        Timings(),
        timeline,
        give,
        1 << 20,
        lambda deltas: None,
        _NEVER_S,
        keep_alive_s=60.0,
    )


async def cpu_s(stream: StreamPass, pieces: Sequence[bytes], end: Callable[[], object]) -> float:
    """CPU seconds for all of a stream and what `end` does behind it."""

    async def data() -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            yield piece

    began = time.process_time()
    terminal = await stream.run(data())
    await stream.finish()
    stream.passed(terminal.raw, (terminal,))
    stream.sides.closed()
    end()
    return time.process_time() - began


async def compare(pass_once: Callable[[bool], Awaitable[float]], rounds: int, chunks: int) -> Figures:
    """Microseconds a chunk, without and with, and the median of the rounds' ratios."""
    costs: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds):
        for is_with in random.Random(number).sample([False, True], 2):
            costs[is_with].append(await pass_once(is_with))
    return {
        "without_us": median(costs[False]) / chunks * 1e6,
        "with_us": median(costs[True]) / chunks * 1e6,
        "ratio": median(after / before for after, before in zip(costs[True], costs[False], strict=True)),
    }


def run(name: str, about: str, measure: Callable[[int, int], Awaitable[dict[str, Figures]]]) -> int:
    """The command line of a benchmark; `measure` is given rounds and chunks."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--chunks", type=int, default=4000)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()

    async def measured() -> dict[str, Figures]:
        return await measure(args.rounds, args.chunks)

    found = asyncio.run(measured())
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{'':40} {'without, us':>12} {'with, us':>12} {'ratio':>8}")
    for what, figures in found.items():
        print(f"{what:40} {figures['without_us']:12.2f} {figures['with_us']:12.2f} {figures['ratio']:8.3f}")
    return 0
