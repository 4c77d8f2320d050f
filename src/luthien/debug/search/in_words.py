"""A filter in words: each condition as a part of a sentence, with the list that is without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from luthien.debug.search.filters import NAMES, NEEDS, RUNNING, query_of, without
from luthien.store.call_filter import CallFilter

_PARTS = {
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
CHOICE_WORDS: Mapping[str, Mapping[str, str]] = {
    "part": _PARTS,
    "changed": {"any": "something", "none": "nothing"},
    "decided": {"change": "a change"},
    "mode": {"shadow": "in shadow"},
    "without": {
        "model": "model asked for",
        "key": "gateway key",
        "policy": "policy that looked at it",
        "version": "known version",
        "changed_by": "known policy of the change",
        "path": "known path of the change",
    },
}
"""What values are called in the form, where that is not what they are called in addresses."""
_SAID: Mapping[str, Mapping[str, str]] = {
    "changed": {
        "request": "whose request was changed",
        "response": "whose response was changed",
        "any": "that were changed",
        "none": "in which nothing was changed",
    },
    "side": {"request": "on the request", "response": "on the response"},
    "decided": {
        "allow": "to allow",
        "modify": "to modify",
        "annotate": "to annotate",
        "block": "to block",
        "error": "with an error",
        "change": "to change something",
    },
    "mode": {"enforce": "and enforced that", "shadow": "in shadow"},
    "without": {
        "session": "without a session",
        "model": "for which no model was asked",
        "provider": "without a provider",
        "format": "without a format",
        "key": "without a gateway key",
        "policy": "that no policy looked at",
        "version": "in a version that is not known",
        "changed_by": "that were changed, it is not known by which policy",
        "path": "that were changed, it is not known at which path",
    },
}
_BEFORE = {
    "id": "whose id begins with",
    "session": "of session",
    "model": "with model",
    "provider": "to provider",
    "format": "in format",
    "key": "with gateway key",
    "version": "in version",
    "since": "since",
    "until": "before",
    "text": "with the words",
}
# Each of these says more of what stands before it.
_FIRST = ("changed_by", "part", "path", "policy", "decided", *(name for name in NEEDS if name != "decided"))
_ORDER = (*_FIRST, *(name for name in NAMES if name not in _FIRST))


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a filter as the end of a sentence about calls; without it, the list is at `href`."""

    words: str
    value: str
    rest: str
    href: str


def address(base: str, wanted: CallFilter, **others: object) -> str:
    query = query_of(wanted, **others)
    return f"{base}?{query}" if query else base


def conditions(base: str, wanted: CallFilter) -> list[Condition]:
    """The filter in words. Who changed which part is one condition, since it is one question."""
    found = []
    for name in _ORDER:
        if wanted.lacks(name):
            found.append(Condition(_SAID["without"][name], "", "", address(base, without(wanted, name))))
        if name == "without" or getattr(wanted, name) is None or (name == "part" and wanted.changed_by is not None):
            continue
        names = ("changed_by", "part") if name == "changed_by" else (name,)
        found.append(Condition(*_said(wanted, name), address(base, without(wanted, *names))))
    return found


def _said(wanted: CallFilter, name: str) -> tuple[str, str, str]:
    """What stands before the value, the value, and what stands behind it."""
    value = getattr(wanted, name)
    match name:
        case "changed_by":
            return "in which policy", value, f"changed {_PARTS[wanted.part] if wanted.part else 'something'}"
        case "part":
            return f"in which a policy changed {_PARTS[value]}", "", ""
        case "path":
            is_more = wanted.changed_by is not None or wanted.part is not None
            return "at" if is_more else "in which a policy changed something at", value, ""
        case "policy":
            return (
                ("on which policy", value, "decided") if wanted.asks_decision else ("that policy", value, "looked at")
            )
        case "outcome":
            return ("that are running", "", "") if value == (RUNNING,) else ("with outcome", _or(value), "")
        case "since" | "until":
            return _BEFORE[name], f"{value:%Y-%m-%d %H:%M:%S} UTC", ""
    return (_SAID[name][value], "", "") if name in _SAID else (_BEFORE[name], value, "")


def _or(values: tuple[str, ...]) -> str:
    *most, last = values
    return f"{', '.join(most)} or {last}" if most else last
