"""Server-sent events: however the network cuts a stream, the frames are the same and no byte is lost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from luthien.formats import jsontext
from luthien.formats.sse import MAX_DEPTH, Chunk, FrameReader, FrameTooLarge, parse_frame

LINE_ENDS = [b"\n", b"\r", b"\r\n"]
WORDS = [b"", b"a", b" a", b"data: x", b":", b'{"a": "b"}', "日本é".encode(), b"\xff", b"\x00", b"\xef\xbb\xbf"]
LINES = st.one_of(
    st.just(b""),
    st.tuples(
        st.sampled_from([b"data: ", b"data:", b"event: ", b"event:", b"id: ", b": ", b"retry: ", b"dataset: "]),
        st.sampled_from(WORDS),
    ).map(b"".join),
    st.sampled_from([b"data", b"event", b"id"]),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Lines with whatever ends, and perhaps a rest without one."""
    lines = draw(st.lists(st.tuples(LINES, st.sampled_from(LINE_ENDS)), max_size=12))
    mark = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"]))
    return mark + b"".join(line + end for line, end in lines) + draw(st.sampled_from([b"", b"data: cut"]))


@st.composite
def cut(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> list[bytes]:
    """A byte stream in pieces, some of them empty."""
    stream = draw(source)
    at = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[start:end] for start, end in zip([0, *at], [*at, len(stream)], strict=True)]


def read(pieces: Sequence[bytes]) -> tuple[list[Chunk], bytes]:
    reader = FrameReader(1 << 20)
    chunks = [chunk for piece in pieces for chunk in reader.feed(piece)]
    return chunks, reader.rest


def said(chunks: Sequence[Chunk]) -> list[tuple[bytes | None, str]]:
    return [(chunk.data, chunk.event) for chunk in chunks]


@dataclass
class Frame:
    lines: list[bytes]

    def said(self) -> tuple[bytes | None, str]:
        """Read as the standard says, line by line, with an event also when there is no data."""
        data: list[bytes] = []
        event = ""
        for line in self.lines:
            name, colon, value = line.partition(b":")
            value = value[1:] if colon and value[:1] == b" " else value
            if name == b"data":
                data.append(value)
            if name == b"event":
                event = value.decode("utf-8", "replace")
        return b"\n".join(data) if data else None, event


def frames_of(stream: bytes) -> list[Frame]:
    """What the standard makes of a whole stream: a frame for each pair of line ends."""
    *lines, _ = re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))
    frames: list[Frame] = []
    open_lines: list[bytes] = []
    ended = True
    for line in lines:
        if line or not ended:
            open_lines.append(line)
            ended = not line
            if ended:
                frames.append(Frame(open_lines))
                open_lines = []
        else:  # a second blank line: the line end that a frame of nothing begins with
            open_lines, ended = [line], False
    return frames


class TestAnySplit:
    @given(cut(streams()))
    def test_the_frames_and_the_rest_add_up_to_what_was_received(self, pieces: list[bytes]) -> None:
        chunks, rest = read(pieces)
        assert b"".join(chunk.raw for chunk in chunks) + rest == b"".join(pieces)

    @given(cut(st.binary(max_size=60)))
    def test_so_they_do_for_bytes_of_any_kind(self, pieces: list[bytes]) -> None:
        chunks, rest = read(pieces)
        assert b"".join(chunk.raw for chunk in chunks) + rest == b"".join(pieces)

    @given(cut(streams()))
    @example([b"data: a\r\r", b"\n\r\ndata: b\r\n\r\n"])
    @example([b"data: a\r\n\r", b"\n", b"\ndata: b\n\n"])
    @example([b"data: a\n\r", b"", b"\n\r\n"])
    def test_they_say_the_same_as_those_of_the_stream_in_one_piece(self, pieces: list[bytes]) -> None:
        assert said(read(pieces)[0]) == said(read([b"".join(pieces)])[0])

    @given(streams())
    def test_one_byte_at_a_time_makes_no_difference(self, stream: bytes) -> None:
        assert said(read([bytes([byte]) for byte in stream])[0]) == said(read([stream])[0])

    @given(cut(streams()))
    def test_they_say_what_the_standard_reads_in_the_stream(self, pieces: list[bytes]) -> None:
        expected = [frame.said() for frame in frames_of(b"".join(pieces))]
        assert said(read(pieces)[0]) == expected

    @given(cut(st.lists(st.sampled_from([*LINE_ENDS, b"data: a"]), max_size=14).map(b"".join)))
    def test_line_ends_of_all_kinds_in_a_row_are_read_as_the_standard_says(self, pieces: list[bytes]) -> None:
        expected = [frame.said() for frame in frames_of(b"".join(pieces))]
        assert said(read(pieces)[0]) == expected

    @given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4), st.integers(1, 5))
    def test_a_cut_inside_a_character_does_no_harm(self, texts: list[str], size: int) -> None:
        stream = b"".join(Chunk.of({"text": text}).raw for text in texts)
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [(chunk.json or {})["text"] for chunk in read(pieces)[0]] == texts


class TestFrames:
    @pytest.mark.parametrize("end", LINE_ENDS)
    def test_a_frame_ends_with_a_blank_line_of_any_kind(self, end: bytes) -> None:
        chunks, rest = read([end.join([b"event: ping", b"data: a", b"", b"data: b", b"", b""])])
        assert said(chunks) == [(b"a", "ping"), (b"b", "")]
        assert rest == b""

    @pytest.mark.parametrize("end", [b"\r", b"\r\n"])
    def test_a_frame_is_given_as_soon_as_its_blank_line_may_have_ended(self, end: bytes) -> None:
        """A CR is a line end by itself: what follows it is not waited for."""
        reader = FrameReader(100)
        frame = (b"data: a" + end + end)[: -1 if end == b"\r\n" else None]
        assert said(list(reader.feed(frame))) == [(b"a", "")]

    def test_several_lines_of_data_are_one_text_with_line_feeds(self) -> None:
        assert said(read([b"data: a\ndata:\ndata:  b\r\n\n"])[0]) == [(b"a\n\n b", "")]

    def test_a_comment_is_a_frame_without_data(self) -> None:
        (chunk,), _ = read([b": keep-alive\n\n"])
        assert (chunk.data, chunk.event, chunk.json) == (None, "", None)
        assert chunk.raw == b": keep-alive\n\n"

    def test_an_event_without_data_has_none(self) -> None:
        assert said(read([b"event: ping\n\n"])[0]) == [(None, "ping")]

    def test_empty_data_is_not_the_same_as_none(self) -> None:
        assert said(read([b"data\n\ndata:\n\ndata: \n\n"])[0]) == [(b"", "")] * 3

    def test_only_one_space_after_the_colon_is_left_out(self) -> None:
        assert said(read([b"data:  a \n\ndata:a\n\n"])[0]) == [(b" a ", ""), (b"a", "")]

    def test_other_fields_say_nothing_and_are_kept_in_the_bytes(self) -> None:
        (chunk,), _ = read([b"id: 7\nretry: 10\ndataset: x\ndata: a\n\n"])
        assert (chunk.data, chunk.event) == (b"a", "")
        assert chunk.raw.startswith(b"id: 7\nretry: 10\n")

    def test_a_byte_order_mark_counts_only_at_the_beginning(self) -> None:
        chunks, _ = read([b"\xef", b"\xbb\xbfdata: a\n\n", b"\xef\xbb\xbfdata: b\n\n"])
        assert said(chunks) == [(b"a", ""), (None, "")]
        assert chunks[0].raw == b"\xef\xbb\xbfdata: a\n\n"

    def test_a_frame_read_without_shortcuts_says_the_same(self) -> None:
        """A frame of one line is not taken apart; a comment before it makes the long way the only one."""
        for data in (b"data: a", b"data: ", b"data:  a:b"):
            quick, slow = parse_frame(data + b"\n\n", data + b"\n\n"), parse_frame(b"", b":\n" + data + b"\n\n")
            assert (quick.data, quick.event) == (slow.data, slow.event)

    def test_what_was_left_unread_is_read_on_from_there(self) -> None:
        """Whoever stops at the end marker does not get the frames before it a second time."""
        reader = FrameReader(100)
        frames = reader.feed(b"data: a\n\ndata: b\n\n")
        assert next(frames).data == b"a"
        frames.close()
        assert reader.rest == b"data: b\n\n"

    def test_the_rest_of_a_stream_that_is_over_may_be_read_as_a_frame(self) -> None:
        reader = FrameReader(100)
        assert reader.unended() is None
        assert [chunk.frame for chunk in reader.feed(b"data: a\n\nevent: b\ndata: c")] == [0]
        last = reader.unended()
        assert last is not None
        assert (last.raw, last.data, last.event, last.frame) == (b"event: b\ndata: c", b"c", "b", 1)


class TestLimit:
    @given(st.integers(1, 30), st.integers(0, 40), st.integers(1, 7))
    def test_a_frame_that_grows_beyond_the_limit_is_refused(self, limit: int, length: int, size: int) -> None:
        reader = FrameReader(limit)
        frame = b"x" * length
        pieces = [frame[at : at + size] for at in range(0, length, size)]
        if length <= limit:
            assert [chunk for piece in pieces for chunk in reader.feed(piece)] == []
            assert reader.rest == frame
        else:
            with pytest.raises(FrameTooLarge, match=f"longer than {limit} bytes"):
                _ = [chunk for piece in pieces for chunk in reader.feed(piece)]

    def test_frames_that_ended_do_not_count(self) -> None:
        reader = FrameReader(12)
        assert len(list(reader.feed(b"data: a\n\n" * 1000 + b"data: b"))) == 1000

    def test_the_frames_before_the_long_one_are_given_first(self) -> None:
        reader = FrameReader(12)
        frames = reader.feed(b"data: a\n\n" + b"x" * 13)
        assert next(frames).data == b"a"
        with pytest.raises(FrameTooLarge):
            next(frames)


class TestChunk:
    @given(
        st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), st.text(max_size=9)), max_size=4),
        st.sampled_from(["", "message_start", "日本"]),
    )
    def test_the_frame_that_says_a_value_is_read_back_as_that_value(self, value: dict[str, Any], event: str) -> None:
        made = Chunk.of(value, event)
        chunks, rest = read([made.raw])
        assert rest == b""
        assert said(chunks) == [(made.data, event)]
        assert chunks[0].json == made.json == value

    @given(st.text(st.characters(exclude_categories=())))
    def test_no_text_can_end_its_frame_or_add_a_line_to_it(self, text: str) -> None:
        (chunk,), rest = read([Chunk.of({"text": text}).raw])
        assert jsontext.parse(chunk.data or b"") == {"text": text}
        assert rest == b""

    @pytest.mark.parametrize("data", [None, b"", b"[DONE]", b"[]", b"1", b'"a"', b"{", b'{"a":\xff}'])
    def test_data_that_is_not_an_object_has_no_json(self, data: bytes | None) -> None:
        assert Chunk(b"", data).json is None

    def test_data_nested_beyond_reason_has_no_json(self) -> None:
        deep = b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH
        assert Chunk(b"", deep).json is not None
        assert Chunk(b"", b'{"a":' + deep + b"}").json is None

    def test_data_is_parsed_once(self) -> None:
        chunk = Chunk(b"", b'{"a":[]}')
        assert chunk.json is chunk.json

    def test_it_is_shown_by_its_bytes(self) -> None:
        assert repr(Chunk(b"data: a\n\n", b"a")) == "Chunk(b'data: a\\n\\n')"
