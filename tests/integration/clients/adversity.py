"""What a provider, or the network before it, may do to a stream, in each wire format."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from tests.integration.clients.account import account_of, without_nulls
from tests.integration.clients.setting import Comparison, ended, final
from tests.playbook import Play, Turn, answers, streams
from tests.wire import (
    anthropic_event,
    anthropic_response,
    anthropic_stream,
    openai_response,
    openai_stream,
    responses_events,
    responses_response,
    responses_stream,
    sse,
)
from tests.wire_tools import joined

CHAT, RESPONSES, MESSAGES = "chat", "responses", "messages"

TEXTS = ("Grüße, ", "世界 👋", " – and good-bye.")
TEXT = "".join(TEXTS)
BEGUN = "".join(TEXTS[:2])
"""What of it has been said when a stream breaks."""
HUGE = "0123456789abcdef" * (64 * 1024)
"""A text of 1 MiB."""

STREAMS: dict[str, Callable[..., list[bytes]]] = {
    CHAT: openai_stream,
    RESPONSES: responses_stream,
    MESSAGES: anthropic_stream,
}
PLAIN = {CHAT: openai_response, RESPONSES: responses_response, MESSAGES: anthropic_response}

COMPLETED = ("completed", None)
INCOMPLETE = ("upstream_error", "upstream_incomplete")
HUNG_UP = ("client_disconnected", "client_disconnected")

_ERROR = {"error": {"message": "Overloaded", "type": "server_error", "param": None, "code": "overloaded"}}
_ERRORS = {
    CHAT: [sse(_ERROR)],
    RESPONSES: responses_events({"type": "error", **_ERROR}),
    MESSAGES: [anthropic_event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})],
}


@dataclass(frozen=True, slots=True)
class Adversity:
    """One way of a stream.

    Args:
        play: it, in a wire format.
        outcome: how the call ends in the record, and with what error, unless the client hangs up before.
        is_same: whether a client is told through the gateway what it is told directly. Where it is not, it is told
            of an error that would have passed unseen, or of the same one in our words.
    """

    play: Callable[[str], Play]
    outcome: tuple[str, str | None] = COMPLETED
    is_same: bool = True
    may_hang_up: bool = False
    stays_open: bool = False

    def check(self, both: Comparison) -> None:
        """That a client was told the same on both ways, or better, and that the record says what it was told."""
        through, direct = both.through, both.direct
        [ending] = ended(both.calls)
        assert ending == self.outcome or (self.may_hang_up and ending == HUNG_UP)
        if self.is_same:
            assert through == direct
        else:
            assert through.said == direct.said
            assert through.failure is not None
            assert both.call["error"]["message"] in through.failure.message.replace("\\'", "'")
        given = final(both.call)
        if isinstance(given, dict) and "error" not in given and ending != HUNG_UP:
            recorded = account_of(given)
            if through.failure is None:
                assert recorded.said == through.said
                assert through.final is None or without_nulls(through.final) == without_nulls(given)
            else:
                assert recorded.text.startswith(through.text)


def unicode_stream(wire_format: str) -> bytes:
    """A whole stream whose text is more than ASCII, unescaped."""
    return b"".join(_unescaped(frame) for frame in STREAMS[wire_format](*TEXTS))


def begun(wire_format: str) -> list[bytes]:
    """The frames of a stream up to its second delta."""
    frames = [_unescaped(frame) for frame in STREAMS[wire_format](*TEXTS)]
    [*_, last] = [at for at, frame in enumerate(frames) if TEXTS[1].encode() in frame and b"delta" in frame][:1]
    return frames[: last + 1]


def _unescaped(frame: bytes) -> bytes:
    lines = frame.decode().split("\n")
    return "\n".join(_unescaped_line(line) for line in lines).encode()


def _unescaped_line(line: str) -> str:
    if not line.startswith("data: {"):
        return line
    return "data: " + json.dumps(json.loads(line[6:]), ensure_ascii=False)


def _whole(change: Callable[[bytes], bytes]) -> Callable[[str], Play]:
    return lambda wire_format: streams(change(unicode_stream(wire_format)))


def _bytewise(wire_format: str) -> Play:
    data = unicode_stream(wire_format)
    return streams(*(data[at : at + 1] for at in range(len(data))))


def _in_characters(wire_format: str) -> Play:
    """Cut inside every character of more than one byte."""
    data, cuts = unicode_stream(wire_format), [0]
    cuts += [at for at, byte in enumerate(data) if byte & 0xC0 == 0x80]
    return streams(*(data[start:end] for start, end in zip(cuts, [*cuts[1:], len(data)], strict=True)))


def _with_comments(data: bytes) -> bytes:
    return b": hello\n\n" + data.replace(b"\n\n", b"\n\n: still here\n\n") + b":\n\n"


def _with_other_fields(data: bytes) -> bytes:
    return data.replace(b"data: ", b"id: 7\nretry: 3000\nx-other: y\ndata: ")


def _in_many_lines(data: bytes) -> bytes:
    """One frame's JSON over several `data:` lines, each with or without the space."""
    return data.replace(b'": "', b'":\ndata:"')


def _with_mark(data: bytes) -> bytes:
    return b"\xef\xbb\xbf: hello\n\n" + data


def _after_begin(*more: bytes) -> Callable[[str], Play]:
    return lambda wire_format: streams(*begun(wire_format), *more)


def _cut(wire_format: str) -> Play:
    """The connection ends in the middle of a frame, without a word."""
    *before, last = begun(wire_format)
    return streams(*before, last, last[:9], then_cut=True)


def _fails(wire_format: str) -> Play:
    return streams(*begun(wire_format), *_ERRORS[wire_format])


def _fails_and_waits(wire_format: str) -> Play:
    return _open_after(*begun(wire_format), *_ERRORS[wire_format])


def stalls(wire_format: str) -> Play:
    return _open_after(*begun(wire_format))


def _open_after(*frames: bytes) -> Play:
    """After these nothing more is heard, and the connection stays open until the other side ends it."""

    async def play(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for frame in frames:
            await turn.chunk(frame)
        async with asyncio.timeout(60):
            await turn.reader.read(1)
        turn.cut()

    return play


def _garbled(wire_format: str) -> Play:
    frames = begun(wire_format)
    whole = unicode_stream(wire_format)
    return streams(*frames, b"event: content_block_delta\ndata: {garbage\n\n", whole[len(joined(frames)) :])


def _huge(wire_format: str) -> Play:
    return streams(joined(STREAMS[wire_format](HUGE)))


def _not_streamed(wire_format: str) -> Play:
    return answers(b"<html>Bad gateway</html>", status=502, headers={"content-type": "text/html"})


def _after_the_end(wire_format: str) -> Play:
    return streams(unicode_stream(wire_format), b": good-bye\n\n")


ADVERSITIES: dict[str, Adversity] = {
    "whole": Adversity(_whole(lambda data: data)),
    "one byte at a time": Adversity(_bytewise),
    "cut inside characters": Adversity(_in_characters),
    "crlf": Adversity(_whole(lambda data: data.replace(b"\n", b"\r\n"))),
    "cr": Adversity(_whole(lambda data: data.replace(b"\n", b"\r"))),
    "comments": Adversity(_whole(_with_comments)),
    "other fields": Adversity(_whole(_with_other_fields)),
    "many lines": Adversity(_whole(_in_many_lines)),
    "byte order mark": Adversity(_whole(_with_mark)),
    "huge frame": Adversity(_huge),
    "words after the end": Adversity(_after_the_end),
    "an error event": Adversity(_fails, ("upstream_error", "upstream_stream_error")),
    "an error event and no end": Adversity(
        _fails_and_waits, ("upstream_error", "upstream_stream_error"), stays_open=True
    ),
    "not a stream": Adversity(_not_streamed, ("upstream_error", "502")),
    "garbage": Adversity(_garbled, may_hang_up=True),
    "no end": Adversity(_after_begin(), INCOMPLETE, is_same=False),
    "nothing at all": Adversity(lambda _: streams(), INCOMPLETE, is_same=False),
    "cut off": Adversity(_cut, ("upstream_error", "upstream_disconnected"), is_same=False),
}


SOME = ("whole", "one byte at a time", "an error event", "no end", "cut off")
"""Enough for a client that shares its parser with another."""
