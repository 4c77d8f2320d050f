"""The two sides of a stream: each has the bytes that passed on it and what they add up to, however far it came."""

from __future__ import annotations

import copy
import hashlib
import json
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.formats import format as format_module
from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_RESPONSES
from luthien.formats.sse import Chunk, FrameReader
from luthien.pipeline.sides import StreamSide, StreamSides
from luthien.telemetry.spans import Wire
from tests.wire import DONE, anthropic_stream, openai_chunk, openai_stream, responses_stream, sse

Passed = tuple[bytes, Sequence[Chunk]]


def passed(*frames: bytes) -> Passed:
    raw = b"".join(frames)
    return raw, list(FrameReader(1 << 20).feed(raw))


def text(content: str) -> Passed:
    return passed(openai_chunk({"content": content}))


def content(side: StreamSide) -> str | None:
    response = side.response
    if response is None:
        return None
    said: str = response["choices"][0]["message"]["content"]
    return said


def wire(*raws: bytes) -> Wire:
    raw = b"".join(raws)
    return Wire(hashlib.sha256(raw).digest(), len(raw))


class TestSide:
    def test_before_anything_has_passed_there_is_nothing(self) -> None:
        side = StreamSide(OPENAI_CHAT)
        assert (side.chunks, side.wire, side.response, side.payload()) == (0, wire(), None, b"")

    @pytest.mark.parametrize(
        ("wire_format", "frames"),
        [
            (OPENAI_CHAT, openai_stream("Hel", "lo")),
            (OPENAI_RESPONSES, responses_stream("Hel", "lo")),
            (ANTHROPIC_MESSAGES, anthropic_stream("Hel", "lo")),
        ],
    )
    def test_it_has_the_bytes_and_what_they_add_up_to(self, wire_format: WireFormat, frames: list[bytes]) -> None:
        side = StreamSide(wire_format)
        for frame in frames:
            side.passed(*passed(frame))
        assert side.wire == wire(*frames)
        assert not side.wire.is_payload
        assert side.chunks == len(frames)
        assert json.loads(side.payload()) == side.response
        assert '"Hello"' in side.payload().decode()

    def test_bytes_that_are_no_frame_yet_are_counted_too(self) -> None:
        side = StreamSide(OPENAI_CHAT)
        side.passed(b'data: {"cho', ())
        assert (side.chunks, side.wire, side.response) == (0, wire(b'data: {"cho'), None)

    def test_a_copy_goes_its_own_way(self) -> None:
        side = StreamSide(OPENAI_CHAT)
        side.passed(*text("a"))
        twin = copy.deepcopy(side)
        assert (twin.wire, twin.chunks, content(twin)) == (side.wire, side.chunks, content(side))
        side.passed(*text("b"))
        twin.passed(*text("c"))
        twin.passed(*text("d"))
        assert [content(side), content(twin)] == ["ab", "acd"]
        assert (side.wire, side.chunks) == (wire(text("a")[0], text("b")[0]), 2)
        assert (twin.wire, twin.chunks) == (wire(text("a")[0], text("c")[0], text("d")[0]), 3)

    def test_numbers_without_a_json_form_are_recorded_as_they_came(self) -> None:
        side = StreamSide(OPENAI_CHAT)
        side.passed(*passed(b'data: {"choices":[{"delta":{},"logprobs":{"content":[{"logprob":-Infinity}]}}]}\n\n'))
        assert b'"logprob":-Infinity' in side.payload()


class TestUnchanged:
    """As long as nothing comes between, one side stands for both."""

    def test_both_sides_are_one(self) -> None:
        sides = StreamSides(OPENAI_CHAT, may_change=False)
        for part in (text("a"), text("b"), passed(DONE)):
            sides.arrived(*part)
            sides.released(*part)
        assert sides.final is sides.original
        assert content(sides.final) == "ab"
        assert sides.original.wire == wire(text("a")[0], text("b")[0], DONE)

    def test_what_arrived_is_added_once_it_was_released(self) -> None:
        sides = StreamSides(OPENAI_CHAT, may_change=False)
        sides.arrived(*text("a"))
        assert sides.original.chunks == 0
        sides.released(*text("a"))
        assert content(sides.original) == "a"

    def test_when_they_part_the_client_has_what_was_released_and_the_provider_sent_it_all(self) -> None:
        sides = StreamSides(OPENAI_CHAT, may_change=False)
        sides.arrived(*text("a"))
        sides.released(*text("a"))
        sides.arrived(*text("b"))
        sides.diverge()
        assert sides.final is not sides.original
        assert (content(sides.original), content(sides.final)) == ("ab", "a")
        assert (sides.original.wire, sides.final.wire) == (wire(text("a")[0], text("b")[0]), wire(text("a")[0]))

    def test_from_then_on_each_has_its_own(self) -> None:
        sides = StreamSides(OPENAI_CHAT, may_change=False)
        sides.diverge()
        sides.arrived(*text("a"))
        sides.released(*text("x"))
        assert (content(sides.original), content(sides.final)) == ("a", "x")

    def test_parting_twice_is_parting_once(self) -> None:
        sides = StreamSides(OPENAI_CHAT, may_change=False)
        sides.arrived(*text("a"))
        sides.diverge()
        final = sides.final
        sides.released(*text("x"))
        sides.diverge()
        assert sides.final is final
        assert (content(sides.original), content(sides.final)) == ("a", "x")


class TestChanged:
    def test_each_side_has_its_own_from_the_beginning(self) -> None:
        sides = StreamSides(OPENAI_CHAT, may_change=True)
        sides.arrived(*text("secret"))
        assert (content(sides.original), sides.final.response) == ("secret", None)
        sides.released(*text("[hidden]"))
        assert (content(sides.original), content(sides.final)) == ("secret", "[hidden]")
        sides.diverge()
        assert (content(sides.original), content(sides.final)) == ("secret", "[hidden]")

    def test_a_chunk_on_both_sides_is_read_by_both(self) -> None:
        start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "citations": []}}
        cited = {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "citations_delta", "citation": {"a": 1}},
        }
        sides = StreamSides(ANTHROPIC_MESSAGES, may_change=True)
        for chunk in (Chunk.of(start), Chunk.of(cited)):
            sides.arrived(chunk.raw, [chunk])
            sides.released(chunk.raw, [chunk])
        assert sides.original.response == sides.final.response
        assert sides.original.response == {"content": [{"type": "text", "citations": [{"a": 1}]}]}


EVENTS = st.lists(
    st.tuples(st.sampled_from(["arrived", "released", "diverge"]), st.text("abc", min_size=1, max_size=2))
)


@given(EVENTS, st.booleans())
def test_whatever_happens_each_side_has_exactly_what_passed_on_it(
    events: list[tuple[str, str]], may_change: bool
) -> None:
    sides = StreamSides(OPENAI_CHAT, may_change=may_change)
    arrived: list[str] = []
    released: list[str] = []
    parted = may_change
    for what, said in events:
        if what == "diverge":
            sides.diverge()
            parted = True
        elif what == "arrived":
            sides.arrived(*text(said))
            arrived.append(said)
        elif parted:
            sides.released(*text(said))
            released.append(said)
        else:  # unchanged: what is released is all that has arrived
            sides.released(b"", ())
            released = [*arrived]
    sides.diverge()
    for side, expected in ((sides.original, arrived), (sides.final, released)):
        assert content(side) == ("".join(expected) if expected else None)
        assert side.wire == wire(*(text(said)[0] for said in expected))
        assert side.chunks == len(expected)


class TestMuch:
    def test_of_a_stream_that_is_too_long_the_beginning_is_put_together_and_all_is_hashed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        frames = [openai_chunk({"content": letter}) for letter in "abcdef"]
        monkeypatch.setattr(format_module, "MAX_ASSEMBLED_BYTES", len(frames[0]) * 3)
        side = StreamSide(OPENAI_CHAT)
        for number, frame in enumerate(frames):
            side.passed(*passed(frame))
            assert side.is_capped is (number >= 3)
        assert content(side) == "abc"
        assert content(copy.deepcopy(side)) == "abc"
        assert copy.deepcopy(side).is_capped
        assert side.wire == wire(*frames)
        assert side.chunks == 6

    def test_a_smaller_chunk_after_the_one_that_was_too_much_is_left_out_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(format_module, "MAX_ASSEMBLED_BYTES", 1000)
        side = StreamSide(OPENAI_CHAT)
        for letter in ("a", "b" * 1000, "c"):
            side.passed(*text(letter))
        assert content(side) == "a"

    def test_many_small_values_are_too_much_sooner_than_their_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(format_module, "MAX_ASSEMBLED_VALUES", 1000)
        side = StreamSide(OPENAI_CHAT)
        for letter in ("a", ",b" * 1000, "c"):
            side.passed(*text(letter))
        assert content(side) == "a"
        assert side.is_capped

    @pytest.mark.parametrize("wire_format", [OPENAI_CHAT, ANTHROPIC_MESSAGES])
    def test_what_an_open_stream_needs_no_longer_grows_once_it_is_too_long(
        self, wire_format: WireFormat, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(format_module, "MAX_ASSEMBLED_BYTES", 256 * 1024)
        sides = StreamSides(wire_format, may_change=False)

        def pass_chunks(count: int) -> int:
            for number in range(count):
                delta = {"type": "text_delta", "text": f"word {number} "}
                frame = (
                    openai_chunk({"content": f"word {number} "})
                    if wire_format is OPENAI_CHAT
                    else sse({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta")
                )
                sides.arrived(*passed(frame))
                sides.released(*passed(frame))
                if number % 100 == 0:
                    sides.take_deltas()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            full = pass_chunks(8_000)
            assert pass_chunks(8_000) - full < 100_000
        finally:
            tracemalloc.stop()
