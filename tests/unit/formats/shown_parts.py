"""How the tests of all wire formats look at parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthien.formats.parts import Part

Shown = tuple[str, str, str, str, str | None]


def shown(parts: Sequence[Part]) -> list[Shown]:
    """What each part is: kind, role, pointer, name, text."""
    return [(str(part.kind), part.role, part.pointer, part.name, part.text) for part in parts]


def resolved(body: Any, pointer: str) -> Any:
    """What a JSON pointer (RFC 6901) leads to."""
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        body = body[int(key)] if isinstance(body, list) else body[key]
    return body
