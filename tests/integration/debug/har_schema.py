"""HTTP Archive 1.2 as its specification says it, to hold an archive against."""

from __future__ import annotations

from datetime import datetime
from typing import Any

Shape = dict[str, Any]

_PAIR: Shape = {"name": str, "value": str}
_COOKIE: Shape = {"name": str, "value": str}
_REQUEST: Shape = {
    "method": str,
    "url": str,
    "httpVersion": str,
    "cookies": [_COOKIE],
    "headers": [_PAIR],
    "queryString": [_PAIR],
    "headersSize": int,
    "bodySize": int,
    "?postData": {"mimeType": str, "text": str, "?params": list, "?comment": str},
    "?comment": str,
}
_RESPONSE: Shape = {
    "status": int,
    "statusText": str,
    "httpVersion": str,
    "cookies": [_COOKIE],
    "headers": [_PAIR],
    "content": {"size": int, "mimeType": str, "?text": str, "?encoding": str, "?compression": int, "?comment": str},
    "redirectURL": str,
    "headersSize": int,
    "bodySize": int,
    "?comment": str,
}
_ENTRY: Shape = {
    "startedDateTime": datetime,
    "time": float,
    "request": _REQUEST,
    "response": _RESPONSE,
    "cache": {},
    "timings": {"send": float, "wait": float, "receive": float, "?blocked": float, "?dns": float, "?connect": float},
    "?comment": str,
}
_HAR: Shape = {
    "log": {"version": str, "creator": {"name": str, "version": str}, "entries": [_ENTRY], "?comment": str}
}


def check_har(har: Any) -> None:
    """Every field that must be there is, of its type, and none is there that the standard does not know.

    Fields that begin with an underscore are anybody's.
    """
    _check(har, _HAR, "")
    for entry in har["log"]["entries"]:
        parts = entry["timings"]
        assert all(part >= 0 for part in parts.values())
        assert abs(entry["time"] - sum(parts.values())) < 1e-6
        content = entry["response"]["content"]
        assert content.get("encoding") in (None, "base64")


def _check(value: Any, shape: Any, at: str) -> None:
    if isinstance(shape, list):
        assert isinstance(value, list), at
        for index, item in enumerate(value):
            _check(item, shape[0], f"{at}/{index}")
    elif isinstance(shape, dict):
        assert isinstance(value, dict), at
        known = {name.removeprefix("?") for name in shape}
        assert {name for name in value if not name.startswith("_")} <= known, at
        for name, inner in shape.items():
            plain = name.removeprefix("?")
            assert plain in value or name != plain, f"{at}/{plain} is missing"
            if plain in value:
                _check(value[plain], inner, f"{at}/{plain}")
    elif shape is datetime:
        assert datetime.fromisoformat(value).tzinfo is not None, at
    elif shape is float:
        assert isinstance(value, (int, float)), at
        assert not isinstance(value, bool), at
    else:
        assert isinstance(value, shape), at
