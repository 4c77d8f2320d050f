"""Checkpoints of a stream: put together they are the bytes that passed, each byte once, whatever the stream does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.errors import UpstreamError
from luthien.exchange import new_call_id
from luthien.formats.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_RESPONSES
from luthien.formats.sse import Chunk, FrameReader
from luthien.pipeline import checkpoints
from luthien.pipeline.checkpoints import Checkpoints
from luthien.pipeline.measured import Timings
from luthien.pipeline.sides import Delta, StreamSides
from luthien.pipeline.stream import StreamPass
from luthien.pipeline.timeline import Timeline
from luthien.policies.chain import Chain, Step
from luthien.policies.policy import CallContext, Policy
from tests.wire import DONE, anthropic_stream, openai_chunk, openai_stream, responses_stream

NEVER_S = 3600.0
LONG_S = 20.0


class Doubling(Policy):
    """Gives on each chunk twice, and holds it until the next one comes."""

    held: Chunk | None = None

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
        held, self.held = self.held, chunk
        return () if held is None else (held, held)


class Watching(Policy):
    """Sees all and changes nothing."""

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
        return (chunk,)


def chain_of(*policies: type[Policy]) -> Chain:
    return Chain(tuple(Step(policy.__name__, "1", policy, None) for policy in policies))


def passed(raw: bytes) -> tuple[bytes, list[Chunk]]:
    return raw, list(FrameReader(1 << 20).feed(raw))


def text(content: str) -> tuple[bytes, list[Chunk]]:
    return passed(openai_chunk({"content": content}))


def joined(deltas: Sequence[Delta], side: str) -> bytes:
    """What the deltas have of one side; they lie end to end."""
    whole = b""
    for delta in deltas:
        if delta.sides in (side, "both"):
            assert delta.offset == len(whole)
            assert delta.raw
            whole += delta.raw
    return whole


class TestDeltas:
    def test_the_same_bytes_on_both_sides_are_there_once(self) -> None:
        for may_change in (False, True):
            sides = StreamSides(OPENAI_CHAT, may_change=may_change)
            for said in "ab":
                sides.arrived(*text(said))
                sides.released(*text(said))
            raw = text("a")[0] + text("b")[0]
            assert sides.take_deltas() == [Delta("both", 0, raw, 2)]
            assert sides.take_deltas() == []

    def test_other_bytes_are_there_for_each_side(self) -> None:
        sides = StreamSides(OPENAI_CHAT, may_change=True)
        sides.arrived(*text("secret"))
        sides.released(*text("[hidden]"))
        original, final = text("secret")[0], text("[hidden]")[0]
        assert sides.take_deltas() == [Delta("original", 0, original, 1), Delta("final", 0, final, 1)]
        sides.arrived(*text("b"))
        assert sides.take_deltas() == [Delta("original", len(original), text("b")[0], 2)]

    def test_the_same_bytes_elsewhere_are_not_the_same(self) -> None:
        sides = StreamSides(OPENAI_CHAT, may_change=True)
        sides.arrived(*text("a"))
        sides.take_deltas()
        sides.arrived(*text("b"))
        sides.released(*text("b"))
        assert [delta.sides for delta in sides.take_deltas()] == ["original", "final"]

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["arrived", "released", "both", "taken"]), st.text("abc", min_size=1, max_size=2)
            )
        ),
        st.booleans(),
    )
    def test_end_to_end_they_are_what_passed(self, events: list[tuple[str, str]], may_change: bool) -> None:
        sides = StreamSides(OPENAI_CHAT, may_change=may_change)
        deltas: list[Delta] = []
        arrived, released = b"", b""
        for what, said in events:
            if what in ("arrived", "both"):
                sides.arrived(*text(said))
                arrived += text(said)[0]
            if what in ("released", "both"):
                sides.released(*text(said))
                released = released + text(said)[0] if may_change else arrived
            if what == "taken":
                deltas += sides.take_deltas()
        deltas += sides.take_deltas()
        assert joined(deltas, "original") == (arrived if may_change else released)
        assert joined(deltas, "final") == released
        assert sides.unsaved_bytes == 0


class TestWhen:
    async def test_after_each_interval_in_which_something_passed(self) -> None:
        sides = StreamSides(OPENAI_CHAT, may_change=False)
        made: asyncio.Queue[Sequence[Delta]] = asyncio.Queue()
        points = Checkpoints(sides, 0.01, made.put_nowait)
        with points.made():
            for said in "ab":
                sides.arrived(*text(said))
                sides.released(*text(said))
                async with asyncio.timeout(LONG_S):
                    assert joined([Delta("both", 0, (await made.get())[0].raw, 1)], "final") == text(said)[0]
        assert made.empty()

    async def test_not_once_the_stream_is_over(self) -> None:
        sides = StreamSides(OPENAI_CHAT, may_change=False)
        made: list[Sequence[Delta]] = []
        with Checkpoints(sides, 0.005, made.append).made():
            pass
        sides.arrived(*text("a"))
        sides.released(*text("a"))
        late = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, late.set)
        await late.wait()
        assert made == []


async def run(
    pieces: Sequence[bytes], chain: Chain, *, wire_format: Any = OPENAI_CHAT, checkpoint_s: float = NEVER_S
) -> tuple[list[Delta], bytes, Chunk | None]:
    """The deltas of a stream that came in these pieces, what the client was given of it, and its end marker."""
    deltas: list[Delta] = []
    given: list[bytes] = []

    async def data() -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            yield piece

    async def give(raw: bytes, is_stream: bool) -> None:
        given.append(raw)

    chain_run = chain.open(CallContext(new_call_id(), wire_format, "m", streaming=True))
    stream = StreamPass(
        wire_format,
        chain_run.stream(),
        Timings(),
        Timeline(0.0),
        give,
        1 << 20,
        deltas.extend,
        checkpoint_s,
        keep_alive_s=60.0,
    )
    terminal = None
    with contextlib.suppress(UpstreamError):
        terminal = await stream.run(data())
    return deltas, b"".join(given), terminal


CHAINS = [chain_of(), chain_of(Watching), chain_of(Doubling), chain_of(Watching, Doubling)]


@given(
    st.sampled_from(
        [(OPENAI_CHAT, openai_stream), (OPENAI_RESPONSES, responses_stream), (ANTHROPIC_MESSAGES, anthropic_stream)]
    ),
    st.lists(st.text(min_size=1, max_size=40), max_size=20),
    st.lists(st.integers(0, 5000), max_size=20),
    st.booleans(),
    st.sampled_from(CHAINS),
    st.integers(1, 400),
)
def test_they_are_the_beginning_of_what_went_over_the_wire(
    wire: tuple[Any, Any], texts: list[str], cuts: list[int], is_cut_short: bool, chain: Chain, unsaved_bytes: int
) -> None:
    """However the network cuts it, and never with an end marker that the client was not given."""
    wire_format, stream_of = wire
    frames = stream_of(*texts)
    sent = b"".join(frames[:-1] if is_cut_short else frames)
    places = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    pieces = [sent[start:end] for start, end in itertools.pairwise(places)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "MAX_UNSAVED_BYTES", unsaved_bytes)
        deltas, given, terminal = asyncio.run(run(pieces, chain, wire_format=wire_format))
    original, final = joined(deltas, "original"), joined(deltas, "final")
    assert sent.startswith(original)
    assert given.startswith(final)
    assert frames[-1] not in final
    assert (terminal is None) is is_cut_short
    # At the last piece it is over; what came before it and is not in a checkpoint is less than the limit.
    whole_bytes = sum(len(chunk.raw) for chunk in FrameReader(1 << 20).feed(b"".join(pieces[:-1])))
    assert whole_bytes - len(original) < unsaved_bytes


@pytest.mark.parametrize("chain", CHAINS)
async def test_all_of_them_cost_as_much_as_the_stream_is_long(chain: Chain) -> None:
    """And never is more kept for the next than the limit and what one read brought."""
    pieces = [openai_chunk({"content": "x" * 1000})] * 2000
    deltas, given, _ = await run([*pieces, DONE], chain)
    assert len(deltas) > 5
    assert joined(deltas, "original") == b"".join(pieces)[: len(joined(deltas, "original"))]
    assert given.startswith(joined(deltas, "final"))
    largest = max(len(delta.raw) for delta in deltas)
    assert largest < checkpoints.MAX_UNSAVED_BYTES + 3 * len(pieces[0])


async def test_a_short_stream_has_none() -> None:
    deltas, given, terminal = await run(openai_stream("a", "b"), chain_of(), checkpoint_s=5.0)
    assert deltas == []
    assert terminal is not None
    assert given + terminal.raw == b"".join(openai_stream("a", "b"))
