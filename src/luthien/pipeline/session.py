"""Which session a call belongs to, from what clients and agents send anyway. Pure.

A session is whatever its client counts as one: a conversation, a run of an agent. Sources: docs/sessions.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from luthien.formats import jsontext

MAX_CHARS = 256
_MAX_JSON_CHARS = 4096
_MAX_JSON_DEPTH = 4

HEADERS = (
    b"luthien-session-id",
    b"x-claude-code-session-id",
    b"session-id",
    b"session_id",
    b"thread-id",
    b"conversation_id",
    b"conversation-id",
    b"x-opencode-session",
    b"x-session-affinity",
    b"x-session-id",
    b"x-conversation-id",
)
"""Most telling first: ours, Claude Code, Codex as it is and as it was, OpenCode, then what others agree on."""

_METADATA = ("session_id", "conversation_id", "thread_id")
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CLAUDE_CODE = re.compile(r"user_[^_]*_account_[^_]*_session_(?P<session>[\w-]+)")


@dataclass(frozen=True, slots=True)
class Session:
    """The session that a call belongs to; `user` is who asks, where its client says no more than that.

    Both as `session_of` and `user_of` have them.
    """

    id: str | None = None
    user: str | None = None

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]], body: Mapping[str, Any]) -> Session:
        named = session_of(headers, body)
        return cls(named, user_of(body) if named is None else None)


def session_of(headers: Iterable[tuple[bytes, bytes]], body: Mapping[str, Any]) -> str | None:
    """The id of the session, cleaned and at most `MAX_CHARS` long; None when nothing names one.

    Header names are in lower case, as ASGI has them.
    """
    return _first((*_in_headers(headers), *_in_body(body)))


def user_of(body: Mapping[str, Any]) -> str | None:
    """Who asks, where a client says no more than that; as `session_of`.

    It may be a name or an address, so it is for the record only.
    """
    return _first((body.get("user"), _metadata_of(body).get("user_id")))


def _in_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    known: dict[bytes, str] = {}
    for name, value in headers:
        if name in _KNOWN_HEADERS:
            known.setdefault(name, value.decode("latin-1"))
    return [known[name] for name in HEADERS if name in known]


_KNOWN_HEADERS = frozenset(HEADERS)


def _in_body(body: Mapping[str, Any]) -> Iterator[Any]:
    metadata = _metadata_of(body)
    yield _agents_session(metadata.get("user_id"))
    yield _agents_session(body.get("user"))
    yield from (metadata.get(name) for name in _METADATA)
    conversation = body.get("conversation")
    yield conversation.get("id") if isinstance(conversation, dict) else conversation
    yield body.get("previous_response_id")
    yield body.get("prompt_cache_key")


def _metadata_of(body: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = body.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _agents_session(user: Any) -> Any:
    """The session in what Claude Code gives as the user: a JSON object, or a text of three parts."""
    if not isinstance(user, str) or len(user) > _MAX_JSON_CHARS:
        return None
    if match := _CLAUDE_CODE.fullmatch(user):
        return match["session"]
    if not user.startswith("{"):
        return None
    try:
        return jsontext.parse_object(user, max_depth=_MAX_JSON_DEPTH).get("session_id")
    except jsontext.InvalidJson:
        return None


def _first(values: Iterable[Any]) -> str | None:
    return next(filter(None, map(_cleaned, values)), None)


def _cleaned(value: Any) -> str | None:
    return _UNFIT.sub("\ufffd", value[:_MAX_JSON_CHARS].strip()[:MAX_CHARS]) if isinstance(value, str) else None
