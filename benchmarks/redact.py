"""What `redact` costs: a long prompt, for itself and for the calls beside it, and the chunks of a stream.

Usage: python -m benchmarks.redact
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable
from uuid import UUID

from luthien.formats.registry import OPENAI_CHAT
from luthien.formats.sse import Chunk
from luthien.policies.builtin.redact import Redact, RedactConfig
from luthien.policies.builtin.redaction.patterns import Kind
from luthien.policies.policy import CallContext, Request

_CHARS = 1 << 20
_CHUNKS = 5_000
_WORDS = ["the", "quick", "brown", "fox", "writes:", "def", "foo(x):", "return", "x", "+", "12345,", "13"]
_WORDS += ["2024-01-15T10:11:12Z", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "$1,234.50", "to"]


def policy(*rules: dict[str, object]) -> Redact:
    call = CallContext(UUID(int=0), OPENAI_CHAT, "m", streaming=True)
    return Redact(RedactConfig.model_validate({"rules": rules}), call)


async def longest_pause_s(work: Awaitable[object]) -> tuple[float, float]:
    """How long the work took, and how long at most the event loop answered nobody meanwhile."""
    worst, last = 0.0, time.perf_counter()

    async def tick() -> None:
        nonlocal worst, last
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            worst, last = max(worst, now - last), now

    async with asyncio.TaskGroup() as tasks:
        ticking = tasks.create_task(tick())
        started = last = time.perf_counter()
        await work
        took_s = time.perf_counter() - started
        await asyncio.sleep(0.002)
        ticking.cancel()
    return took_s, worst


async def main() -> None:
    random.seed(1)
    prose = " ".join(random.choices(_WORDS, k=_CHARS // 4))[:_CHARS]
    rows = "".join(f"{number},user{number}@example.com,+1 415-555-{number % 10000:04}\n" for number in range(30_000))
    everything: dict[str, object] = {"kinds": [*Kind], "action": "reversible"}
    for name, text in (("prose", prose), ("a table of addresses", rows[:_CHARS])):
        redact = policy(everything)
        body = {"messages": [{"role": "user", "content": text}]}
        took_s, pause_s = await longest_pause_s(redact.on_request(Request(redact.call, body)))
        print(f"{name}, 1 MiB, every kind: {took_s * 1e3:.0f} ms; others waited {pause_s * 1e3:.1f} ms at most")
    words = prose.split()[:_CHUNKS]
    chunks = [Chunk.of({"choices": [{"index": 0, "delta": {"content": f"{word} "}}]}) for word in words]
    for name, redact in (
        ("giving back", policy(everything)),
        ("masking every kind", policy({"kinds": [*Kind], "in": ["response"]})),
    ):
        await redact.on_request(Request(redact.call, {"messages": [{"role": "user", "content": "a@example.com"}]}))
        started = time.perf_counter()
        for chunk in chunks:
            await redact.on_chunk(chunk)
        await redact.on_stream_end()
        print(f"{name} in a stream: {(time.perf_counter() - started) / len(chunks) * 1e6:.0f} us a chunk")


if __name__ == "__main__":
    asyncio.run(main())
