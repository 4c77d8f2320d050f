"""When frames came and went: exact for short streams, bounded for long ones, whatever policies do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.debug.call.timeline import Entry, Lanes, lanes_of
from luthien.debug.showing.drawing import told as told_of
from luthien.exchange import EventType, StageRecord
from luthien.formats.registry import OPENAI_CHAT
from luthien.formats.sse import Chunk, FrameReader
from luthien.pipeline import timeline as timelines
from luthien.pipeline.timeline import Timeline
from luthien.policies.chain import Chain
from luthien.policies.policy import CallContext, Policy, Verdict
from luthien.policies.registry import make_step
from luthien.policies.trail import Due


def lanes(timeline: Timeline, *policies: str) -> Lanes:
    payload = timeline.payload(policies)
    record = StageRecord(uuid4(), 5, EventType.RESPONSE_TIMELINE, 0, "0" * 32, "0" * 16, payload=payload)
    found = lanes_of([record])
    assert found is not None
    return found


def frames(count: int) -> list[Chunk]:
    return list(FrameReader(1 << 20).feed(b"".join(b"data: %d\n\n" % number for number in range(count))))


def test_each_frame_has_its_times_and_bytes() -> None:
    timeline = Timeline(started=100.0)
    first, second, third = frames(3)
    timeline.arrived([first], 100.001)
    timeline.given([first], 100.0015)
    timeline.arrived([second, third], 100.01)
    timeline.held(1, 0, 0.02)
    timeline.rewrote(1, 1)
    timeline.given([Chunk(b"data: other\n\n", b"other").standing_for(1)], 100.03)
    found = lanes(timeline, "slow", "writer")
    assert (found.frames, found.frames_per_entry) == (3, 1)
    assert found.entries == [
        Entry(0, 1, 1.0, 9, 1.5, 9),
        Entry(1, 1, 10.0, 9, 30.0, 13, 20.0, "slow", 1, "writer"),
        Entry(2, 1, 10.0, 9, None, 0, dropped=1),
    ]
    assert found.summary() == {
        "frames": 3,
        "rewritten": 1,
        "dropped": 1,
        "longest_hold": {"ms": 20.0, "policy": "slow"},
    }


def test_a_chunk_that_stands_for_no_frame_is_part_of_the_one_before() -> None:
    timeline = Timeline(0.0)
    one, two = frames(2)
    timeline.arrived([one, two], 1.0)
    timeline.given([one, Chunk(b": extra\n\n", None), two], 1.0)
    assert [entry.given_bytes for entry in lanes(timeline).entries] == [9 + 9, 9]
    assert [entry.dropped for entry in lanes(timeline).entries] == [0, 0]


@given(st.integers(0, 70), st.lists(st.booleans(), min_size=70, max_size=70), st.randoms(use_true_random=False))
def test_a_long_stream_is_bounded_and_its_sums_stay_exact(
    count: int, passes: Sequence[bool], rng: random.Random
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timelines, "MAX_ENTRIES", 8)
        timeline = Timeline(0.0)
        chunks = frames(count)
        given_chunks, rewritten = [], 0
        for chunk, is_passed in zip(chunks, passes, strict=False):
            at = float(chunk.frame)
            timeline.arrived([chunk], at)
            if is_passed:
                if rng.random() < 0.3:
                    timeline.rewrote(chunk.frame, 0)
                    rewritten += 1
                timeline.given([chunk], at)
                given_chunks.append(chunk)
        found = lanes(timeline, "p")
    assert len(found.entries) <= 8
    assert found.frames == count == sum(entry.frames for entry in found.entries)
    assert sum(entry.bytes for entry in found.entries) == sum(len(chunk.raw) for chunk in chunks)
    assert sum(entry.given_bytes for entry in found.entries) == sum(len(chunk.raw) for chunk in given_chunks)
    assert found.summary()["dropped"] == count - len(given_chunks)
    assert found.summary()["rewritten"] == rewritten
    assert [entry.arrived_ms for entry in found.entries] == [entry.first_frame * 1000.0 for entry in found.entries]


@pytest.mark.parametrize(
    "payload",
    [None, b"", b"[]", b"{}", b'{"version": 2}', b'{"version": 1, "frames": 1}', b'{"version": 1'],
    ids=repr,
)
def test_what_cannot_be_read_is_no_timeline(payload: bytes | None) -> None:
    record = StageRecord(uuid4(), 5, EventType.RESPONSE_TIMELINE, 0, "0" * 32, "0" * 16, payload=payload)
    assert lanes_of([record]) is None


# What policies do to frames


class Clock:
    """Minutes pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("luthien.policies.link.time.perf_counter", clock)
    return clock


class Told:
    def __init__(self) -> None:
        self.held_frames: list[tuple[int, int, float]] = []
        self.rewritten: list[tuple[int, int]] = []
        self.gone: list[tuple[int, int]] = []

    def held(self, frame: int, position: int, seconds: float) -> None:
        self.held_frames.append((frame, position, seconds))

    def rewrote(self, frame: int, position: int) -> None:
        self.rewritten.append((frame, position))

    def dropped(self, frame: int, position: int) -> None:
        self.gone.append((frame, position))


class Joins(Policy):
    """Holds two frames and makes one of them, from the third on lets all pass."""

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
        if chunk.data == b"0":
            return ()
        return (Chunk(b"data: 01\n\n", b"01"),) if chunk.data == b"1" else (chunk,)


class Doubles(Policy):
    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
        return (chunk, Chunk(b"data: again\n\n", b"again"))


def run_of(*policies: type[Policy], trail: Any) -> Any:
    steps = tuple(make_step(policy.__name__, policy, policy.Config()) for policy in policies)
    return Chain(steps).open(CallContext(uuid4(), OPENAI_CHAT, "m", streaming=True)).stream(trail)


async def test_a_chunk_of_a_policys_own_stands_for_the_oldest_frame_it_holds(clock: Clock) -> None:
    told = Told()
    stream = run_of(Doubles, Joins, trail=told)
    given: list[Chunk] = []
    for chunk in frames(3):
        clock.now += 1.0
        given += await stream.feed(chunk)
    # 0, again, 1, again, 2, again go into the second one
    assert [(chunk.data, chunk.frame) for chunk in given] == [
        (b"again", 0),
        (b"01", 1),
        (b"again", 1),
        (b"2", 2),
        (b"again", 2),
    ]
    assert told.rewritten == [(0, 0), (1, 0), (1, 1), (2, 0)]


async def test_who_holds_a_frame_is_told_with_the_time(clock: Clock) -> None:
    class Late(Policy):
        held: Chunk | None = None

        async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
            before, self.held = self.held, chunk
            return () if before is None else (before,)

        async def on_stream_end(self) -> Sequence[Chunk]:
            return () if self.held is None else (self.held,)

    told = Told()
    stream = run_of(Policy, Late, trail=told)
    for chunk in frames(2):
        clock.now += 1.0
        await stream.feed(chunk)
    clock.now += 5.0
    await stream.finish()
    positions = {position for _, position, _ in told.held_frames}
    assert [(frame, seconds) for frame, _, seconds in told.held_frames] == [(0, 1.0), (1, 5.0)]
    assert positions == {1}
    assert told.rewritten == []


class Sifts(Policy):
    """Lets every third frame pass, and the others never."""

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
        return (chunk,) if chunk.frame % 3 == 2 else ()


class Ends(Policy):
    """Says once at the end what it held."""

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
        return ()

    async def on_stream_end(self) -> Sequence[Chunk]:
        return (Chunk(b"data: all\n\n", b"all"),)


class Stops(Policy):
    async def on_chunk(self, chunk: Chunk) -> Any:
        return Verdict.block("enough") if chunk.frame == 2 else ()


@pytest.mark.parametrize(
    ("policy", "dropped"),
    [(Sifts, [0, 1, 3, 4]), (Ends, [1, 2, 3, 4]), (Stops, [0, 1, 2]), (Doubles, []), (Policy, [])],
)
async def test_who_drops_a_frame_is_told(policy: type[Policy], dropped: list[int]) -> None:
    """A frame that one policy drops is not shown to the next, so one only is told of it."""
    told = Told()
    stream = run_of(Doubles, policy, Policy, trail=told)
    timeline = Timeline(0.0)
    chunks = frames(5)
    timeline.arrived(chunks, 1.0)
    for chunk in chunks:
        if stream.blocked is None:
            timeline.given(await stream.feed(chunk), 1.0)
    if stream.blocked is None:
        timeline.given(await stream.finish(), 1.0)
    assert [*dict.fromkeys(told.gone)] == [(frame, 1) for frame in dropped]


def test_who_dropped_a_frame_is_in_the_record_also_of_a_long_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timelines, "MAX_ENTRIES", 4)
    timeline = Timeline(0.0)
    chunks = frames(8)
    for chunk in chunks[:4]:
        timeline.arrived([chunk], 1.0)
        if chunk.frame == 1:
            timeline.dropped(1, 0)
        else:
            timeline.given([chunk], 1.0)
    timeline.arrived(chunks[4:], 1.0)
    timeline.dropped(5, 1)
    timeline.dropped(6, 1)
    timeline.given([chunks[4], chunks[6]], 1.0)  # it came later, after all
    found = lanes(timeline, "one", "two").entries
    assert [(entry.dropped, entry.dropped_by) for entry in found] == [(1, "one"), (0, None), (1, "two"), (1, "two")]
    assert told_of(found).endswith("3 dropped by one, two")


async def test_what_a_policy_swallows_is_forgotten_in_the_end(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthien.policies.trail._MAX_DUE", 4)
    due = Due(Told(), 0)
    for frame in range(10):
        due.shown(frame, 0.0)
    made = Chunk(b"data: x\n\n", b"x")
    assert due.answered(made, made, 0.0).frame == 6


async def test_frames_that_nobody_counts_stay_as_they_are() -> None:
    told = Told()
    stream = run_of(Doubles, trail=told)
    chunk = Chunk(b"data: x\n\n", b"x")
    given = await stream.feed(chunk)
    assert given[0] is chunk
    assert [each.frame for each in given] == [-1, -1]
    assert told.rewritten == []
