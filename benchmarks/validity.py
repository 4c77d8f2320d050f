"""What does validating both sides of a stream cost?

    python -m benchmarks.validity [--rounds N] [--chunks N] [--json]

The chunk loop passes a stream on in this process, validated and not, in turn, so that what the machine does meanwhile
happens to both. Without a policy nothing is validated. The whole gateway takes far longer for a chunk than the loop
alone, so validation's part is smaller there.
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
from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_RESPONSES
from luthien.pipeline.ledger import Timings
from luthien.pipeline.stream import StreamPass
from luthien.pipeline.timeline import Timeline
from luthien.policies.chain import Chain
from luthien.policies.policy import CallContext
from luthien.policies.registry import BUILTIN, make_step
from tests.wire import anthropic_stream, openai_stream, responses_stream

_NEVER_S = 1e9
_STREAMS = {OPENAI_CHAT: openai_stream, OPENAI_RESPONSES: responses_stream, ANTHROPIC_MESSAGES: anthropic_stream}
_CONFIGS = {"replace_text": {"rules": [{"find": "secret", "replace": "[hidden]"}]}, "noop": {}}


async def pass_once(wire_format: WireFormat, pieces: Sequence[bytes], chain: Chain, *, is_watched: bool) -> float:
    """CPU seconds for one stream."""

    async def data() -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            yield piece

    async def give(raw: bytes, is_stream: bool) -> None:
        pass

    run = chain.open(CallContext(new_call_id(), wire_format, "m", streaming=True))
    timeline = Timeline(time.perf_counter())
    stream = StreamPass(
        wire_format,
        run.stream(timeline),
        Timings(),
        timeline,
        give,
        1 << 20,
        lambda deltas: None,
        _NEVER_S,
        keep_alive_s=60.0,
    )
    if not is_watched:
        stream.sides._watch = None  # noqa: SLF001 - there is no other way to have it without
    began = time.process_time()
    terminal = await stream.run(data())
    await stream.finish()
    stream.passed(terminal.raw, (terminal,))
    stream.sides.closed()
    took_s = time.process_time() - began
    assert not stream.sides.upstream_violations
    assert not stream.sides.gateway_violations
    return took_s


async def measure(rounds: int, chunks: int) -> dict[str, dict[str, float]]:
    """For each format and policy: microseconds a chunk, without and with, and the median of the rounds' ratios."""
    found: dict[str, dict[str, float]] = {}
    for wire_format, stream in _STREAMS.items():
        pieces = stream(*(f"word {number} " for number in range(chunks)))
        for name, config in _CONFIGS.items():
            chain = Chain((make_step(name, BUILTIN[name], BUILTIN[name].Config.model_validate(config)),))
            costs: dict[bool, list[float]] = {False: [], True: []}
            for number in range(rounds):
                for watched in random.Random(number).sample([False, True], 2):
                    costs[watched].append(await pass_once(wire_format, pieces, chain, is_watched=watched))
            found[f"{wire_format.name}, {name}"] = {
                "without_us": median(costs[False]) / chunks * 1e6,
                "with_us": median(costs[True]) / chunks * 1e6,
                "ratio": median(after / before for after, before in zip(costs[True], costs[False], strict=True)),
            }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validity", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--chunks", type=int, default=4000)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    found = asyncio.run(measure(args.rounds, args.chunks))
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{'format, policy':40} {'without, us':>12} {'with, us':>12} {'ratio':>8}")
    for name, figures in found.items():
        print(f"{name:40} {figures['without_us']:12.2f} {figures['with_us']:12.2f} {figures['ratio']:8.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
