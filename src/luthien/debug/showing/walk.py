"""Two documents walked as one: what is unchanged is folded, and every operation stands where it belongs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from luthien.debug.diffing.ops import Op
from luthien.debug.diffing.values import Json, parse
from luthien.debug.showing.index import ABSENT, Entry, Maybe, OpIndex, entries
from luthien.debug.showing.leaf import Leaves, json_in
from luthien.debug.showing.op_notes import WORDS, notes_of
from luthien.debug.showing.options import DiffOptions
from luthien.debug.showing.phrases import counted
from luthien.debug.showing.place import (
    LONG_KEYS,
    MAX_LABEL_CHARS,
    Here,
    as_anchor,
    cut,
    in_words,
    is_plain,
    is_short,
    value_at,
)
from luthien.debug.showing.room import BLOCK_CHARS, FIELD_CHARS, OP_CHARS, Room
from luthien.debug.showing.rows import Block, Field, Fold, Item, Mark, OpNote
from luthien.debug.showing.shown import html_chars
from luthien.debug.showing.titles import detail_of, noun

_MAX_BLOCK_DEPTH = 8
_MAX_DEPTH = 70
_FEW_FIELDS = 2
_NAMED_FIELDS = 5
_MARKS: dict[str, Mark] = {"add": "added", "remove": "removed", "change": "changed", "move": "moved"}


class Walk:
    """Makes the rows of two documents, or of the JSON in two strings; `scope` begins all anchors."""

    def __init__(self, scope: str, op_scope: str, ops: Sequence[Op], room: Room, options: DiffOptions) -> None:
        self.places: dict[str, str] = {}
        self._scope = scope
        self._op_scope = op_scope
        self._index = OpIndex(ops)
        self._room = room
        self._options = options
        self._leaves = Leaves(room, options)

    def run(self, before: Maybe, after: Maybe) -> list[Item]:
        """All rows; no operation is missing, even if it were about a place that there is not."""
        root = Here("", "", before, after, None if before is ABSENT else "", None if after is ABSENT else "")
        items = self._document(root)
        return items + [self._stray(op) for op in self._index.ops if op.id not in self.places]

    def run_inside(self, before: Json, after: Json, depth: int, level: int) -> list[Item]:
        """The rows of the JSON in a string."""
        return self._rows(Here("", "", before, after, "", "", depth=depth, level=level))

    def _document(self, root: Here) -> list[Item]:
        """The root of an object: its plain fields in one block, then each part of its own."""
        root, ops, op = self._look(root)
        if root.mark == "same":
            root = replace(root, mark="changed")
        if op is not None or not isinstance(root.value, dict) or not root.is_container:
            return [self._field_of_op(root, op)] if op is not None else self._opened(root, ops)
        plain, parts = list[Entry](), list[Entry]()
        for entry in self._entries(root):
            (plain if is_plain(root, entry) else parts).append(entry)
        items: list[Item] = [Field("the whole document", root.mark, root.pointers, ops=ops)] if ops else []
        items += self._emptied(root)
        if plain:
            title = "model and parameters" if {"messages", "input"} & root.value.keys() else "fields"
            mark: Mark = root.mark
            if mark == "changed":
                same = self._sameness(root)
                mark = "same" if all(same(entry) for entry in plain) else "changed"
            self._room.take(BLOCK_CHARS)
            rows = tuple(self._children(replace(root, depth=1), plain))
            items.append(Block(f"{self._scope}-fields", title, "", mark, (None, None), rows))
        return items + self._children(root, parts, is_top=True)

    def _opened(self, here: Here, ops: tuple[OpNote, ...]) -> list[Item]:
        head: list[Item] = [Field("the whole document", here.mark, here.pointers, ops=ops)] if ops else []
        return head + self._contents(here)

    def _look(self, here: Here) -> tuple[Here, tuple[OpNote, ...], Op | None]:
        """What happened here: the place with its mark, notes about it, and the operation that made another value."""
        self._room.reach(self._anchor(here))
        if here.mark != "changed":
            return here, (), None
        index, notes, whole = self._index, list[OpNote](), None
        found: list[Op | None] = []
        if here.before_ptr is None:
            found = [index.adds.get(here.after_ptr)]
            here = replace(here, mark="added")
        elif here.after_ptr is None:
            found = [index.removes.get(here.before_ptr)]
            here = replace(here, mark="removed")
        else:
            found = [index.arrivals.get(here.after_ptr), *index.changes(*here.pointers)]
            if not index.touches(*here.pointers):
                here = replace(here, mark="same")
        for op in found:
            if op is None:
                continue
            if op.op == "change" and (op.touches_value or not self._goes_inside(here)):
                whole = op
            else:
                notes.append(self._note(op))
        return here, tuple(notes), whole

    def _goes_inside(self, here: Here) -> bool:
        return isinstance(here.value, (dict, list)) and here.level < _MAX_DEPTH

    def _rows(self, here: Here) -> list[Item]:
        """The rows of one value, within the block that it is in."""
        here, ops, op = self._look(here)
        if op is not None:
            field = self._field_of_op(here, op)
            return [replace(field, ops=(*ops, *field.ops))]
        if self._departed(here):
            return [self._stub(here)]
        if self._is_leaf(here) or not self._goes_inside(here):
            return [replace(self._leaf(here), ops=ops)]
        self._room.take(FIELD_CHARS if ops else 0)
        head: list[Item] = [Field(here.label, here.mark, here.pointers, ops=ops)] if ops and here.label else []
        if ops and not here.label:
            head = [Field("all of it", here.mark, here.pointers, ops=ops)]
        return head + self._contents(here)

    def _contents(self, here: Here) -> list[Item]:
        if self._is_leaf(here):
            return [self._leaf(here)]
        return self._emptied(here) + self._children(here, list(self._entries(here)))

    def _is_leaf(self, here: Here) -> bool:
        if here.mark == "changed" and isinstance(here.value, (dict, list)):
            return not here.is_container
        return self._leaves.is_leaf(here.value, here.mark)

    def _emptied(self, here: Here) -> list[Item]:
        """That a side has an empty list or object where the other has one with something in it."""
        if here.mark != "changed" or bool(here.before) == bool(here.after):
            return []
        if here.before:
            return [self._leaf(replace(here, label=here.label or "now empty", before_ptr=None, mark="added"))]
        gone = replace(here, label=here.label or "was empty", after=here.before, after_ptr=None, mark="removed")
        return [self._leaf(gone)]

    def _entries(self, here: Here) -> Iterator[Entry]:
        if here.mark == "same":
            return self._same_entries(here.value)
        return entries(self._index, here.before, here.after, *here.pointers)

    @staticmethod
    def _same_entries(value: Json) -> Iterator[Entry]:
        keys: Iterable[str | int] = value if isinstance(value, dict) else ()
        if isinstance(value, list):
            keys = range(len(value))
        return (Entry(key, key) for key in keys)

    def _child(self, here: Here, entry: Entry) -> Here:
        key = str(entry.before if entry.after is None else entry.after)
        shown = cut(key)
        if isinstance(here.value, list):
            label = f"{here.label} {shown}" if here.label else shown
        else:
            label = f"{here.label}.{shown}" if here.label else shown or '""'
        if len(label) > MAX_LABEL_CHARS:
            label = "…" + label[-MAX_LABEL_CHARS:]
        return here.at(entry, label)

    def _children(self, here: Here, children: Sequence[Entry], *, is_top: bool = False) -> list[Item]:
        """The rows of what a container holds: runs of what is unchanged folded, and what has no room any more."""
        items, run, number = list[Item](), list[Entry](), 0
        same = self._sameness(here)
        while number < len(children):
            entry = children[number]
            if same(entry) and not (is_top and isinstance(value_at(here, entry), list)):
                run.append(entry)
                number += 1
                continue
            items += self._fold(here, run, is_top=is_top)
            run, child = [], self._child(here, entry)
            if same(entry):
                child = replace(child, mark="same")
                items += self._fold(child, list(self._entries(child))) or self._rows(child)
            elif self._room.is_empty and not self._room.leads_to(self._anchor(child)):
                end = self._next_asked_for(here, children, number)
                items.append(self._left_out(here, children[number:end]))
                number = end
                continue
            else:
                items += self._one(here, child, is_top=is_top)
            number += 1
        return items + self._fold(here, run, is_top=is_top)

    def _sameness(self, here: Here) -> Callable[[Entry], bool]:
        """Tells the entries of a container that are the same on both sides; none, where all of it is the same."""
        if here.mark != "changed":
            return lambda entry: False
        before, after = self._index.touched(*here.pointers, is_list=isinstance(here.value, list))

        def is_same(entry: Entry) -> bool:
            is_paired = entry.before is not None and entry.after is not None
            return is_paired and entry.before not in before and entry.after not in after

        return is_same

    def _next_asked_for(self, here: Here, children: Sequence[Entry], start: int) -> int:
        rest = range(start + 1, len(children) if self._options.unfold else 0)
        asked = (n for n in rest if self._room.leads_to(self._anchor(self._child(here, children[n]))))
        return next(asked, len(children))

    def _one(self, parent: Here, here: Here, *, is_top: bool) -> list[Item]:
        is_part = isinstance(parent.value, list) or (is_top and isinstance(here.value, dict)) or here.key in LONG_KEYS
        is_list_at_top = is_top and isinstance(here.value, list) and not self._is_replaced(here)
        wants_block = (here.is_container and is_part) or (is_top and here.key in LONG_KEYS)
        if not wants_block or is_list_at_top or here.depth >= _MAX_BLOCK_DEPTH:
            return self._rows(here)
        return [self._block(here)]

    def _is_replaced(self, here: Here) -> bool:
        return any(op.touches_value for op in self._index.changes(*here.pointers))

    def _block(self, here: Here) -> Item:
        self._room.take(BLOCK_CHARS)
        if self._departed(here):
            return self._stub(here)
        here, ops, op = self._look(here)
        inner = replace(here, label="", depth=here.depth + 1)
        if op is not None:
            items: list[Item] = [self._field_of_op(inner, op)]
        elif here.is_container:
            items = self._contents(inner)
        else:
            items = [self._leaf(inner)]
        mark: Mark = "moved" if any(note.op.op == "move" for note in ops) else here.mark
        detail = detail_of(here.value)
        self._room.take(html_chars(here.label + detail))
        return Block(self._anchor(here), here.label, detail, mark, here.pointers, tuple(items), ops)

    def _departed(self, here: Here) -> bool:
        return here.after_ptr is None and here.before_ptr in self._index.departures and here.mark != "same"

    def _stub(self, here: Here) -> Block:
        """The place that something has left."""
        op = self._index.departures[here.before_ptr]
        address = self.places.get(op.id) or f"#{self._op_anchor(op)}"
        words = f"moved to {in_words(op.after_ptr)}"
        detail = detail_of(here.value)
        return Block(self._anchor(here), here.label, detail, "moved", here.pointers, link=(address, words))

    def _op_anchor(self, op: Op) -> str:
        return self._op_scope + op.id.rpartition(".")[2]

    def _field_of_op(self, here: Here, op: Op) -> Field:
        note = self._note(op)
        anchor = note.anchor
        if op.inside and isinstance(op.before, str) and isinstance(op.after, str):
            inner = Walk(anchor, f"{anchor}.", op.inside, self._room, self._options)
            items = inner.run_inside(parse(op.before), parse(op.after), here.depth, here.level + 1)
            items += [inner._stray(each) for each in op.inside if each.id not in inner.places]
            return Field(here.label, "changed", here.pointers, (), (note,), items=tuple(items))
        lines, chips, is_literal = self._leaves.changed(op, anchor)
        self._room.take(FIELD_CHARS + html_chars(here.label))
        return Field(here.label, _MARKS[op.op], here.pointers, lines, (note,), chips, is_literal)

    def _leaf(self, here: Here) -> Field:
        opened = json_in(here.value)
        if opened is not None and here.level < _MAX_DEPTH:
            return self._opened_leaf(here, opened)
        self._room.take(FIELD_CHARS + html_chars(here.label))
        lines, chips, is_literal = self._leaves.plain(here.value, here.mark, self._anchor(here))
        return Field(here.label, here.mark, here.pointers, lines, (), chips, is_literal)

    def _opened_leaf(self, here: Here, value: Json) -> Field:
        """A string that is JSON and is the same on both sides, or on one only."""
        before, after = (ABSENT if ptr is None else value for ptr in here.pointers)
        ptrs = [None if ptr is None else "" for ptr in here.pointers]
        root = Here("", "", before, after, ptrs[0], ptrs[1], here.mark, here.depth, here.level + 1)
        inner = Walk(f"{self._anchor(here)}!", self._op_scope, (), self._room, self._options)
        items = inner._rows(root)
        self._room.take(FIELD_CHARS + html_chars(here.label))
        return Field(here.label, here.mark, here.pointers, chips=("JSON in a string",), items=tuple(items))

    def _note(self, op: Op) -> OpNote:
        anchor = self._op_anchor(op)
        self.places[op.id] = f"#{anchor}"
        unknown = html_chars(op.reason or "") if op.policy is None else 0
        self._room.take(OP_CHARS + unknown + sum(OP_CHARS + html_chars(blame.reason) for blame in op.by))
        link = None
        if op.op == "move":
            link = (f"#{self._anchor_of(op.before_ptr, None)}", f"from {in_words(op.before_ptr)}")
        place = cut((op.before_ptr if op.after_ptr is None else op.after_ptr) or "the whole document")
        return OpNote(op, anchor, WORDS[op.op], place, notes_of(op), link)

    def _stray(self, op: Op) -> Field:
        """An operation about a place that the walk did not come by."""
        label = cut((op.before_ptr if op.after_ptr is None else op.after_ptr) or "the whole document")
        return self._field_of_op(Here("", label, None, None, op.before_ptr, op.after_ptr), op)

    def _anchor(self, here: Here) -> str:
        return self._anchor_of(*here.pointers)

    def _anchor_of(self, before_ptr: str | None, after_ptr: str | None) -> str:
        if after_ptr is None:
            return f"{self._scope}-before{as_anchor(before_ptr or '')}"
        return self._scope + as_anchor(after_ptr)

    def _left_out(self, parent: Here, rest: Sequence[Entry]) -> Fold:
        """What has no room on the page, and the way to it; the operations in it are now to be found there."""
        found, anchor = 0, self._anchor(self._child(parent, rest[0]))
        for op in self._index.at_or_in([self._child(parent, entry).pointers for entry in rest]):
            if op.id not in self.places:
                page, _, _ = self._room.link(self._anchor_of(op.before_ptr, op.after_ptr)).partition("#")
                self.places[op.id] = f"{page}#{self._op_anchor(op)}"
                found += 1
        label = counted(len(rest), f"more {noun(parent.key) if isinstance(parent.value, list) else 'field'}")
        label += f", with {counted(found, 'change')}" if found else ""
        return Fold(f"{anchor}@rest", label, link=self._room.link(anchor), ops=found)

    def _fold(self, parent: Here, run: Sequence[Entry], *, is_top: bool = False) -> list[Item]:
        """A run of what is unchanged; a few short fields are simply shown."""
        if not run:
            return []
        room, is_list = self._room, isinstance(parent.value, list)
        parent = replace(parent, mark="same")
        if len(run) <= _FEW_FIELDS and not is_list and not is_top and all(is_short(value_at(parent, e)) for e in run):
            return [item for entry in run for item in self._rows(self._child(parent, entry))]
        anchor = f"{self._anchor(self._child(parent, run[0]))}@same"
        label = counted(len(run), f"unchanged {noun(parent.key) if is_list else 'field'}")
        if parent.label and (not is_list or parent.label != parent.key):
            label += f" of {parent.label}"
        if not is_list:
            names = [str(entry.after)[: MAX_LABEL_CHARS // 3] for entry in run[:_NAMED_FIELDS]]
            label += ": " + ", ".join(names) + (", …" if len(run) > len(names) else "")
        if room.is_asked_for(anchor) or self._is_asked_for_in(parent, run):
            room.reach(anchor)
            return [Fold(anchor, label, tuple(self._children(parent, run, is_top=is_top)), is_open=True)]
        if not room.has_folded(self._leaves.weight([value_at(parent, entry) for entry in run])):
            return [Fold(anchor, label, link=room.link(anchor))]
        with room.in_fold():
            items = tuple(self._children(parent, run, is_top=is_top))
        return [Fold(anchor, label, items)]

    def _is_asked_for_in(self, parent: Here, run: Sequence[Entry]) -> bool:
        if not self._options.unfold:
            return False
        return any(self._room.leads_to(self._anchor(self._child(parent, entry))) for entry in run)
