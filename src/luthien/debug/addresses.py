"""Where pages are, for those that link to them."""

from __future__ import annotations

import re
from urllib.parse import urlencode

_PLAIN = re.compile(r"[A-Za-z0-9_:@=+-][A-Za-z0-9_.:@=+-]*", re.ASCII)
_SESSIONS = "/debug/sessions"


def session_page(session_id: str, **query: object) -> str:
    """The address of a session's page; a part of the query that is None is left out.

    An id that a browser, a proxy or we ourselves might take for something else stands in the query.
    """
    return _session_address(session_id, "", query)


def session_json(session_id: str, **query: object) -> str:
    """The address of its JSON twin."""
    return _session_address(session_id, ".json", query)


def compare_page(a: object, b: object) -> str:
    return f"/debug/compare?{urlencode([('a', str(a)), ('b', str(b))])}"


def _session_address(session_id: str, suffix: str, query: dict[str, object]) -> str:
    rest = [(name, str(value)) for name, value in query.items() if value is not None]
    is_plain = _PLAIN.fullmatch(session_id) is not None and not session_id.endswith(".json")
    path = f"{_SESSIONS}/{session_id}{suffix}" if is_plain else f"{_SESSIONS}{suffix}"
    items = rest if is_plain else [("id", session_id), *rest]
    return f"{path}?{urlencode(items, errors='replace')}" if items else path
