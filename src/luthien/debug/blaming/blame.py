"""Which policy made each operation of a diff: traced through the documents between the policies. Pure.

An operation between what came and what went on is followed through the diffs of the steps, by the place of its value
in each of their documents. What a step changed and a later one changed back is no operation, and nobody is blamed for
it. Where the record of a step is not there, nobody is named who is not certain. Nothing here raises, whatever the
payloads are; what would take too long is left without a policy, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from luthien.debug.blaming.authors import Authors
from luthien.debug.blaming.culprits import TOO_LARGE, Culprits, signed
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
from luthien.debug.blaming.steps import GATEWAY, OWN, Steps, Stretch
from luthien.debug.diff import Differ, diff_payloads
from luthien.debug.diffing.documents import Documents
from luthien.debug.diffing.ops import Blame, Diff, Op
from luthien.debug.diffing.values import Json, is_same, parse, repeats
from luthien.debug.diffing.words import Budget, diff_words
from luthien.formats import jsontext

MAX_TRACED_BYTES = 128 * 1024 * 1024
"""How large all documents may be together that are compared to find out who made a diff of several steps."""
MAX_STEP_OPS = 20_000
"""How many operations the steps may have together before those that are left are taken as one."""
_DEGRADED_OPS = 10_000
"""What a step counts for whose diff was too much work itself."""
MAX_LOOKUPS = 200_000
"""How many values may be looked for in the documents of one side."""
MAX_INSIDE = 4
"""How deep JSON in strings in JSON in strings is traced."""


def blame(diff: Diff, steps: Steps, differ: Differ = diff_payloads, documents: Documents | None = None) -> Diff:
    """The diff of one side with `by`, and policy, version and reason of the last, in each operation.

    An operation without a policy says in `reason` why nobody is named.
    """
    stretches = _without_loops(steps.stretches)
    if not diff.ops:
        return diff
    ops = (
        _blamed(diff, stretches, differ, documents or Documents())
        if stretches
        else [signed(op, (), OWN) for op in diff.ops]
    )
    if steps.is_cut:
        ops = [_as_told(op, steps.stopped_by) if _is_error(op) else op for op in ops]
    return replace(diff, ops=tuple(ops), degraded=diff.degraded or any(op.degraded for op in ops))


def ops_of(diff: Diff | None, decision: int) -> tuple[str, ...]:
    """The ids of the operations in which the step of a decision had a part."""
    return tuple(op.id for op in diff.ops if any(each.decision == decision for each in op.by)) if diff else ()


def _without_loops(stretches: Sequence[Stretch]) -> list[Stretch]:
    """The stretches without those that only led back to where it had been before."""
    kept: list[Stretch] = []
    for stretch in stretches:
        kept.append(stretch)
        start = next((at for at, earlier in enumerate(kept) if earlier.before == stretch.after), None)
        if start is not None:
            del kept[start:]
    return kept


def _blamed(diff: Diff, stretches: Sequence[Stretch], differ: Differ, documents: Documents) -> list[Op]:
    stretches = _within_bytes(stretches)
    if len(stretches) == 1:
        culprits = Culprits(stretches)
        return [culprits.sign(op, [0]) for op in diff.ops]
    budget = Budget()
    hops = _hops_of_text(diff, stretches, budget)
    if not hops:
        stretches, hops = _hops(stretches, differ, documents)
    level = _Level(hops, range(len(hops)), lambda: _value(stretches[-1].after, documents), stretches)
    tracer = _Tracer(Culprits(stretches), Work(MAX_LOOKUPS), budget)
    return [tracer.blamed(op, level) for op in diff.ops]


def _within_bytes(stretches: Sequence[Stretch]) -> Sequence[Stretch]:
    """As many of the first stretches as are not too large together, and the others as one."""
    left = MAX_TRACED_BYTES
    for at, stretch in enumerate(stretches):
        left -= len(stretch.before) + len(stretch.after)
        if left < 0:
            start = max(0, at - 1)  # the others are compared, too
            return [*stretches[:start], _as_one(stretches[start:])]
    return stretches


def _as_one(stretches: Sequence[Stretch]) -> Stretch:
    if len(stretches) == 1:
        return stretches[0]
    by = tuple(dict.fromkeys(step for each in stretches for step in each.by))
    is_open = any(each.is_open or not each.by for each in stretches)
    return Stretch(stretches[0].before, stretches[-1].after, by, is_open, TOO_LARGE)


def _hops(stretches: Sequence[Stretch], differ: Differ, documents: Documents) -> tuple[list[Stretch], list[Hop]]:
    """The diffs of the steps; when they have become too many, all that are left are one."""
    compared: list[Stretch] = []
    hops: list[Hop] = []
    left = MAX_STEP_OPS
    while len(compared) < len(stretches):
        rest = stretches[len(compared) :]
        stretch = rest[0] if left > 0 else _as_one(rest)
        made = differ(stretch.before, stretch.after, documents=documents)
        left -= len(made.ops) + (_DEGRADED_OPS if made.degraded else 0)
        compared.append(stretch)
        hops.append(Hop(made.ops, _value(stretch.before, documents)))
        if stretch is not rest[0]:
            break
    return compared, hops


def _hops_of_text(diff: Diff, stretches: Sequence[Stretch], budget: Budget) -> list[Hop]:
    """The hops between payloads that were compared as text, whatever they are to the diffs of the steps."""
    first = diff.ops[0]
    if (first.before_ptr, first.kind) != ("", "text") or not isinstance(first.before, str):
        return []
    texts = [_decoded(each) for each in (stretches[0].before, *(each.after for each in stretches))]
    if first.before != texts[0] or None in texts:
        return []
    return [
        Hop((Op("", "change", "text", "", "", old, new, diff_words(old, new, budget)[0]),), old)
        for old, new in pairwise([text for text in texts if text is not None])
    ]


def _is_error(op: Op) -> bool:
    """Whether it is the error with which the gateway ends a stream."""
    return op.after_ptr == "/error" and op.before is None and op.op in ("add", "change")


def _as_told(op: Op, stopped_by: Blame | None) -> Op:
    by = () if stopped_by is None else (stopped_by,)
    return signed(op, by, None if by else GATEWAY)


def _untraced(op: Op) -> Op:
    return replace(op, degraded=True, reason=TOO_LARGE)


@dataclass(frozen=True, slots=True)
class _Level:
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


class _Tracer:
    def __init__(self, culprits: Culprits, work: Work, budget: Budget) -> None:
        self._culprits = culprits
        self._work = work
        self._budget = budget

    def blamed(self, op: Op, level: _Level, depth: int = 0) -> Op:
        """The operation between the first and the last document of a level, with those that made it."""
        try:
            return self._blamed(op, level, depth)
        except OutOfWork:
            return _untraced(op)

    def _blamed(self, op: Op, level: _Level, depth: int) -> Op:
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

    def _removal(self, op: Op, level: _Level) -> list[int]:
        route = route_after(level.hops, op.before_ptr or "", self._work)
        if route.ended is not None:
            return [route.ended]
        return [*_touching(level.hops, route)]

    def _move(self, op: Op, level: _Level) -> list[int]:
        there = route_after(level.hops, op.before_ptr or "", self._work)
        back = route_before(level.hops, op.after_ptr or "", self._work)
        ends = [end for end in (there.ended, back.ended) if end is not None]
        moved = [
            number
            for number, place in enumerate(there.places[: len(level.hops)])
            if place is not None and level.hops[number].has_moved(place)
        ]
        return [*there.breaks, *ends, *moved]

    def _rewriting(self, op: Op, level: _Level) -> list[int]:
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

    def _respelling(self, op: Op, level: _Level) -> list[int]:
        """Who wrote the same in other bytes; a step that changes anything writes all of it anew."""
        if op.before is None:
            return [number for number, hop in enumerate(level.hops) if hop.rewritten]
        return [
            number
            for number, each in enumerate(level.stretches)
            if _is_compact(each.before) != _is_compact(each.after)
        ][-1:]

    def _turns(self, op: Op, level: _Level) -> list[_Turn]:
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

    def _turns_on(self, level: _Level, route: Route, start: int, op: Op) -> Iterator[_Turn]:
        for number in _touching(level.hops, route, start):
            change = level.hops[number].change_of(route.places[number] or "")
            after = self._value(level, route, number + 1, op) if change is None else change.after
            yield _Turn(number, after, change)

    def _value(self, level: _Level, route: Route, number: int, op: Op) -> Json:
        """The value in the document of that number, of which the last is known by the operation only."""
        self._work.spend()
        place = route.places[number] if number < len(route.places) else None
        if number == len(level.hops):
            return op.after
        return ABSENT if place is None else value_at(level.hops[number].document, place)

    def _text(self, op: Op, level: _Level, turns: Sequence[_Turn], depth: int) -> Op:
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

    def _inside(self, op: Op, level: _Level, turns: Sequence[_Turn], depth: int) -> tuple[Op, ...]:
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
        inner = _Level(hops, [level.steps[turn.hop] for turn in turns], lambda: _parsed(str(op.after)))
        return tuple(self.blamed(each, inner, depth + 1) for each in op.inside)

    def _around(self, op: Op, level: _Level) -> list[int]:
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


def _decoded(payload: bytes) -> str | None:
    try:
        return payload.decode("utf-8-sig", "surrogatepass")
    except UnicodeDecodeError:
        return None


def _value(payload: bytes, documents: Documents) -> Json:
    document = documents.read(payload)
    return None if document.form == "bytes" else document.value


def _parsed(text: str) -> Json:
    try:
        return parse(text)
    except (ValueError, RecursionError):
        return text
