"""What of a call is indexed: its words, what filters ask for, and each place that a policy changed. Pure.

A call may have been made to be found hard to index: everything is bounded, and what is cut off is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthien.debug.call.compared import Compared
from luthien.debug.diffing.documents import Document
from luthien.debug.diffing.ops import Diff, Op
from luthien.debug.diffing.values import Json, Number, parse
from luthien.debug.search.amounts import shares_of
from luthien.debug.search.decided import decisions_of
from luthien.debug.search.parts import part_at
from luthien.debug.search.paths import message_of, path_of
from luthien.exchange import STAGES, EventType, Side
from luthien.store.call_filter import Part
from luthien.store.calls import as_text
from luthien.store.index import Change, Entry, ReadCall
from luthien.store.lexemes import change_facet, facet, time_facets, words_of
from luthien.store.read import CallRow

ALGO = 2
"""The version of all this; a call that is indexed by another one is indexed anew."""
MAX_CHARS = 400_000
"""Of text, the latest of a call first."""
MAX_WORDS = 20_000
"""Different ones."""
MAX_CHANGES = 500
"""Rows of `conversation_changes`; facets are made of all changes."""
_MAX_DOCUMENT_BYTES = 700_000  # Postgres takes one megabyte
_MAX_POINTER_CHARS = 1_000
_MAX_INNER_JSON_CHARS = 1_000_000
_MAX_INNER_DEPTH = 4

# What no person wrote: kinds and roles would be words of every call, signatures of none.
_NO_TEXT = {"type", "role", "object", "signature", "encrypted_content", "thought_signature"}
_ARGUMENTS = {"arguments", "input"}
_MIN_BLOB_CHARS = 512
_BLOB = re.compile(r"(?:data:[\w./+-]+[;,]|[A-Za-z0-9+/=_-]{512})\S*\s*")
_PIECE_CHARS = 10_000
_GAP = re.compile(r"[\s!-/:-@\[-^`{-~\u3001\u3002\uff0c]")
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')

Breathe = Callable[[], object]


@dataclass(slots=True)
class _Words:
    """The different words of a call, as far as there is room."""

    breathe: Breathe
    found: set[str] = field(default_factory=set)
    chars: int = 0
    size_bytes: int = 0
    is_full: bool = False
    _texts: set[str] = field(default_factory=set)
    """Those that were taken: a stage mostly says what another one says."""
    _waiting: list[str] = field(default_factory=list)
    """Short texts, so many of which are looked through at once."""
    _waiting_chars: int = 0

    def add(self, text: str) -> None:
        if self.is_full or not text:
            return
        room = MAX_CHARS - self.chars
        self.chars += len(text)
        self.is_full = len(text) > room
        if text in self._texts:
            return
        self._texts.add(text)
        self._waiting.append(text[:room])
        self._waiting_chars += len(text)
        if self.is_full or self._waiting_chars >= _PIECE_CHARS:
            self.take()

    def take(self) -> None:
        """Looks through the texts that wait."""
        if not self._waiting:
            return
        # No word stands on both sides of a line's end, nor does a normal form.
        whole = "\n".join(self._waiting)
        self._waiting.clear()
        self._waiting_chars = 0
        for piece in _pieces(whole):
            if not self._take([word for word in dict.fromkeys(words_of(piece)) if word not in self.found]):
                return
            self.breathe()

    def _take(self, words: Sequence[str]) -> bool:
        """Whether there was room; else as many of the first were taken as there was room for."""
        size_bytes = self.size_bytes + len("".join(words).encode()) + 8 * len(words)
        if size_bytes <= _MAX_DOCUMENT_BYTES and len(self.found) + len(words) <= MAX_WORDS:
            self.found.update(words)
            self.size_bytes = size_bytes
            return True
        if len(words) > 1:
            middle = len(words) // 2
            return self._take(words[:middle]) and self._take(words[middle:])
        self.is_full = True
        return False


def _pieces(text: str) -> Iterator[str]:
    """A text in pieces between which no word stands: they are cut where one ends, however far that is."""
    start = 0
    while start < len(text):
        gap = _GAP.search(text, start + _PIECE_CHARS)
        end = len(text) if gap is None else gap.end()
        yield text[start:end]
        start = end


def entry_of(call: ReadCall, compared: Compared | None, breathe: Breathe = lambda: None) -> Entry:
    """What is indexed of a call.

    Args:
        compared: its stages and what differs; None if its payloads are too large to be compared here.
        breathe: called again and again, so that others get a turn.
    """
    capped = [] if compared is not None else ["payloads"]
    changes = list(_changes(call, compared) if compared is not None else _told_changes(call))
    facets = {*row_facets(call.row), *_change_facets(changes)}
    words = _Words(breathe)
    for text in _texts(call, compared):
        words.add(text)
        if words.is_full:
            break
    words.take()
    if words.is_full:
        capped.append("text")
    if len(changes) > MAX_CHANGES:
        capped.append("changes")
    decisions = tuple(decisions_of(call.stored.records))
    lexemes = (*sorted(facets), *sorted(words.found))
    return Entry(ALGO, lexemes, tuple(changes[:MAX_CHANGES]), decisions, tuple(capped))


def failed_entry(row: CallRow, error: str) -> Entry:
    """Of a call that cannot be indexed, what filters ask for."""
    return Entry(ALGO, tuple(sorted(row_facets(row))), error=as_text(error)[:1000])


def row_facets(row: CallRow) -> Iterator[str]:
    """What the row of a call says that filters ask for."""
    yield from time_facets(row["call_id"])
    yield facet("outcome", row["outcome"] or "running")
    named = {
        "session": row["session_id"],
        "provider": row["provider"],
        "format": row["wire_format"],
        "key": row["gateway_key"],
    }
    yield from (facet(name, value) for name, value in named.items() if value)
    yield from {facet("model", row[column]) for column in ("model_requested", "model_used") if row[column]}
    for policy in row["policies"] or ():
        yield facet("policy", str(policy.get("name", "")))
    sides = [side for side in ("request", "response") if row[f"{side}_changed"]]
    yield from (facet("changed", side) for side in sides)
    if sides:
        yield facet("changed", "any")
    elif row["outcome"] is not None:
        yield facet("changed", "none")


def _change_facets(changes: Iterable[Change]) -> Iterator[str]:
    for change in changes:
        yield facet("part", change.part)
        if change.policy is not None:
            yield facet("changed_by", change.policy)
            yield change_facet(change.policy, change.part)


def _changes(call: ReadCall, compared: Compared) -> Iterator[Change]:
    for side, diff in ((Side.REQUEST, compared.request), (Side.RESPONSE, compared.response)):
        if diff is not None and diff.ops:
            yield from _side_changes(call, compared, side, diff)


def _side_changes(call: ReadCall, compared: Compared, side: Side, diff: Diff) -> Iterator[Change]:
    before, after = (_document(compared, side, state) for state in ("original", "final"))
    sole = _sole_policy(_told_changes(call), side)
    for op in diff.ops:
        if not op.touches_value:
            continue
        document, ptr = (before, op.before_ptr) if op.after_ptr is None else (after, op.after_ptr)
        part = part_at(document, ptr or "", side)
        authors = _authors(op, sole)
        for (policy, version), amount in zip(authors, shares_of(op, authors), strict=True):
            yield Change(
                side.value,
                op.id,
                op.op,
                op.kind,
                part,
                _clipped(op.before_ptr),
                _clipped(op.after_ptr),
                policy,
                version,
                path_of(ptr or ""),
                message_of(ptr or "", side),
                *amount,
            )


def _authors(op: Op, sole: tuple[str | None, str | None]) -> Sequence[tuple[str | None, str | None]]:
    """Who had a part in it, each once."""
    if op.by:
        return list(dict.fromkeys((_plain(each.policy), _plain(each.version)) for each in op.by))
    return [(_plain(op.policy), _plain(op.version))] if op.policy else [sole]


def _sole_policy(told: Iterable[Change], side: Side) -> tuple[str | None, str | None]:
    """The policy that changed a side, if it was only one."""
    changed = {(each.policy, each.version) for each in told if each.side == side.value}
    return changed.pop() if len(changed) == 1 else (None, None)


def _told_changes(call: ReadCall) -> Iterator[Change]:
    """What decisions say of changes: who made one, and on which side."""
    for record in call.stored.records:
        get = record.attributes.get
        if record.event_type != EventType.POLICY_DECISION or get("luthien.policy.changed") is not True:
            continue
        if get("luthien.policy.shadow") is not True:
            side, policy, version = (str(get(f"luthien.policy.{name}", "")) for name in ("side", "name", "version"))
            yield Change(
                _plain(side) or "", "", "change", "", Part.OTHER, None, None, _plain(policy), _plain(version)
            )


def _texts(call: ReadCall, compared: Compared | None) -> Iterator[str]:
    """All that one would search for, the latest first: what a conversation begins with is in other calls, too."""
    yield call.row["error_message"] or ""
    for record in call.stored.records:
        yield str(record.attributes.get("luthien.policy.reason") or "")
    if compared is None:
        for beginning in reversed(call.beginnings):
            yield _ESCAPE.sub(_unescaped, beginning.decode("utf-8", "replace"))
        return
    seen: set[bytes] = set()
    for stage in reversed(STAGES):
        payload = compared.stages[stage].payload
        if payload and payload not in seen:
            seen.add(payload)
            yield from _payload_texts(payload, compared.documents.read(payload))


def _payload_texts(payload: bytes, document: Document) -> Iterator[str]:
    if document.form == "json":
        yield from strings_of(document.value)
        return
    text = payload.decode("utf-8", "replace")
    if not _is_blob(text):
        yield text


def strings_of(document: Json) -> Iterator[str]:
    """The strings of a document, the last first. Of a tool's arguments, the names and numbers, too."""
    todo: list[tuple[Json, bool, int]] = [(document, False, 0)]
    while todo:
        value, is_argument, depth = todo.pop()
        if isinstance(value, dict):
            for key, child in value.items():
                if is_argument:
                    yield key
                if is_argument or key not in _NO_TEXT:
                    todo.append((child, is_argument or (key in _ARGUMENTS and not isinstance(child, list)), depth))
        elif isinstance(value, list):
            todo.extend((child, is_argument, depth) for child in value)
        elif isinstance(value, str):
            inner = _inner(value) if depth < _MAX_INNER_DEPTH else None
            if inner is not None:
                todo.append((inner, True, depth + 1))
            elif not _is_blob(value):
                yield value
        elif is_argument and isinstance(value, Number):
            yield value.text


def _is_blob(text: str) -> bool:
    is_short = len(text) < _MIN_BLOB_CHARS and not text.startswith("data:")
    return not is_short and _BLOB.fullmatch(text) is not None


def _inner(text: str) -> Json:
    """The JSON in a string; None if there is none."""
    if text[:1] not in ("{", "[") or text[-1:] not in ("}", "]") or len(text) > _MAX_INNER_JSON_CHARS:
        return None
    try:
        return parse(text)
    except (ValueError, RecursionError):
        return None


def _document(compared: Compared, side: Side, state: str) -> Json:
    payload = compared.stages[EventType(f"{side.value}_{state}")].payload
    return None if payload is None else compared.documents.read(payload).value


def _unescaped(match: re.Match[str]) -> str:
    value: Any = json.loads(f'"{match[0]}"')
    return str(value)


def _clipped(ptr: str | None) -> str | None:
    return None if ptr is None else as_text(ptr[:_MAX_POINTER_CHARS])


def _plain(text: str | None) -> str | None:
    return as_text(text) if text else None
