"""Filters of calls as they stand in addresses and on command lines. Pure.

All the state of a list is in its address: `?model=gpt-4o&outcome=blocked&since=2026-11-01`. Times are ISO 8601, a
date alone is its midnight, and without a zone they are UTC; `1h`, `30m` or `7d` are so long ago.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from urllib.parse import urlencode

from luthien.exchange import Outcome
from luthien.store.call_filter import CallFilter, Changed, Part
from luthien.store.lexemes import MAX_ASKED, asked_words

RUNNING = "running"
CHOICES: Mapping[str, tuple[str, ...]] = {
    "outcome": (*(outcome.value for outcome in Outcome), RUNNING),
    "changed": get_args(Changed),
    "part": tuple(part.value for part in Part),
}
"""The values of the parameters that have only certain ones."""
NAMES = tuple(field.name for field in fields(CallFilter))
"""The parameters, in the order in which addresses have them."""

_MAX_CHARS = 1000
_AGO = re.compile(r"(\d{1,6})\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_ID = re.compile(r"[0-9a-f]{1,32}")


class FilterError(ValueError):
    """A parameter of a filter that cannot be read; the message says what it may be."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(f"{parameter}: {message}")
        self.parameter = parameter


def read_filter(
    items: Iterable[tuple[str, str]], also: Iterable[str] = (), now: datetime | None = None
) -> CallFilter:
    """The filter that parameters ask for; one without a value, or with only spaces, asks for nothing.

    Args:
        also: parameters that are somebody else's.
        now: what "1h" ago is counted from.

    Raises:
        FilterError: a value is not one that there can be, or there is no such parameter.
    """
    others = frozenset(also)
    wanted: dict[str, Any] = {}
    for name, value in items:
        if name in others or not value.strip():
            continue
        if name not in NAMES:
            raise FilterError(name, f"there is no such filter; there are {', '.join(NAMES)}")
        wanted[name] = _read(name, value.strip(), now or datetime.now(UTC))
    return CallFilter(**wanted)


def filter_items(wanted: CallFilter) -> list[tuple[str, str]]:
    """The parameters that `read_filter` makes this filter of."""
    values = ((name, getattr(wanted, name)) for name in NAMES)
    return [(name, _written(value)) for name, value in values if value is not None]


def query_of(wanted: CallFilter, **others: object) -> str:
    """The query of an address, without its question mark; empty when everything is wanted. None is left out."""
    rest = [(name, str(value)) for name, value in others.items() if value is not None]
    return urlencode([*filter_items(wanted), *rest], errors="replace")


def _written(value: object) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


def _read(name: str, value: str, now: datetime) -> object:
    if len(value) > _MAX_CHARS:
        raise FilterError(name, f"{len(value)} characters are too many; {_MAX_CHARS} may be")
    if "\0" in value:
        raise FilterError(name, "a NUL character is in no call")
    if name in CHOICES and value not in CHOICES[name]:
        raise FilterError(name, f"{value!r} is none of {', '.join(CHOICES[name])}")
    match name:
        case "id":
            return _read_id(value)
        case "since" | "until":
            return _read_time(name, value, now)
        case "part":
            return Part(value)
        case "text":
            _check_words(value)
    return value


def _check_words(text: str) -> None:
    words = asked_words(text)
    if not words:
        raise FilterError("text", f"{text!r} has no word to search for")
    if len(words) > MAX_ASKED:
        raise FilterError("text", f"{len(words)} words are too many; {MAX_ASKED} may be")


def _read_id(value: str) -> str:
    digits = value.lower().replace("-", "")
    if not _ID.fullmatch(digits):
        raise FilterError("id", f"{value!r} is not how an id begins: hexadecimal digits, 32 at most")
    return digits


def _read_time(name: str, value: str, now: datetime) -> datetime:
    ago = _AGO.fullmatch(value)
    try:
        if ago:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise FilterError(name, f"{value!r} is no time: say 2026-11-22, 2026-11-22T15:00Z or 1h") from None
