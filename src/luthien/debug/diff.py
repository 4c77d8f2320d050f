"""What differs between two stage payloads: as JSON if both are, else as text, else by their hashes.

Nothing here raises, whatever the payloads are, and nothing is left out: what a budget makes coarser than it
could be is marked `degraded`. `ops` says what operations mean, `compare` how they are found.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Protocol

from luthien.debug.align import Aligner, Pairing
from luthien.debug.diffing.changes import added, removed
from luthien.debug.diffing.compare import Work, compare
from luthien.debug.diffing.documents import MAX_VALUES, Document, Documents, decode
from luthien.debug.diffing.identity import Identities
from luthien.debug.diffing.ops import Diff, Op, Summary, apply
from luthien.debug.diffing.values import Numbers, count_scalars

__all__ = ["ALGO", "MAX_VALUES", "Diff", "Differ", "Op", "Pairing", "Summary", "apply", "diff_payloads"]

ALGO = "aligned-dictdiffer/2"
"""Names how a diff was made; it changes whenever the same payloads get another diff than before."""


class Differ(Protocol):
    """Compares two payloads; `documents` has them as others have read them already."""

    def __call__(
        self, before: bytes | None, after: bytes | None, /, *, documents: Documents | None = None
    ) -> Diff: ...


def diff_payloads(
    before: bytes | None, after: bytes | None, *, pairing: Pairing | None = None, documents: Documents | None = None
) -> Diff:
    """What differs between two payloads, None being one that is absent; lists are paired by an `Aligner`.

    There are no operations if, and only if, both are the same bytes, or both are absent. Whether something
    that is absent should have been there is not for a diff to say: ask that before calling it "no change".
    """
    documents = documents or Documents()
    if before == after:
        same = 0 if before is None else count_scalars(documents.read(before).value)
        return Diff(ALGO, Summary(same=same), degraded=False, ops=())
    if before is None or after is None:
        return _diff_absent(before, after, documents)
    old, new = documents.read(before), documents.read(after)
    if old.form == "bytes" or new.form == "bytes":
        return _sum_up((Op("r1", "change", "bytes", "", "", documents.describe(before), documents.describe(after)),))
    if old.form != new.form:
        degraded = old.degraded or new.degraded
        old, new = Document(decode(before), "text", degraded), Document(decode(after), "text", degraded)
    ops, is_coarse = compare(old.value, new.value, _work(pairing, documents.numbers))
    same = count_scalars(old.value) - sum(
        count_scalars(op.before) for op in ops if op.op in ("change", "remove") and op.touches_value
    )
    ops = ops or (Op("r1", "change", "encoding", "", "", documents.describe(before), documents.describe(after)),)
    return _sum_up(ops, same=same, degraded=old.degraded or new.degraded or is_coarse)


def _work(pairing: Pairing | None, numbers: Numbers) -> Work:
    identities = Identities()
    return Work(pairing or Aligner(identities), identities, numbers, MAX_VALUES)


def _diff_absent(before: bytes | None, after: bytes | None, documents: Documents) -> Diff:
    document = documents.read(before or after or b"")
    op = added("", document.value) if before is None else removed("", document.value)
    if document.form == "bytes":
        op = replace(op, kind="bytes")
    return _sum_up((replace(op, id="r1"),), degraded=document.degraded)


def _sum_up(ops: tuple[Op, ...], *, same: int = 0, degraded: bool = False) -> Diff:
    times = Counter(op.op for op in ops)
    summary = Summary(same, times["add"], times["remove"], times["change"], times["move"])
    return Diff(ALGO, summary, degraded or any(op.degraded for op in ops), ops)
