"""What differs between two stage payloads: as JSON if both are, else as text, else by their hashes.

Nothing here raises, whatever the payloads are, and nothing is left out: what a budget makes coarser than it
could be is marked `degraded`. `ops` says what operations mean, `compare` how they are found.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from luthien.debug.align import Aligner, Pairing
from luthien.debug.diffing.changes import added, removed
from luthien.debug.diffing.compare import Work, compare
from luthien.debug.diffing.identity import Identities
from luthien.debug.diffing.ops import Diff, Op, Summary, apply
from luthien.debug.diffing.values import Json, Number, Numbers, count_marks, count_scalars, parse

__all__ = ["ALGO", "Diff", "Op", "Pairing", "Summary", "apply", "diff_payloads"]

ALGO = "aligned-dictdiffer/2"
"""Names how a diff was made; it changes whenever the same payloads get another diff than before."""
MAX_VALUES = 150_000
"""A JSON payload with more values than about this is compared as text, in which it takes less time and memory."""

_CONTAINER = re.compile(rb"\s*[\[{]")


def diff_payloads(before: bytes | None, after: bytes | None, *, pairing: Pairing | None = None) -> Diff:
    """What differs between two payloads, None being one that is absent; lists are paired by an `Aligner`.

    There are no operations if, and only if, both are the same bytes, or both are absent. Whether something
    that is absent should have been there is not for a diff to say: ask that before calling it "no change".
    """
    if before == after:
        same = 0 if before is None else count_scalars(_read(before).value)
        return Diff(ALGO, Summary(same=same), degraded=False, ops=())
    if before is None or after is None:
        return _diff_absent(before, after)
    numbers = Numbers()
    old, new = _read(before, numbers), _read(after, numbers)
    if old.form == "bytes" or new.form == "bytes":
        return _sum_up((Op("r1", "change", "bytes", "", "", _describe(before), _describe(after)),))
    if old.form != new.form:
        degraded = old.degraded or new.degraded
        old, new = _Document(_decode(before), "text", degraded), _Document(_decode(after), "text", degraded)
    ops, is_coarse = compare(old.value, new.value, _work(pairing, numbers))
    same = count_scalars(old.value) - sum(
        count_scalars(op.before) for op in ops if op.op in ("change", "remove") and op.touches_value
    )
    ops = ops or (Op("r1", "change", "encoding", "", "", _describe(before), _describe(after)),)
    return _sum_up(ops, same=same, degraded=old.degraded or new.degraded or is_coarse)


def _work(pairing: Pairing | None, numbers: Numbers) -> Work:
    identities = Identities()
    return Work(pairing or Aligner(identities), identities, numbers, MAX_VALUES)


@dataclass(frozen=True, slots=True)
class _Document:
    """A payload as far as it can be read. `degraded`: as text although it is, or may be, JSON."""

    value: Json
    form: Literal["json", "text", "bytes"]
    degraded: bool = False


def _read(payload: bytes, numbers: Numbers | None = None) -> _Document:
    try:
        text = _decode(payload)
    except UnicodeDecodeError:
        return _Document(_describe(payload), "bytes")
    if _CONTAINER.match(payload) and count_marks(payload, MAX_VALUES) > MAX_VALUES:
        return _Document(text, "text", degraded=True)
    try:
        return _Document(parse(text, numbers), "json")
    except RecursionError:
        return _Document(text, "text", degraded=True)
    except ValueError:
        return _Document(text, "text")


def _decode(payload: bytes) -> str:
    """As leniently as `json.loads` decodes bytes: a byte order mark and lone surrogates pass."""
    return payload.decode("utf-8-sig", "surrogatepass")


def _describe(payload: bytes) -> dict[str, Json]:
    return {"bytes": Number(str(len(payload))), "sha256": hashlib.sha256(payload).hexdigest()}


def _diff_absent(before: bytes | None, after: bytes | None) -> Diff:
    document = _read(before or after or b"")
    op = added("", document.value) if before is None else removed("", document.value)
    if document.form == "bytes":
        op = replace(op, kind="bytes")
    return _sum_up((replace(op, id="r1"),), degraded=document.degraded)


def _sum_up(ops: tuple[Op, ...], *, same: int = 0, degraded: bool = False) -> Diff:
    times = Counter(op.op for op in ops)
    summary = Summary(same, times["add"], times["remove"], times["change"], times["move"])
    return Diff(ALGO, summary, degraded or any(op.degraded for op in ops), ops)
