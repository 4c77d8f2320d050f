"""The history in a request: its messages or input items, each with a key of what it says. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from luthien.formats import jsontext

LISTS = ("messages", "input")
"""The fields that hold a history, in the wire formats that there are."""
OPENING_CHARS = 100_000

_TELLING_BYTES = 80
_TEXTS = frozenset({"text", "input_text", "output_text"})
_INSTRUCTING = frozenset({"system", "developer"})
_UNTOLD = frozenset({"cache_control"})


@dataclass(frozen=True, slots=True)
class Item:
    """One message or input item. Two with the same `key` say the same: spelling and caching marks do not count."""

    key: bytes
    is_instruction: bool = False
    is_telling: bool = True
    """Whether it is long enough that hardly two conversations have it by chance."""


@dataclass(frozen=True, slots=True)
class History:
    """The history that a request holds; `settings` are the keys of all its other fields."""

    items: tuple[Item, ...]
    settings: Mapping[str, bytes] = field(default_factory=dict)
    opening: str = ""
    """How the texts of its items begin, without instructions."""

    @property
    def instructions(self) -> tuple[bytes | None, ...]:
        """The same for two that are under the same instructions; empty when there are none."""
        said = [item.key for item in self.items if item.is_instruction]
        fields = [self.settings.get(name) for name in ("system", "instructions")]
        return (*fields, *said) if said or any(fields) else ()


def read_body(payload: bytes | None) -> Any:
    """The value of a request's or response's payload; None when it cannot be read."""
    try:
        return None if payload is None else jsontext.parse(payload)
    except jsontext.InvalidJson:
        return None


def items_of(body: object) -> list[Any] | None:
    """The items of a parsed request; None when it is no conversation."""
    if not isinstance(body, dict):
        return None
    for name in LISTS:
        items = body.get(name)
        if isinstance(items, list):
            return items
        if isinstance(items, str) and name == "input" and not isinstance(body.get("encoding_format"), str):
            return [{"role": "user", "content": items}]
    return None


def history_of(body: object) -> History | None:
    """The history in a parsed request; None when it is no conversation, or nested too deeply."""
    items = items_of(body)
    if items is None or not isinstance(body, dict):
        return None
    try:
        settings = {name: _digest(_written(_plain(value))) for name, value in body.items() if name not in LISTS}
        return History(tuple(_item(item) for item in items), settings, _opening(items))
    except RecursionError:
        return None


def squeezed(text: str) -> str:
    """A text without its white space."""
    return "".join(text.split())


def _item(item: object) -> Item:
    plain = _plain(item)
    role = plain.get("role") if isinstance(plain, dict) else None
    written = _written(plain)
    return Item(_digest(written), role in _INSTRUCTING, len(written) > _TELLING_BYTES)


def _plain(value: Any) -> Any:
    """A value without what may come and go from call to call, and does not say anything."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    plain = {name: each for name, each in value.items() if each is not None and name not in _UNTOLD}
    if plain.get("type") == "message":
        del plain["type"]
    if "content" in plain:
        plain["content"] = _content(plain["content"])
    return plain


def _content(content: Any) -> Any:
    """A content that is one text is that text."""
    if not isinstance(content, list):
        return content
    parts = [_plain(part) for part in content]
    if len(parts) == 1 and isinstance(parts[0], dict) and parts[0].get("type") in _TEXTS:
        text = parts[0].get("text")
        if isinstance(text, str) and not (parts[0].keys() - {"type", "text"}):
            return text
    return parts


def _written(plain: Any) -> bytes:
    return json.dumps(plain, sort_keys=True).encode()


def _digest(written: bytes) -> bytes:
    return blake2b(written, digest_size=16).digest()


def _opening(items: Sequence[Any]) -> str:
    """The texts at the beginning, white space left out, so that an answer is found that was laid out anew."""
    room, texts = OPENING_CHARS, []
    for item in items[:8]:
        if isinstance(item, dict) and item.get("role") in _INSTRUCTING:
            continue
        for text in _strings(item):
            texts.append(text[:room])
            room -= len(texts[-1])
            if room <= 0:
                break
    return squeezed(" ".join(texts))


def _strings(item: object) -> Iterator[str]:
    """The texts of an item that a person or a program wrote there."""
    content = item.get("content") if isinstance(item, dict) else None
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        text = part.get("text") if isinstance(part, dict) else None
        if isinstance(text, str):
            yield text
