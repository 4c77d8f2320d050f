"""What operations on a response did, in words that hold for every wire format."""

from __future__ import annotations

from collections.abc import Sequence

from luthien.debug.call.told import VERBS, clauses, label_of, sorted_labels
from luthien.debug.diffing.ops import Action, Op
from luthien.debug.diffing.values import Json, pointer, tokens
from luthien.debug.search.parts import part_at
from luthien.debug.showing.phrases import counted, listed
from luthien.exchange import Side
from luthien.store.call_filter import Part

_ACTIONS: tuple[Action, ...] = ("change", "add", "remove", "move")
_WHOLE = {
    Part.SYSTEM: "the instructions",
    Part.TOOLS: "the tools",
    Part.REASONING: "the reasoning",
    Part.REFUSAL: "the refusal",
    Part.FINISH_REASON: "the finish reason",
    Part.USAGE: "the token counts",
}
_SAID = {"content", "text", "message", "output", "choices", "transcript"}


def told_of_response(ops: Sequence[Op], came: Json, given: Json) -> str:
    """Says for example "changed the answer and the arguments of 1 tool call".

    `came` and `given` are the documents before and after.
    """
    if any(not _path(op) for op in ops):
        return f"{VERBS[ops[0].op]} the whole response"
    found: dict[str, _Touched] = {action: _Touched() for action in _ACTIONS}
    for op in ops:
        path, document = _path(op), given if op.op == "add" else came
        part = part_at(document, pointer("", *path), Side.RESPONSE)
        is_within = part is Part.TOOL_ARGUMENTS or (part in (Part.USAGE, Part.OTHER) and len(path) > 1)
        found["change" if is_within else op.op].take(op, part, path, document)
    labels = {action: touched.labels() for action, touched in found.items()}
    return clauses([f"{VERBS[action]} {listed(each)}" for action, each in labels.items() if each])


class _Touched:
    """What operations of one action are about, each once; calls of tools and pieces of text are counted."""

    def __init__(self) -> None:
        self._named: dict[str, None] = {}
        self._calls: dict[tuple[str, ...], int] = {}
        self._arguments: set[tuple[str, ...]] = set()
        self._pieces: dict[str, int] = {}

    def take(self, op: Op, part: Part, path: list[str], document: Json) -> None:
        if part is Part.TOOL_ARGUMENTS:
            self._arguments.add(_call_at(document, path))
        elif part is Part.TOOL_CALL:
            value = op.after if op.op == "add" else op.before
            self._calls[_call_at(document, path)] = len(value) if isinstance(value, list) else 1
        elif op.op != "change" and path[-1].isdigit() and part in (Part.MESSAGE, Part.TOOL_RESULT):
            noun = "text" if part is Part.MESSAGE else "tool result"
            self._pieces[noun] = self._pieces.get(noun, 0) + 1
        else:
            self._named[_label(part, path, op.op)] = None

    def labels(self) -> list[str]:
        told = sorted_labels(self._named)
        told += [counted(number, noun) for noun, number in self._pieces.items()]
        told += [counted(sum(self._calls.values()), "tool call")] if self._calls else []
        within = len(self._arguments - self._calls.keys())
        return told + ([f"the arguments of {counted(within, 'tool call')}"] if within else [])


def _label(part: Part, path: list[str], action: Action) -> str:
    if part is Part.MESSAGE:
        key = next((key for key in reversed(path) if not key.isdigit()), "")
        return "the answer" if key in _SAID else label_of(key)
    if part is Part.TOOL_RESULT:
        return "the result of a tool"
    if path[0] == "error":
        return "an error" if action == "add" else "the error"
    return _WHOLE.get(part) or label_of(path[0])


def _call_at(document: Json, path: list[str]) -> tuple[str, ...]:
    """Where the call of a tool stands that a path leads into."""
    for end in range(1, len(path) + 1):
        if path[end - 1].isdigit() and part_at(document, pointer("", *path[:end]), Side.RESPONSE) is Part.TOOL_CALL:
            return tuple(path[:end])
    return tuple(path)


def _path(op: Op) -> list[str]:
    return tokens((op.after_ptr if op.op == "add" else op.before_ptr) or "")
