"""A place in two documents that are walked as one, and what it is called. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from luthien.debug.diffing.values import Json, pointer
from luthien.debug.showing.index import ABSENT, Absent, Entry, Maybe
from luthien.debug.showing.rows import Mark

MAX_LABEL_CHARS = 120
LONG_KEYS = frozenset({"system", "instructions", "input", "prompt", "error"})
"""Fields that people look for, and that get blocks of their own."""
_SHORT_CHARS = 100


@dataclass(frozen=True, slots=True)
class Here:
    """A place in both documents, or in one. `mark` is "changed" while it is to be found out what happened to it.

    `depth` counts blocks, `level` containers.
    """

    key: str
    label: str
    before: Maybe
    after: Maybe
    before_ptr: str | None
    after_ptr: str | None
    mark: Mark = "changed"
    depth: int = 0
    level: int = 0

    @property
    def value(self) -> Json:
        """What there is now, or was."""
        if not isinstance(self.after, Absent):
            return self.after
        return None if isinstance(self.before, Absent) else self.before

    @property
    def pointers(self) -> tuple[str | None, str | None]:
        return self.before_ptr, self.after_ptr

    @property
    def is_container(self) -> bool:
        """Whether there is something in it, on either side."""
        return isinstance(self.value, (dict, list)) and bool(self.before or self.after)

    def at(self, entry: Entry, label: str) -> Here:
        """The place of an entry of a container."""
        before: Any = self.before
        after: Any = self.after
        old: Maybe = ABSENT if entry.before is None else before[entry.before]
        new: Maybe = ABSENT if entry.after is None else after[entry.after]
        before_ptr = None if entry.before is None else pointer(self.before_ptr or "", entry.before)
        after_ptr = None if entry.after is None else pointer(self.after_ptr or "", entry.after)
        key = str(entry.before if entry.after is None else entry.after)
        return Here(key, label, old, new, before_ptr, after_ptr, self.mark, self.depth, self.level + 1)


def as_anchor(ptr: str) -> str:
    """A pointer as it may stand in an address; of a very long key, a hash."""
    if len(ptr) > MAX_LABEL_CHARS:
        ptr = "/".join(key if len(key) <= MAX_LABEL_CHARS else _hashed(key) for key in ptr.split("/"))
    return quote(ptr, "/~", errors="surrogatepass")


def _hashed(key: str) -> str:
    return "~" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def cut(text: str) -> str:
    return text if len(text) <= MAX_LABEL_CHARS else text[:MAX_LABEL_CHARS] + "…"


def value_at(here: Here, entry: Entry) -> Json:
    """What there is at an entry of a container now, or was."""
    container: Any = here.before if entry.after is None else here.after
    value: Json = container[entry.before if entry.after is None else entry.after]
    return value


def is_plain(root: Here, entry: Entry) -> bool:
    """Whether a field of the document stands among its parameters, not as a part of its own."""
    key = entry.before if entry.after is None else entry.after
    return key not in LONG_KEYS and not isinstance(value_at(root, entry), (dict, list))


def is_short(value: Json) -> bool:
    if isinstance(value, str):
        return len(value) <= _SHORT_CHARS and "\n" not in value
    return not isinstance(value, (dict, list)) or not value


def in_words(ptr: str | None) -> str:
    """ "messages 3" for /messages/3."""
    *_, container, index = ("", *(ptr or "").split("/"))
    return f"{container} {index}".strip()
