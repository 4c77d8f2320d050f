"""What the list and the live monitor share: the filter as a form, its conditions in words, and a call as a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from luthien.debug.call.lookup import Listed
from luthien.debug.search.filters import CHOICES, NAMES, RUNNING, query_of
from luthien.debug.web import templates
from luthien.store.call_filter import EVERY_CALL, CallFilter

NEEDS_INDEX = ("text", "changed_by", "part")

_LONGEST = 1000
_SUGGESTED = 20
PART_WORDS = {
    "system": "the system prompt",
    "message": "a message",
    "tool_arguments": "a tool argument",
    "tool_call": "a tool call",
    "tool_result": "a tool result",
    "tools": "the tools on offer",
    "reasoning": "reasoning",
    "refusal": "a refusal",
    "finish_reason": "the finish reason",
    "usage": "the usage",
    "parameter": "a parameter",
    "other": "something else",
}
_CHANGED_WORDS = {
    "request": "whose request was changed",
    "response": "whose response was changed",
    "any": "that were changed",
    "none": "in which nothing was changed",
}
_WORDS = {
    "id": ("whose id begins with", ""),
    "session": ("of session", ""),
    "model": ("with model", ""),
    "provider": ("to provider", ""),
    "format": ("in format", ""),
    "key": ("with gateway key", ""),
    "policy": ("that policy", "looked at"),
    "since": ("since", ""),
    "until": ("before", ""),
    "text": ("with the words", ""),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a filter as the end of a sentence about calls; without it, the list is at `href`."""

    words: str
    value: str
    rest: str
    href: str


def list_values(base: str, wanted: CallFilter, items: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """What the templates of both pages need to know of the filter: `items` are the parameters as they came."""
    return {
        "base": base,
        "wanted": wanted,
        "query": query_of(wanted),
        "conditions": conditions(base, wanted),
        "given": {name: value.strip() for name, value in items if name in NAMES},
        "choices": CHOICES,
        "choice_words": {"part": PART_WORDS},
    }


def address(base: str, wanted: CallFilter, **others: object) -> str:
    query = query_of(wanted, **others)
    return f"{base}?{query}" if query else base


def conditions(base: str, wanted: CallFilter) -> list[Condition]:
    """The filter in words. Who changed which part is one condition, since it is one question."""
    found = []
    if wanted.changed_by or wanted.part:
        part = PART_WORDS[wanted.part] if wanted.part else "something"
        words = (
            ("in which policy", wanted.changed_by, f"changed {part}")
            if wanted.changed_by
            else (f"in which a policy changed {part}", "", "")
        )
        found.append(Condition(*words, address(base, replace(wanted, changed_by=None, part=None))))
    for name in NAMES:
        value = getattr(wanted, name)
        if value is None or name in ("changed_by", "part"):
            continue
        without = address(base, replace(wanted, **{name: None}))
        if name == "changed":
            found.append(Condition(_CHANGED_WORDS[value], "", "", without))
        elif name == "outcome":
            words = ("that are running", "", "") if value == RUNNING else ("with outcome", value, "")
            found.append(Condition(*words, without))
        else:
            before, after = _WORDS[name]
            found.append(Condition(before, _shown(value), after, without))
    return found


def narrowed(base: str, wanted: CallFilter, name: str, value: str | None) -> str | None:
    """The list of those calls that have this value, too; None when no filter can ask for it, or it does already."""
    if not value or len(value) > _LONGEST or "\0" in value or value != value.strip():
        return None
    change: dict[str, Any] = {name: value}
    narrower = replace(wanted, **change)
    return None if narrower == wanted else address(base, narrower)


def suggestions(calls: Iterable[Listed]) -> Mapping[str, list[str]]:
    """What the calls at hand have, for fields that take any text."""
    found: dict[str, dict[str, None]] = {
        name: {} for name in ("model", "session", "provider", "format", "key", "policy")
    }
    for call in calls:
        row = call.row
        for name, value in (
            ("model", row["model_requested"]),
            ("model", row["model_used"]),
            ("session", row["session_id"]),
            ("provider", row["provider"]),
            ("format", row["wire_format"]),
            ("key", row["gateway_key"]),
            *(("policy", each) for each in policies_of(row)),
        ):
            if value and len(value) <= 200 and value.isprintable():
                found[name][value] = None
    return {name: [*values][:_SUGGESTED] for name, values in found.items()}


def policies_of(row: Mapping[str, Any]) -> list[str]:
    """The names of the policies that looked at a call, each once, in order."""
    names = (each.get("name") for each in row["policies"] or () if isinstance(each, dict))
    return [*dict.fromkeys(name for name in names if isinstance(name, str))]


def row_as_html(base: str, wanted: CallFilter, listed: Listed, process: str | None) -> str:
    """A row of the table, as the page of that address has it."""
    show = templates.get_template("call_rows.html").module.call_row  # type: ignore[attr-defined]
    return str(show(listed, wanted, base, process, base.endswith("/live"))).encode("utf-8", "replace").decode()


def _shown(value: object) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else str(value)


templates.globals.update(narrowed=narrowed, address=address, policies_of=policies_of, EVERY_CALL=EVERY_CALL)
