"""JSON in and out, without losing what the parser could keep.

The standard library's parser is used on purpose: faster ones turn integers beyond 64 bits into floats and
refuse lone surrogates, and both occur in real traffic.
"""

from __future__ import annotations

import json
from typing import Any


class InvalidJson(ValueError):
    """The text is not JSON; the message says where, in words fit for a client."""


def parse(text: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        InvalidJson: not JSON, not UTF-8, or nested deeper than the parser goes.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidJson(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise InvalidJson(f"byte {error.start} is not valid UTF-8") from None
    except RecursionError:
        raise InvalidJson("nested too deeply to be read") from None
    except ValueError as error:
        raise InvalidJson(str(error)) from None


def parse_object(text: bytes | str) -> dict[str, Any]:
    """Like `parse`, for texts that must be a JSON object."""
    value = parse(text)
    if not isinstance(value, dict):
        raise InvalidJson(f"expected a JSON object, got {type(value).__name__}")
    return value


def render(value: Any) -> bytes:
    """Compact UTF-8 JSON. Lone surrogates are escaped, since UTF-8 has no bytes for them.

    Raises:
        ValueError: a number without a JSON form (infinity, NaN).
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
