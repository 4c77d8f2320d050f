"""Whether a stream keeps to its protocol: the words, and what all wire formats have in common.

A rule that nobody has a right to break is told apart from a quirk: what some provider is known to do, and what
clients are used to. Event types and fields that are not known break no rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from luthien.formats import jsontext
from luthien.formats.sse import Chunk, FrameReader

MAX_DETAIL = 120
"""How many characters the detail of a violation may have."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a stream broke. The detail has numbers and names of the protocol, and nothing of the payload."""

    rule: str
    detail: str
    is_quirk: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """`name` is stable and in snake_case; `meaning` says what holds of a stream that keeps it."""

    name: str
    meaning: str
    is_quirk: bool = False

    def broken(self, detail: str = "") -> Violation:
        return Violation(self.name, detail[:MAX_DETAIL], self.is_quirk)


NOT_JSON = Rule("not_json", "data is a JSON object")
UNFINISHED_FRAME = Rule("unfinished_frame", "the last frame ends with a blank line")
END_MISSING = Rule("end_missing", "the stream ends with its end marker, or with an error")
AFTER_END = Rule("after_end", "nothing comes after the end")
EVENT_NAME = Rule("event_name", "the event of a frame is called as the type in its data")
EVENT_NAME_MISSING = Rule("event_name_missing", "each frame has an event", is_quirk=True)
DONE_MARKER = Rule("done_marker", "`[DONE]` ends only the streams of Chat Completions", is_quirk=True)
TOOL_ARGUMENTS = Rule("tool_arguments", "arguments that a model did finish are JSON", is_quirk=True)

COMMON_RULES = (NOT_JSON, UNFINISHED_FRAME, END_MISSING, AFTER_END)
EVENT_RULES = (*COMMON_RULES, EVENT_NAME, EVENT_NAME_MISSING, DONE_MARKER, TOOL_ARGUMENTS)


class Validator(Protocol):
    """Watches one stream. Whatever it is shown, it does not raise."""

    def check(self, chunk: Chunk) -> Sequence[Violation]:
        """The rules that the stream breaks with its next frame."""
        ...

    def end(self) -> Sequence[Violation]:
        """The rules that it breaks by ending here."""
        ...


class Findings:
    """What a validator has found and not yet told."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[Violation] = []

    def add(self, rule: Rule, detail: str = "") -> None:
        self.found.append(rule.broken(detail))

    def told(self) -> Sequence[Violation]:
        told, self.found = self.found, []
        return told


class Growing:
    """A text that comes in pieces; cheap to copy."""

    __slots__ = ("pieces",)

    def __init__(self, *pieces: str) -> None:
        self.pieces = [*pieces]

    def __deepcopy__(self, memo: dict[int, object]) -> Growing:
        return Growing(*self.pieces)

    def whole(self) -> str:
        self.pieces[:] = ["".join(self.pieces)]
        return self.pieces[0]


def is_same(one: str, other: str) -> bool:
    """Whether two texts are the same to those who read them in JSON, where a character may be two halves."""
    return one == other or jsontext.paired(one) == jsontext.paired(other)


def is_done(chunk: Chunk) -> bool:
    return chunk.data is not None and chunk.data.strip() == b"[DONE]"


def check_event_name(chunk: Chunk, kind: str, findings: Findings) -> None:
    """In formats whose data has a `type`."""
    if not chunk.event:
        findings.add(EVENT_NAME_MISSING)
    elif chunk.event != kind:
        findings.add(EVENT_NAME)


def violations_of(
    validator: Validator, pieces: Iterable[bytes], max_frame_bytes: int = 64 * 1024 * 1024
) -> list[Violation]:
    """What the bytes of a whole stream break, however they were cut.

    Raises:
        FrameTooLarge: a frame is longer than `max_frame_bytes`.
    """
    reader = FrameReader(max_frame_bytes)
    found = [each for piece in pieces for chunk in reader.feed(piece) for each in validator.check(chunk)]
    if reader.rest.strip():
        found.append(UNFINISHED_FRAME.broken(f"{len(reader.rest)} bytes"))
    return [*found, *validator.end()]
