"""What a gateway may do in the database when it is not the owner of the tables: record, read the record, index it."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import sql

from luthien.errors import StoreError
from luthien.store.migrate import connect

RIGHTS: Final = (
    (
        "SELECT, INSERT, UPDATE ON TABLE",
        ("conversation_calls", "conversation_events", "conversation_quarantine"),
    ),
    (
        "SELECT, INSERT, UPDATE, DELETE ON TABLE",
        ("conversation_processes", "conversation_search", "conversation_changes", "conversation_unindexed"),
    ),
    ("SELECT, INSERT, DELETE ON TABLE", ("conversation_decisions",)),
    ("SELECT ON TABLE", ("_prisma_migrations",)),
    ("EXECUTE ON FUNCTION", ("luthien_unindexed", "luthien_create_day", "luthien_drop_day", "luthien_drop_strays")),
)
"""Nothing here reaches what another role owns: a role with these rights can neither alter a table nor grant."""

_ADVICE: Final = "migrate as the owner of the database and of its tables"


def grant_gateway(dsn: str, role: str) -> None:
    """Gives an existing role what a gateway needs; to be done again after each migration.

    Raises:
        StoreError: there is no such role, these are not the connection's rights to give, or Postgres is away.
    """
    to = sql.Identifier(role)
    said: list[str] = []
    with connect(dsn, "luthien migrate --gateway") as conn:
        # Who may not grant is told so by a warning, if it may use what it would grant.
        conn.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
        try:
            with conn.transaction():
                for rights, names in RIGHTS:
                    objects = sql.SQL(", ").join(map(sql.Identifier, names))
                    conn.execute(sql.SQL("GRANT {} {} TO {}").format(sql.SQL(rights), objects, to))
                # Batches pass through temporary tables, which an administrator may have taken from everybody.
                database = sql.Identifier(conn.info.dbname)
                conn.execute(sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(database, to))
                if said:
                    raise StoreError(f"{said[0]}: {_ADVICE}")
        except psycopg.errors.UndefinedObject:
            raise StoreError(f"there is no role {role}: an administrator makes it with CREATE ROLE") from None
        except psycopg.errors.InsufficientPrivilege as error:
            raise StoreError(f"{error.diag.message_primary}: {_ADVICE}") from None
