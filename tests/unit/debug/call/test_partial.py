"""What checkpoints add up to: as much as lies end to end from the beginning, and nothing behind a gap."""

from __future__ import annotations

import json
from dataclasses import replace

from luthien.debug.call.partial import partial_of
from luthien.exchange import EventType, StageRecord, new_call_id
from tests.records import record
from tests.wire import openai_stream

ORIGINAL, FINAL = EventType.RESPONSE_ORIGINAL, EventType.RESPONSE_FINAL
OPENAI = "openai.chat_completions"
FRAMES = openai_stream("a", "b", "c")[:4]
CALL_ID = new_call_id()


def checkpoints(sides: str = "both", frames: list[bytes] = FRAMES, first: int = 3) -> list[StageRecord]:
    """One checkpoint a frame."""
    records: list[StageRecord] = []
    offset = 0
    for number, frame in enumerate(frames):
        attributes = {
            "luthien.checkpoint.sides": sides,
            "luthien.checkpoint.offset": offset,
            "luthien.chunks": number + 1,
        }
        records.append(
            record(
                CALL_ID,
                first + number,
                EventType.RESPONSE_PARTIAL,
                frame,
                wire_bytes=len(frame),
                recorded_at_ns=number,
                attributes=attributes,
            )
        )
        offset += len(frame)
    return records


def said(payload: bytes) -> str:
    content: str = json.loads(payload)["choices"][0]["message"]["content"]
    return content


def test_they_are_put_together_in_order() -> None:
    partial = partial_of(FINAL, reversed(checkpoints()), OPENAI)
    assert partial is not None
    assert partial.raw == b"".join(FRAMES)
    assert (said(partial.payload), partial.chunks, partial.as_of_ns) == ("abc", 4, 3)


def test_each_side_has_its_own_and_what_both_have() -> None:
    both, rest = checkpoints()[:2], checkpoints("original")[2:]
    original, final = (partial_of(stage, [*both, *rest], OPENAI) for stage in (ORIGINAL, FINAL))
    assert original is not None
    assert final is not None
    assert (said(original.payload), said(final.payload)) == ("abc", "a")


def test_nothing_behind_a_gap_is_shown() -> None:
    records = checkpoints()
    lost = [*records[:2], *records[3:]]
    without_payload = [*records[:2], replace(records[2], payload=None), *records[3:]]
    damaged = [*records[:2], replace(records[2], payload=b"data: {}\n\n"), *records[3:]]
    for broken in (lost, without_payload, damaged):
        partial = partial_of(FINAL, broken, OPENAI)
        assert partial is not None
        assert (partial.raw, partial.chunks) == (b"".join(FRAMES[:2]), 2)
    assert partial_of(FINAL, records[1:], OPENAI) is None


def test_what_was_masked_in_one_is_no_gap() -> None:
    masked = [replace(each, wire_bytes=100) for each in checkpoints()]
    masked = [
        replace(each, attributes={**each.attributes, "luthien.checkpoint.offset": 100 * number})
        for number, each in enumerate(masked)
    ]
    partial = partial_of(FINAL, masked, OPENAI)
    assert partial is not None
    assert said(partial.payload) == "abc"


def test_of_a_request_or_without_checkpoints_there_is_none() -> None:
    assert partial_of(EventType.REQUEST_FINAL, checkpoints(), OPENAI) is None
    assert partial_of(FINAL, [record(CALL_ID)], OPENAI) is None


def test_in_an_unknown_format_or_without_a_chunk_they_are_just_bytes() -> None:
    for wire_format, frames in ((None, FRAMES), (OPENAI, [b": ping\n\n"])):
        partial = partial_of(FINAL, checkpoints(frames=frames), wire_format)
        assert partial is not None
        assert partial.payload == partial.raw == b"".join(frames)
