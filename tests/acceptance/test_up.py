"""`luthien up`, `serve` and `migrate` as processes: starting, sharing, dying, stopping."""

from __future__ import annotations

import re
import signal
import socket
import stat
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from luthien.store.migrate import migrate
from tests.acceptance.commands import Command, luthien
from tests.playbook import DEADLINE_S, ScriptedProvider, answers, eventually
from tests.ports import reserved_port
from tests.wire import openai_request, openai_response


def address_of(up: Command) -> str:
    return up.wait_for(r"ANTHROPIC_BASE_URL=(http://\S+)").group(1)


def bearer(up: Command) -> dict[str, str]:
    token = up.wait_for(r"sign-in\?token=(\S+)").group(1)
    return {"authorization": f"Bearer {token}"}


def configured(data_dir: Path, provider: ScriptedProvider) -> str:
    path = data_dir / "luthien.yaml"
    path.write_text(f"upstreams:\n  openai: {{url: '{provider.url}'}}\n")
    return str(path)


def servers_of(process: psutil.Process) -> list[psutil.Process]:
    """The Postgres processes that a command started."""
    return [child for child in process.children(recursive=True) if is_postgres(child)]


def is_postgres(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # it has ended
        return process.name() == "postgres"
    return False


def call(address: str) -> str:
    response = httpx.post(f"{address}/v1/chat/completions", json=openai_request(), timeout=DEADLINE_S)
    assert response.status_code == 200, response.text
    return response.headers["luthien-call-id"]


def is_stored(address: str, headers: dict[str, str], call_id: str) -> bool:
    def ask() -> int:
        return httpx.get(f"{address}/debug/calls/{call_id}.json", headers=headers, timeout=DEADLINE_S).status_code

    return eventually(ask, lambda status: status == 200) == 200


def test_calls_outlive_a_kill_of_luthien_and_postgres_is_no_orphan(
    data_dir: Path, provider: ScriptedProvider
) -> None:
    provider.will(answers(openai_response()))
    config = configured(data_dir, provider)
    with luthien("up", data_dir=data_dir, LUTHIEN_CONFIG=config) as up:
        address, headers = address_of(up), bearer(up)
        assert up.wait_for(r"Configuration: +(\S+): no policy").group(1) == config
        call_id = call(address)
        assert is_stored(address, headers, call_id)
        postgres = servers_of(psutil.Process(up.process.pid))
        assert postgres
        up.process.send_signal(signal.SIGKILL)
        up.wait()
        assert eventually(lambda: any(each.is_running() for each in postgres), lambda alive: not alive) is False
    with luthien("up", data_dir=data_dir, LUTHIEN_CONFIG=config) as again:
        assert is_stored(address_of(again), bearer(again), call_id)
        assert bearer(again) == headers


def test_two_share_one_postgres_which_ends_with_the_one_that_started_it(
    data_dir: Path, provider: ScriptedProvider
) -> None:
    provider.will(answers(openai_response()))
    config = configured(data_dir, provider)
    with luthien("up", data_dir=data_dir, LUTHIEN_CONFIG=config) as first:
        one = address_of(first)
        with luthien("up", data_dir=data_dir, LUTHIEN_CONFIG=config) as second:
            two = address_of(second)
            assert servers_of(psutil.Process(second.process.pid)) == []
            assert is_stored(one, bearer(first), call(two))
            second.process.terminate()
            assert second.wait() == 0, second.output
        assert is_stored(one, bearer(first), call(one))
        postgres = servers_of(psutil.Process(first.process.pid))
        first.process.send_signal(signal.SIGINT)
        first.wait()
    assert postgres
    assert eventually(lambda: any(each.is_running() for each in postgres), lambda alive: not alive) is False


def test_the_token_is_kept_for_its_owner_only(data_dir: Path) -> None:
    with luthien("up", data_dir=data_dir) as up:
        bearer(up)
    assert stat.S_IMODE((data_dir / "debug-token").stat().st_mode) == 0o600


def test_with_a_database_url_nothing_is_embedded(data_dir: Path, database: str) -> None:
    with luthien("up", data_dir=data_dir, DATABASE_URL=database) as up:
        address = address_of(up)
        assert servers_of(psutil.Process(up.process.pid)) == []
        assert httpx.get(f"{address}/readyz", timeout=DEADLINE_S).status_code == 200
    assert not (data_dir / "postgres").exists()


def test_mistakes_are_told_at_the_start_with_line_and_key(data_dir: Path, database: str) -> None:
    config = data_dir / "luthien.yaml"
    config.write_text("policies:\n  - policy: replace_txt\n  - policy: noop\n    config: {colour: red}\n")
    with luthien("up", data_dir=data_dir, DATABASE_URL=database, LUTHIEN_READ_TIMEOUT_S="never") as up:
        assert up.wait() == 1
    assert "LUTHIEN_READ_TIMEOUT_S" in up.output
    with luthien("up", data_dir=data_dir, DATABASE_URL=database, LUTHIEN_CONFIG=str(config)) as up:
        assert up.wait() == 1
    assert re.search(r"luthien\.yaml:2: policies\[0\]\.policy: there is no policy 'replace_txt'", up.output)
    assert re.search(r"luthien\.yaml:4: policies\[1\]\.config\.colour: no such key", up.output)
    config.unlink()
    with luthien("up", data_dir=data_dir, DATABASE_URL=database, OTEL_SDK_DISABLED="true") as up:
        assert up.wait() != 0
    assert "Unset OTEL_SDK_DISABLED" in up.output
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with luthien("up", data_dir=data_dir, DATABASE_URL=database, LUTHIEN_PORT=port) as up:
            assert up.wait() == 1
    assert "set LUTHIEN_HOST or LUTHIEN_PORT" in up.output
    assert "Traceback" not in up.output


def test_serve_needs_a_database_and_never_embeds(data_dir: Path) -> None:
    with luthien("serve", data_dir=data_dir) as serve:
        assert serve.wait() == 1
    assert "DATABASE_URL" in serve.output


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_with_one_worker_or_more(
    data_dir: Path, database: str, provider: ScriptedProvider, workers: str
) -> None:
    migrate(database)
    provider.will(answers(openai_response()))
    environment = {
        "DATABASE_URL": database,
        "LUTHIEN_CONFIG": configured(data_dir, provider),
        "LUTHIEN_DEBUG_TOKEN": "for-serve",
    }
    with (
        reserved_port() as port,
        luthien("serve", "--workers", workers, data_dir=data_dir, LUTHIEN_PORT=str(port), **environment) as serve,
    ):
        address = f"http://127.0.0.1:{port}"

        def is_ready() -> bool:
            assert serve.process.poll() is None, serve.output
            try:
                return httpx.get(f"{address}/readyz", timeout=DEADLINE_S).status_code == 200
            except httpx.TransportError:
                return False

        assert eventually(is_ready, bool), serve.output
        ids = [call(address) for _ in range(10)]
        headers = {"authorization": "Bearer for-serve"}
        assert all(is_stored(address, headers, call_id) for call_id in ids)
        serve.process.terminate()
        serve.wait()
    with psycopg.connect(database) as conn:
        assert conn.execute("SELECT count(*) FROM conversation_calls").fetchone() == (10,)


def test_migrate_says_what_it_did(data_dir: Path, database: str) -> None:
    with luthien("migrate", data_dir=data_dir, DATABASE_URL=database) as first:
        assert first.wait() == 0
    assert "applied" in first.output
    with luthien("migrate", data_dir=data_dir, DATABASE_URL=database) as second:
        assert second.wait() == 0
    assert "up to date" in second.output
    with luthien("migrate", data_dir=data_dir) as without:
        assert without.wait() == 1
    assert "DATABASE_URL" in without.output
