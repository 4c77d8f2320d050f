"""Diffs that are kept for the next who asks: each is made once, also when several ask at a time."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from threading import Lock
from typing import TypeAlias

from luthien.debug.diff import ALGO, Differ, diff_payloads
from luthien.debug.diffing.documents import Documents
from luthien.debug.diffing.ops import Diff, Op
from luthien.debug.diffing.values import Json, Number

MAX_BYTES = 64 * 1024 * 1024
"""How much memory the diffs that are kept may take, about."""
MAX_DIFFS = 1_000
"""How many diffs are kept."""

_OP_BYTES = 512
_PART_BYTES = 96

_Key: TypeAlias = tuple[bytes | None, bytes | None, str]


class DiffCache:
    """Compares two payloads, as `diff_payloads` does, or finds what came of it the last time.

    Diffs are found by the hashes of both payloads and the name of how they are made. Those not asked for the longest
    go first. May be called from any thread; one that asks for a diff that another is making waits for that.
    """

    def __init__(
        self,
        differ: Differ = diff_payloads,
        *,
        max_bytes: int = MAX_BYTES,
        max_diffs: int = MAX_DIFFS,
    ) -> None:
        self._differ = differ
        self._max_bytes = max_bytes
        self._max_diffs = max_diffs
        self._lock = Lock()
        self._kept: OrderedDict[_Key, tuple[Diff, int]] = OrderedDict()
        self._in_work: dict[_Key, Future[Diff]] = {}
        self._bytes = 0

    def __call__(self, before: bytes | None, after: bytes | None, /, *, documents: Documents | None = None) -> Diff:
        """What differs between two payloads. Raises what comparing them raises."""
        documents = documents or Documents()
        key = (_hash(before, documents), _hash(after, documents), ALGO)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
            awaited = self._in_work.get(key)
            made = self._in_work[key] = Future() if awaited is None else awaited
        if awaited is not None:
            return awaited.result()
        try:
            diff = self._differ(before, after, documents=documents)
            size = size_of(diff)
        except BaseException as error:
            with self._lock:
                del self._in_work[key]
            made.set_exception(error)
            raise
        with self._lock:
            self._keep(key, diff, size)
            del self._in_work[key]
        made.set_result(diff)
        return diff

    @property
    def kept(self) -> tuple[int, int]:
        """How many diffs are kept, and how many bytes they take, about."""
        with self._lock:
            return len(self._kept), self._bytes

    def _keep(self, key: _Key, diff: Diff, size: int) -> None:
        if size > self._max_bytes:
            return
        self._kept[key] = diff, size
        self._bytes += size
        while self._bytes > self._max_bytes or len(self._kept) > self._max_diffs:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed


def _hash(payload: bytes | None, documents: Documents) -> bytes | None:
    return None if payload is None else documents.digest(payload)


def size_of(diff: Diff) -> int:
    """How many bytes a diff takes, about: its operations and the values that they hold."""
    ops, values, size, seen = list(diff.ops), list[Json](), _OP_BYTES, set[int]()
    while ops:
        op = ops.pop()
        ops += op.inside
        values += _held_by(op)
        size += _OP_BYTES + sum(_PART_BYTES + sys.getsizeof(text) for _, text in op.text)
    while values:
        value = values.pop()
        if id(value) in seen:
            continue
        if isinstance(value, str | dict | list):
            seen.add(id(value))
        size += sys.getsizeof(value) + (sys.getsizeof(value.text) if isinstance(value, Number) else 0)
        if isinstance(value, dict):
            values += value.values()
            size += sum(map(sys.getsizeof, value))
        elif isinstance(value, list):
            values += value
    return size


def _held_by(op: Op) -> Iterable[Json]:
    return (op.before, op.after, op.before_ptr, op.after_ptr)
