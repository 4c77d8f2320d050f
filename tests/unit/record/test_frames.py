"""Frames: what was written comes back, and damage costs only what it hit."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthien.exchange import StageRecord
from luthien.record.frames import HEADER, MARKER_BYTES, Damage, FrameReader, Unencodable, encode, new_marker
from tests.unit.record.records import record

_patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

MARKER = b"\xf0mARKER\x01"

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_numbers = st.integers(-(2**63), 2**63 - 1)
_scalars = st.one_of(
    st.booleans(), _numbers, st.floats(allow_nan=False), _text, st.lists(_text, max_size=3).map(tuple)
)
_digests = st.none() | st.binary(min_size=32, max_size=32)
_records = st.builds(
    StageRecord,
    call_id=st.uuids(),
    sequence=_numbers,
    event_type=_text,
    recorded_at_ns=_numbers,
    trace_id=_text,
    span_id=_text,
    payload=st.none() | st.binary(max_size=200) | st.just(MARKER * 3),
    payload_sha256=_digests,
    payload_bytes=st.none() | _numbers,
    wire_sha256=_digests,
    wire_bytes=st.none() | _numbers,
    payload_ref=st.none() | _numbers,
    attributes=st.dictionaries(_text, _scalars, max_size=4),
)


def frame(each: StageRecord, marker: bytes = MARKER) -> bytes:
    return b"".join(encode(each, marker))


def read(data: bytes, marker: bytes = MARKER) -> tuple[list[StageRecord], list[Damage]]:
    """All that a reader finds, and it finds an end."""
    reader = FrameReader(lambda at, size: data[at : at + size], marker)
    records: list[StageRecord] = []
    damages: list[Damage] = []
    before = -1
    while (found := reader.next(len(data))) is not None:
        assert reader.position > before
        before = reader.position
        if isinstance(found, Damage):
            damages.append(found)
        else:
            records.append(found)
    assert reader.position == len(data)
    return records, damages


@_patient
@given(st.lists(_records, max_size=5))
def test_what_was_written_comes_back(records: list[StageRecord]) -> None:
    assert read(b"".join(map(frame, records))) == (records, [])


def test_an_empty_payload_is_something_else_than_none() -> None:
    [empty, none], _ = read(frame(record(b"")) + frame(record(None)))
    assert (empty.payload, none.payload) == (b"", None)


def test_what_is_odd_comes_back() -> None:
    odd = record(b"", text="\0", big=2**63, infinite=float("inf"), several=("a", "b"))
    assert read(frame(odd)) == ([odd], [])


@pytest.mark.parametrize(
    "change",
    [
        {"payload": "text"},
        {"payload": 5},
        {"call_id": "no uuid"},
        {"payload_sha256": object()},
        {"attributes": {"key": object()}},
        {"attributes": {"key": "\ud800"}},
        {"attributes": {"key": 10**30}},
    ],
)
def test_what_no_record_may_hold_is_said_to_be_so(change: dict[str, Any]) -> None:
    with pytest.raises(Unencodable):
        encode(replace(record(b"x"), **change), MARKER)


def test_attributes_that_contain_themselves_are_refused() -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    with pytest.raises(Unencodable):
        encode(replace(record(b"x"), attributes=circle), MARKER)


def test_a_payload_is_not_copied() -> None:
    payload = bytes(100_000)
    assert encode(record(payload), MARKER)[1] is payload


def test_a_payload_that_imitates_a_frame_is_not_taken_for_one() -> None:
    """Behind damage, too: whoever wrote the payload did not know the marker."""
    forged = frame(record(b"forged"), new_marker())
    genuine = frame(record(forged * 3))
    assert read(genuine[MARKER_BYTES:]) == ([], [Damage(0, len(genuine) - MARKER_BYTES, is_last=True)])


def test_zeros_are_no_frames() -> None:
    first = record(b"x")
    found, damages = read(frame(first) + bytes(5000))
    assert found == [first]
    assert [damage.is_last for damage in damages] == [True]


def test_a_frame_of_an_unknown_version_costs_no_other_one() -> None:
    """Its checksum is right, and what it says makes no sense here."""
    body = struct.pack(">II", 7, 0) + b"[1,2,3]"
    unknown = MARKER + struct.pack(">I", zlib.crc32(body)) + body
    before, after = record(b"1"), record(b"2")
    found, damages = read(frame(before) + unknown + frame(after))
    assert found == [before, after]
    assert len(damages) == 1


def test_a_reader_leaves_what_does_not_fit_for_the_next_time() -> None:
    small, large = record(b"x" * 10), record(b"y" * 1000)
    data = frame(small) + frame(large)
    reader = FrameReader(lambda at, size: data[at : at + size], MARKER)
    assert reader.next(len(data), room_bytes=100) == small
    assert reader.next(len(data), room_bytes=100) is None
    assert reader.position < len(data)
    assert reader.next(len(data)) == large


def test_a_length_that_lies_does_not_make_the_reader_read_beyond_the_end() -> None:
    asked: list[int] = []
    data = bytearray(frame(record(b"x")) * 2)
    data[MARKER_BYTES + 4 : HEADER.size] = b"\x7f" * 8

    def pread(at: int, size: int) -> bytes:
        asked.append(size)
        return bytes(data[at : at + size])

    reader = FrameReader(pread, MARKER)
    assert isinstance(reader.next(len(data)), Damage)
    assert max(asked) <= len(data)


@st.composite
def _damaged(draw: st.DrawFn) -> tuple[list[tuple[int, int, StageRecord]], bytes, list[tuple[int, int]]]:
    """Frames with their places, the file after something happened to it, and the places that it happened to."""
    records = draw(st.lists(_records, min_size=1, max_size=6))
    places: list[tuple[int, int, StageRecord]] = []
    data = bytearray()
    for each in records:
        part = frame(each)
        places.append((len(data), len(data) + len(part), each))
        data += part
    hits: list[tuple[int, int]] = []
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data) - 1))
        size = draw(st.integers(1, 300))
        new = draw(st.sampled_from([b"\0", b"\xff", MARKER, MARKER[:5], b"[1]"]) | st.binary(min_size=1, max_size=9))
        end = min(start + size, len(data))
        data[start:end] = (new * size)[: end - start]
        hits.append((start, end))
    if draw(st.booleans()):
        cut = draw(st.integers(0, len(data)))
        hits.append((cut, len(data)))
        del data[cut:]
    return places, bytes(data), hits


@_patient
@given(_damaged())
def test_damage_anywhere_costs_only_the_records_that_it_hit(
    case: tuple[list[tuple[int, int, StageRecord]], bytes, list[tuple[int, int]]],
) -> None:
    places, data, hits = case
    found, damages = read(data)
    known = [each for _, _, each in places]
    unhurt = [
        each
        for start, end, each in places
        if not any(start < hit_end and hit_start < end for hit_start, hit_end in hits)
    ]
    remaining = iter(found)
    assert all(any(each == candidate for candidate in remaining) for each in unhurt), "an unhurt record is missing"
    # A hit may write what was there before, so a record that was hit may be there still; an invented one may not.
    in_order = iter(known)
    assert all(any(each == candidate for candidate in in_order) for each in found), "a record was invented"
    if len(found) < len(known) and data != b"".join(frame(each) for each in found):
        assert damages


@_patient
@given(st.lists(_records, min_size=2, max_size=5), st.data())
def test_bytes_that_were_lost_or_slipped_in_cost_only_the_records_around_them(
    records: list[StageRecord], data: st.DataObject
) -> None:
    """Everything behind them has moved, and is found all the same."""
    frames = [frame(each) for each in records]
    hurt = data.draw(st.integers(0, len(frames) - 1))
    at = data.draw(st.integers(0, len(frames[hurt]) - 1))
    if data.draw(st.booleans()):
        frames[hurt] = frames[hurt][:at] + frames[hurt][at + data.draw(st.integers(1, 50)) :]
    else:
        frames[hurt] = frames[hurt][:at] + data.draw(st.binary(min_size=1, max_size=50)) + frames[hurt][at:]
    found, _ = read(b"".join(frames))
    others = records[:hurt] + records[hurt + 1 :]
    assert [each for each in found if each != records[hurt] or each in others] == others


def test_every_prefix_of_a_segment_gives_the_records_that_are_whole_in_it() -> None:
    records = [record(b"x" * n, call_id=UUID(int=n)) for n in range(4)]
    data = b"".join(map(frame, records))
    ends = [len(b"".join(map(frame, records[: n + 1]))) for n in range(4)]
    for cut in range(len(data) + 1):
        found, damages = read(data[:cut])
        whole = sum(end <= cut for end in ends)
        assert found == records[:whole]
        assert [damage.is_last for damage in damages] == ([] if cut in (0, *ends) else [True])


def test_every_flipped_byte_costs_one_record_and_is_noticed() -> None:
    records = [record(b"abc", call_id=UUID(int=n)) for n in range(3)]
    data = b"".join(map(frame, records))
    for at in range(len(data)):
        hurt = bytearray(data)
        hurt[at] ^= 0x55
        found, damages = read(bytes(hurt))
        assert found in (records[1:], records[::2], records[:2])
        assert len(damages) == 1
