"""What does the timeline cost a stream?

    python -m benchmarks.timeline [--rounds N] [--chunks N] [--json]

The chunk loop passes a stream on in this process, with the timeline and without, in turn, so that what the machine
does meanwhile happens to both. The whole gateway takes far longer for a chunk than the loop alone, so the timeline's
part is smaller there: `benchmarks.overhead` says how long, and with `--src` compares two versions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Sequence
from statistics import median

from luthien.exchange import new_call_id
from luthien.formats.registry import OPENAI_CHAT
from luthien.formats.sse import Chunk
from luthien.pipeline.ledger import Timings
from luthien.pipeline.stream import StreamPass
from luthien.pipeline.timeline import Timeline
from luthien.policies.chain import Chain
from luthien.policies.policy import CallContext
from luthien.policies.registry import BUILTIN, make_step

_NEVER_S = 1e9


class NoTimeline(Timeline):
    """Is told everything and keeps nothing."""

    def arrived(self, chunks: Sequence[Chunk], at: float) -> None:
        pass

    def given(self, chunks: Sequence[Chunk], at: float) -> None:
        pass

    def held(self, frame: int, position: int, seconds: float) -> None:
        pass

    def rewrote(self, frame: int, position: int) -> None:
        pass

    def payload(self, policies: Sequence[str]) -> bytes:
        return b""


def frames(count: int) -> list[bytes]:
    """A stream that says a word a chunk, as a provider does."""
    head = '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":'
    return [
        f'data: {head}[{{"index":0,"delta":{{"content":"word {number} "}},"finish_reason":null}}]}}\n\n'.encode()
        for number in range(count)
    ] + [b"data: [DONE]\n\n"]


async def pass_once(pieces: Sequence[bytes], chain: Chain, kind: type[Timeline]) -> float:
    """CPU seconds for one stream, its timeline's record included."""

    async def data() -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            yield piece

    async def give(raw: bytes, is_stream: bool) -> None:
        pass

    run = chain.open(CallContext(new_call_id(), OPENAI_CHAT, "m", streaming=True))
    timeline = kind(time.perf_counter())
    trail = None if kind is NoTimeline else timeline
    stream = StreamPass(
        OPENAI_CHAT,
        run.stream(trail),
        Timings(),
        timeline,
        give,
        1 << 20,
        lambda deltas: None,
        _NEVER_S,
        keep_alive_s=60.0,
    )
    began = time.process_time()
    terminal = await stream.run(data())
    await stream.finish()
    stream.passed(terminal.raw, (terminal,))
    timeline.payload([step.name for step in chain.steps])
    return time.process_time() - began


def _chain(*names: str) -> Chain:
    configs = {"replace_text": {"rules": [{"find": "secret", "replace": "[hidden]"}]}, "noop": {}}
    steps = [make_step(name, BUILTIN[name], BUILTIN[name].Config.model_validate(configs[name])) for name in names]
    return Chain(tuple(steps))


async def measure(rounds: int, chunks: int) -> dict[str, dict[str, float]]:
    """For each chain: microseconds a chunk, without and with, and the median of the rounds' ratios."""
    pieces = frames(chunks)
    found: dict[str, dict[str, float]] = {}
    for names in ((), ("noop",), ("replace_text", "noop")):
        chain = _chain(*names)
        costs: dict[type[Timeline], list[float]] = {NoTimeline: [], Timeline: []}
        for number in range(rounds):
            for kind in random.Random(number).sample(list(costs), 2):
                costs[kind].append(await pass_once(pieces, chain, kind))
        pairs = zip(costs[Timeline], costs[NoTimeline], strict=True)
        found[", ".join(names) or "no policy"] = {
            "without_us": median(costs[NoTimeline]) / chunks * 1e6,
            "with_us": median(costs[Timeline]) / chunks * 1e6,
            "ratio": median(after / before for after, before in pairs),
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.timeline", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--chunks", type=int, default=4000)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    found = asyncio.run(measure(args.rounds, args.chunks))
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{'chain':24} {'without, us':>12} {'with, us':>12} {'ratio':>8}")
    for name, figures in found.items():
        print(f"{name:24} {figures['without_us']:12.2f} {figures['with_us']:12.2f} {figures['ratio']:8.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
