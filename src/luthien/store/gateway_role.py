"""What a gateway may do in the database when it is not the owner of the tables: record, read the record, index it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import psycopg
from psycopg import sql

from luthien.errors import StoreError
from luthien.store.migrate import connect
from luthien.store.sql import query

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Rights:
    """`names` are tables, or functions if the right is to execute them."""

    rights: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def kind(self) -> str:
        return "FUNCTION" if self.rights == ("EXECUTE",) else "TABLE"

    def __str__(self) -> str:
        kind = "FUNCTION " if self.kind == "FUNCTION" else ""
        return f"{', '.join(self.rights)} ON {kind}{', '.join(self.names)}"


RIGHTS: Final[Mapping[str, tuple[Rights, ...]]] = MappingProxyType(
    {
        "schema": (Rights(("SELECT",), ("_prisma_migrations",)),),
        "record": (
            Rights(("SELECT", "INSERT", "UPDATE"), ("conversation_calls", "conversation_events")),
            Rights(("SELECT", "INSERT"), ("conversation_quarantine",)),
        ),
        "queue": (Rights(("EXECUTE",), ("luthien_unindexed",)),),
        "processes": (Rights(("SELECT", "INSERT", "UPDATE", "DELETE"), ("conversation_processes",)),),
        "partitions": (Rights(("EXECUTE",), ("luthien_create_day",)),),
        "retention": (Rights(("EXECUTE",), ("luthien_drop_day", "luthien_drop_strays")),),
        "index": (
            Rights(("SELECT", "INSERT", "UPDATE", "DELETE"), ("conversation_search", "conversation_unindexed")),
            Rights(("SELECT", "INSERT", "DELETE"), ("conversation_changes", "conversation_decisions")),
        ),
    }
)
"""By what they are for. Nothing here reaches what another role owns: a role with these rights can neither alter a
table nor grant."""

_ADVICE: Final = "migrate as the owner of the database and of its tables"


def lacking(conn: Connection, purpose: str) -> list[Rights]:
    """What of it the connection's own role may not do. Raises psycopg.Error, also if the schema lacks the objects."""
    found = [replace(each, names=_lacking(conn, each)) for each in RIGHTS[purpose]]
    return [each for each in found if each.names]


def _lacking(conn: Connection, wanted: Rights) -> tuple[str, ...]:
    statement = query("lacking_functions" if wanted.kind == "FUNCTION" else "lacking_tables")
    rows = conn.execute(statement, {"names": list(wanted.names), "rights": list(wanted.rights)})
    return tuple(name for (name,) in rows)


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
                for each in itertools.chain.from_iterable(RIGHTS.values()):
                    rights, kind = sql.SQL(", ".join(each.rights)), sql.SQL(each.kind)
                    objects = sql.SQL(", ").join(map(sql.Identifier, each.names))
                    conn.execute(sql.SQL("GRANT {} ON {} {} TO {}").format(rights, kind, objects, to))
                # Batches pass through temporary tables, which an administrator may have taken from everybody.
                database = sql.Identifier(conn.info.dbname)
                conn.execute(sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(database, to))
                if said:
                    raise StoreError(f"{said[0]}: {_ADVICE}")
        except psycopg.errors.UndefinedObject:
            raise StoreError(f"there is no role {role}: an administrator makes it with CREATE ROLE") from None
        except psycopg.errors.InsufficientPrivilege as error:
            raise StoreError(f"{error.diag.message_primary}: {_ADVICE}") from None
