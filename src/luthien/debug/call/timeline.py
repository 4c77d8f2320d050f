"""When the frames of a stream came and went, as its record says (docs/record.md). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from luthien.exchange import EventType, StageRecord
from luthien.formats import jsontext

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One frame, or some neighbours of a long stream. Times are milliseconds from the beginning of the call.

    `given_ms` is when the client was given the last of it, None if it was given nothing. `rewritten` and `dropped`
    count frames. Policies are those that held longest, rewrote last, and dropped last.
    """

    first_frame: int
    frames: int
    arrived_ms: float
    bytes: int
    given_ms: float | None
    given_bytes: int
    held_ms: float = 0.0
    held_by: str | None = None
    rewritten: int = 0
    rewritten_by: str | None = None
    dropped: int = 0
    dropped_by: str | None = None


@dataclass(frozen=True, slots=True)
class Lanes:
    """What the provider sent when, and what the client was given when."""

    frames: int
    frames_per_entry: int
    entries: Sequence[Entry]

    def as_dict(self) -> dict[str, object]:
        return {
            "frames": self.frames,
            "frames_per_entry": self.frames_per_entry,
            "entries": [asdict(entry) for entry in self.entries],
        }

    def summary(self) -> dict[str, object]:
        """What a call's JSON says of it."""
        longest = max(self.entries, key=lambda entry: entry.held_ms, default=None)
        is_held = longest is not None and longest.held_by is not None
        return {
            "frames": self.frames,
            "rewritten": sum(entry.rewritten for entry in self.entries),
            "dropped": sum(entry.dropped for entry in self.entries),
            "longest_hold": {"ms": longest.held_ms, "policy": longest.held_by} if longest and is_held else None,
        }


def lanes_of(records: Sequence[StageRecord]) -> Lanes | None:
    """The lanes of a stream; None when there is no record of them, or none that can be read."""
    payload = next((each.payload for each in records if each.event_type == EventType.RESPONSE_TIMELINE), None)
    if payload is None:
        return None
    try:
        value = jsontext.parse_object(payload)
        return _lanes(value) if value["version"] == _VERSION else None
    except (jsontext.InvalidJson, KeyError, IndexError, TypeError, ValueError):
        return None


def _lanes(value: dict[str, Any]) -> Lanes:
    size, frames, policies = value["frames_per_entry"], value["frames"], value["policies"]
    held = {entry: (position, micros) for entry, position, micros in value["held"]}
    rewritten = {entry: (position, count) for entry, position, count in value["rewritten"]}
    dropped = dict(value["dropped"])
    dropped_by = {entry: policies[position] for entry, position in value.get("dropped_by", ())}
    given_bytes = value.get("given_bytes", value["bytes"])
    entries: list[Entry] = []
    for place, arrived_us in enumerate(accumulate(value["arrived_us"])):
        delay_us = value["delay_us"][place]
        holder, held_us = held.get(place, (None, 0))
        writer, count = rewritten.get(place, (None, 0))
        entries.append(
            Entry(
                first_frame=place * size,
                frames=min(size, frames - place * size),
                arrived_ms=arrived_us / 1000,
                bytes=value["bytes"][place],
                given_ms=None if delay_us is None else (arrived_us + delay_us) / 1000,
                given_bytes=given_bytes[place],
                held_ms=held_us / 1000,
                held_by=None if holder is None else policies[holder],
                rewritten=count,
                rewritten_by=None if writer is None else policies[writer],
                dropped=dropped.get(place, 0),
                dropped_by=dropped_by.get(place),
            )
        )
    return Lanes(frames, size, entries)
