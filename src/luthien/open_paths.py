"""Which requests below /v1/ may be passed through although no policy looks at them.

A path is brought into one spelling first; what has a spelling of its own, which somebody behind us might read
otherwise than we do, has none and goes nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

DEFAULT_OPEN = (
    "GET /v1/models",
    "GET /v1/models/*",
    "POST /v1/embeddings",
    "POST /v1/messages/count_tokens",
)
"""What is open when the configuration does not say."""

# Where policies are, or answers that they have not seen in this place: never open, whatever the configuration says.
_NEVER = (("v1", "chat", "completions"), ("v1", "responses"))
_NEVER_ITSELF = (("v1", "messages"),)

_WORD = r"[A-Za-z0-9._~!$&'()+,=:@-]"
_PATTERN = re.compile(rf"(GET|POST|PUT|PATCH|DELETE) (/v1(?:/(?:{_WORD}+|\*))+)")
_PATH = re.compile(rf"/v1(?:/(?!\.+(?:/|$)){_WORD}+)+")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")


def check_pattern(pattern: str) -> str:
    """The pattern itself, a method and a path in which `*` stands for one segment.

    Raises:
        ValueError: it is none, or would open what is never open.
    """
    found = _PATTERN.fullmatch(pattern)
    if not found or normal_path(found[2].replace("*", "x").encode()) is None:
        raise ValueError(
            "must be a method and a path below /v1/, as GET /v1/models/*; * stands for one whole segment,"
            " the methods are GET, POST, PUT, PATCH and DELETE"
        )
    if is_never_open(found[2]):
        raise ValueError("would lead around the policies, which look at the calls of this path")
    return pattern


def normal_path(raw: bytes) -> str | None:
    """The one spelling of a path; None when it is odd: dots, empty or encoded separators, not below /v1/."""
    try:
        path = _ESCAPE.sub(_unescaped, raw.decode("ascii"))
    except UnicodeDecodeError:
        return None
    return path if _PATH.fullmatch(path) else None


def _unescaped(escape: re.Match[str]) -> str:
    """What needs no escape is written without; the rest keeps its own, which then fits nowhere."""
    character = chr(int(escape[1], 16))
    return character if re.fullmatch(_WORD, character) else escape[0]


def open_pattern(patterns: Iterable[str], method: str, path: str) -> str | None:
    """The path of the pattern that opens a request, the path in its one spelling; None when nothing does."""
    if is_never_open(path):
        return None
    for pattern in patterns:
        allowed, _, template = pattern.partition(" ")
        if allowed == method and _fits(template.split("/"), path.split("/")):
            return template
    return None


def _fits(template: list[str], segments: list[str]) -> bool:
    return len(template) == len(segments) and all(
        part in ("*", segment) for part, segment in zip(template, segments, strict=True)
    )


def is_never_open(path: str) -> bool:
    """Whether a path, or any that a pattern stands for, is one that no setting opens; case does not matter."""
    segments = path.lower().strip("/").split("/")

    def may_be(prefix: tuple[str, ...]) -> bool:
        return all(part in ("*", known) for part, known in zip(segments, prefix, strict=False))

    return any(len(segments) >= len(prefix) and may_be(prefix) for prefix in _NEVER) or any(
        len(segments) == len(path_) and may_be(path_) for path_ in _NEVER_ITSELF
    )
