"""Every text of a request or response, and every text in the JSON of a tool's arguments, changed in one way."""

from __future__ import annotations

from typing import Any, Protocol

from luthien.formats.arguments import ArgumentSlot
from luthien.formats.format import Json, TextSlot


class Change(Protocol):
    """What is done to one text."""

    def text(self, text: str, name: str = "") -> str:
        """The changed text, or the very same; `name` is that of the field it stands in."""
        ...


def change_all(change: Change, texts: list[TextSlot], arguments: list[ArgumentSlot]) -> None:
    for slot in texts:
        changed = change.text(slot.text)
        if changed is not slot.text:
            slot.set(changed)
    for argument in arguments:
        argument.change(lambda value: changed_value(value, change))


def changed_value(value: Any, change: Change, name: str = "") -> Any:
    """The JSON value with its texts, names and whole numbers changed; the very same when nothing was."""
    if isinstance(value, str):
        return change.text(value, name)
    if isinstance(value, int) and not isinstance(value, bool):
        text = str(value)
        changed = change.text(text, name)
        return value if changed is text else changed
    if isinstance(value, list):
        items = [changed_value(item, change, name) for item in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if isinstance(value, dict):
        members = [(change.text(key), changed_value(item, change, key)) for key, item in value.items()]
        same = all(
            key is old_key and item is old for (key, item), (old_key, old) in zip(members, value.items(), strict=True)
        )
        return value if same else _object(members)
    return value


def _object(members: list[tuple[str, Any]]) -> Json:
    """All members, though two names may have become the same."""
    whole: Json = {}
    for name, value in members:
        free, number = name, 1
        while free in whole:
            number += 1
            free = f"{name} {number}"
        whole[free] = value
    return whole
