"""JSON values whose numbers keep their text, so that two documents compare as they were written.

`json.loads` makes 1.0 of `1.00`, infinity of `1e400`, and drops a repeated key without a word. Here every
number is a `Number` that holds its literal (no Python int or float occurs in a parsed document, so `true` can
never equal `1`), and an object with repeated keys remembers every occurrence. Plain `==` between two parsed
values is therefore strict in types and exact in numbers; it ignores only the order of keys, shadowed
occurrences and the spelling of strings. Everything that walks a whole value here is iterative: nesting costs
memory, never a RecursionError. Pointers are those of RFC 6901.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import NamedTuple, TypeAlias

Json: TypeAlias = "bool | str | Number | list[Json] | dict[str, Json] | None"

_LITERAL = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_SURE_CHARS = 15
_MARKS = b",[{"
_CONSTANTS = ("NaN", "Infinity", "-Infinity")


@dataclass(frozen=True, slots=True)
class Number:
    """A JSON number as it was written; also the tokens NaN and ±Infinity, which Python's parser lets through."""

    text: str


class Repeated(dict[str, Json]):
    """An object in which a key occurs more than once: the last occurrence counts, as in `json.loads`."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, Json]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


class Numbers(dict[str, Number]):
    """The numbers of the documents read with it, each literal once: equal ones are identical, so quick to compare."""

    def __missing__(self, text: str) -> Number:
        number = self[text] = Number(text)
        return number


def parse(text: str, numbers: Numbers | None = None) -> Json:
    """The value of a JSON text. Raises ValueError if it is none, RecursionError beyond the parser's depth."""
    number = (Numbers() if numbers is None else numbers).__getitem__
    value: Json = json.loads(
        text, object_pairs_hook=_object, parse_int=number, parse_float=number, parse_constant=number
    )
    return value


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else Repeated(pairs)


def repeats(value: Mapping[str, Json]) -> list[Json]:
    """Every occurrence, as [key, value], of the keys that an object repeats."""
    if not isinstance(value, Repeated):
        return []
    times = Counter(key for key, _ in value.pairs)
    return [[key, item] for key, item in value.pairs if times[key] > 1]


def count_marks(payload: bytes, enough: int) -> int:
    """How many commas and opening brackets a JSON payload has, without parsing it: about as many as values.

    Those in strings are left out if there would be more than `enough` otherwise.
    """
    count = _count_marks(payload)
    return count if count <= enough else _count_marks(_STRING.sub(b"", payload))


def _count_marks(payload: bytes) -> int:
    # Once through all of it, which is several times as quick as a count for each mark.
    return len(payload) - len(payload.translate(None, _MARKS))


def count_scalars(value: Json) -> int:
    """How many strings, numbers, booleans and nulls a value holds; an empty object or array holds none."""
    count, todo = 0, [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
        else:
            count += 1
    return count


def is_deeper(value: Json, limit: int) -> bool:
    """Whether objects and arrays nest more than `limit` levels deep."""
    level = [value]
    for _ in range(limit + 1):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return True


def _children(value: Json) -> Iterable[Json]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def is_same(before: Json, after: Json) -> bool:
    """Equality of two parsed values, however deep: as text where the interpreter's own comparison gives up."""
    try:
        return before == after
    except RecursionError:
        return canonical(before) == canonical(after)


def is_same_number(before: Number, after: Number) -> bool:
    """Whether two literals spell one value: `1.0` and `1.00` do; `1` and `1.0`, `0.0` and `-0.0` do not."""
    if ("." in before.text or "e" in before.text.lower()) != ("." in after.text or "e" in after.text.lower()):
        return False
    return _exact(before.text) == _exact(after.text)


def fits_double(number: Number) -> bool:
    """Whether a reader that makes a double of every number, as JavaScript does, still has this one exactly."""
    text = number.text
    if len(text) <= _SURE_CHARS and "e" not in text and "E" not in text:
        return text not in _CONSTANTS
    as_double = float(text)
    shortest = repr(as_double)
    return shortest == text or (math.isfinite(as_double) and _exact(shortest) == _exact(text))


def has_inexact_number(value: Json) -> bool:
    """Whether a value holds a number that does not survive a double."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, Number) and not fits_double(item):
            return True
        todo.extend(_children(item))
    return False


def _exact(literal: str) -> tuple[str, str, int]:
    """Sign, significant digits and power of ten; of an absurd exponent, or of no number, the text itself."""
    match = _LITERAL.fullmatch(literal)
    if match is None or len(match[4] or "") > 18:
        return ("", literal, 0)
    fraction = match[3] or ""
    digits = (match[2] + fraction).lstrip("0")
    significant = digits.rstrip("0")
    power = int(match[4] or 0) - len(fraction) + len(digits) - len(significant)
    return (match[1], significant, power if significant else 0)


class _Raw(NamedTuple):
    text: str


_COMMA, _OPEN_LIST, _END_LIST, _NO_LIST = _Raw(","), _Raw("["), _Raw("]"), _Raw("[]")
_OPEN_OBJECT, _END_OBJECT, _NO_OBJECT = _Raw("{"), _Raw("}"), _Raw("{}")


def dumps(value: object) -> str:
    """Strict JSON in ASCII, readable everywhere: numbers as written, lone surrogates escaped, NaN as a string.

    Takes a parsed value, or any nesting of these with plain ints and floats around them.
    """
    return "".join(_fragments(value, sort_keys=False, strict=True))


def canonical(value: Json) -> str:
    """One text for one value: keys sorted, no spaces, and NaN or Infinity bare, so nothing collides."""
    return "".join(_fragments(value, sort_keys=True, strict=False))


def _fragments(value: object, *, sort_keys: bool, strict: bool) -> Iterator[str]:
    todo = [value]
    while todo:
        match todo.pop():
            case _Raw(text):
                yield text
            case Number(text):
                yield f'"{text}"' if strict and text in _CONSTANTS else text
            case str(text):
                yield encode_basestring_ascii(text)
            case dict(fields):
                todo.append(_END_OBJECT)
                for key in sorted(fields, reverse=True) if sort_keys else reversed(fields):
                    todo += (fields[key], _Raw(f"{encode_basestring_ascii(key)}:"), _COMMA)
                todo[-1] = _OPEN_OBJECT if fields else _NO_OBJECT
            case list(items) | tuple(items):
                todo.append(_END_LIST)
                for item in reversed(items):
                    todo += (item, _COMMA)
                todo[-1] = _OPEN_LIST if items else _NO_LIST
            case scalar:
                yield json.dumps(scalar)


def pointer(base: str, *tokens: str | int) -> str:
    """The RFC 6901 pointer that continues `base` by keys and indices, unescaped."""
    return base + "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


def tokens(ptr: str) -> list[str]:
    """The keys and indices of an RFC 6901 pointer, unescaped; none for the whole document."""
    return [token.replace("~1", "/").replace("~0", "~") for token in ptr.split("/")[1:]]
