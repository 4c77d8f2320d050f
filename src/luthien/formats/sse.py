"""Server-sent events, byte for byte.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import suppress
from typing import Any

from luthien.formats import jsontext

# A blank line ends a frame. The groups are atomic, so that one CRLF is never taken for two line ends.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
MAX_DEPTH = 100
"""How deep what a frame says may nest: beyond all use, and before anybody who walks it exhausts the stack."""


class FrameTooLarge(ValueError):
    """A frame grew beyond the limit without ending."""


class Chunk:
    """One frame of an event stream: the very bytes, and what they say.

    `raw` includes the blank line that ends the frame. `data` is None for a frame that carries no data, such
    as a comment or a keep-alive. A chunk is never changed; a policy that rewrites one makes another.
    `frame` counts the provider's frames from 0: the one that this is, or that it stands for; -1 when nobody counts.
    """

    __slots__ = ("_json", "data", "event", "frame", "raw")

    def __init__(self, raw: bytes, data: bytes | None, event: str = "", frame: int = -1) -> None:
        self.raw = raw
        self.data = data
        self.event = event
        self.frame = frame
        self._json: dict[str, Any] | bool | None = False

    @property
    def json(self) -> dict[str, Any] | None:
        """The data as a JSON object; None when it is anything else, or nested beyond reason.

        Parsed once: for reading only.
        """
        if isinstance(self._json, bool):
            self._json = None
            with suppress(jsontext.InvalidJson):
                self._json = jsontext.parse_object(self.data, max_depth=MAX_DEPTH) if self.data else None
        return self._json

    @classmethod
    def of(cls, value: dict[str, Any], event: str = "") -> Chunk:
        """The frame that says `value`."""
        data = jsontext.render(value)
        head = b"event: %s\n" % event.encode() if event else b""
        return cls(b"%sdata: %s\n\n" % (head, data), data, event)

    def standing_for(self, frame: int) -> Chunk:
        """The same chunk in the place of that frame of the provider."""
        twin = Chunk(self.raw, self.data, self.event, frame)
        twin._json = self._json
        return twin

    def __repr__(self) -> str:
        return f"Chunk({self.raw!r})"


class FrameReader:
    """Splits a byte stream into frames, wherever the network happened to cut it.

    Args:
        max_bytes: how long one frame may become.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._at_start = True
        # The last frame ended with the last byte received, a CR: an LF that comes next belongs to it.
        self._after_cr = False
        self._skipped = 0
        self._count = 0

    def feed(self, data: bytes) -> Generator[Chunk, None, None]:
        """The frames that `data` completes.

        Raises:
            FrameTooLarge: the unfinished frame is longer than `max_bytes`.
        """
        buffer, start = self._buffer, 0
        if data and self._after_cr:
            self._skipped, self._after_cr = int(data.startswith(b"\n")), False
        # A blank line is at most four bytes, so at most its first three were seen before.
        search_from = max(self._skipped, len(buffer) - 3)
        buffer += data
        try:
            while match := _BLANK_LINE.search(buffer, search_from):
                raw = bytes(buffer[start : match.end()])
                start = search_from = match.end()
                self._skipped = 0
                yield self._parse(raw)
        finally:
            self._after_cr = self._after_cr or (0 < start == len(buffer) and buffer.endswith(b"\r"))
            del buffer[:start]
        if len(buffer) > self._max_bytes:
            raise FrameTooLarge(f"a frame of the stream is longer than {self._max_bytes} bytes")

    @property
    def rest(self) -> bytes:
        """What was received of a frame that has not ended."""
        return bytes(self._buffer)

    def unended(self) -> Chunk | None:
        """The rest, as if its blank line had come; None when there is none. For a stream that is over."""
        return self._parse(self.rest) if self._buffer else None

    def _parse(self, raw: bytes) -> Chunk:
        frame, self._count = self._count, self._count + 1
        if self._at_start:
            self._at_start = False
            return parse_frame(raw, raw.removeprefix(_BOM), frame)
        return parse_frame(raw, raw, frame)


def parse_frame(raw: bytes, text: bytes, frame: int = -1) -> Chunk:
    """The chunk for one frame; `text` is `raw` without a byte order mark."""
    one_line = text.startswith(b"data: ") and text.endswith(b"\n\n") and text.find(b"\n") == len(text) - 2
    if one_line and b"\r" not in text:
        return Chunk(raw, text[6:-2], "", frame)
    data: list[bytes] = []
    event = ""
    for line in _LINE_END.split(text):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value.decode("utf-8", "replace")
    return Chunk(raw, b"\n".join(data) if data else None, event, frame)
