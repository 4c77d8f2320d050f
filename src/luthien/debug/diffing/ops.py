"""The shape of a diff: operations on one document that make another of it, and how to apply them.

Pointers are RFC 6901 and absolute: `before_ptr` always refers to the document before, `after_ptr` to the
document after, whatever the other operations do. An `add` has no `before_ptr`, a `remove` no `after_ptr`;
that, and not a null value, is what "absent" looks like. The whole document is the empty pointer.

What a diff means: every `change` happens while each index still is one of the document before; then all that is
removed, and all that moves within its list, is taken out, innermost and last in its list first; then all that is
added, or moved, is put in, outermost and first in its list first, so that each index is one of the document after.
A `move` stays within one list; what changes inside the element that moves has operations of its own. Which element
of one list belongs to which of the other, and where any value went, is for `places.Places` to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import Literal, TypeAlias

from luthien.debug.diffing.values import Json, Number, canonical, dumps, is_deeper, tokens
from luthien.debug.diffing.words import Segments

MAX_DEPTH = 64
"""How deep a comparison goes into a document; what lies deeper is compared whole. Real payloads stay below 30."""

Action: TypeAlias = Literal["add", "remove", "change", "move"]

Kind: TypeAlias = Literal["text", "number", "boolean", "null", "object", "array", "type", "encoding", "bytes"]
"""What sort of value an operation is about.

- `text`, `number`, `boolean`, `null`, `object`, `array`: what is added or removed, or what both sides are. A
  changed `object` or `array` is one that was compared whole.
- `type`: a value became one of another type. `1` and `1.0` are both numbers, and a change of kind `number`.
- `encoding`: the same value, written differently. For a number, `before` and `after` are its two literals
  (`1.0` and `1.00`). For an object, they list its keys where their order changed, or every occurrence of its
  repeated keys as [key, value] where those differ; null on both sides, at the whole document, stands for more
  such objects than are told one by one. Where nothing differs but white space and escapes, they describe the
  two payloads as `bytes` does; beside other operations, that is not told.
- `bytes`: payloads of which one is not text; `before` and `after` describe them: {"bytes", "sha256"}.
"""


Flag: TypeAlias = Literal["encoding_only", "normalization_only", "whitespace_only"]
"""What is true of a changed value besides.

- `encoding_only`: another spelling of the same content: a string that became a list of one part with that text, or
  (as the input of a response) of one message of a user, of kind `type` and of course another value; or JSON in a
  string, written differently.
- `normalization_only`: the same text in another Unicode normal form.
- `whitespace_only`: the same text but for white space.
"""


def kind_of(value: Json) -> Kind:
    """The sort of one value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "text"
        case Number():
            return "number"
        case list():
            return "array"
        case dict():
            return "object"


@dataclass(frozen=True, slots=True)
class Blame:
    """A recorded policy step that had a part in a change. `decision` is the sequence of its record."""

    policy: str
    version: str
    reason: str
    decision: int


@dataclass(frozen=True, slots=True)
class Op:
    """One difference.

    `id` is unique and stable within its diff. `text` of a changed string is its word-level diff: "=" and "-"
    together are exactly `before`, "=" and "+" exactly `after`. Of a string that became a list of one text part, or
    the other way (kind `type`), it is the diff of the two texts, empty where they are the same. Where a number is
    concerned that a reader might round (always for a changed number), `text` holds the JSON text of the values
    instead; otherwise it is empty. `degraded` says that a budget made this operation coarser than it could be.

    Of a `move`, `before` and `after` are the element with all that it holds. If they differ, operations of their
    own say in what, and `text` is empty.

    `inside` is what differs between two strings that are JSON objects or arrays: operations whose pointers begin at
    the value of the string, and whose ids begin with that of this operation. It is empty if that value is the same,
    but for operations on the order of keys and the like.

    `by` names every policy step that had a part in it, in order; `policy`, `version` and `reason` are those of the
    last. Where several changed one string, `authors` has the place in `by` for each segment of `text`.
    """

    id: str
    op: Action
    kind: Kind
    before_ptr: str | None
    after_ptr: str | None
    before: Json
    after: Json
    text: Segments = ()
    policy: str | None = None
    version: str | None = None
    reason: str | None = None
    degraded: bool = False
    flags: tuple[Flag, ...] = ()
    inside: tuple[Op, ...] = ()
    by: tuple[Blame, ...] = ()
    authors: tuple[int | None, ...] = ()

    @property
    def touches_value(self) -> bool:
        """Whether the parsed document itself differs here: not merely the order of keys or white space."""
        return self.kind != "encoding" or isinstance(self.after, Number)

    def as_dict(self) -> dict[str, object]:
        """The fields by name. A value nested deeper than MAX_DEPTH becomes its JSON text, for readers' sake."""
        return {
            "id": self.id,
            "op": self.op,
            "kind": self.kind,
            "before_ptr": self.before_ptr,
            "after_ptr": self.after_ptr,
            "before": _readable(self.before),
            "after": _readable(self.after),
            "text": self.text,
            "policy": self.policy,
            "version": self.version,
            "reason": self.reason,
            "degraded": self.degraded,
            "flags": self.flags,
            "inside": [op.as_dict() for op in self.inside],
            "by": [asdict(each) for each in self.by],
            "authors": self.authors,
        }


def _readable(value: Json) -> Json:
    return canonical(value) if is_deeper(value, MAX_DEPTH) else value


@dataclass(frozen=True, slots=True)
class Summary:
    """What a diff amounts to.

    `added`, `removed`, `changed` and `moved` count operations, so a message that was added is one addition
    however many fields it has; an operation of kind `encoding` counts as a change, and all four are 0 only if
    the payloads are the same bytes. `same` counts scalars: strings, numbers, booleans and nulls that are at
    the same place on both sides, or in an element that moved, and equal (a payload that is not JSON is one string).
    Seen from the other side, `added` and `removed` trade places and the rest stays.
    """

    same: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    moved: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return {
            "same": self.same,
            "added": self.added,
            "removed": self.removed,
            "changed": self.changed,
            "moved": self.moved,
        }


@dataclass(frozen=True, slots=True)
class Diff:
    """What differs between two payloads. `degraded`: a budget made some of it coarser than it could be."""

    algo: str
    summary: Summary
    degraded: bool
    ops: tuple[Op, ...]

    def as_dict(self) -> dict[str, object]:
        """The diff as nested dicts and lists, for `values.dumps`; only that writes its numbers as they were."""
        return {
            "algo": self.algo,
            "summary": self.summary.as_dict(),
            "degraded": self.degraded,
            "ops": [op.as_dict() for op in self.ops],
        }

    def to_json(self) -> str:
        """Strict JSON in ASCII. Numbers are written as in the payload, so a reader with exact numbers gets them.

        A reader that makes doubles of them finds every number that would suffer in the `text` of its operation.
        NaN and Infinity, which JSON has not, become strings.
        """
        return dumps(self.as_dict())


def apply(ops: Iterable[Op], before: Json) -> Json:
    """The document after, made from the parsed document before; neither is modified. In what order `ops` are, is one.

    Operations that leave the value as it is, on keys and white space, are skipped. Those of kind `bytes` do
    not carry their payload and cannot be applied.
    """
    document = _Copy(before)
    out: list[tuple[list[tuple[int, str]], Op]] = []
    put: list[tuple[list[tuple[int, str]], Op]] = []
    for op in ops:
        if op.op == "change" and op.touches_value:
            document.change(op.before_ptr or "", op.after)
        if op.op in ("remove", "move"):
            out.append((_place(op.before_ptr), op))
        if op.op in ("add", "move"):
            put.append((_place(op.after_ptr), op))
    moved: dict[int, Json] = {}
    for _, op in sorted(out, key=itemgetter(0), reverse=True):
        moved[id(op)] = document.take_out(op.before_ptr or "")
    for _, op in sorted(put, key=itemgetter(0)):
        document.put_in(op.after_ptr or "", op.after if op.op == "add" else moved[id(op)])
    return document.root[0] if document.root else None


def _place(ptr: str | None) -> list[tuple[int, str]]:
    """Sorts pointers of one document: a container before what it holds, the elements of a list by their index."""
    return [(len(token), token) for token in tokens(ptr or "")]


class _Copy:
    """A document that is modified, while the original stays as it is: what is on the way to a change is copied."""

    def __init__(self, document: Json) -> None:
        self.root: list[Json] = [document]
        self._own: dict[int, Json] = {id(self.root): self.root}

    def change(self, ptr: str, value: Json) -> None:
        container, token = self._find(ptr)
        if isinstance(container, list):
            container[int(token)] = value
        else:
            container[token] = value

    def take_out(self, ptr: str) -> Json:
        container, token = self._find(ptr)
        return container.pop(int(token)) if isinstance(container, list) else container.pop(token)

    def put_in(self, ptr: str, value: Json) -> None:
        container, token = self._find(ptr)
        if isinstance(container, list):
            container.insert(int(token), value)
        else:
            container[token] = value

    def _find(self, ptr: str) -> tuple[list[Json] | dict[str, Json], str]:
        """The container that a pointer leads into, made our own, and the key or index there."""
        *path, last = ["0", *tokens(ptr)]
        container: list[Json] | dict[str, Json] = self.root
        for token in path:
            container = self._owned(container, token)
        return container, last

    def _owned(self, container: list[Json] | dict[str, Json], token: str) -> list[Json] | dict[str, Json]:
        child = container[int(token)] if isinstance(container, list) else container[token]
        if not isinstance(child, list | dict):
            raise KeyError(f"nothing is inside {token!r}")
        if id(child) in self._own:
            return child
        copy: list[Json] | dict[str, Json] = list(child) if isinstance(child, list) else dict(child)
        self._own[id(copy)] = copy
        if isinstance(container, list):
            container[int(token)] = copy
        else:
            container[token] = copy
        return copy
