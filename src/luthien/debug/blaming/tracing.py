"""One operation followed through the documents between policies, by the place of its value in each of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from luthien.debug.blaming.authors import Authors
from luthien.debug.blaming.culprits import TOO_LARGE, Culprits
from luthien.debug.blaming.hops import (
    ABSENT,
    Hop,
    OutOfWork,
    Route,
    Work,
    parents,
    route_after,
    route_before,
    value_at,
)
from luthien.debug.blaming.steps import Stretch
from luthien.debug.diffing.ops import Op
from luthien.debug.diffing.values import Json, is_same, parse, repeats
from luthien.debug.diffing.words import Budget, diff_words
from luthien.formats import jsontext

MAX_INSIDE = 4
"""How deep JSON in strings in JSON in strings is traced."""


@dataclass(frozen=True, slots=True)
class Level:
    """The documents of a side, or those that the JSON in one of their strings makes.

    `steps` has the number of the stretch of each hop, `stretches` those of the documents of a side.
    """

    hops: Sequence[Hop]
    steps: Sequence[int]
    last: Callable[[], Json]
    """Reads the last of the documents."""
    stretches: Sequence[Stretch] = ()


@dataclass(frozen=True, slots=True)
class _Turn:
    """A value became another one in a hop; `op` if that was an operation of its own."""

    hop: int
    after: Json
    op: Op | None = None


class Tracer:
    def __init__(self, culprits: Culprits, work: Work, budget: Budget) -> None:
        self._culprits = culprits
        self._work = work
        self._budget = budget

    def blamed(self, op: Op, level: Level, depth: int = 0) -> Op:
        """The operation between the first and the last document of a level, with those that made it."""
        try:
            return self._blamed(op, level, depth)
        except OutOfWork:
            return _untraced(op)

    def _blamed(self, op: Op, level: Level, depth: int) -> Op:
        if op.op == "remove":
            hops = self._removal(op, level)
        elif op.op == "move":
            hops = self._move(op, level)
        elif not op.touches_value:
            hops = self._rewriting(op, level)
        else:
            turns = self._turns(op, level)
            if op.kind == "text" and op.op == "change" and turns:
                return self._text(op, level, turns, depth)
            hops = [turn.hop for turn in turns]
        hops = hops or self._around(op, level)
        return self._culprits.sign(op, [level.steps[hop] for hop in hops])

    def _removal(self, op: Op, level: Level) -> list[int]:
        route = route_after(level.hops, op.before_ptr or "", self._work)
        if route.ended is not None:
            return [route.ended]
        return [*_touching(level.hops, route)]

    def _move(self, op: Op, level: Level) -> list[int]:
        there = route_after(level.hops, op.before_ptr or "", self._work)
        back = route_before(level.hops, op.after_ptr or "", self._work)
        ends = [end for end in (there.ended, back.ended) if end is not None]
        moved = [
            number
            for number, place in enumerate(there.places[: len(level.hops)])
            if place is not None and level.hops[number].has_moved(place)
        ]
        return [*there.breaks, *ends, *moved]

    def _rewriting(self, op: Op, level: Level) -> list[int]:
        """Who wrote an object's keys in another order, or the document otherwise."""
        if op.before_ptr == "" and not isinstance(op.before, list):
            return self._respelling(op, level)
        route = route_after(level.hops, op.before_ptr or "", self._work)
        documents = [*(hop.document for hop in level.hops), level.last()]
        first, *others = [
            ABSENT if place is None else _keys_of(value_at(document, place))
            for place, document in zip(route.places, documents, strict=False)
        ]
        turns = [_Turn(number, keys) for number, keys in enumerate(others)]
        hops = [turn.hop for turn in _without_turns_back(first, turns) if turn.after is not ABSENT]
        exact = [hop for hop in hops if (route.places[hop] or "") in level.hops[hop].rewritten]
        return exact or hops

    def _respelling(self, op: Op, level: Level) -> list[int]:
        """Who wrote the same in other bytes; a step that changes anything writes all of it anew."""
        if op.before is None:
            return [number for number, hop in enumerate(level.hops) if hop.rewritten]
        return [
            number
            for number, each in enumerate(level.stretches)
            if _is_compact(each.before) != _is_compact(each.after)
        ][-1:]

    def _turns(self, op: Op, level: Level) -> list[_Turn]:
        """What became of the value of an operation, hop by hop, without what led back to what it had been."""
        end, turns = len(level.hops), list[_Turn]()
        first = ABSENT if op.op == "add" else op.before
        if op.before_ptr is not None:
            route = route_after(level.hops, op.before_ptr, self._work)
            turns += self._turns_on(level, route, 0, op)
            if route.ended is None and route.places[end] == op.after_ptr:
                return _without_turns_back(first, turns)
            if route.ended is None:
                return []
            turns.append(_Turn(route.ended, ABSENT))
        route = route_before(level.hops, op.after_ptr or "", self._work)
        if route.ended is not None:
            turns.append(_Turn(route.ended, self._value(level, route, route.ended + 1, op)))
        elif op.before_ptr is not None:
            return []
        turns += self._turns_on(level, route, 0 if route.ended is None else route.ended + 1, op)
        return _without_turns_back(first, turns)

    def _turns_on(self, level: Level, route: Route, start: int, op: Op) -> Iterator[_Turn]:
        for number in _touching(level.hops, route, start):
            change = level.hops[number].change_of(route.places[number] or "")
            after = self._value(level, route, number + 1, op) if change is None else change.after
            yield _Turn(number, after, change)

    def _value(self, level: Level, route: Route, number: int, op: Op) -> Json:
        """The value in the document of that number, of which the last is known by the operation only."""
        self._work.spend()
        place = route.places[number] if number < len(route.places) else None
        if number == len(level.hops):
            return op.after
        return ABSENT if place is None else value_at(level.hops[number].document, place)

    def _text(self, op: Op, level: Level, turns: Sequence[_Turn], depth: int) -> Op:
        steps = {level.steps[turn.hop] for turn in turns}
        if len(steps) == 1 and turns[-1].after == op.after:  # all of the text is that step's
            return self._culprits.sign(replace(op, inside=self._inside(op, level, turns, depth)), steps)
        text = Authors.of(op.before if isinstance(op.before, str) else None)
        for turn in turns:
            after = turn.after if isinstance(turn.after, str) and turn.after is not ABSENT else None
            segments = turn.op.text if turn.op is not None and turn.op.kind == "text" else ()
            if not segments and text.text is not None and after is not None:
                segments, _ = diff_words(text.text, after, self._budget)
            text = text.becomes(after, level.steps[turn.hop], segments)
        if text.text != op.after:
            return self._culprits.sign(op, [level.steps[turn.hop] for turn in turns])
        op = replace(op, inside=self._inside(op, level, turns, depth))
        pieces, is_coarse = text.told(self._budget)
        told = self._culprits.sign_text(op, pieces)
        return replace(told, degraded=op.degraded or (is_coarse and bool(told.authors)))

    def _inside(self, op: Op, level: Level, turns: Sequence[_Turn], depth: int) -> tuple[Op, ...]:
        """The operations inside of a string that is JSON."""
        if not op.inside or depth >= MAX_INSIDE or not all(isinstance(turn.after, str) for turn in turns):
            return op.inside
        hops: list[Hop] = []
        before = op.before
        for turn in turns:
            ops = turn.op.inside if turn.op is not None else ()
            whole = Op("", "change", "text", "", "", before, turn.after)
            hops.append(Hop(ops or (whole,), _parsed(str(before))))
            before = turn.after
        inner = Level(hops, [level.steps[turn.hop] for turn in turns], lambda: _parsed(str(op.after)))
        return tuple(self.blamed(each, inner, depth + 1) for each in op.inside)

    def _around(self, op: Op, level: Level) -> list[int]:
        """The hops that changed something around the value, as near as there are any; else all of them."""
        rings = [
            [route_after(level.hops, ptr, self._work) for ptr in parents(op.before_ptr or "")],
            [route_before(level.hops, ptr, self._work) for ptr in parents(op.after_ptr or "")],
        ]
        for at in range(max(map(len, rings))):
            routes = [route for ring in rings for route in ring[at : at + 1]]
            near = {hop for route in routes for hop in (*_touching(level.hops, route), route.ended)} - {None}
            if near:
                return [hop for hop in near if hop is not None]
        return [*range(len(level.hops))]


def _touching(hops: Sequence[Hop], route: Route, start: int = 0) -> Iterator[int]:
    """The hops that changed a value, or something in it, where it was."""
    for number in range(start, len(route.places) - 1):
        before, after = route.places[number : number + 2]
        if before is not None and after is not None and hops[number].touches(before, after):
            yield number


def _without_turns_back(first: Json, turns: Iterable[_Turn]) -> list[_Turn]:
    """The turns without those that only led back to a value that had been there before."""
    kept: list[_Turn] = []
    values = [first]
    for turn in turns:
        known = next((at for at, value in enumerate(values) if is_same(value, turn.after)), None)
        if known is None:
            kept.append(turn)
            values.append(turn.after)
        else:
            del kept[known:], values[known + 1 :]
    return kept


def _keys_of(value: Json) -> Json:
    """The order of an object's keys, and what it repeats."""
    return [[*value], repeats(value)] if isinstance(value, dict) else ABSENT


def _is_compact(payload: bytes) -> bool:
    """Whether it is written as the gateway writes what a policy changed."""
    try:
        return jsontext.render(jsontext.parse(payload)) == payload
    except (jsontext.InvalidJson, RecursionError):
        return False


def _untraced(op: Op) -> Op:
    return replace(op, degraded=True, reason=TOO_LARGE)


def _parsed(text: str) -> Json:
    try:
        return parse(text)
    except (ValueError, RecursionError):
        return text
