"""Who may read the reports: a role that sees the views for Grafana, and no payload."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import sql

from luthien.errors import StoreError
from luthien.store.migrate import connect
from luthien.store.sql import query

REPORTS: Final = (
    "report_calls",
    "report_decisions",
    "report_changes",
    "report_partitions",
    "report_processes",
)
_FUNCTIONS: Final = (
    "luthien_first_id(timestamptz)",
    "luthien_is_alive(timestamptz, timestamptz, timestamptz)",
)


class ReaderError(StoreError):
    """A role could not be made a reader; the message says who must do what."""


def grant_reader(dsn: str, role: str) -> None:
    """Lets an existing role read the reports; a role that may read more than them is refused. May be repeated.

    Raises:
        ReaderError: there is no such role, it has other rights to the record, or ours do not reach to grant any.
        StoreError: Postgres cannot be reached.
    """
    with connect(dsn, "luthien migrate --reader") as conn:
        try:
            _check(conn, role)
            with conn.transaction():
                _grant(conn, role)
        except psycopg.Error as error:
            raise ReaderError(f"Postgres says: {error.diag.message_primary or error}") from error


def _check(conn: psycopg.Connection[Any], role: str) -> None:
    found = conn.execute(query("reader_rights"), {"role": role, "reports": list(REPORTS)}).fetchone()
    if found is None:
        name = sql.Identifier(role).as_string()
        raise ReaderError(
            f"there is no role {role}: CREATE ROLE {name} LOGIN PASSWORD '…', and say its name as it is stored, which"
            " is in lower case unless it was quoted"
        )
    missing, owner, is_ours, is_mighty, tables = found
    if missing:
        raise ReaderError(f"there is no {', '.join(missing)}: run `luthien migrate` first")
    if not is_ours:
        raise ReaderError(
            f"{conn.info.user} does not own the reports: run this as {owner}, who migrated the database"
        )
    if is_mighty:
        raise ReaderError(
            f"{role} may read every table whatever is granted, as a superuser, as one of pg_read_all_data or as one "
            f"of {owner}: give the reader a role of its own"
        )
    if tables:
        raise ReaderError(f"{role} has rights to {', '.join(tables)}, where payloads are: REVOKE them first")


def _grant(conn: psycopg.Connection[Any], role: str) -> None:
    reader = sql.Identifier(role)
    [(schema,)] = conn.execute("SELECT current_schema()")
    conn.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), reader))
    views = sql.SQL(", ").join(sql.Identifier(schema, name) for name in REPORTS)
    conn.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(views, reader))
    for function in _FUNCTIONS:
        conn.execute(sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(sql.SQL(function), reader))
