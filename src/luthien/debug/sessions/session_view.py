"""What the page of a session shows of each call: what was added, what policies changed, what was answered. Pure.

Calls are shown one after the other, in order of time, and nothing is kept of a payload but what is shown of it, and a
hash of each message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from luthien.debug.call.call_json import links, row_as_dict
from luthien.debug.call.call_view import view_call
from luthien.debug.call.completeness import state_of
from luthien.debug.call.lookup import Found, Listed
from luthien.debug.call.stages import StageView, some_stages
from luthien.debug.diff import Differ, diff_payloads
from luthien.debug.sessions.histories import history_of, read_body
from luthien.debug.sessions.said import (
    Said,
    echoed,
    format_named,
    instructions_in,
    said_in_items,
    said_in_response,
    text_of,
)
from luthien.debug.sessions.turns import Threads, Turn
from luthien.debug.showing.phrases import counted, listed
from luthien.exchange import EventType
from luthien.formats.format import WireFormat
from luthien.store.stored import CallRow

MAX_SHOWN = 12
"""So many parts of what was added are shown, the last ones."""

NEEDED = (EventType.REQUEST_ORIGINAL, EventType.RESPONSE_FINAL, EventType.RESPONSE_PARTIAL)
"""The kinds of record whose payloads say what a call adds to others, and is answered."""

_NAMED_SETTINGS = 4
_MAX_NAME_CHARS = 40
_UNTOLD = frozenset({"metadata", "stream", "stream_options"})
_STATES = {
    "not_reached": "none: the call ended before",
    "awaited": "not in the record yet",
    "missing": "not in the record",
    "partial": "as far as checkpoints have it",
    "gateway_generated": "by the gateway, in the provider's place",
}


@dataclass(frozen=True, slots=True)
class ShownCall:
    """A call in its session. What could not be read is told by `note`, and has no turn."""

    row: CallRow
    listed: Listed
    number: int
    """Counted from 1 in the session; 0 when that is not known."""
    words: str
    turn: Turn | None = None
    thread: str | None = None
    follows: UUID | None = None
    instructions: tuple[Said, ...] = ()
    added: tuple[Said, ...] = ()
    hidden: int = 0
    """How many parts of what was added are not among `added`."""
    verdict: str | None = None
    answer: tuple[Said, ...] = ()
    answer_note: str | None = None

    def as_dict(self) -> dict[str, object]:
        call_id = self.row["call_id"]
        turn = self.turn
        return {
            **row_as_dict(self.row),
            "completeness": self.listed.completeness.as_dict(),
            "number": self.number or None,
            "thread": self.thread,
            "turn": turn
            and {
                "how": turn.how,
                "follows": None if self.follows is None else str(self.follows),
                "is_branch": turn.is_branch,
                "dropped": list(turn.step.dropped) if turn.step else [],
                "added": list(turn.step.added) if turn.step else [],
                "settings": turn.settings,
            },
            "words": self.words,
            "instructions": [said.as_dict() for said in self.instructions],
            "added": [said.as_dict() for said in self.added],
            "hidden": self.hidden,
            "verdict": self.verdict,
            "answer": {"note": self.answer_note, "said": [said.as_dict() for said in self.answer]},
            "links": links(call_id) | _compare_link(self.follows, call_id),
        }


def _compare_link(follows: UUID | None, call_id: UUID) -> dict[str, str]:
    return {"compare": f"/debug/compare?a={follows}&b={call_id}"} if follows else {}


@dataclass(frozen=True, slots=True)
class _Known:
    """A call that others may go on from."""

    call_id: UUID
    answer: tuple[Said, ...]
    items: int


class SessionViewer:
    """Shows calls in order of time. Those before a page are only noted."""

    def __init__(self, differ: Differ = diff_payloads) -> None:
        self._differ = differ
        self._threads = Threads()
        self._known: list[_Known] = []

    def skip(self, shown: Listed, number: int, note: str) -> ShownCall:
        """A call whose payloads are not looked at."""
        self._threads.place(None)
        self._known.append(_Known(shown.row["call_id"], (), 0))
        return ShownCall(shown.row, shown, number, note)

    def note(self, found: Found) -> None:
        """A call that a page does not show, and that those on it may go on from."""
        self._place(found)

    def show(self, listed: Listed, number: int, found: Found) -> ShownCall:
        """A call of the page. Takes time for large payloads."""
        placed = self._place(found)
        turn, body, wire_format = placed.turn, placed.body, placed.wire_format
        verdict = view_call(found.call, found.evidence, self._differ).verdict
        row = listed.row
        if turn is None or wire_format is None:
            words = "its request is no conversation" if placed.is_read else "its request is not in the record"
            return ShownCall(
                row, listed, number, words, verdict=verdict, answer=placed.answer, answer_note=placed.answer_note
            )
        known = None if turn.follows is None else self._known[turn.follows]
        has_step = turn.step is not None
        places = turn.step.added if turn.step else tuple(range(placed.items))
        added = echoed(said_in_items(body, places[-MAX_SHOWN:], wire_format), known.answer if known else ())
        are_new = not has_step or bool({"system", "instructions"} & set(turn.settings))
        return ShownCall(
            row,
            listed,
            number,
            words_of(turn, placed.items, known.items if known else 0, _noun(body)),
            turn,
            thread_name(turn.thread),
            known.call_id if known else None,
            tuple(instructions_in(body, wire_format)[:MAX_SHOWN]) if are_new else (),
            tuple(added[-MAX_SHOWN:]),
            max(0, len(places) - MAX_SHOWN) + max(0, len(added) - MAX_SHOWN),
            verdict,
            placed.answer,
            placed.answer_note,
        )

    def _place(self, found: Found) -> _Placed:
        call = found.call
        names = (EventType.REQUEST_ORIGINAL, EventType.RESPONSE_FINAL)
        stages = some_stages(call, names, state_of(found.evidence))
        request, response = (stages[name] for name in names)
        wire_format = format_named(call.row["wire_format"])
        body = None if request.is_capped else read_body(request.payload)
        history = None if wire_format is None else history_of(body)
        answer = _answer(response, wire_format)
        turn = self._threads.place(history, text_of(answer))
        items = len(history.items) if history else 0
        self._known.append(_Known(call.row["call_id"], answer, items))
        return _Placed(turn, body, wire_format, request.payload is not None, items, answer, _answer_note(response))


@dataclass(frozen=True, slots=True)
class _Placed:
    turn: Turn | None
    body: Any
    wire_format: WireFormat | None
    is_read: bool
    items: int
    answer: tuple[Said, ...]
    answer_note: str | None


def _answer(response: StageView, wire_format: WireFormat | None) -> tuple[Said, ...]:
    if wire_format is None:
        return ()
    return tuple(said_in_response(read_body(response.payload), wire_format)[:MAX_SHOWN])


def _answer_note(response: StageView) -> str | None:
    """What is to be known of an answer before it is read."""
    return _STATES.get(response.state) or response.note


def thread_name(number: int) -> str:
    """A, B, … Z, AA, AB, …"""
    name = ""
    while number >= 0:
        number, letter = divmod(number, 26)
        name, number = chr(ord("A") + letter) + name, number - 1
    return name


def words_of(turn: Turn, items: int, before: int, noun: str) -> str:
    """What a call adds to the one that it goes on from; `items` and `before` count those of the two histories."""
    dropped, added = (len(turn.step.dropped), len(turn.step.added)) if turn.step else (before, items)
    match turn.how:
        case "first":
            told = f"a thread begins: {counted(items, noun)}"
        case "began_anew":
            told = f"a thread begins, with the instructions of an earlier one: {counted(items, noun)}"
        case "same":
            told = "the same request again"
        case "continued":
            told = f"{counted(added, noun)} added"
        case "went_back":
            told = f"went back: the last {noun if dropped == 1 else counted(dropped, noun)} dropped, {added} added"
        case "rewritten":
            told = f"history rewritten: {counted(dropped, noun)} dropped, {added} added"
        case "summed_up":
            told = f"history summed up: {counted(dropped, noun)} dropped, and an answer stands in their place"
    branch = "branches off: " if turn.is_branch else ""
    settings = [name for name in turn.settings if name not in _UNTOLD]
    return branch + told + (f"; {_settings_in_words(settings)}" if settings else "")


def _settings_in_words(names: list[str]) -> str:
    clipped = [name if len(name) <= _MAX_NAME_CHARS else f"{name[:_MAX_NAME_CHARS]}…" for name in names]
    if len(clipped) > _NAMED_SETTINGS:
        return f"{len(clipped)} other fields differ"
    return f"{listed(clipped)} {'differs' if len(clipped) == 1 else 'differ'}"


def _noun(body: Any) -> str:
    return "message" if isinstance(body, dict) and "messages" in body else "input item"
