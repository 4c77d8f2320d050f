"""What does the timeline cost a stream?

    python -m benchmarks.timeline [--rounds N] [--chunks N] [--json]

The chunk loop alone, with the timeline and its record, and without (`benchmarks/chunk_loop.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from benchmarks.chunk_loop import Figures, chain_of, compare, cpu_s, run, stream_pass
from luthien.formats.registry import OPENAI_CHAT
from luthien.formats.sse import Chunk
from luthien.pipeline.timeline import Timeline
from luthien.policies.chain import Chain
from tests.wire import openai_stream


class NoTimeline(Timeline):
    """Is told everything and keeps nothing."""

    def arrived(self, chunks: Sequence[Chunk], at: float) -> None:
        pass

    def given(self, chunks: Sequence[Chunk], at: float) -> None:
        pass

    def payload(self, policies: Sequence[str]) -> bytes:
        return b""


async def pass_once(pieces: Sequence[bytes], chain: Chain, is_kept: bool) -> float:
    timeline = (Timeline if is_kept else NoTimeline)(time.perf_counter())
    stream = stream_pass(OPENAI_CHAT, chain, timeline, timeline if is_kept else None)
    return await cpu_s(stream, pieces, lambda: timeline.payload([step.name for step in chain.steps]))


async def measure(rounds: int, chunks: int) -> dict[str, Figures]:
    pieces = openai_stream(*(f"word {number} " for number in range(chunks)))
    found: dict[str, Figures] = {}
    for names in ((), ("noop",), ("replace_text", "noop")):
        chain = chain_of(*names)
        found[", ".join(names) or "no policy"] = await compare(partial(pass_once, pieces, chain), rounds, chunks)
    return found


if __name__ == "__main__":
    raise SystemExit(run("timeline", __doc__ or "", measure))
