"""A policy that lets go of very much at once does not keep the other calls waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from uuid import UUID

import pytest

from luthien.formats.registry import OPENAI_CHAT
from luthien.pipeline.measured import Timings
from luthien.pipeline.stream import StreamPass
from luthien.pipeline.timeline import Timeline
from luthien.policies.chain import Chain
from luthien.policies.policy import Block, CallContext, Needs, Policy, Response, Verdict
from luthien.policies.registry import make_step
from tests.wire import openai_stream

WORDS = 4000


class Blocky(Policy):
    needs = Needs.BLOCKS

    async def on_block(self, block: Block) -> Verdict:
        return Verdict.allow()


class Whole(Policy):
    needs = Needs.WHOLE

    async def on_response(self, response: Response) -> Verdict:
        return Verdict.allow()


@pytest.mark.parametrize("policy", [Blocky, Whole])
async def test_others_have_their_turn_while_a_long_block_is_let_go(policy: type[Policy]) -> None:
    frames = openai_stream(*["word "] * WORDS)
    given: list[bytes] = []
    turns = 0

    async def data() -> AsyncGenerator[bytes, None]:
        yield b"".join(frames)

    async def give(raw: bytes, is_stream: bool) -> None:
        given.append(raw)

    def take_turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(take_turn)

    loop = asyncio.get_running_loop()
    run = Chain((make_step("policy", policy, None),)).open(CallContext(UUID(int=0), OPENAI_CHAT, "m", streaming=True))
    timeline = Timeline(0.0)
    stream = StreamPass(
        OPENAI_CHAT,
        run.stream(timeline),
        Timings(),
        timeline,
        give,
        1 << 20,
        lambda deltas: None,
        1e9,
        keep_alive_s=60.0,
    )
    loop.call_soon(take_turn)
    terminal = await stream.run(data())
    await stream.finish()
    assert b"".join([*given, terminal.raw]) == b"".join(frames)
    assert turns > 2 * WORDS // 256
