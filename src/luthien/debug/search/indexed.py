"""What of a call is indexed: its words, what filters ask for, what was decided, and what was changed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from luthien.debug.call.compared import Compared
from luthien.debug.search.changed import changes_of
from luthien.debug.search.decided import decisions_of
from luthien.debug.search.texts import Breathe, words_in
from luthien.store.calls import as_text
from luthien.store.facets import change_facets, decision_facets, facet, lacking, time_facets
from luthien.store.index import Decision, Entry, ReadCall
from luthien.store.stored import CallRow

ALGO = 2
"""The version of all this; a call that is indexed by another one is indexed anew."""
MAX_CHANGES = 500
"""Rows of `conversation_changes`; facets are made of all changes."""
MAX_PATHS = 100
"""Different ones that filters may ask for, each with who changed what there."""


def entry_of(call: ReadCall, compared: Compared | None, breathe: Breathe = lambda: None) -> Entry:
    """What is indexed of a call.

    Args:
        compared: its stages and what differs; None if its payloads are too large to be compared here.
        breathe: called again and again, so that others get a turn.
    """
    capped = [] if compared is not None else ["payloads"]
    changes = list(changes_of(call, compared))
    decisions = tuple(decisions_of(call.stored.records))
    words, is_full = words_in(call, compared, breathe)
    if is_full:
        capped.append("text")
    if len(changes) > MAX_CHANGES:
        capped.append("changes")
    told = {(each.side, each.part, each.path, each.policy, each.version): None for each in changes}
    if len(told) > MAX_PATHS:
        capped.append("paths")
    facets = {*row_facets(call.row), *_facets_of_decisions(decisions), *_facets_of_changes(told)}
    lexemes = (*sorted(facets), *sorted(words))
    return Entry(ALGO, lexemes, tuple(changes[:MAX_CHANGES]), decisions, tuple(capped))


def failed_entry(row: CallRow, error: str) -> Entry:
    """Of a call that cannot be indexed, what filters ask for."""
    return Entry(ALGO, tuple(sorted(row_facets(row))), error=as_text(error)[:1000])


def row_facets(row: CallRow) -> Iterator[str]:
    """What the row of a call says that filters ask for."""
    yield from time_facets(row["call_id"])
    yield facet("outcome", row["outcome"] or "running")
    named = {
        "session": row["session_id"],
        "provider": row["provider"],
        "format": row["wire_format"],
        "key": row["gateway_key"],
    }
    yield from (facet(name, value) if value else lacking(name) for name, value in named.items())
    yield from {facet("model", row[column]) for column in ("model_requested", "model_used") if row[column]}
    if not row["model_requested"]:
        yield lacking("model")
    for policy in row["policies"] or ():
        yield facet("policy", str(policy.get("name", "")))
    if row["outcome"] is not None and not row["policies"]:
        yield lacking("policy")
    sides = [side for side in ("request", "response") if row[f"{side}_changed"]]
    yield from (facet("changed", side) for side in sides)
    if sides:
        yield facet("changed", "any")
    elif row["outcome"] is not None:
        yield facet("changed", "none")


def _facets_of_decisions(decisions: Iterable[Decision]) -> Iterator[str]:
    told = {(each.side, each.action, each.policy, each.version, each.shadow, each.changed) for each in decisions}
    for *said, is_shadow, is_changing in told:
        yield from decision_facets(*said, is_shadow=is_shadow, is_changing=is_changing)


def _facets_of_changes(told: Iterable[tuple[str, str, str | None, str | None, str | None]]) -> Iterator[str]:
    for number, (side, part, path, policy, version) in enumerate(told):
        yield from change_facets(side, part, (path or "") if number < MAX_PATHS else None, policy, version)
