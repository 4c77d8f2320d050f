"""Two calls side by side: what is known of both, and how a stage of one differs from that of the other. Pure.

Payloads are compared as they are; those of different wire formats by the parts that every format has, if asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from luthien.debug.call.completeness import Completeness, reason_in_words
from luthien.debug.call.stages import StageView
from luthien.debug.diff import Differ, diff_payloads
from luthien.debug.diffing.ops import Diff
from luthien.debug.sessions.histories import read_body
from luthien.debug.sessions.said import all_said_in, format_named
from luthien.debug.showing.phrases import listed
from luthien.debug.showing.shown import duration
from luthien.exchange import EventType
from luthien.formats import jsontext
from luthien.store.stored import CallRow

Manner: TypeAlias = Literal["parts", "payload"]
"""Compared by the parts that every wire format has, or as the payloads are."""

NAMES = ("A", "B")
_NONE = "\N{EN DASH}"
_MISSING = {
    "not_reached": "the call ended before this stage",
    "awaited": "this stage is not in the record yet",
    "missing": "this stage is not in the record",
    "partial": "of this stage, nothing can be shown",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is known of both calls, in words; `difference` is None where it is the same."""

    name: str
    a: str
    b: str
    difference: str | None

    def as_dict(self) -> dict[str, object]:
        return {"name": self.name, "a": self.a, "b": self.b, "difference": self.difference}


@dataclass(frozen=True, slots=True)
class Compared:
    """A stage of two calls: what was compared, and the diff, None where one of both is not there."""

    stage: EventType
    states: tuple[str, str]
    manner: Manner
    before: bytes | None
    after: bytes | None
    diff: Diff | None
    notes: tuple[str, ...]
    is_redacted: bool
    """Nothing differs but what was masked before it was recorded."""

    def as_dict(self) -> dict[str, object]:
        return {
            "a": self.states[0],
            "b": self.states[1],
            "compared": None if self.diff is None else self.manner,
            "notes": list(self.notes),
            "redacted": self.is_redacted,
            "diff": self.diff and self.diff.as_dict(),
        }


def facts_of(a: CallRow, b: CallRow, record_a: Completeness, record_b: Completeness) -> list[Fact]:
    """What is known of both calls, in the order in which a page has it."""
    texts: list[tuple[str, Callable[[CallRow], str]]] = [
        ("Outcome", _outcome),
        ("Error", lambda row: ": ".join(filter(None, (row["error_type"], row["error_message"]))) or _NONE),
        ("Model asked for", lambda row: row["model_requested"] or _NONE),
        ("Model used", lambda row: row["model_used"] or _NONE),
        ("Format", lambda row: f"{row['wire_format'] or _NONE}{', streamed' if row['streaming'] else ''}"),
        ("Provider", lambda row: row["provider"] or _NONE),
        ("Policies", _policies),
        ("Changed by policies", _changed),
    ]
    numbers: list[tuple[str, str, Callable[[float | None], str]]] = [
        ("Tokens in", "input_tokens", _count),
        ("Tokens out", "output_tokens", _count),
        ("Time", "duration_ms", duration),
        ("Provider's time", "upstream_ms", duration),
        ("Policies' time", "policy_ms", duration),
        ("First token from the provider", "upstream_first_chunk_ms", duration),
        ("First token to the client", "client_first_chunk_ms", duration),
    ]
    return [
        _text_fact("Session", a["session_id"] or _NONE, b["session_id"] or _NONE),
        *(_text_fact(name, tell(a), tell(b)) for name, tell in texts),
        *(_number_fact(name, a[column], b[column], tell) for name, column, tell in numbers),
        _text_fact("Record", record_a.state.value, record_b.state.value),
    ]


def compare_stage(
    stage: EventType,
    a: StageView,
    b: StageView,
    formats: tuple[str | None, str | None],
    manner: Manner,
    differ: Differ = diff_payloads,
) -> Compared:
    """How one stage of two calls differs. Takes time for large payloads."""
    views = (a, b)
    notes = [f"{name}: {note}." for name, view in zip(NAMES, views, strict=True) for note in _notes(view)]
    before, after = a.payload, b.payload
    states = (a.state, b.state)
    if before is None or after is None:
        return Compared(stage, states, "payload", None, None, None, tuple(notes), is_redacted=False)
    if manner == "parts":
        side = "request" if stage.value.startswith("request") else "response"
        common = [_common(view, name, side) for view, name in zip(views, formats, strict=True)]
        if None in common:
            manner = "payload"
            notes.append("Compared as they are: the parts of one of them cannot be read.")
        else:
            before, after = common
    if manner == "payload" and formats[0] != formats[1]:
        notes.append(f"The wire formats are different ({formats[0]} and {formats[1]}), so most of this is, too.")
    diff = differ(before, after)
    is_redacted = not diff.ops and manner == "payload" and any(map(_is_masked, views)) and _differ_on_the_wire(a, b)
    return Compared(stage, states, manner, before, after, diff, tuple(notes), is_redacted)


def _outcome(row: CallRow) -> str:
    outcome = row["outcome"] or "none yet"
    return f"{outcome} ({row['http_status']})" if row["http_status"] else str(outcome)


def _policies(row: CallRow) -> str:
    policies: list[Mapping[str, Any]] = row["policies"] or []
    return ", ".join(f"{each.get('name')} {each.get('version')}" for each in policies) or "none"


def _changed(row: CallRow) -> str:
    sides = {"the request": row["request_changed"], "the response": row["response_changed"]}
    changed = [side for side, is_changed in sides.items() if is_changed]
    return listed(changed) if changed else "nothing" if None not in sides.values() else _NONE


def _count(number: float | None) -> str:
    return "not reported" if number is None else f"{number:,.0f}"


def _text_fact(name: str, a: str, b: str) -> Fact:
    return Fact(name, a, b, None if a == b else "differs")


def _number_fact(name: str, a: float | None, b: float | None, tell: Callable[[float | None], str]) -> Fact:
    return Fact(name, tell(a), tell(b), _difference(a, b, tell))


def _difference(a: float | None, b: float | None, tell: Callable[[float | None], str]) -> str | None:
    if a == b:
        return None
    if a is None or b is None:
        return f"only {NAMES[a is None]} has it"
    share = f" ({abs(b - a) / a:.0%})" if a else ""
    return f"B {tell(abs(b - a))} {'more' if b > a else 'less'}{share}"


def _notes(view: StageView) -> list[str]:
    """What is to be known of a stage before it is compared."""
    if view.payload is None:
        words = _MISSING.get(view.state, "this stage is not in the record")
        return [f"{words}, because {reason_in_words(view.reason)}" if view.reason else words]
    notes = [view.note] if view.note else []
    if view.state == "gateway_generated":
        notes.append("the gateway answered in the provider's place")
    if _is_masked(view):
        notes.append("credentials are masked in the record, so that a difference in them does not show")
    return notes


def _is_masked(view: StageView) -> bool:
    return view.record is not None and bool(view.record.attributes.get("luthien.credentials_masked"))


def _differ_on_the_wire(a: StageView, b: StageView) -> bool:
    return a.record is not None and b.record is not None and a.record.wire_sha256 != b.record.wire_sha256


def _common(view: StageView, format_name: str | None, side: str) -> bytes | None:
    wire_format = format_named(format_name)
    said = None if wire_format is None else all_said_in(read_body(view.payload), wire_format, side)
    return None if said is None else jsontext.render(said)
