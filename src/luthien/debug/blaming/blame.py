"""Which policy made each operation of a diff: traced through the documents between the policies. Pure.

An operation between what came and what went on is followed through the diffs of the steps, by the place of its value
in each of their documents. What a step changed and a later one changed back is no operation, and nobody is blamed for
it. Where the record of a step is not there, nobody is named who is not certain. Nothing here raises, whatever the
payloads are; what would take too long is left without a policy, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from luthien.debug.blaming.culprits import TOO_LARGE, Culprits, signed
from luthien.debug.blaming.hops import Hop, Work
from luthien.debug.blaming.steps import GATEWAY, OWN, Steps, Stretch
from luthien.debug.blaming.tracing import Level, Tracer
from luthien.debug.diff import Differ, diff_payloads
from luthien.debug.diffing.documents import Documents
from luthien.debug.diffing.ops import Blame, Diff, Op
from luthien.debug.diffing.values import Json
from luthien.debug.diffing.words import Budget, diff_words

MAX_TRACED_BYTES = 128 * 1024 * 1024
"""How large all documents may be together that are compared to find out who made a diff of several steps."""
MAX_STEP_OPS = 20_000
"""How many operations the steps may have together before those that are left are taken as one."""
_DEGRADED_OPS = 10_000
"""What a step counts for whose diff was too much work itself."""
MAX_LOOKUPS = 200_000
"""How many values may be looked for in the documents of one side."""


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
    level = Level(hops, range(len(hops)), lambda: _value(stretches[-1].after, documents), stretches)
    tracer = Tracer(Culprits(stretches), Work(MAX_LOOKUPS), budget)
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


def _decoded(payload: bytes) -> str | None:
    try:
        return payload.decode("utf-8-sig", "surrogatepass")
    except UnicodeDecodeError:
        return None


def _value(payload: bytes, documents: Documents) -> Json:
    document = documents.read(payload)
    return None if document.form == "bytes" else document.value
