"""Which payloads Postgres can cast to `jsonb`.

It refuses more than a JSON parser does: `\\u0000`, lone surrogates, numbers beyond its `numeric`, deep nesting.
"""

from __future__ import annotations

import re

from pydantic_core import from_json

MAX_BYTES = 4 * 1024 * 1024
MAX_MARKS = 200_000
"""Brackets and commas. A parser holds the interpreter while it works; beyond this that would stop every stream."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_FOLD = bytes.maketrans(b"123456789E", b"000000000e")
# A `numeric` has at most 131,072 digits before the point and 16,383 after it; a parser is slow long before.
_WILD_NUMBERS = (b"0" * 1000, b"e0000", b"e+0000", b"e-0000")


def is_jsonb_safe(payload: bytes) -> bool:
    """Whether Postgres can cast these bytes to `jsonb` without an error; in doubt, it is said that it cannot."""
    if len(payload) > MAX_BYTES or b"\\u0000" in payload:
        return False
    if payload.count(b",") + payload.count(b"[") + payload.count(b"{") > MAX_MARKS:
        return False
    # What is in a string is no number; strings are cut out only when there is something to be seen.
    if _has_wild_number(payload) and _has_wild_number(_STRING.sub(b"", payload)):
        return False
    try:
        # Refuses lone surrogates, invalid UTF-8, a byte order mark, NaN, and nesting deeper than 200.
        from_json(payload, allow_inf_nan=False, cache_strings="none")
    except ValueError:
        return False
    return True


def _has_wild_number(text: bytes) -> bool:
    """Whether there are 1,000 digits in a row, or an exponent of four."""
    folded = text.translate(_FOLD)
    return any(wild in folded for wild in _WILD_NUMBERS)
