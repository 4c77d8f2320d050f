"""Both sides of a stream are watched as if each had a validator of its own, however the client's side came about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, FORMATS, OPENAI_CHAT, OPENAI_RESPONSES
from luthien.formats.sse import Chunk
from luthien.formats.validators import validator_of
from luthien.formats.validity import Violation
from luthien.pipeline import watch as watch_module
from luthien.pipeline.watch import SidesWatch
from tests.chunks import chunks_of
from tests.wire import openai_chunk, responses_stream, sse
from tests.wire_tools import anthropic_tools_stream, openai_tools_stream

CALLS = [("get", {"a": 1}), ("put", {"b": [2]})]
STREAMS = {
    OPENAI_CHAT: openai_tools_stream("Let me see", *CALLS),
    OPENAI_RESPONSES: responses_stream("Hello", " there"),
    ANTHROPIC_MESSAGES: anthropic_tools_stream("Let me see", *CALLS),
}
ACTIONS = ("give", "give", "give", "hold", "drop", "copy", "break")


def alone(wire_format: WireFormat, chunks: Sequence[Chunk]) -> list[Violation]:
    validator = validator_of(wire_format)
    assert validator is not None
    return [each for chunk in chunks for each in validator.check(chunk)] + [*validator.end()]


@given(
    st.sampled_from(FORMATS),
    st.lists(st.sampled_from(ACTIONS), min_size=40, max_size=40),
    st.sets(st.integers(0, 40), max_size=2),
)
def test_the_sides_are_told_apart(wire_format: WireFormat, actions: list[str], lost: set[int]) -> None:
    original = [chunk for at, chunk in enumerate(chunks_of(STREAMS[wire_format])) if at not in lost]
    watch, held, final = SidesWatch(wire_format), list[Chunk](), list[Chunk]()
    for chunk, action in zip(original, actions, strict=False):
        watch.arrived((chunk,), len(chunk.raw))
        if action == "drop":
            continue
        copied = Chunk(chunk.raw, chunk.data, chunk.event)
        held.append({"copy": copied, "break": Chunk(b"data: x\n\n", b"x")}.get(action, chunk))
        if action != "hold":
            watch.given(held)
            final += held
            held.clear()
    watch.ended()
    watch.given(held)
    final += held
    watch.closed()
    theirs = alone(wire_format, original[: len(actions)])
    ours = alone(wire_format, final)
    assert watch.upstream == Counter(each.rule for each in theirs if not each.is_quirk)
    known = {each.rule for each in theirs}
    assert watch.gateway == Counter(each.rule for each in ours if each.rule not in known)


def test_what_was_asked_in_the_middle_of_a_stream_changes_nothing() -> None:
    chunks = chunks_of(STREAMS[OPENAI_CHAT])
    watch = SidesWatch(OPENAI_CHAT)
    watch.arrived(chunks, 0)
    watch.given(chunks[:4])
    assert (watch.upstream, watch.gateway) == (Counter(), Counter())
    watch.given(chunks[4:-2])
    watch.ended()
    watch.closed()
    assert watch.gateway == Counter(end_missing=1)


def test_a_side_that_is_far_behind_is_looked_at_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "_MAX_BEHIND", 3)
    chunks = chunks_of(STREAMS[OPENAI_CHAT])
    watch = SidesWatch(OPENAI_CHAT)
    for chunk in chunks:
        watch.arrived((chunk,), len(chunk.raw))
        assert len(watch._behind) <= 3
    watch.given(chunks)
    watch.ended()
    watch.closed()
    assert (watch.upstream, watch.gateway) == (Counter(), Counter())


def test_of_a_stream_without_end_only_the_beginning_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "MAX_ASSEMBLED_BYTES", 100)
    late = chunks_of([openai_chunk({"content": "Hi"}, "stop"), openai_chunk({"content": "late"}), sse("x")])
    watch = SidesWatch(OPENAI_CHAT)
    for chunk in late:
        watch.arrived((chunk,), 60)
        watch.given(())
    watch.ended()
    watch.closed()
    assert (watch.upstream, watch.gateway) == (Counter(), Counter())
