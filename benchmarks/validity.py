"""What does validating both sides of a stream cost?

    python -m benchmarks.validity [--rounds N] [--chunks N] [--json]

The chunk loop alone, validated and not (`benchmarks/chunk_loop.py`). Without a policy nothing is validated.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from benchmarks.chunk_loop import CONFIGS, Figures, chain_of, compare, cpu_s, run, stream_pass
from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_RESPONSES
from luthien.pipeline.timeline import Timeline
from luthien.policies.chain import Chain
from tests.wire import anthropic_stream, openai_stream, responses_stream

_STREAMS = {OPENAI_CHAT: openai_stream, OPENAI_RESPONSES: responses_stream, ANTHROPIC_MESSAGES: anthropic_stream}


async def pass_once(wire_format: WireFormat, pieces: Sequence[bytes], chain: Chain, is_watched: bool) -> float:
    timeline = Timeline(time.perf_counter())
    stream = stream_pass(wire_format, chain, timeline, timeline)
    if not is_watched:
        stream.sides._watch = None  # noqa: SLF001 - there is no other way to have it without
    took_s = await cpu_s(stream, pieces, lambda: None)
    assert not stream.sides.upstream_violations
    assert not stream.sides.gateway_violations
    return took_s


async def measure(rounds: int, chunks: int) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    for wire_format, stream in _STREAMS.items():
        pieces = stream(*(f"word {number} " for number in range(chunks)))
        for name in CONFIGS:
            once = partial(pass_once, wire_format, pieces, chain_of(name))
            found[f"{wire_format.name}, {name}"] = await compare(once, rounds, chunks)
    return found


if __name__ == "__main__":
    raise SystemExit(run("validity", __doc__ or "", measure))
