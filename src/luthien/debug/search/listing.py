"""What the list and the live monitor share: the filter as a form, and a call as a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from luthien.debug.call.lookup import Listed
from luthien.debug.search.filters import CHOICES, NAMES, SEVERAL, query_of, together, without
from luthien.debug.search.in_words import CHOICE_WORDS, address, conditions
from luthien.debug.web import templates
from luthien.store.call_filter import EVERY_CALL, NEEDS_INDEX, CallFilter

_LONGEST = 1000
_SUGGESTED = 20


def list_values(base: str, wanted: CallFilter, items: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """What the templates of both pages need to know of the filter: `items` are the parameters as they came."""
    return {
        "base": base,
        "wanted": wanted,
        "query": query_of(wanted),
        "conditions": conditions(base, wanted),
        "given": {name: value for name, value in together(items).items() if value and name in NAMES},
        "choices": CHOICES,
        "choice_words": CHOICE_WORDS,
        "needs_index": NEEDS_INDEX,
    }


def narrowed(base: str, wanted: CallFilter, name: str, value: str | None) -> str | None:
    """The list of those calls that have this value, too; None when no filter can ask for it, or it does already."""
    if not value or len(value) > _LONGEST or "\0" in value or value != value.strip():
        return None
    asked: Any = (value,) if name in SEVERAL else value
    if getattr(wanted, name) != asked or wanted.lacks(name):
        wanted = without(wanted, name)  # and what was said of another one
    change: dict[str, Any] = {name: asked}
    narrower = replace(wanted, **change)
    return None if narrower == wanted else address(base, narrower)


def suggestions(calls: Iterable[Listed]) -> Mapping[str, list[str]]:
    """What the calls at hand have, for fields that take any text."""
    found: dict[str, dict[str, None]] = {
        name: {} for name in ("model", "session", "provider", "format", "key", "policy", "version")
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
            *(("version", each) for each in _each_policys(row, "version")),
        ):
            if value and len(value) <= 200 and value.isprintable():
                found[name][value] = None
    return {name: [*values][:_SUGGESTED] for name, values in found.items()}


def policies_of(row: Mapping[str, Any]) -> list[str]:
    """The names of the policies that looked at a call, each once, in order."""
    return _each_policys(row, "name")


def _each_policys(row: Mapping[str, Any], key: str) -> list[str]:
    values = (each.get(key) for each in row["policies"] or () if isinstance(each, dict))
    return [*dict.fromkeys(value for value in values if isinstance(value, str))]


def row_as_html(base: str, wanted: CallFilter, listed: Listed, process: str | None) -> str:
    """A row of the table, as the page of that address has it."""
    show = templates.get_template("call_rows.html").module.call_row  # type: ignore[attr-defined]
    return str(show(listed, wanted, base, process, base.endswith("/live"))).encode("utf-8", "replace").decode()


templates.globals.update(narrowed=narrowed, address=address, policies_of=policies_of, EVERY_CALL=EVERY_CALL)
