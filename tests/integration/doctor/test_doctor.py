"""The doctor says how everything is, in one line each, whatever is broken; it changes nothing and tells no secret."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import yaml
from psycopg import sql
from psycopg.conninfo import make_conninfo

from luthien.doctor import database
from luthien.doctor.finding import Level
from luthien.record.folder import Folder, look_at, spool_root
from luthien.settings import Settings
from luthien.store.partitions import PartitionKeeper, day_range
from tests.acceptance.commands import luthien
from tests.otlp_receiver import otlp_receiver
from tests.playbook import ScriptedProvider, answers
from tests.ports import reserved_port
from tests.tcp_proxy import proxy_to

SECRETS = {
    "OPENAI_API_KEY": "sk-secret-1",
    "ANTHROPIC_API_KEY": "sk-secret-2",
    "LUTHIEN_DEBUG_TOKEN": "secret-3",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret-4",
}

_PROCESS = """
import sys, time
from pathlib import Path
from uuid import uuid4
from luthien.doctor import database
from luthien.doctor.finding import Level
from luthien.record.folder import Folder
segment = Folder.create(Path(sys.argv[1]), uuid4()).new_segment()
segment.append([b"x" * 5000])
print(flush=True)
time.sleep(600)
"""

Findings = dict[str, dict[str, str]]

pytestmark = pytest.mark.usefixtures("same_day")


def day(days_ahead: int = 0) -> date:
    return datetime.now(UTC).date() + timedelta(days=days_ahead)


@pytest.fixture
def provider(provider: ScriptedProvider) -> ScriptedProvider:
    provider.will(answers({"error": "no key"}, status=401))
    return provider


@pytest.fixture
def ready(record_database: str) -> str:
    """The DSN of a database as a running gateway has it."""
    with psycopg.connect(record_database, autocommit=True) as conn:
        PartitionKeeper().ensure(conn, [day(number) for number in range(4)])
    return record_database


@pytest.fixture
def conn(ready: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(ready, autocommit=True) as conn:
        yield conn


def examine(data_dir: Path, dsn: str, provider: str, **environment: str) -> tuple[int, Findings]:
    """The exit status, and what was found, by check. Nothing that is a secret is in it."""
    upstreams = {name: {"url": provider} for name in ("openai", "anthropic")}
    (data_dir / "luthien.yaml").write_text(yaml.safe_dump({"upstreams": upstreams}))
    variables = {**SECRETS, "DATABASE_URL": dsn, **environment}
    with luthien("doctor", "--json", data_dir=data_dir, **variables) as command:
        status = command.wait()
    assert "secret" not in command.output
    if password := re.search(r"password=(\S+)", dsn):
        assert password[1] not in command.output
    found: list[dict[str, str]] = json.loads(command.output)
    assert len({each["check"] for each in found}) == len(found)
    return status, {each["check"]: each for each in found}


def levels(found: Findings) -> dict[str, set[str]]:
    """The checks that are not as they should be, by level."""
    return {
        level: {check for check, each in found.items() if each["level"] == level} for level in ("warning", "problem")
    }


KEYS_SAID = ("groups", "streams", "gateway keys")
NOTHING: dict[str, set[str]] = {"warning": set(), "problem": set()}


@pytest.fixture
def closed_port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


@contextmanager
def process_with_spool(root: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _PROCESS, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


class TestHealthy:
    def test_everything_is_well(self, data_dir: Path, ready: str, provider: ScriptedProvider) -> None:
        with otlp_receiver() as receiver:
            status, found = examine(data_dir, ready, provider.url, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
        assert (status, levels(found)) == (0, NOTHING)
        assert list(found) == [
            *("configuration", "database", "clock", "schema", "rights", "partitions", "default partitions"),
            *("retention", "quarantine", "processes", *(["losses"] if "losses" in found else [])),
            *("spool", "spool of the living", "spool of the dead", "provider openai", "provider anthropic"),
            *("OTLP traces", "OTLP metrics", "OTLP logs", "Tempo"),
        ]
        assert found["partitions"]["found"] == f"4 days, from {day()} to {day(3)}"
        assert "answers (401, without a key)" in found["provider openai"]["found"]
        assert [turn.path for turn in provider.turns] == ["/v1/models"] * 2
        assert {name for turn in provider.turns for name in turn.headers} <= {"host", "content-length", "connection"}
        assert receiver.spans == receiver.metrics == []

    def test_people_get_a_line_for_each_check(self, data_dir: Path, ready: str, provider: ScriptedProvider) -> None:
        examine(data_dir, ready, provider.url)
        with luthien("doctor", data_dir=data_dir, DATABASE_URL=ready, LUTHIEN_SPOOL="false") as command:
            assert command.wait() == 0
        assert "ok       schema             up to date" in command.lines
        assert any(line.startswith("warning  spool              off: ") for line in command.lines)
        assert all(line.split()[0] in {"ok", "warning", "problem"} for line in command.lines)

    def test_looking_changes_nothing(self, data_dir: Path, ready: str, provider: ScriptedProvider) -> None:
        examine(data_dir, ready, provider.url)
        assert sorted(path.name for path in data_dir.iterdir()) == ["luthien.yaml"]

    def test_the_database_of_a_running_up_is_looked_at(
        self, postgres_dsn: str, data_dir: Path, provider: ScriptedProvider
    ) -> None:
        with luthien("up", data_dir=data_dir) as up:
            up.wait_for("Luthien is up")
            with luthien("doctor", "--json", data_dir=data_dir) as command:
                command.wait()
            with luthien("prune", "--keep", "1d", data_dir=data_dir) as pruned:
                assert (pruned.wait(), pruned.output) == (0, "nothing is older than 1 days")
        found = {each["check"]: each for each in json.loads(command.output)}
        assert found["database"]["level"] == found["schema"]["level"] == "ok"
        assert found["spool of the living"]["found"].startswith("1 processes")


class TestTheDatabase:
    def test_that_is_down_costs_no_other_check(
        self, data_dir: Path, provider: ScriptedProvider, closed_port: int
    ) -> None:
        dsn = f"postgresql://luthien:secret@127.0.0.1:{closed_port}/luthien"
        status, found = examine(data_dir, dsn, provider.url)
        assert (status, levels(found)) == (1, {"warning": set(), "problem": {"database"}})
        assert "Connection refused" in found["database"]["found"]
        assert {"spool", "provider openai", "OTLP traces"} <= set(found)

    def test_that_says_nothing_is_not_waited_for_long(
        self, data_dir: Path, ready: str, provider: ScriptedProvider
    ) -> None:
        with proxy_to(ready) as proxy:
            proxy.stall()
            status, found = examine(data_dir, proxy.dsn(ready), provider.url)
        assert (status, levels(found)["problem"]) == (1, {"database"})

    def test_that_is_not_named_is_a_warning(self, data_dir: Path, provider: ScriptedProvider) -> None:
        status, found = examine(data_dir, "", provider.url)
        assert (status, levels(found)) == (0, {"warning": {"database"}, "problem": set()})

    @pytest.mark.parametrize(
        "dsn",
        [
            "postgresql://u:secret@h/d?schema=x",
            "postgresql://u:1/secret@h/d",
            "postgresql://u:1@secret@h/d",
            "postgresql://u:secret/x@h/d",
            "nonsense secret",
        ],
    )
    def test_whose_address_is_none_is_not_quoted(self, data_dir: Path, provider: ScriptedProvider, dsn: str) -> None:
        status, found = examine(data_dir, dsn, provider.url)
        assert (status, levels(found)["problem"]) == (1, {"database"})
        assert found["database"]["found"] == "DATABASE_URL is not an address"

    def test_whose_schema_is_behind_is_a_problem(
        self, data_dir: Path, database: str, provider: ScriptedProvider
    ) -> None:
        status, found = examine(data_dir, database, provider.url)
        assert (status, levels(found)["problem"]) == (1, {"schema"})
        assert "20261122000000_record" in found["schema"]["found"]
        assert found["schema"]["todo"] == "Run `luthien migrate`"
        assert {"rights", "partitions", "default partitions", "quarantine"} <= levels(found)["warning"]

    def test_that_is_read_only_is_a_problem(
        self, data_dir: Path, ready: str, conn: psycopg.Connection[Any], provider: ScriptedProvider
    ) -> None:
        name = sql.Identifier(conn.info.dbname)
        conn.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        status, found = examine(data_dir, ready, provider.url)
        assert (status, levels(found)["problem"]) == (1, {"database"})

    @pytest.mark.parametrize(("ahead_s", "said"), [(5400.0, "1.5 h behind"), (-5400.0, "1.5 h ahead of")])
    def test_whose_clock_is_another_is_a_warning(
        self, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, ahead_s: float, said: str
    ) -> None:
        class Clock:
            @staticmethod
            def time() -> float:
                return time.time() + ahead_s

        monkeypatch.setattr(database, "time", Clock)
        found = {each.check: each for each in database.examine(conn, Settings())}
        assert found["clock"].level is Level.WARNING
        assert said in found["clock"].found

    def test_that_is_slow_has_no_other_clock(
        self, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waited_s = itertools.count(0, 10)

        class Clock:
            @staticmethod
            def time() -> float:
                return time.time() + next(waited_s)

        monkeypatch.setattr(database, "time", Clock)
        found = {each.check: each for each in database.examine(conn, Settings())}
        assert found["clock"].level is Level.OK

    def test_in_which_the_user_may_not_write_is_a_problem(
        self, data_dir: Path, ready: str, conn: psycopg.Connection[Any], provider: ScriptedProvider
    ) -> None:
        role = sql.Identifier(f"reader_{uuid4().hex}")
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'hidden'").format(role))
        conn.execute(sql.SQL("GRANT SELECT ON conversation_calls, _prisma_migrations TO {}").format(role))
        dsn = make_conninfo(ready, user=role.as_string().strip('"'), password="hidden")
        status, found = examine(data_dir, dsn, provider.url)
        assert (status, levels(found)["problem"]) == (1, {"rights"})
        assert "conversation_calls, conversation_events, conversation_quarantine" in found["rights"]["found"]
        assert "quarantine" in levels(found)["warning"]
        conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
        conn.execute(sql.SQL("DROP ROLE {}").format(role))

    def test_in_which_the_user_may_not_queue_for_the_index_is_a_problem(
        self, ready: str, conn: psycopg.Connection[Any]
    ) -> None:
        """Then nothing could be stored at all."""
        role = sql.Identifier(f"writer_{uuid4().hex}")
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'hidden'").format(role))
        conn.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {}").format(role))
        dsn = make_conninfo(ready, user=role.as_string().strip('"'), password="hidden")
        with psycopg.connect(dsn, autocommit=True) as mine:
            [rights] = [each for each in database.examine(mine, Settings()) if each.check == "rights"]
        assert rights.level is Level.PROBLEM
        assert rights.todo == "GRANT EXECUTE ON FUNCTION luthien_unindexed"
        conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
        conn.execute(sql.SQL("DROP ROLE {}").format(role))

    def test_tells_what_strayed_what_is_set_aside_and_what_is_too_old(
        self, data_dir: Path, ready: str, conn: psycopg.Connection[Any], provider: ScriptedProvider
    ) -> None:
        PartitionKeeper().ensure(conn, [day(-9)])
        yesterday = day_range(day(-1))[0]
        conn.execute("INSERT INTO conversation_calls (call_id) VALUES (%s)", (yesterday,))
        for reason, hours in (("refused", 5), ("conflict", 3), ("refused", 1)):
            conn.execute(
                "INSERT INTO conversation_quarantine"
                " (call_id, sequence, record_sha256, reason, error, payload, quarantined_at)"
                " VALUES (%s, %s, '', %s, 'a secret', 'a secret', now() - make_interval(hours => %s))",
                (day_range(day())[0], hours, reason, hours),
            )
        status, found = examine(data_dir, ready, provider.url, LUTHIEN_KEEP="2d")
        expected = {"default partitions", "quarantine", "retention"}
        assert (status, levels(found)) == (0, {"warning": expected, "problem": set()})
        assert found["quarantine"]["found"] == (
            "3 records are set aside (refused 2, conflict 1), the newest, refused, 1.0 h ago"
        )
        assert found["default partitions"]["todo"] == "Run `luthien repair`"
        assert found["retention"]["found"].startswith("1 days are older than 2 days")


class TestProcesses:
    @pytest.fixture
    def book(self, conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
        """The book of processes, as the gateway keeps it."""
        conn.execute("""
            CREATE TABLE IF NOT EXISTS conversation_processes (
                process_id uuid PRIMARY KEY, host text, pid integer, version text, started_at timestamptz,
                seen_at timestamptz, ended_at timestamptz, ended_how text, stats jsonb
            )
        """)
        return conn

    @staticmethod
    def enter(conn: psycopg.Connection[Any], seen: str, ended_how: str | None, **stats: Any) -> None:
        conn.execute(
            "INSERT INTO conversation_processes (process_id, started_at, seen_at, ended_at, ended_how, stats)"
            " VALUES (%s, now(), now() - %s::interval, CASE WHEN %s::text IS NOT NULL THEN now() END, %s, %s)",
            (uuid4(), seen, ended_how, ended_how, json.dumps(stats)),
        )

    def test_that_live_and_stopped_are_well(
        self, data_dir: Path, ready: str, book: psycopg.Connection[Any], provider: ScriptedProvider
    ) -> None:
        self.enter(book, "1 second", None, dropped={}, trouble=None)
        self.enter(book, "1 hour", "stopped", dropped={"expired": 3}, trouble="disk_full")
        status, found = examine(data_dir, ready, provider.url)
        assert (status, levels(found)) == (0, NOTHING)
        assert found["processes"]["found"] == "1 alive, 0 died in the last seven days"
        assert found["losses"]["found"].endswith("not kept whole: expired 3")

    def test_that_died_or_lost_something_are_told_with_the_reason(
        self, data_dir: Path, ready: str, book: psycopg.Connection[Any], provider: ScriptedProvider
    ) -> None:
        self.enter(book, "1 second", None, dropped={"full": 2, "quarantined": 1}, trouble="disk_full")
        self.enter(book, "1 hour", None, dropped={"full": 40}, trouble=None)
        self.enter(book, "8 days", "died", dropped={"full": 500}, trouble=None)
        status, found = examine(data_dir, ready, provider.url)
        expected = {"warning": {"processes", "losses"}, "problem": {"spool of others"}}
        assert (status, levels(found)) == (1, expected)
        assert found["processes"]["found"] == "1 alive, 1 died in the last seven days"
        assert found["losses"]["found"].endswith("not kept whole: full 42, quarantined 1")
        assert "disk_full" in found["spool of others"]["found"]


class TestTheSpool:
    def test_of_the_living_is_told_from_that_of_the_dead_and_neither_is_touched(
        self, data_dir: Path, ready: str, provider: ScriptedProvider
    ) -> None:
        root = spool_root(data_dir / "spool", ready)
        with process_with_spool(root), process_with_spool(root) as other:
            _, found = examine(data_dir, ready, provider.url)
            assert found["spool of the living"]["found"] == "2 processes, 10.0 kB"
            assert found["spool of the dead"]["level"] == "ok"
            other.kill()
            other.wait()
            status, found = examine(data_dir, ready, provider.url)
            assert (status, levels(found)) == (0, {"warning": {"spool of the dead"}, "problem": set()})
            assert found["spool of the living"]["found"] == "1 processes, 5.0 kB"
            assert found["spool of the dead"]["found"].startswith("1 left 5.0 kB, ")
            assert [state.is_alive for state in look_at(root)].count(True) == 1
        for folder in Folder.adopt_all(root):
            assert len(folder.find_segments()) == 1
            folder.close()

    def test_for_another_database_is_told(self, data_dir: Path, ready: str, provider: ScriptedProvider) -> None:
        with process_with_spool(spool_root(data_dir / "spool", "dbname=another")):
            pass
        _, found = examine(data_dir, ready, provider.url)
        assert found["spool of the dead"]["level"] == "ok"
        assert found["spool elsewhere"]["level"] == "warning"

    def test_is_told_when_the_database_is_down(
        self, data_dir: Path, provider: ScriptedProvider, closed_port: int
    ) -> None:
        dsn = f"postgresql://u@127.0.0.1:{closed_port}/d"
        with process_with_spool(spool_root(data_dir / "spool", dsn)):
            pass
        _, found = examine(data_dir, dsn, provider.url)
        assert found["spool of the dead"]["level"] == "warning"

    def test_that_cannot_be_a_folder_is_a_problem(
        self, data_dir: Path, ready: str, provider: ScriptedProvider
    ) -> None:
        (data_dir / "file").touch()
        status, found = examine(data_dir, ready, provider.url, LUTHIEN_SPOOL_DIR=str(data_dir / "file"))
        assert (status, levels(found)["problem"]) == (1, {"spool"})

    def test_that_is_larger_than_its_disk_is_a_warning(
        self, data_dir: Path, ready: str, provider: ScriptedProvider
    ) -> None:
        status, found = examine(data_dir, ready, provider.url, LUTHIEN_SPOOL_MAX_BYTES=str(10**18))
        assert (status, levels(found)) == (0, {"warning": {"spool"}, "problem": set()})


class TestTheNetwork:
    def test_a_provider_that_is_down_is_a_problem(self, data_dir: Path, ready: str, closed_port: int) -> None:
        status, found = examine(data_dir, ready, f"http://127.0.0.1:{closed_port}")
        expected = {"provider openai", "provider anthropic"}
        assert (status, levels(found)) == (1, {"warning": set(), "problem": expected})

    def test_a_provider_that_redirects_is_a_problem(
        self, data_dir: Path, ready: str, provider: ScriptedProvider
    ) -> None:
        provider.will(answers(b"", status=301, headers={"location": "https://elsewhere"}))
        _, found = examine(data_dir, ready, provider.url)
        assert found["provider openai"]["level"] == "problem"


class TestTheConfiguration:
    def test_with_a_mistake_is_a_problem_and_costs_no_other_check(self, data_dir: Path, ready: str) -> None:
        path = data_dir / "other.yaml"
        path.write_text("policies:\n  - policy: no_such\n")
        with luthien("doctor", "--json", data_dir=data_dir, DATABASE_URL=ready, LUTHIEN_CONFIG=str(path)) as command:
            assert command.wait() == 1
        found = {each["check"]: each for each in json.loads(command.output)}
        assert levels(found)["problem"] == {"configuration"}
        assert "other.yaml:2" in found["configuration"]["found"]
        assert found["schema"]["level"] == "ok"

    def test_its_groups_and_keys_are_told(self, data_dir: Path, ready: str) -> None:
        path = data_dir / "other.yaml"
        path.write_text(
            "groups:\n"
            "  - name: all\n"
            "    match: {}\n"
            "    policies: [{policy: webhook, config: {url: http://127.0.0.1:1/}}]\n"
            "  - {name: some, match: {models: [a]}, policies: []}\n"
            "keys:\n"
            "  - {name: a, key: {env: KEY_A}, upstreams: {openai: {env: KEY_OPENAI}}}\n"
        )
        settings = {"DATABASE_URL": ready, "LUTHIEN_CONFIG": str(path), "KEY_A": "lk-0123456789abcdef"}
        with luthien("doctor", "--json", data_dir=data_dir, **settings) as command:
            assert command.wait() == 1
        [found] = [each for each in json.loads(command.output) if each["check"] == "configuration"]
        assert (
            "other.yaml:7: keys[0].upstreams.openai.env: the environment variable KEY_OPENAI is not set"
            in (found["found"])
        )
        with luthien("doctor", "--json", data_dir=data_dir, **settings, KEY_OPENAI="sk-1") as command:
            command.wait()
        said = [(each["level"], each["found"]) for each in json.loads(command.output) if each["check"] in KEYS_SAID]
        assert said == [
            ("ok", "2: all, some"),
            ("warning", "the group 'some' never matches: 'all', before it, takes all of its calls"),
            ("ok", "webhook: streams are held until they are whole, with keep-alives meanwhile"),
            ("ok", "1, with all 2 environment variables set; keys of providers are accepted too"),
        ]
        assert "lk-0123" not in command.output

    def test_settings_that_are_wrong_are_named(self, data_dir: Path) -> None:
        with luthien("doctor", "--json", data_dir=data_dir, LUTHIEN_KEEP="12h") as command:
            assert command.wait() == 1
        [found] = json.loads(command.output)
        assert (found["check"], "LUTHIEN_KEEP" in found["found"]) == ("settings", True)

    def test_without_a_token_nobody_could_sign_in(
        self, data_dir: Path, ready: str, provider: ScriptedProvider
    ) -> None:
        _, found = examine(data_dir, ready, provider.url, LUTHIEN_DEBUG_TOKEN="")
        assert found["sign-in"]["level"] == "warning"
