"""What is said in a request or a response, part by part and in words that hold for every wire format. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthien.debug.sessions.histories import LISTS, items_of
from luthien.debug.showing.shown import size
from luthien.formats import jsontext
from luthien.formats.format import WireFormat
from luthien.formats.parts import Part, PartKind
from luthien.formats.registry import FORMATS

MAX_CHARS = 4_000
"""Longer texts are cut."""

_INSTRUCTIONS = ("system", "instructions")


@dataclass(frozen=True, slots=True)
class Said:
    """One part of what was said. `cut` counts the characters that are left out; `is_echo`: as it was answered."""

    kind: PartKind
    role: str
    text: str
    name: str = ""
    cut: int = 0
    is_echo: bool = False

    def as_dict(self) -> dict[str, object]:
        return {
            "kind": self.kind.value,
            "role": self.role or None,
            "name": self.name or None,
            "text": self.text,
            "cut": self.cut,
            "is_echo": self.is_echo,
        }


def format_named(name: str | None) -> WireFormat | None:
    return next((known for known in FORMATS if known.name == name), None)


def said_in_items(body: Mapping[str, Any], places: Iterable[int], wire_format: WireFormat) -> list[Said]:
    """What stands in some items of a request, in their order."""
    items = items_of(body) or []
    name = next((name for name in LISTS if name in body), LISTS[0])
    return _said(wire_format.request_parts({name: [items[place] for place in places]}))


def instructions_in(body: Mapping[str, Any], wire_format: WireFormat) -> list[Said]:
    """What a request instructs the model to do besides its messages."""
    return _said(wire_format.request_parts({name: body[name] for name in _INSTRUCTIONS if name in body}))


def said_in_response(body: object, wire_format: WireFormat) -> list[Said]:
    """What a response says; an error, as it is."""
    if isinstance(body, dict) and body.get("error") is None:
        return _said(wire_format.response_parts(body))
    return [] if body is None else [_cut(Said(PartKind.OTHER, "", jsontext.render(body).decode("utf-8", "replace")))]


def all_said_in(body: object, wire_format: WireFormat, side: str) -> list[dict[str, str]] | None:
    """A whole payload as the parts that every format has; None when it has none that could be read."""
    if not isinstance(body, dict):
        return None
    parts = wire_format.request_parts(body) if side == "request" else wire_format.response_parts(body)
    found = [
        {"kind": part.kind.value, "role": part.role, "name": part.name, "text": _text(part)}
        for part in parts
        if part.kind is not PartKind.OTHER or part.text
    ]
    return found or None


def echoed(said: Sequence[Said], answer: Sequence[Said]) -> list[Said]:
    """The same, with those parts marked that repeat an answer."""
    known = {(each.kind, each.text) for each in answer}
    return [replace(each, is_echo=each.role == "assistant" and (each.kind, each.text) in known) for each in said]


def text_of(said: Sequence[Said]) -> str:
    """The texts of an answer, one after the other."""
    return "\n".join(each.text for each in said if each.kind is PartKind.TEXT)


def _said(parts: Iterable[Part]) -> list[Said]:
    """Without the empty texts that stand beside calls of tools, unless there is nothing else."""
    said = [_cut(Said(part.kind, part.role, _text(part), part.name)) for part in parts]
    return [each for each in said if each.text or each.kind is not PartKind.TEXT] or said


def _cut(said: Said) -> Said:
    over = len(said.text) - MAX_CHARS
    return replace(said, text=said.text[:MAX_CHARS], cut=over) if over > 0 else said


def _text(part: Part) -> str:
    """Its text; of what has none, what it is and how long."""
    if part.text is not None:
        return part.text
    if part.value is None:
        return ""
    return f"[{part.kind.value.replace('_', ' ')}, {size(len(jsontext.render(part.value)))}]"
