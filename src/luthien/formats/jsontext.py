"""JSON in and out, without losing what the parser could keep.

The standard library's parser is used on purpose: faster ones turn integers beyond 64 bits into floats and
refuse lone surrogates, and both occur in real traffic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_BOM = "\ufeff"
_MARK = re.compile(r'"(?:[^"\\]|\\.)*+"|(?P<opens>[\[{])|[\]}]', re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_STRING_REST = re.compile(r'(?:[^"\\]|\\.)*+(?P<ends>"?)', re.DOTALL)
_BRACKET_OR_STRING = re.compile(r'(?P<opens>[\[{])|(?P<closes>[\]}])|"' + _STRING_REST.pattern, re.DOTALL)
_TOO_DEEP = "nested too deeply to be read"

MAX_VALUES = 2_000_000
"""How many lists, objects and members of such a text may have: two bytes of it can cost a hundred in memory."""


class InvalidJson(ValueError):
    """The text is not JSON; the message says where, in words fit for a client."""


def parse(text: bytes | str, *, max_depth: int | None = None) -> Any:
    """The value of a JSON text. `NaN` and `Infinity` are read as well, since some providers send them.

    Raises:
        InvalidJson: not JSON, not UTF-8, nested deeper than `max_depth` or than the parser goes, or of more than
            `MAX_VALUES` values.
    """
    try:
        # Decoded here, because the parser would also take UTF-16 and UTF-32.
        decoded = text if isinstance(text, str) else text.decode("utf-8", "surrogatepass")
        if len(decoded) > MAX_VALUES and _count_values(decoded) > MAX_VALUES:
            raise InvalidJson(f"more than {MAX_VALUES} values")
        if max_depth is None or not _is_deeper(decoded, max_depth):
            return json.loads(decoded.removeprefix(_BOM))
    except json.JSONDecodeError as error:
        raise InvalidJson(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise InvalidJson(f"byte {error.start} is not valid UTF-8") from None
    except RecursionError:
        raise InvalidJson(_TOO_DEEP) from None
    except InvalidJson:
        raise
    except ValueError as error:
        raise InvalidJson(str(error)) from None
    raise InvalidJson(_TOO_DEEP)


def parse_object(text: bytes | str, *, max_depth: int | None = None) -> dict[str, Any]:
    """Like `parse`, for texts that must be a JSON object."""
    value = parse(text, max_depth=max_depth)
    if not isinstance(value, dict):
        raise InvalidJson(f"expected a JSON object, got {type(value).__name__}")
    return value


def is_valid(text: str) -> bool:
    """Whether `parse` could read it."""
    try:
        parse(text)
    except InvalidJson:
        return False
    return True


def render(value: Any) -> bytes:
    """Compact UTF-8 JSON of anything that `parse` can give, unless it is nested deeper than the writer goes.

    Lone surrogates are escaped, since UTF-8 has no bytes for them.
    """
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def paired(text: str) -> str:
    """The text with halves of a surrogate pair as one character where they stand side by side.

    Some providers cut a text inside of a character, and escape each half. A half that is alone stays so.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text


class Whole:
    """Whether a text that comes in pieces is a JSON object or list by now. Each piece is looked at once."""

    __slots__ = ("_depth", "_is_closed", "_is_escaped", "_is_in_string", "_is_valid", "_seen")

    def __init__(self) -> None:
        self._seen = 0
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False
        self._is_closed = False
        self._is_valid: bool | None = None
        """Known once it is closed: nothing that follows can mend it."""

    def of(self, pieces: Sequence[str]) -> bool:
        """Whether these are one. They begin with those that were asked about before."""
        for piece in pieces[self._seen :]:
            if not self._is_closed:
                self._look(piece)
            elif piece.strip():
                self._is_valid = False
        self._seen = len(pieces)
        if self._is_closed and self._is_valid is None:
            self._is_valid = is_valid("".join(pieces))
        return bool(self._is_valid)

    def _look(self, piece: str) -> None:
        at = 0
        if self._is_in_string and piece:
            rest = _STRING_REST.match(piece, int(self._is_escaped))
            at = self._after_string(rest, piece) if rest else 0
        if self._is_in_string:
            return
        for mark in _BRACKET_OR_STRING.finditer(piece, at):
            if mark["opens"]:
                self._depth += 1
            elif not mark["closes"]:
                self._after_string(mark, piece)
            elif self._depth > 1:
                self._depth -= 1
            else:
                self._is_closed = True
                return

    def _after_string(self, string: re.Match[str], piece: str) -> int:
        """Notes whether it goes on in the next piece, and whether a backslash was the last of this one."""
        self._is_in_string = not string["ends"]
        self._is_escaped = self._is_in_string and string.end() < len(piece)
        return string.end()


def _count_values(text: str) -> int:
    """Roughly: what opens lists and objects, and the commas. A second look leaves out what strings are made of."""
    count = text.count("[") + text.count("{") + text.count(",")
    return _count_values_outside_strings(text) if count > MAX_VALUES else count


def _count_values_outside_strings(text: str) -> int:
    bare = _STRING.sub("", text)
    return bare.count("[") + bare.count("{") + bare.count(",")


def _is_deeper(text: str, depth: int) -> bool:
    if text.count("[") + text.count("{") <= depth:
        return False
    level = 0
    for mark in _MARK.finditer(text):
        if mark.lastgroup:
            level += 1
            if level > depth:
                return True
        elif mark.group() in "]}":
            level -= 1
    return False
