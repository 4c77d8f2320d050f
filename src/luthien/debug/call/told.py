"""What operations on a request did, in the words of its wire format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from luthien.debug.diffing.ops import Op
from luthien.debug.diffing.values import dumps, tokens
from luthien.debug.showing.phrases import counted, listed

_LISTS = {"messages": "message", "input": "input item", "tools": "tool"}
_FIELDS = {"system": "the system prompt", "instructions": "the instructions", "input": "the input"}
VERBS = {"change": "changed", "write": "re-encoded", "add": "added", "remove": "removed", "move": "moved"}
_NAMED_FIELDS = 3
_NAME_CHARS = 40


def told_of_request(ops: Sequence[Op], everything: Sequence[Op], before: object) -> str:
    """What some of all operations on a request did, in the words of its wire format.

    Says for example "changed 1 of 2 messages and added 1".
    """
    fields: dict[str, dict[str, None]] = {action: {} for action in VERBS}
    within: dict[str, list[Op]] = {}
    for op in ops:
        path = _path(op)
        if not path:
            return f"{VERBS[op.op]} the whole request"
        if len(path) == 1:
            fields[_action(op)][label_of(path[0]) + _from_to(op, path[0])] = None
        elif path[0] in _LISTS and _length(before, path[0]) is not None:
            within.setdefault(path[0], []).append(op)
        else:
            fields["write" if _action(op) == "write" else "change"][label_of(path[0])] = None
    fields["write"] = {label: None for label in fields["write"] if label not in fields["change"]}
    parts = {action: sorted_labels(labels) for action, labels in fields.items()}
    for name, inner in within.items():
        elements = _Elements([op for op in everything if _path(op)[:1] == [name] and len(_path(op)) > 1])
        touched = elements.touched_by(inner)
        noun, bare = _LISTS[name], len(within) == 1 and bool(touched["change"])
        for action, indices in touched.items():
            if action in ("change", "write") and indices:
                parts[action].append(f"{len(indices)} of {counted(_length(before, name) or 0, noun)}")
            elif indices:
                parts[action].append(str(len(indices)) if bare else counted(len(indices), noun))
    return clauses(
        [
            f"{VERBS[action]} {listed(labels)}{' (same content)' if action == 'write' else ''}"
            for action, labels in parts.items()
            if labels
        ]
    )


def _action(op: Op) -> str:
    """What the operation did; to write the same content in another way is not to change it."""
    return "write" if op.op == "change" and "encoding_only" in op.flags else op.op


class _Elements:
    """Which elements of a list the operations on it have to do with, known by what was added, removed and moved."""

    def __init__(self, ops: Iterable[Op]) -> None:
        self._put = dict[int, int | None]()
        self._taken = set[int]()
        for op in ops:
            if op.op in ("add", "move") and len(_tokens(op.after_ptr)) == 2:
                self._put[int(_tokens(op.after_ptr)[1])] = None if op.op == "add" else int(_tokens(op.before_ptr)[1])
            if op.op in ("remove", "move") and len(_tokens(op.before_ptr)) == 2:
                self._taken.add(int(_tokens(op.before_ptr)[1]))

    def touched_by(self, ops: Iterable[Op]) -> dict[str, set[int]]:
        """The elements that were changed, added, removed and moved.

        A changed element counts once, whether its operations name it by its index before or, as additions within
        it do, after.
        """
        touched: dict[str, set[int]] = {action: set() for action in VERBS}
        for op in ops:
            path = _path(op)
            index = int(path[1])
            if len(path) == 2:
                touched[_action(op)].add(index)
            else:
                action = "write" if _action(op) == "write" else "change"
                touched[action].add(self._before(index) if op.op == "add" else index)
        touched["write"] -= touched["change"]
        return touched

    def _before(self, index: int) -> int:
        """The index that an element had before others were added, removed and moved."""
        moved_from = self._put.get(index)
        if moved_from is not None:
            return moved_from
        kept = index - sum(other < index for other in self._put)
        for other in sorted(self._taken):
            kept += other <= kept
        return kept


def _tokens(ptr: str | None) -> list[str]:
    return tokens(ptr or "")


def _path(op: Op) -> list[str]:
    return tokens((op.after_ptr if op.before_ptr is None else op.before_ptr) or "")


def _length(document: object, name: str) -> int | None:
    elements = document.get(name) if isinstance(document, Mapping) else None
    return len(elements) if isinstance(elements, list) else None


def _from_to(op: Op, name: str) -> str:
    """The two values of a field that changed, where they are a model or short numbers."""
    if op.op != "change" or not (op.kind in ("number", "boolean") or (name == "model" and op.kind == "text")):
        return ""
    old, new = (value if isinstance(value, str) else dumps(value) for value in (op.before, op.after))
    return f" from {old} to {new}" if max(len(old), len(new)) <= _NAME_CHARS else ""


def label_of(name: str) -> str:
    if name in _FIELDS:
        return _FIELDS[name]
    if name in _LISTS:
        return f"the {_LISTS[name]}s"
    return name if len(name) <= _NAME_CHARS else f"{name[:_NAME_CHARS]}…"


def sorted_labels(labels: Iterable[str]) -> list[str]:
    """The system prompt first, and no more names of other fields than a sentence bears."""
    known = [label for label in labels if label.startswith("the ")]
    others = [label for label in labels if not label.startswith("the ")]
    if len(others) > _NAMED_FIELDS:
        others = [counted(len(others), "other field" if known else "field")]
    return known + others


def clauses(parts: Sequence[str]) -> str:
    """Clauses joined so that an "and" within one is not taken for the one between them."""
    if len(parts) == 2 and " and " in parts[0]:
        return set_apart(parts)
    return listed(parts)


def set_apart(parts: Sequence[str]) -> str:
    """ "a, b, and c" where one of them has an "and" of its own, else "a, b and c"."""
    if any(" and " in part for part in parts[:-1]):
        return f"{', '.join(parts[:-1])}, and {parts[-1]}"
    return listed(parts)
