"""The stack's roles in Postgres: made by its script, given rights by the migration, and enough for a gateway."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from typer.testing import CliRunner

from luthien.cli import cli
from luthien.debug.search.reindex import index_queued, queue_calls
from luthien.doctor import database
from luthien.doctor.finding import Level
from luthien.errors import StoreError
from luthien.settings import Settings
from luthien.store.gateway_role import RIGHTS, grant_gateway
from luthien.store.postgres.pginstall import find_binaries
from tests.playbook import ScriptedProvider, answers, running_gateway
from tests.wire import openai_request, openai_response

SCRIPT = Path(__file__).parents[2] / "otel" / "postgres" / "roles.sql"
ROLES = ("luthien", "gateway", "grafana")


@pytest.fixture
def made(postgres_dsn: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The DSN of each role, after the script has run as the image runs it: by psql, as the superuser.

    The server is one for all tests: here the roles and the database have something behind their names.
    """
    names = {role: f"{role}_{uuid4().hex[:8]}" for role in ROLES}
    for secret, role in (("owner", "luthien"), ("gateway", "gateway"), ("grafana", "grafana")):
        (tmp_path / f"postgres_{secret}_password").write_text(f'{role}\'s "word"')
    script = "\n".join(
        line.replace("/run/secrets", str(tmp_path))
        if line.startswith("\\set")
        else re.sub(r"(?<!')\b(luthien|gateway|grafana)\b(?!')", lambda found: names[found[1]], line)
        for line in SCRIPT.read_text().splitlines()
        if not line.startswith("--")
    )
    parts = {key: str(value) for key, value in conninfo_to_dict(postgres_dsn).items()}
    environment = {"PGPASSWORD": parts["password"], "PATH": "/usr/bin:/bin"}
    psql = ["psql", "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", make_conninfo(postgres_dsn, password=None)]
    psql[0] = str(find_binaries(None) / "psql")
    subprocess.run([*psql, "--file", "-"], input=script, text=True, env=environment, check=True, timeout=60)
    yield {
        role: make_conninfo(postgres_dsn, user=name, dbname=names["luthien"], password=f'{role}\'s "word"')
        for role, name in names.items()
    }
    with psycopg.connect(postgres_dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(names["luthien"])))
        for name in names.values():
            conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def user_of(dsn: str) -> str:
    return str(conninfo_to_dict(dsn)["user"])


def migrate(dsn: str, role: str, tmp_path: Path) -> str:
    """What the service `migrate` does, with the address in a file."""
    (tmp_path / "url").write_text(dsn + "\n")
    environment = {"DATABASE_URL": "", "DATABASE_URL_FILE": str(tmp_path / "url")}
    result = CliRunner().invoke(cli, ["migrate", "--gateway", role], env=environment)
    assert result.exception is None, result.output
    return result.output


def test_a_gateway_records_with_the_rights_that_the_migration_gave_it(
    made: dict[str, str], provider: ScriptedProvider, tmp_path: Path
) -> None:
    said = migrate(made["luthien"], user_of(made["gateway"]), tmp_path)
    assert f"{user_of(made['gateway'])} may record" in said
    assert "the schema is up to date" in migrate(made["luthien"], user_of(made["gateway"]), tmp_path)
    provider.will(answers(openai_response("Hello.")))
    with running_gateway(made["gateway"], provider.url) as gateway:
        assert gateway.get("/readyz").json()["status"] == "ready"
        answer = gateway.post("/v1/chat/completions", openai_request("Say hello."))
        assert answer.status_code == 200
        assert gateway.call(answer)["completeness"]["state"] == "complete"
    with psycopg.connect(made["gateway"], autocommit=True) as conn:
        states = {finding.check: finding for finding in database.examine(conn, Settings())}
        assert states["rights"].level is Level.OK
        queue_calls(conn, anew=True)
        assert [(done, failed) for done, failed, _left in index_queued(conn)][-1] == (1, 0)
        assert conn.execute("SELECT count(*) FROM conversation_processes").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("DROP TABLE conversation_calls")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("DELETE FROM conversation_calls")
    with pytest.raises(StoreError, match="migrate as the owner"):
        grant_gateway(made["gateway"], user_of(made["grafana"]))


def test_nobody_else_comes_in_and_grafana_writes_nothing(made: dict[str, str], tmp_path: Path) -> None:
    migrate(made["luthien"], user_of(made["gateway"]), tmp_path)
    with psycopg.connect(made["grafana"], autocommit=True) as conn:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT count(*) FROM conversation_events")
        assert conn.execute("SHOW statement_timeout").fetchone() == ("30s",)
        assert conn.execute("SHOW default_transaction_read_only").fetchone() == ("on",)
        conn.execute("SET default_transaction_read_only = off")  # which anybody may: it is not what protects
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("CREATE TEMPORARY TABLE mine (id int)")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(make_conninfo(made["grafana"], password="grafana"))


def test_the_doctor_names_each_right_that_is_missing(made: dict[str, str], tmp_path: Path) -> None:
    role = user_of(made["gateway"])
    migrate(made["luthien"], role, tmp_path)
    with (
        psycopg.connect(made["luthien"], autocommit=True) as owner,
        psycopg.connect(made["gateway"], autocommit=True) as gateway,
    ):
        for needed in itertools.chain.from_iterable(RIGHTS[purpose] for purpose in RIGHTS if purpose != "schema"):
            for name in needed.names:
                objects = f"{needed.rights[-1]} ON {needed.kind} {name}"
                owner.execute(f"REVOKE {objects} FROM {role}")
                [found] = [
                    finding
                    for finding in database.examine(gateway, Settings(keep=timedelta(days=30)))
                    if finding.check == "rights"
                ]
                assert (found.todo or "").startswith(f"GRANT {replace(needed, names=(name,))}")
                owner.execute(f"GRANT {objects} TO {role}")


def test_the_documented_rights_are_those_that_are_given() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = re.findall(r"^GRANT (.*) TO gateway;", text, re.MULTILINE)
    given = [str(each) for each in itertools.chain.from_iterable(RIGHTS.values())]
    assert sorted(documented) == sorted([*given, "CONNECT, TEMPORARY ON DATABASE luthien"])


def test_a_role_that_is_not_there_is_said_to_be_missing(record_database: str) -> None:
    with pytest.raises(StoreError, match="there is no role nobody_here"):
        grant_gateway(record_database, "nobody_here")
