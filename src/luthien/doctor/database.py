"""The database: whether it is there and the right one, and what the record in it says of itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from luthien.doctor.finding import Finding, ok, problem, warning
from luthien.doctor.words import age
from luthien.settings import Settings
from luthien.store.deadline import WatchedConnection
from luthien.store.gateway_role import Rights, lacking
from luthien.store.migrate import MINIMUM_SERVER_VERSION, pending
from luthien.store.retention import expired_days, stored_days, strays
from luthien.store.sql import query

Connection = psycopg.Connection[Any]

# Beyond that the pages of other processes' calls say "not found" for a while, where they should say "not yet".
_MOST_SKEW_S = 2.0
_NOT_A_LOSS = frozenset({"expired", "closed"})
_MIGRATE = "Run `luthien migrate`"


class _Connection(WatchedConnection):
    silence_s = 10.0


def connect(dsn: str) -> Connection:
    """A connection that waits for nothing very long. Raises psycopg.Error."""
    conn = _Connection.connect(dsn, autocommit=True, connect_timeout=5, application_name="luthien doctor")
    conn.execute("SET statement_timeout = '8s'")
    return conn


def address(dsn: str) -> str | None:
    """Where that is, without user and password; None when it is no address.

    A password with a `/` or an `@` in it is taken for a part of the host, the port or the name.
    """
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return None
    host = str(parts.get("host") or parts.get("hostaddr") or "the local socket")
    port, name = str(parts.get("port", 5432)), str(parts.get("dbname", ""))
    is_address = "@" not in host + name and port.replace(",", "").isdigit()
    return f"{host}:{port}/{name}" if is_address else None


def examine(conn: Connection, settings: Settings) -> Iterator[Finding]:
    """Raises psycopg.Error when the connection breaks."""
    yield from _server(conn)
    behind = pending(conn)
    if behind:
        yield problem("schema", f"the database lacks {', '.join(behind)}", _MIGRATE)
    else:
        yield ok("schema", "up to date")
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "rights": lambda: _rights(conn, settings),
        "partitions": lambda: _partitions(conn),
        "default partitions": lambda: _default_partitions(conn),
        "retention": lambda: _retention(conn, settings.keep),
        "quarantine": lambda: _quarantine(conn),
        "processes": lambda: _processes(conn),
    }
    for name, check in checks.items():
        try:
            yield from check()
        except (psycopg.errors.UndefinedObject, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction):
            yield warning(name, "cannot be looked at with this schema", _MIGRATE)
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.QueryCanceled) as error:
            yield warning(name, f"cannot be looked at: {error.diag.message_primary}")


def _server(conn: Connection) -> Iterator[Finding]:
    before_s = time.time()
    [(now, version, is_read_only)] = conn.execute(query("doctor_server"))
    after_s = time.time()
    ahead_s = now.timestamp() - (before_s + after_s) / 2
    unsure_s = (after_s - before_s) / 2
    where = f"Postgres {version} at {conn.info.host}:{conn.info.port}/{conn.info.dbname}"
    if conn.info.server_version < MINIMUM_SERVER_VERSION:
        yield problem("database", f"{where} is too old", "Postgres 15 or newer is needed")
    elif is_read_only:
        yield problem("database", f"{where} is read-only", "Is it a standby? DATABASE_URL must name the primary")
    else:
        yield ok("database", where)
    direction = "ahead of" if ahead_s > 0 else "behind"
    if abs(ahead_s) - unsure_s > _MOST_SKEW_S:  # a slow answer is no other clock
        said = f"the database's clock is {age(abs(ahead_s))} {direction} this machine's"
        yield warning("clock", said, "Calls, ages and retention go by both: synchronise them")
    else:
        yield ok("clock", f"the database's is {abs(ahead_s) * 1000:.0f} ms {direction} this machine's")


def _rights(conn: Connection, settings: Settings) -> Iterator[Finding]:
    """What it lacks first; `luthien migrate --gateway` gives it all."""
    user = conn.info.user
    if lacks := lacking(conn, "record"):
        tables = ", ".join(name for each in lacks for name in each.names)
        yield problem("rights", f"{user} may not write to {tables}", _grant(lacks))
    elif lacks := lacking(conn, "queue"):
        said = f"{user} may not say which calls are to be indexed, so that it can store none"
        yield problem("rights", said, _grant(lacks))
    elif lacks := lacking(conn, "processes"):
        said = f"{user} may not say which processes are alive, so that open calls look interrupted"
        yield warning("rights", said, _grant(lacks))
    elif lacks := lacking(conn, "partitions"):
        yield warning("rights", f"{user} may not make partitions", _grant(lacks))
    elif settings.keep is not None and (lacks := lacking(conn, "retention")):
        yield warning("rights", f"{user} may not drop days", _grant(lacks))
    elif settings.index and (lacks := lacking(conn, "index")):
        said = f"{user} may not index calls, so that searches do not find them"
        yield warning("rights", said, f"{_grant(lacks)}, or set LUTHIEN_INDEX=false")
    else:
        yield ok("rights", f"{user} may write the record")


def _grant(lacks: list[Rights]) -> str:
    return "; ".join(f"GRANT {each}" for each in lacks)


def _partitions(conn: Connection) -> Iterator[Finding]:
    today = datetime.now(UTC).date()
    days = [stored.day for stored in stored_days(conn)]
    missing = [str(day) for day in (today, today + timedelta(days=1)) if day not in days]
    if missing:
        yield warning(
            "partitions",
            f"none yet for {' and '.join(missing)}",
            "A running gateway makes them; until then the default partition takes the rows",
        )
    else:
        yield ok("partitions", f"{len(days)} days, from {days[0]} to {days[-1]}")


def _default_partitions(conn: Connection) -> Iterator[Finding]:
    if found := strays(conn):
        rows = sum(each.rows for each in found)
        tables = ", ".join(sorted({each.table for each in found}))
        yield warning(
            "default partitions", f"{rows:,} rows, of {tables}, should be in a day's", "Run `luthien repair`"
        )
    else:
        yield ok("default partitions", "empty, as they should be")


def _retention(conn: Connection, keep: timedelta | None) -> Iterator[Finding]:
    if keep is None:
        yield ok("retention", "calls are kept for ever: LUTHIEN_KEEP is not set")
    elif expired := expired_days(conn, keep):
        said = f"{len(expired)} days are older than {keep.days} days, the oldest {expired[0].day}"
        yield warning("retention", said, "A running gateway drops them within the hour, `luthien prune` at once")
    else:
        yield ok("retention", f"nothing is older than {keep.days} days")


def _quarantine(conn: Connection) -> Iterator[Finding]:
    found = conn.execute(query("doctor_quarantine")).fetchall()
    if not found:
        yield ok("quarantine", "empty")
        return
    reasons = ", ".join(f"{reason} {count:,}" for reason, count, _ in found)
    count = sum(row[1] for row in found)
    newest, _, ago_s = found[0]
    said = f"{count:,} records are set aside ({reasons}), the newest, {newest}, {age(max(0.0, ago_s))} ago"
    yield warning("quarantine", said, "Their errors are in conversation_quarantine")


def _processes(conn: Connection) -> Iterator[Finding]:
    if conn.execute("SELECT to_regclass('conversation_processes')").fetchone() == (None,):
        yield ok("processes", "not known: this schema keeps no book of them")
        return
    alive, died, troubles, dropped = 0, 0, set(), dict[str, int]()
    for is_alive, ended_how, trouble, losses in conn.execute(query("doctor_processes")):
        alive += is_alive
        died += not is_alive and ended_how != "stopped"
        if is_alive and trouble:
            troubles.add(trouble)
        for reason, count in (losses or {}).items():
            dropped[reason] = dropped.get(reason, 0) + int(count)
    said = f"{alive} alive, {died} died in the last seven days"
    yield (warning if died else ok)("processes", said)
    if troubles:
        yield problem(
            "spool of others", f"records are not crash-proof: {', '.join(sorted(troubles))}", "See to that disk"
        )
    counted = ", ".join(f"{reason} {count:,}" for reason, count in sorted(dropped.items()) if count)
    lost = sum(count for reason, count in dropped.items() if reason not in _NOT_A_LOSS)
    said = f"records of the last seven days' processes that were not kept whole: {counted or 'none'}"
    yield (warning if lost else ok)("losses", said)
