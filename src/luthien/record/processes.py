"""What this process says of itself in the database, and of others that died: who is alive, who lost what."""

from __future__ import annotations

import os
import socket
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from luthien import __version__
from luthien.exchange import call_time_ms
from luthien.record.source import RecordSource
from luthien.record.untold import Lost
from luthien.record.upkeep import Chore, Connection
from luthien.store.calls import as_text
from luthien.store.sql import query
from luthien.store.write import is_about_content, quarantine

HEARTBEAT_S = 10.0
"""A process that was not heard of for six of these counts as dead."""
_NOTICES_S = 2.0
_HOUR_S = 3600.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def heartbeat(source: RecordSource, every_s: float = HEARTBEAT_S) -> Chore:
    """Says that this process lives, and how its record is doing; at the end, that it stopped."""

    def live(conn: Connection) -> None:
        parameters = {
            "process_id": source.process_id,
            "host": as_text(socket.gethostname()),
            "pid": os.getpid(),
            "version": __version__,
            "unsaved_s": source.oldest_unsaved_age_s(),
            "stats": Jsonb(_stats(source)),
        }
        conn.execute(query("say_alive"), parameters)

    def stop(conn: Connection) -> None:
        with conn.transaction():
            live(conn)
            conn.execute(query("say_stopped"), {"process_id": source.process_id})

    return Chore("heartbeat", every_s, live, at_end=stop)


def _stats(source: RecordSource) -> dict[str, Any]:
    stats = source.stats()
    counters = {field.name: getattr(stats, field.name) for field in fields(stats)}
    return {**counters, "oldest_unsaved_age_s": source.oldest_unsaved_age_s(), "trouble": source.trouble}


def notices(source: RecordSource, every_s: float = _NOTICES_S) -> Chore:
    """Tells the database what no record says: of which records nothing was kept, and which processes died."""

    def tell(conn: Connection) -> None:
        for process_id in (dead := source.untold.dead()):
            conn.execute(query("say_died"), {"process_id": process_id})
        source.untold.told(dead)
        # Each in a transaction of its own: many at once could wait for the writer, and it for them.
        for lost in source.untold.losses():
            _tell_loss(conn, source, lost)
            source.untold.told([lost])

    return Chore("notices", every_s, tell, at_end=tell)


def _tell_loss(conn: Connection, source: RecordSource, lost: Lost) -> None:
    """Sets aside what is known of the record: its kind, its place, its hash, and why it was refused."""
    call_id = lost.record.call_id
    try:
        with conn.transaction():
            started_at = _EPOCH + timedelta(milliseconds=call_time_ms(call_id))
            parameters = {"call_id": call_id, "started_at": started_at, "process_id": source.process_id}
            conn.execute(query("note_call"), parameters)
            conn.execute(query("queue_call"), {"call_id": call_id})
            quarantine(conn, lost.record, lost.reason, "refused before the database; nothing of it was kept")
    except Exception as error:
        if not is_about_content(error):
            raise


def forget_processes() -> Chore:
    """Forgets processes of which no call is kept any more."""

    def forget(conn: Connection) -> None:
        row = conn.execute(query("oldest_call")).fetchone()
        oldest = None if row is None else _EPOCH + timedelta(milliseconds=call_time_ms(row[0]))
        conn.execute(query("forget_processes"), {"oldest": oldest})

    return Chore("forget processes", _HOUR_S, forget)
