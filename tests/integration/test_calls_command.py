"""`luthien calls` as people and scripts run it: a real database and terminal, real processes where they count."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from luthien.calls.options import HELP, option_of
from luthien.cli import cli
from luthien.debug.search.filters import NAMES
from luthien.store.embedded import embedded_postgres
from luthien.store.migrate import migrate
from luthien.store.write import prepare, write_batch
from tests.playbook import DEADLINE_S, Gateway, ScriptedProvider, answers, eventually, running_gateway
from tests.records import whole_call
from tests.wire import openai_request, openai_response

CHAT = "/v1/chat/completions"
ESCAPE = "\x1b]0;owned\x07\x1b[2J\r\u202e\u200b\x9b31m\0"
FALCON: dict[str, Any] = {
    "policy": "replace_text",
    "config": {"rules": [{"find": "Nightingale", "replace": "Falcon", "in": ["request", "response"]}]},
}


@dataclass(frozen=True)
class Done:
    """What a command said, and how it ended."""

    returncode: int
    stdout: bytes
    stderr: bytes


@dataclass
class Terminal:
    """Somebody's shell, with a database in its environment.

    `run` and `see` are the program in this process, `run_process` and `see_process` in one of its own: what the
    interpreter and the operating system have a part in.
    """

    dsn: str
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str, **environment: str) -> Done:
        """With its output in a pipe."""
        with self._settled(environment):
            result = CliRunner().invoke(cli, ["calls", *words])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Done(result.exit_code, result.stdout_bytes, result.stderr_bytes)

    def see(self, *words: str, columns: int = 120, **environment: str) -> tuple[int, str]:
        """With its output in a terminal: the status, and what the terminal was given."""
        ours, theirs = pty.openpty()
        with (
            ThreadPoolExecutor(1) as pool,
            self._settled({"TERM": "xterm", "COLUMNS": str(columns)} | environment) as patch,
        ):
            seen = pool.submit(_all_of, ours)
            with os.fdopen(theirs, "w", encoding="utf-8") as screen:
                patch.setattr(sys, "stdout", screen)
                patch.setattr(sys, "stderr", screen)
                try:
                    cli(["calls", *words], prog_name="luthien")
                except SystemExit as left:
                    status = left.code
                patch.undo()
            text = seen.result(DEADLINE_S)
        os.close(ours)
        assert isinstance(status, int)
        return status, text

    def run_process(self, *words: str, **environment: str) -> Done:
        done = subprocess.run(
            self._command(words),
            capture_output=True,
            timeout=60,
            env=self._environment(environment),
            cwd=self.home,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def see_process(self, *words: str, columns: int = 120, **environment: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        told = self._environment({"TERM": "xterm"} | environment)
        with subprocess.Popen(
            self._command(words), stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=told, cwd=self.home
        ) as process:
            os.close(theirs)
            seen = _all_of(ours)
            status = process.wait(DEADLINE_S)
        os.close(ours)
        return status, seen

    @contextmanager
    def _settled(self, environment: dict[str, str]) -> Iterator[pytest.MonkeyPatch]:
        """This process with that environment, and as it was before afterwards."""
        told, quieted = self._environment(environment), logging.getLogger("psycopg")
        level = quieted.level
        with pytest.MonkeyPatch.context() as patch:
            for name in [*os.environ]:
                patch.delenv(name)
            for name, value in told.items():
                patch.setenv(name, value)
            patch.chdir(self.home)
            try:
                yield patch
            finally:
                quieted.setLevel(level)

    @staticmethod
    def _command(words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "luthien", "calls", *words]

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
        told = {**kept, "LANG": "C.UTF-8", "DATABASE_URL": self.dsn} | self.environment | more
        return {name: value for name, value in told.items() if value}


def _all_of(terminal: int) -> str:
    """What a terminal is given until its other end is closed."""
    seen, ends = b"", time.monotonic() + DEADLINE_S
    while time.monotonic() < ends and select.select([terminal], [], [], DEADLINE_S)[0]:
        try:
            read = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        seen += read
        if not read:
            break
    return seen.decode().replace("\r\n", "\n")


@pytest.fixture
def terminal(record_database: str, tmp_path: Path) -> Terminal:
    return Terminal(record_database, tmp_path)


@pytest.fixture
def changing(record_database: str, provider: ScriptedProvider) -> Iterator[Gateway]:
    with running_gateway(record_database, provider.url, [FALCON]) as gateway:
        yield gateway


def made(gateway: Gateway, provider: ScriptedProvider, text: str, answer: str = "Hi", **fields: Any) -> str:
    provider.will(answers(openai_response(answer)))
    call_id = str(gateway.post(CHAT, openai_request(text, **fields)).headers["luthien-call-id"])
    # Whether it is indexed is told, too.
    eventually(lambda: gateway.call(call_id), lambda call: call["indexed"])
    return call_id


def test_piped_it_is_json_and_in_a_terminal_words(
    terminal: Terminal, changing: Gateway, provider: ScriptedProvider
) -> None:
    first, second = (made(changing, provider, text) for text in ("plain", "a Nightingale"))
    piped = terminal.run_process("list")
    assert piped.returncode == 0, piped.stderr
    assert [json.loads(line)["call_id"] for line in piped.stdout.splitlines()] == [second, first]
    status, seen = terminal.see_process("list")
    assert status == 0
    assert "STARTED" in seen
    assert seen.index(second) < seen.index(first)
    assert "\x1b[32mcompleted" in seen
    assert json.loads(terminal.see("list", "--json", "--limit", "1")[1])["call_id"] == second
    words = terminal.run("list", "--words", "--limit", "1").stdout.decode()
    assert f"older ones: --before {second}" in words
    assert "\x1b" not in words
    assert json.loads(terminal.run("list", "--before", second).stdout)["call_id"] == first


def test_colour_is_as_the_environment_wants_it(
    terminal: Terminal, changing: Gateway, provider: ScriptedProvider
) -> None:
    made(changing, provider, "a Nightingale")
    diff = ("diff", "@")
    assert "\x1b[" in terminal.see(*diff)[1]
    assert "\x1b[" not in terminal.see(*diff, NO_COLOR="1")[1]
    assert "\x1b[" not in terminal.see(*diff, TERM="dumb")[1]
    assert "\x1b[" in terminal.see(*diff, TERM="dumb", FORCE_COLOR="1")[1]
    assert b"\x1b[" in terminal.run(*diff, "--words", FORCE_COLOR="1").stdout
    assert b"\x1b[" not in terminal.run(*diff, "--words", FORCE_COLOR="1", NO_COLOR="1").stdout
    for words in (("list",), ("show", "last")):
        assert "\x1b[" not in terminal.see(*words, NO_COLOR="1")[1]


def test_a_call_is_told_as_its_page_tells_it(
    terminal: Terminal, changing: Gateway, provider: ScriptedProvider
) -> None:
    call_id = made(changing, provider, "a Nightingale")
    status, seen = terminal.see("show", call_id, NO_COLOR="1")
    assert status == 0
    for told in (
        f"Call {call_id}  completed 200",
        "replace_text changed 1 of 1 message; response: no change",
        "complete: ",
        "openai.chat_completions",
        "modify",
        "request_original",
        "recorded",
    ):
        assert told in seen
    page = changing.call(call_id)
    del page["grafana"]  # which only a gateway's settings know
    assert json.loads(terminal.run("show", call_id).stdout) == page
    assert json.loads(terminal.run("diff", call_id).stdout) == changing.diff(call_id)
    assert terminal.run("show", call_id, "--stage", "request_final").stdout == provider.turns[0].body
    assert "a Falcon" in terminal.see("show", call_id, "--stage", "request_final")[1]


def test_the_diff_names_what_changed_and_who_did_it(
    terminal: Terminal, changing: Gateway, provider: ScriptedProvider
) -> None:
    """The status is that of diff(1): 0 for no change, 1 for one, and more for trouble."""
    same = made(changing, provider, "plain")
    changed = made(changing, provider, "\n".join([*map(str, range(20)), "a Nightingale sang", *map(str, range(20))]))
    status, seen = terminal.see("diff", changed, NO_COLOR="1")
    assert status == 1
    assert "@@ /messages/0/content  change text  replace_text @@" in seen
    assert "~ a [-Nightingale-]{+Falcon+} sang" in seen
    assert "18 lines the same" in seen
    assert "response: no change" in seen
    assert terminal.see("diff", same)[0] == 0
    assert terminal.run_process("diff", changed).returncode == 1
    assert terminal.run("diff", same).returncode == 0
    assert terminal.run_process("diff", "ffffffff").returncode == 3


@pytest.mark.parametrize("command", ["list", "show", "diff", "stage", "export"])
def test_nothing_that_a_terminal_acts_on_reaches_it(
    terminal: Terminal, changing: Gateway, provider: ScriptedProvider, command: str
) -> None:
    """Neither from models nor from texts, keys, sessions and what policies say."""
    call_id = made(
        changing, provider, f"Nightingale {ESCAPE}", ESCAPE, model=f"gpt{ESCAPE}", **{f"key{ESCAPE}": "Nightingale"}
    )
    words = {
        "list": ["list"],
        "stage": ["show", call_id, "--stage", "request_original"],
        "export": ["export", call_id, "--format", "curl"],
    }.get(command, [command, call_id])
    status, seen = terminal.see(*words)
    assert status in (0, 1)
    ours = re.sub(r"\x1b\[[0-9;]*m", "", seen)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e]", ours)
    if command in ("list", "diff"):
        assert "<U+202E>" in ours
    if command != "export":
        assert "\x1b[2J" not in seen


def test_filters_are_those_of_the_pages(terminal: Terminal, changing: Gateway, provider: ScriptedProvider) -> None:
    assert set(HELP) == set(NAMES)
    told = terminal.run("list", "--help", COLUMNS="200").stdout.decode()
    assert all(f"{option_of(name)} " in told for name in NAMES)
    one = made(changing, provider, "plain", model="gpt-one")
    two = made(changing, provider, "a Nightingale", model="gpt-two")

    def found(*words: str) -> list[str]:
        done = terminal.run("list", *words)
        assert done.returncode == 0, done.stderr
        return [json.loads(line)["call_id"] for line in done.stdout.splitlines()]

    assert found("--model", "gpt-one") == [one]
    assert found("--changed", "request") == [two]
    assert found("--changed", "none") == [one]
    assert found("--policy", "replace_text", "--outcome", "completed", "--since", "1h") == [two, one]
    assert found("--without", "session,key") == [two, one]
    assert found("--without", "policy") == found("--until", "1h") == []
    assert found("--wire-format", "anthropic.messages") == []
    assert json.loads(terminal.run("show", "last", "--model", "gpt-one").stdout)["call_id"] == one
    exported = terminal.run("export", "--model", "gpt-two").stdout
    assert json.loads(exported)["call_id"] == two
    assert "no call is as asked for" in terminal.see("list", "--model", "none")[1]


def test_an_id_may_be_cut_short_where_it_is_the_only_one(
    terminal: Terminal, changing: Gateway, provider: ScriptedProvider
) -> None:
    one, two = (made(changing, provider, "x") for _ in range(2))
    for reference in (two[:-2], two.upper(), two.replace("-", ""), two):
        assert json.loads(terminal.run("show", reference).stdout)["call_id"] == two
    both = one[: next(place for place in range(36) if one[place] != two[place])]
    ambiguous = terminal.run("show", both)
    assert ambiguous.returncode == 3
    assert one in ambiguous.stderr.decode()
    assert two in ambiguous.stderr.decode()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["show", "last"], 3, "no call is in the record"),
        (["show", "01900000-0000-7000-8000-000000000000"], 3, "is not in the record"),
        (["show", "0190"], 3, "no call begins with 0190"),
        (["show", "what?\x1b[2J"], 3, "is no id of a call"),
        (["list", "--outcome", "odd"], 2, "--outcome: 'odd' is none of completed"),
        (["list", "--since", "yesterdayish"], 2, "--since: 'yesterdayish' is no time"),
        (["list", "--before", "x"], 2, "--before"),
        (["list", "--colour", "red"], 2, "No such option"),
        (["show", "0190", "--model", "m"], 2, "say last"),
        (["export", "last", "--format", "pdf"], 2, "is none of json, har"),
        (["export", "--format", "har"], 2, "of one call"),
        (["export", "-o", "/nonexistent/x"], 2, "No such file"),
    ],
)
def test_mistakes_are_said_in_a_line(terminal: Terminal, words: list[str], status: int, said: str) -> None:
    done = terminal.run(*words, COLUMNS="200")
    assert (done.returncode, done.stdout) == (status, b""), done.stderr
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert b"\x1b" not in done.stderr


def test_without_its_database_it_says_so(terminal: Terminal, database: str) -> None:
    away = terminal.run("list", DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert (away.returncode, away.stdout) == (4, b"")
    assert b"luthien: the database is away" in away.stderr
    assert b"Traceback" not in away.stderr
    none = terminal.run("list", DATABASE_URL="", LUTHIEN_DATA_DIR=str(terminal.home / "none"))
    assert none.returncode == 4
    assert b"no `luthien up` runs here" in none.stderr
    empty = terminal.run("list", DATABASE_URL=database)
    assert empty.returncode == 4
    assert b"luthien migrate" in empty.stderr


def test_the_database_of_luthien_up_is_found(data_dir: Path, tmp_path: Path) -> None:
    call = whole_call()
    with embedded_postgres(data_dir / "postgres") as dsn:
        migrate(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            prepare(conn)
            write_batch(conn, call)
        done = Terminal("", tmp_path).run("list", LUTHIEN_DATA_DIR=str(data_dir))
    assert [json.loads(line)["call_id"] for line in done.stdout.splitlines()] == [str(call[0].call_id)], done.stderr


def test_an_empty_record_is_no_mistake(terminal: Terminal) -> None:
    assert terminal.see("list") == (0, "no call is in the record\n")
    assert (terminal.run("list").returncode, terminal.run("list").stdout) == (0, b"")
    assert (terminal.run("export").returncode, terminal.run("export").stdout) == (0, b"")


def test_exports_are_those_of_the_pages(
    terminal: Terminal, changing: Gateway, provider: ScriptedProvider, tmp_path: Path
) -> None:
    call_id = made(changing, provider, "a Nightingale")
    (tmp_path / "luthien.yaml").write_text(json.dumps({"upstreams": {"openai": {"url": provider.url}}}))
    environment = {"LUTHIEN_PORT": changing.url.rpartition(":")[2]}
    for form in ("json", "har", "curl", "curl-provider", "pytest", "fixture"):
        page = changing.get(f"/debug/calls/{call_id}/export.{form}").content
        done = terminal.run("export", "last", "--format", form, **environment)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == page
    file = tmp_path / "call.har"
    assert terminal.run("export", call_id, "--format", "har", "-o", str(file), **environment).stdout == b""
    assert json.loads(file.read_bytes())["log"]["version"] == "1.2"
    assert file.stat().st_mode & 0o077 == 0
    lines = terminal.run("export").stdout
    assert lines == changing.get("/debug/calls/export.ndjson").content
    assert [each.name for each in tmp_path.iterdir() if ".part" in each.name] == []


def test_a_reader_who_has_had_enough_is_no_error(
    terminal: Terminal, changing: Gateway, provider: ScriptedProvider
) -> None:
    made(changing, provider, "x" * 1_000_000)
    with ExitStack() as stack:
        readers = [
            stack.enter_context(
                subprocess.Popen(
                    terminal._command(words),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=terminal._environment({}),
                )
            )
            for words in (("export",), ("export", "last"), ("show", "last"), ("diff", "last", "--words", "--whole"))
        ]
        for process in readers:
            assert process.stdout is not None
            process.stdout.close()
        for process in readers:
            assert process.stderr is not None
            assert process.stderr.read() == b""
            assert process.wait(DEADLINE_S) in (128 + signal.SIGPIPE, 0, 1)


def test_a_table_is_as_wide_as_its_terminal(
    terminal: Terminal, changing: Gateway, provider: ScriptedProvider
) -> None:
    call_id = made(changing, provider, "x", model="模型-" * 30)
    for columns in (40, 60, 80, 200):
        see = terminal.see_process if columns == 80 else terminal.see
        seen = see("list", columns=columns, NO_COLOR="1")[1]
        assert call_id in seen
        wide = sum(2 if ord(each) > 0x2E80 else 1 for each in max(seen.splitlines(), key=len))
        assert wide <= max(columns, 36 + 2 + 9)


def test_other_encodings_are_no_error(terminal: Terminal, changing: Gateway, provider: ScriptedProvider) -> None:
    made(changing, provider, "a Nightingale \N{SNOWMAN}")
    for encoding in ("ascii", "latin-1"):
        done = terminal.run_process("diff", "last", "--words", PYTHONIOENCODING=encoding)
        assert done.returncode == 1, done.stderr
        done.stdout.decode(encoding)
        assert b"Falcon" in done.stdout


def test_a_list_says_what_was_not_searched(terminal: Terminal, record_database: str) -> None:
    """On the error stream, so that lines of JSON stay lines of JSON."""
    first, *others = (whole_call() for _ in range(3))
    with psycopg.connect(record_database, autocommit=True) as conn:
        prepare(conn)
        write_batch(conn, [each for call in (first, *others) for each in call])
    searched = terminal.run("list", "--text", "nightingale")
    assert (searched.stdout, searched.stderr) == (b"", b"3 of the newest calls are not searched yet\n")
    older = terminal.run("list", "--text", "nightingale", "--before", str(others[0][0].call_id))
    assert older.stderr == b"1 of the calls before that one is not searched yet\n"
    assert terminal.run("list", "--model", "m").stderr == b""
