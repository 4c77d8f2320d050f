"""A provider in a process of its own, which answers each request as the request says (`asks`)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.acceptance.faults.asks import ask_in, frames, plain
from tests.playbook import ScriptedProvider, Turn, answers

_ROOT = Path(__file__).parents[3]


async def answer(turn: Turn) -> None:
    """Plays what is asked for."""
    ask = ask_in(turn.body)
    if not ask.chunks:
        await answers(plain(ask))(turn)
        return
    await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
    for frame in frames(ask):
        if ask.pause_s:
            await asyncio.sleep(ask.pause_s)
        await turn.chunk(frame)
    await turn.send(b"0\r\n\r\n")


@contextmanager
def provider_process() -> Iterator[str]:
    """The provider's address, for as long as the block lasts; it dies with this process, however that ends."""
    command = [sys.executable, "-m", "tests.acceptance.faults.provider"]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def main() -> None:
    """Says its address, and serves until nobody holds the other end of its standard input."""
    provider = ScriptedProvider()

    async def forgetting(turn: Turn) -> None:
        provider.turns.clear()
        await answer(turn)

    provider.will(forgetting)
    sys.stdout.write(f"{provider.url}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
