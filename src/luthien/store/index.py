"""Which calls are to be indexed, and what is written of them.

`conversation_unindexed` has every call whose index is not of what is stored now: the writer puts it there in the
transaction that stores something of it, and it is taken away in the one that writes its index.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from luthien.store.sql import query
from luthien.store.stored import CallRow, StoredCall, record_of
from luthien.store.windows import NEWEST

Connection = psycopg.Connection[Any]

LEASE_S = 120.0
"""How long a claim keeps others off; after that its owner counts as dead."""
MAX_ATTEMPTS = 3
_MAX_BEGINNING_BYTES = 256 * 1024
_SWEEP_LOCK = 0x6C757468_696E6478
_STEP = 2_000
MOST_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class Claim:
    """A call to be indexed by us. `changed_in` is the last transaction that stored something of it."""

    call_id: UUID
    changed_in: str
    attempts: int


@dataclass(frozen=True, slots=True)
class ReadCall:
    """A call to be indexed. Without payloads, where these were too large: then `beginnings` has those of each."""

    stored: StoredCall
    is_whole: bool
    beginnings: tuple[bytes, ...] = ()

    @property
    def row(self) -> CallRow:
        return self.stored.row


@dataclass(frozen=True, slots=True)
class Change:
    """A row of `conversation_changes`: one place, and one policy that had a part in it.

    `path` and what follows is for counting: null where the call was too large to be compared.
    """

    side: str
    op_id: str
    action: str
    kind: str
    part: str
    before_ptr: str | None
    after_ptr: str | None
    policy: str | None
    version: str | None
    path: str | None = None
    message: int | None = None
    bytes_removed: int | None = None
    bytes_added: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A row of `conversation_decisions`: what one policy decided on one side. `sequence` is that of its record."""

    sequence: int
    recorded_at: datetime
    side: str
    policy: str
    version: str
    action: str
    changed: bool
    shadow: bool
    duration_ms: float | None
    count: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """What is indexed of a call."""

    algo: int
    lexemes: tuple[str, ...]
    changes: Sequence[Change] = ()
    decisions: Sequence[Decision] = ()
    capped: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Swept:
    """A step of a sweep: how many calls it looked at, where it came to, and how many it queued."""

    calls: int
    reached: UUID | None
    queued: int


@dataclass(slots=True)
class Sweep:
    """A walk over all calls, newest first, in small steps; those that are not indexed by this version, or a later
    one, are queued."""

    algo: int
    anew: bool = False
    since: UUID = field(default_factory=lambda: UUID(int=0))
    before: UUID = NEWEST
    is_over: bool = False

    def step(self, conn: Connection) -> Swept:
        """Nothing, while somebody else takes a step."""
        with conn.transaction():
            [(is_ours,)] = conn.execute(query("sweeping"), {"key": _SWEEP_LOCK})
            if not is_ours:
                return Swept(0, self.before, 0)
            parameters = {"since": self.since, "before": self.before, "limit": _STEP}
            asked = {**parameters, "algo": self.algo, "anew": self.anew}
            swept = Swept(*conn.execute(query("sweep_calls"), asked).fetchone())  # type: ignore[misc]
        if swept.reached is None:
            self.is_over = True
        else:
            self.before = swept.reached
        return swept


def claim(conn: Connection, at_most: int) -> list[Claim]:
    """Calls to be indexed, the newest first, which nobody else gets for `LEASE_S`."""
    rows = conn.execute(query("claim_unindexed"), {"limit": at_most, "lease_s": LEASE_S})
    return sorted((Claim(*row) for row in rows), key=lambda each: each.call_id, reverse=True)


def give_back(conn: Connection, claims: Sequence[Claim], after_s: float = 0.0) -> None:
    """For others, after some time; it was no attempt."""
    if claims:
        asked = {"ids": [each.call_id for each in claims], "after_s": after_s}
        conn.execute(query("give_back_unindexed"), asked)


def read_rows(conn: Connection, call_ids: Sequence[UUID]) -> dict[UUID, CallRow]:
    """What lists know of calls, of those that are there, and `held_bytes`: how large all payloads of each are."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query("index_calls"), {"call_ids": [*call_ids]}, binary=True)
        return {row["call_id"]: row for row in rows}


def read_calls(conn: Connection, rows: Sequence[CallRow], max_bytes: int) -> list[ReadCall]:
    """The calls of these rows, each with at most so many bytes of payloads."""
    asked = {
        "call_ids": [row["call_id"] for row in rows],
        "max_bytes": max_bytes,
        "beginning": _MAX_BEGINNING_BYTES,
    }
    events: dict[UUID, list[CallRow]] = {row["call_id"]: [] for row in rows}
    with conn.cursor(row_factory=dict_row) as cursor:
        for event in cursor.execute(query("index_events"), asked, binary=True):
            events[event["call_id"]].append(event)
    return [_read_call(row, events[row["call_id"]]) for row in rows]


def _read_call(row: CallRow, events: Sequence[CallRow]) -> ReadCall:
    beginnings = tuple(event["beginning"] for event in events if event["beginning"] is not None)
    return ReadCall(StoredCall(row, [record_of(event) for event in events]), not beginnings, beginnings)


def write_entries(conn: Connection, entries: Sequence[tuple[Claim, Entry]]) -> int:
    """Writes the index of calls in the place of the one each had; returns how many: of one that has changed
    meanwhile, nothing is written."""
    with conn.transaction():
        settled = _settled(conn, [claimed for claimed, _ in entries])
        if settled:
            written = [(claimed.call_id, entry) for claimed, entry in entries if claimed.call_id in settled]
            conn.execute(query("forget_counted"), {"call_ids": [*settled]})
            conn.execute(query("write_index"), _as_json(written))
    return len(settled)


def _settled(conn: Connection, claims: Sequence[Claim]) -> set[UUID]:
    """Which calls are as they were when they were claimed; they are waiting no more when the transaction ends."""
    asked = {
        "call_ids": [each.call_id for each in claims],
        "changed_in": [each.changed_in for each in claims],
    }
    return {call_id for (call_id,) in conn.execute(query("settle_unindexed"), asked)}


def _as_json(entries: Sequence[tuple[UUID, Entry]]) -> dict[str, str]:
    """The parameters of `write_index`: rows of three tables."""
    search, changes, decisions = [], [], []
    for call_id, entry in entries:
        of_call = {"call_id": str(call_id)}
        search.append({**of_call, **{name: getattr(entry, name) for name in ("lexemes", "algo", "capped", "error")}})
        changes += [{**of_call, "number": number, **_columns(each)} for number, each in enumerate(entry.changes)]
        decisions += [
            {**of_call, **_columns(each), "recorded_at": each.recorded_at.isoformat()} for each in entry.decisions
        ]
    return {"search": json.dumps(search), "changes": json.dumps(changes), "decisions": json.dumps(decisions)}


def _columns(row: Change | Decision) -> dict[str, Any]:
    return {each.name: getattr(row, each.name) for each in fields(row)}


def forget(conn: Connection, claimed: Claim) -> None:
    """Takes away what is left of a call that is not there any more."""
    with conn.transaction():
        conn.execute(query("forget_counted"), {"call_ids": [claimed.call_id]})
        conn.execute(query("forget_index"), {"call_id": claimed.call_id})
        _settled(conn, [claimed])


def lag(conn: Connection) -> tuple[int, float]:
    """How many calls are due, counted no further than 10,000, and for how many seconds the first of them."""
    [(waiting, age_s)] = conn.execute(query("index_lag"), {"limit": MOST_WAITING})
    return waiting, max(0.0, age_s)
