"""A request or response as the parts it is made of, in the order of the document, for those who look at all of it.

Each part is a place in the body that no other part overlaps. What configures a call, such as its model, is no part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from luthien.formats import jsontext
from luthien.formats.blocks import object_of
from luthien.formats.format import Json, TextSlot, text_or_none


class PartKind(StrEnum):
    INSTRUCTION = "instruction"
    """What the system or the developer says."""
    TEXT = "text"
    TOOL_DEFINITION = "tool_definition"
    TOOL_CALL = "tool_call"
    """Its text is the arguments: JSON, or what a custom tool takes."""
    TOOL_RESULT = "tool_result"
    """A text or value that a tool gave back. An image or file that it gave back is of that kind, with its call id."""
    REASONING = "reasoning"
    REFUSAL = "refusal"
    IMAGE = "image"
    AUDIO = "audio"
    FILE = "file"
    OTHER = "other"
    """Of none of these kinds, or of a form that is not known."""


_REMOVABLE = frozenset({PartKind.INSTRUCTION, PartKind.TEXT, PartKind.IMAGE, PartKind.AUDIO, PartKind.FILE})


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a part from what is around it. `kind` is that of the texts there."""

    kind: PartKind
    role: str = ""
    name: str = ""
    call_id: str = ""

    def of_kind(self, kind: PartKind) -> About:
        return replace(self, kind=kind)


UNKNOWN = About(PartKind.OTHER)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands. `pointer` is its JSON pointer (RFC 6901)."""

    container: Any
    key: str | int
    pointer: str

    @property
    def value(self) -> Any:
        return self.container[self.key]

    def at(self, key: str | int) -> Place:
        escaped = str(key).replace("~", "~0").replace("/", "~1")
        return Place(self.value, key, f"{self.pointer}/{escaped}")

    def items(self) -> Iterator[Place]:
        """Those of a list; none of anything else."""
        value = self.value
        return (self.at(index) for index in range(len(value))) if isinstance(value, list) else iter(())

    def members(self) -> Iterator[tuple[str, Place]]:
        """Those of an object that are not null; none of anything else."""
        return ((name, self.at(name)) for name, value in object_of(self.value).items() if value is not None)


def whole_body(body: Json) -> Place:
    return Place([body], 0, "")


@dataclass(slots=True)
class Part:
    """One part of a request or response.

    `pointer` says where it stood when the parts were asked for, and `value` is what stands there: the body's own
    object, not a copy. `name` and `call_id` are those of its tool and of the tool's call, empty where there is none.
    """

    kind: PartKind
    role: str
    pointer: str
    value: Any
    name: str = ""
    call_id: str = ""
    is_signed: bool = False
    """Whether the provider would know of a change: signed, or written so that only the provider can read it."""
    _siblings: Any = field(default=None, repr=False, compare=False)
    slot: TextSlot | None = field(default=None, repr=False, compare=False)
    """Where its text stands."""

    @property
    def text(self) -> str | None:
        """What it says; None when it is opaque."""
        return None if self.slot is None else self.slot.text

    def set(self, text: str) -> None:
        """Changes its text in the body.

        Raises:
            ValueError: it has none, it is signed, or the arguments of its tool cannot be that.
        """
        if self.is_signed:
            raise ValueError(f"{self.pointer} is signed by the provider and cannot be changed")
        if self.slot is None:
            raise ValueError(f"{self.pointer} ({self.kind}) has no text that could be changed")
        self.slot.set(text)
        if isinstance(self.value, str):
            self.value = text

    def remove(self) -> None:
        """Takes it out of the list it stands in. The pointers of others stay what they were.

        Raises:
            ValueError: it is no item of a list, or the only one, or others depend on it: a call, a result, reasoning.
        """
        place = self._siblings if isinstance(self._siblings, list) else []
        index = next((at for at, item in enumerate(place) if item is self.value), None)
        if self.kind not in _REMOVABLE or index is None:
            raise ValueError(f"{self.pointer} ({self.kind}) cannot be removed alone")
        if len(place) == 1:
            raise ValueError(f"{self.pointer} is all that there is in its place")
        del place[index]


class InputSlot(TextSlot):
    """The input of a tool: a text, or another value as JSON text."""

    __slots__ = ()

    @property
    def text(self) -> str:
        value = self.container[self.key]
        return value if isinstance(value, str) else jsontext.render(value).decode()

    def set(self, text: str) -> None:
        known = self.container[self.key]
        value = text if isinstance(known, str) else jsontext.parse(text)
        if isinstance(known, dict) and not isinstance(value, dict):
            raise ValueError("the arguments of this tool must be a JSON object")
        self.container[self.key] = value


def part_at(place: Place, about: About, slot: TextSlot | None = None, *, is_signed: bool = False) -> Part:
    return Part(
        about.kind,
        about.role,
        place.pointer,
        place.value,
        about.name,
        about.call_id,
        is_signed,
        place.container,
        slot,
    )


def text_at(place: Place, about: About, *, is_signed: bool = False) -> Part:
    """A text; what is none is opaque."""
    slot = TextSlot(place.container, place.key, about.role) if isinstance(place.value, str) else None
    return part_at(place, about, slot, is_signed=is_signed)


def text_in(place: Place, key: str, about: About, *, is_signed: bool = False) -> Part:
    """An object that has its text under a key; one that has none there is opaque."""
    slot = TextSlot(place.value, key, about.role) if isinstance(place.value.get(key), str) else None
    return part_at(place, about, slot, is_signed=is_signed)


def call_at(place: Place, inputs: Json, key: str, name: str, call_id: str, role: str) -> Part:
    """A tool call, whose arguments stand under a key of `inputs`."""
    slot = InputSlot(inputs, key, role) if inputs.get(key) is not None else None
    return part_at(place, About(PartKind.TOOL_CALL, role, name, call_id), slot)


def other_at(place: Place, about: About = UNKNOWN) -> Part:
    """What is not known; it may have a text for all that."""
    about = about.of_kind(PartKind.OTHER)
    return text_in(place, "text", about) if isinstance(place.value, dict) else text_at(place, about)


Read = Callable[[Place], Iterable[Part]]


def each_of(place: Place, read: Read, about: About = UNKNOWN) -> Iterator[Part]:
    """The parts that `read` finds in each object of a list; what is no list or no object there is `other`."""
    if not isinstance(place.value, list):
        yield other_at(place, about)
    for item in place.items():
        if isinstance(item.value, dict):
            yield from read(item)
        else:
            yield other_at(item, about)


def content_of(place: Place, about: About, read: Read) -> Iterator[Part]:
    """The parts of a content: one text, or a list of objects."""
    if isinstance(place.value, str):
        yield text_at(place, about)
    else:
        yield from each_of(place, read, about)


def definitions(place: Place) -> Iterator[Part]:
    return each_of(
        place, lambda tool: [part_at(tool, About(PartKind.TOOL_DEFINITION, "", definition_name(tool.value)))]
    )


def definition_name(tool: Any) -> str:
    """The name that the model calls a tool by, in any format; of one that has none, its type."""
    tool = object_of(tool)
    holders = (tool, object_of(tool.get("function")), object_of(tool.get("custom")))
    names = (text_or_none(holder.get("name")) for holder in holders)
    return next(filter(None, names), None) or text_or_none(tool.get("type")) or ""


def role_kind(role: str) -> PartKind:
    """What the texts of a message are."""
    return PartKind.INSTRUCTION if role in {"system", "developer"} else PartKind.TEXT
