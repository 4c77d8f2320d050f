"""Server-sent events, byte for byte.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from luthien.formats import jsontext

# A blank line ends a frame. The groups are atomic, so that one CRLF is never taken for two line ends.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class FrameTooLarge(ValueError):
    """A frame grew beyond the limit without ending."""


class Chunk:
    """One frame of an event stream: the very bytes, and what they say.

    `raw` includes the blank line that ends the frame. `data` is None for a frame that carries no data, such
    as a comment or a keep-alive. A chunk is never changed; a policy that rewrites one makes another.
    """

    __slots__ = ("_json", "data", "event", "raw")

    def __init__(self, raw: bytes, data: bytes | None, event: str = "") -> None:
        self.raw = raw
        self.data = data
        self.event = event
        self._json: dict[str, Any] | bool | None = False

    @property
    def json(self) -> dict[str, Any] | None:
        """The data as a JSON object; None when it is anything else. Parsed once: for reading only."""
        if isinstance(self._json, bool):
            try:
                self._json = jsontext.parse_object(self.data) if self.data else None
            except jsontext.InvalidJson:
                self._json = None
        return self._json

    @classmethod
    def of(cls, value: dict[str, Any], event: str = "") -> Chunk:
        """The frame that says `value`."""
        data = jsontext.render(value)
        head = b"event: %s\n" % event.encode() if event else b""
        return cls(b"%sdata: %s\n\n" % (head, data), data, event)

    def __repr__(self) -> str:
        return f"Chunk({self.raw!r})"


class FrameReader:
    """Splits a byte stream into frames, wherever the network happened to cut it.

    Args:
        max_bytes: how long one frame may become.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = b""
        self._at_start = True

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The frames that `data` completes.

        Raises:
            FrameTooLarge: the unfinished frame is longer than `max_bytes`.
        """
        # A blank line is at most four bytes, so at most its first three were seen before.
        search_from = max(0, len(self._buffer) - 3)
        buffer = self._buffer + data if self._buffer else data
        start = 0
        while match := _BLANK_LINE.search(buffer, max(start, search_from)):
            yield self._parse(buffer[start : match.end()])
            start = match.end()
        self._buffer = buffer[start:]
        if len(self._buffer) > self._max_bytes:
            raise FrameTooLarge(f"a frame of the stream is longer than {self._max_bytes} bytes")

    @property
    def rest(self) -> bytes:
        """What was received of a frame that has not ended."""
        return self._buffer

    def _parse(self, raw: bytes) -> Chunk:
        if self._at_start:
            self._at_start = False
            return parse_frame(raw, raw.removeprefix(_BOM))
        return parse_frame(raw, raw)


def parse_frame(raw: bytes, text: bytes) -> Chunk:
    """The chunk for one frame; `text` is `raw` without a byte order mark."""
    one_line = text.startswith(b"data: ") and text.endswith(b"\n\n") and text.find(b"\n") == len(text) - 2
    if one_line and b"\r" not in text:
        return Chunk(raw, text[6:-2])
    data: list[bytes] = []
    event = ""
    for line in _LINE_END.split(text):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value.decode("utf-8", "replace")
    return Chunk(raw, b"\n".join(data) if data else None, event)
