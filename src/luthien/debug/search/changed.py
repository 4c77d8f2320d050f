"""Each place that a policy changed, and whose change it was. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from luthien.debug.call.compared import Compared
from luthien.debug.diffing.ops import Diff, Op
from luthien.debug.diffing.values import Json
from luthien.debug.search.amounts import shares_of
from luthien.debug.search.parts import part_at
from luthien.debug.search.paths import message_of, path_of
from luthien.exchange import EventType, Side
from luthien.store.call_filter import Part
from luthien.store.calls import as_text
from luthien.store.index import Change, ReadCall

_MAX_POINTER_CHARS = 1_000


def changes_of(call: ReadCall, compared: Compared | None) -> Iterator[Change]:
    """The changes of a call; if its payloads are too large to be compared here, those that decisions tell of."""
    if compared is None:
        yield from _told_changes(call)
        return
    for side, diff in ((Side.REQUEST, compared.request), (Side.RESPONSE, compared.response)):
        if diff is not None and diff.ops:
            yield from _side_changes(call, compared, side, diff)


def _side_changes(call: ReadCall, compared: Compared, side: Side, diff: Diff) -> Iterator[Change]:
    before, after = (_document(compared, side, state) for state in ("original", "final"))
    sole = _sole_policy(_told_changes(call), side)
    for op in diff.ops:
        if not op.touches_value:
            continue
        document, ptr = (before, op.before_ptr) if op.after_ptr is None else (after, op.after_ptr)
        part = part_at(document, ptr or "", side)
        authors = _authors(op, sole)
        for (policy, version), amount in zip(authors, shares_of(op, authors), strict=True):
            yield Change(
                side.value,
                op.id,
                op.op,
                op.kind,
                part,
                _clipped(op.before_ptr),
                _clipped(op.after_ptr),
                policy,
                version,
                path_of(ptr or ""),
                message_of(ptr or "", side),
                *amount,
            )


def _authors(op: Op, sole: tuple[str | None, str | None]) -> Sequence[tuple[str | None, str | None]]:
    """Who had a part in it, each once."""
    if op.by:
        return list(dict.fromkeys((_plain(each.policy), _plain(each.version)) for each in op.by))
    return [(_plain(op.policy), _plain(op.version))] if op.policy else [sole]


def _sole_policy(told: Iterable[Change], side: Side) -> tuple[str | None, str | None]:
    """The policy that changed a side, if it was only one."""
    changed = {(each.policy, each.version) for each in told if each.side == side.value}
    return changed.pop() if len(changed) == 1 else (None, None)


def _told_changes(call: ReadCall) -> Iterator[Change]:
    """What decisions say of changes: who made one, and on which side."""
    for record in call.stored.records:
        get = record.attributes.get
        if record.event_type != EventType.POLICY_DECISION or get("luthien.policy.changed") is not True:
            continue
        if get("luthien.policy.shadow") is not True:
            side, policy, version = (str(get(f"luthien.policy.{name}", "")) for name in ("side", "name", "version"))
            yield Change(
                _plain(side) or "", "", "change", "", Part.OTHER, None, None, _plain(policy), _plain(version)
            )


def _document(compared: Compared, side: Side, state: str) -> Json:
    payload = compared.stages[EventType(f"{side.value}_{state}")].payload
    return None if payload is None else compared.documents.read(payload).value


def _clipped(ptr: str | None) -> str | None:
    return None if ptr is None else as_text(ptr[:_MAX_POINTER_CHARS])


def _plain(text: str | None) -> str | None:
    return as_text(text) if text else None
