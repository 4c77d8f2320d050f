"""Calls as a table that is as wide as the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from luthien.calls.ink import Ink, cut, one_line, width_of
from luthien.debug.call.completeness import State
from luthien.debug.call.lookup import Listed
from luthien.debug.showing.shown import duration

_MIN_MODEL = 10
_GAP = "  "


class _Column(NamedTuple):
    title: str
    cell: Callable[[Listed], str]
    goes: int
    """In which order columns are left out where there is no room; 0 never."""
    is_number: bool = False


STYLES = {
    "completed": "good",
    "running": "warn",
    "blocked": "bad",
    "policy_error": "bad",
    "upstream_error": "bad",
    "rejected": "bad",
    "client_disconnected": "warn",
}
"""Of outcomes."""


def outcome_of(listed: Listed) -> str:
    """The outcome in the words of the pages."""
    if listed.row["outcome"]:
        return str(listed.row["outcome"])
    return "interrupted" if listed.completeness.state is State.INTERRUPTED else "running"


def _changed(listed: Listed) -> str:
    row = listed.row
    sides = [side for side in ("request", "response") if row[f"{side}_changed"]]
    is_known = listed.completeness.state is State.COMPLETE or len(sides) == 2
    return " ".join([*sides, *([] if is_known else ["?"])])


def _tokens(listed: Listed) -> str:
    given, made = listed.row["input_tokens"], listed.row["output_tokens"]
    return "" if given is None and made is None else f"{_dash(given)} \N{RIGHTWARDS ARROW} {_dash(made)}"


def _dash(count: int | None) -> str:
    return "\N{EN DASH}" if count is None else str(count)


def _record(listed: Listed) -> str:
    state = listed.completeness.state
    return "" if state is State.COMPLETE else state.value


_COLUMNS = (
    _Column("STARTED (UTC)", lambda each: each.row["started_at"].strftime("%m-%d %H:%M:%S"), 5),
    _Column("CALL", lambda each: str(each.row["call_id"]), 0),
    _Column("MODEL", lambda each: one_line(each.row["model_requested"] or "\N{EN DASH}"), 4),
    _Column("OUTCOME", lambda each: outcome_of(each).replace("_", " "), 0),
    _Column("CHANGED", _changed, 6),
    _Column("RECORD", _record, 3),
    _Column("TOKENS", _tokens, 1, True),
    _Column("TIME", lambda each: duration(each.row["duration_ms"]), 2, True),
)


def table(calls: Sequence[Listed], ink: Ink) -> Iterator[str]:
    """The lines, the heading first."""
    cells = {column.title: [column.cell(each) for each in calls] for column in _COLUMNS}
    columns = [column for column in _COLUMNS if any(cells[column.title])]
    widths = {each.title: max(map(width_of, [each.title, *cells[each.title]])) for each in columns}
    columns, widths = _fitted(columns, widths, ink.width)
    yield ink(_GAP.join(_padded(each.title, widths[each.title], each.is_number) for each in columns).rstrip(), "dim")
    for index, call in enumerate(calls):
        told = []
        for column in columns:
            text = _padded(
                cut(cells[column.title][index], widths[column.title]), widths[column.title], column.is_number
            )
            told.append(ink(text, STYLES.get(outcome_of(call)) if column.title == "OUTCOME" else None))
        yield _GAP.join(told).rstrip()


def _fitted(columns: list[_Column], widths: dict[str, int], width: int) -> tuple[list[_Column], dict[str, int]]:
    """The columns that there is room for: models are cut first, then columns left out."""
    kept = [*columns]
    while True:
        spare = width - sum(widths[each.title] for each in kept) - len(_GAP) * (len(kept) - 1)
        if spare >= 0:
            return kept, widths
        if any(each.title == "MODEL" for each in kept) and widths["MODEL"] + spare >= min(
            _MIN_MODEL, widths["MODEL"]
        ):
            return kept, widths | {"MODEL": widths["MODEL"] + spare}
        unneeded = [each for each in kept if each.goes]
        if not unneeded:
            return kept, widths
        kept.remove(min(unneeded, key=lambda each: each.goes))


def _padded(text: str, width: int, is_number: bool) -> str:
    blanks = " " * (width - width_of(text))
    return blanks + text if is_number else text + blanks
