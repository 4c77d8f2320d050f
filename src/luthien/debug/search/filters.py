"""Filters of calls as they stand in addresses and on command lines. Pure.

All the state of a list is in its address: `?model=gpt-4o&outcome=blocked&since=2026-11-01`. Times are ISO 8601, a
date alone is its midnight, and without a zone they are UTC; `1h`, `30m` or `7d` are so long ago.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from urllib.parse import urlencode

from luthien.exchange import Outcome, Side
from luthien.store.call_filter import WITHOUT, CallFilter, Changed, Decided, Mode, Part
from luthien.store.lexemes import MAX_ASKED, asked_words

RUNNING = "running"
CHOICES: Mapping[str, tuple[str, ...]] = {
    "side": tuple(side.value for side in Side),
    "decided": tuple(decided.value for decided in Decided),
    "mode": tuple(mode.value for mode in Mode),
    "outcome": (*(outcome.value for outcome in Outcome), RUNNING),
    "changed": get_args(Changed),
    "part": tuple(part.value for part in Part),
    "without": WITHOUT,
}
"""The values of the parameters that have only certain ones."""
SEVERAL = ("outcome", "without")
"""The parameters that take several values, with commas between them or one by one: a call must have one of them, or,
of `without`, none of all these."""
NEEDS = {
    "version": ("policy", "changed_by"),
    "side": ("policy", "changed_by", "part", "path"),
    "decided": ("policy",),
    "mode": ("policy",),
}
"""The parameters that say more of what others ask for; of these there must be one."""
NAMES = tuple(field.name for field in fields(CallFilter))
"""The parameters, in the order in which addresses have them."""

_MAX_CHARS = 1000
_AGO = re.compile(r"(\d{1,6})\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_ID = re.compile(r"[0-9a-f]{1,32}")
_READ_AS: Mapping[str, Callable[[str], object]] = {"side": Side, "decided": Decided, "mode": Mode, "part": Part}


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
    for name, value in together(items).items():
        if name in others or not value:
            continue
        if name not in NAMES:
            raise FilterError(name, f"there is no such filter; there are {', '.join(NAMES)}")
        wanted[name] = _read(name, value, now or datetime.now(UTC))
    read = CallFilter(**wanted)
    _check_together(read)
    return read


def _check_together(wanted: CallFilter) -> None:
    for name in wanted.without or ():
        if getattr(wanted, name) is not None:
            raise FilterError("without", f"{name} is asked for, too; no call has it and has none")
    for name, needed in NEEDS.items():
        if wanted.asks(name) and not any(wanted.asks(each) for each in needed):
            said = f"of what? Say {' or '.join(needed)}, too"
            raise FilterError("without", f"{name}: {said}") if wanted.lacks(name) else FilterError(name, said)


def together(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Each parameter once: the last of it, or all of it with commas."""
    found: dict[str, str] = {}
    for name, value in items:
        more = name in SEVERAL and found.get(name)
        found[name] = f"{found[name]},{value.strip()}" if more else value.strip()
    return found


def without(wanted: CallFilter, *names: str) -> CallFilter:
    """The filter without some of its conditions, and without those that then say more of nothing."""
    rest = _without_these(wanted, names)
    loose = [name for name, needed in NEEDS.items() if not any(rest.asks(each) for each in needed)]
    return _without_these(rest, loose)


def _without_these(wanted: CallFilter, names: Iterable[str]) -> CallFilter:
    nothing: dict[str, Any] = dict.fromkeys(names)
    lacking = None if "without" in nothing else wanted.without
    nothing["without"] = tuple(each for each in lacking or () if each not in nothing) or None
    return replace(wanted, **nothing)


def filter_items(wanted: CallFilter) -> list[tuple[str, str]]:
    """The parameters that `read_filter` makes this filter of."""
    values = ((name, getattr(wanted, name)) for name in NAMES)
    return [(name, _written(value)) for name, value in values if value is not None]


def query_of(wanted: CallFilter, **others: object) -> str:
    """The query of an address, without its question mark; empty when everything is wanted. None is left out."""
    rest = [(name, str(value)) for name, value in others.items() if value is not None]
    return urlencode([*filter_items(wanted), *rest], errors="replace")


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


def _read(name: str, value: str, now: datetime) -> object:
    if len(value) > _MAX_CHARS:
        raise FilterError(name, f"{len(value)} characters are too many; {_MAX_CHARS} may be")
    if "\0" in value:
        raise FilterError(name, "a NUL character is in no call")
    if name in SEVERAL:
        return _read_several(name, value)
    _check_choice(name, value)
    match name:
        case "id":
            return _read_id(value)
        case "since" | "until":
            return _read_time(name, value, now)
        case "text":
            _check_words(value)
    return _READ_AS[name](value) if name in _READ_AS else value


def _read_several(name: str, text: str) -> tuple[str, ...] | None:
    values = [each.strip() for each in text.split(",") if each.strip()]
    for value in values:
        _check_choice(name, value)
    return tuple(each for each in CHOICES[name] if each in values) or None


def _check_choice(name: str, value: str) -> None:
    if name in CHOICES and value not in CHOICES[name]:
        raise FilterError(name, f"{value!r} is none of {', '.join(CHOICES[name])}")


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
