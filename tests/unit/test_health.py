"""`python -m luthien.health`: what it asks, and what its exit status says."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from luthien.health import address_of, main
from luthien.settings import Settings
from tests.playbook import ScriptedProvider, Turn, answers
from tests.ports import reserved_port


@pytest.fixture
def server(provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch) -> ScriptedProvider:
    """A gateway as far as anybody can tell who asks at the address of the settings."""
    monkeypatch.setenv("LUTHIEN_HOST", "0.0.0.0")
    monkeypatch.setenv("LUTHIEN_PORT", provider.url.rsplit(":", 1)[1])
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # which is for providers
    return provider


@pytest.mark.parametrize(
    ("arguments", "path"), [([], "/healthz"), (["/readyz"], "/readyz"), (["URL/health"], "/health")]
)
def test_it_asks_the_gateway_of_the_settings_or_whom_it_is_told(
    server: ScriptedProvider, capsys: pytest.CaptureFixture[str], arguments: list[str], path: str
) -> None:
    server.will(answers({"status": "alive"}))
    assert main([argument.replace("URL", server.url) for argument in arguments]) == 0
    assert '"alive"' in capsys.readouterr().out
    assert [turn.path for turn in server.turns] == [path]


def test_another_answer_than_200_is_a_problem_with_its_reason(
    server: ScriptedProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    server.will(answers({"reason": "the database lacks everything"}, status=503))
    assert main(["/readyz"]) == 1
    assert "503: " in (said := capsys.readouterr().out)
    assert "the database lacks everything" in said


def test_so_is_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with reserved_port() as port:
        assert main([f"http://127.0.0.1:{port}/health"]) == 1
    assert "does not answer" in capsys.readouterr().out


@pytest.mark.parametrize("status", [200, 503])
def test_so_is_an_answer_that_does_not_come_to_its_end(
    server: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    """It goes on and on a byte at a time, so that no read of it takes long."""
    gone = threading.Event()

    async def drips(turn: Turn) -> None:
        await turn.head(status, {"content-length": "100000"})
        while not gone.is_set():
            await turn.send(b".")
            await asyncio.sleep(0.01)

    monkeypatch.setattr("luthien.health.DEADLINE_S", 0.2)
    server.will(drips)
    assert main([]) == 1
    gone.set()
    assert "does not answer within 0.2 seconds" in capsys.readouterr().out


def test_so_are_settings_that_are_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "nothing"))
    assert main([]) == 1
    assert "DATABASE_URL_FILE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:8080"),
        ("10.0.0.3", "http://10.0.0.3:8080"),
        ("::1", "http://[::1]:8080"),
    ],
)
def test_where_it_listens_is_where_it_is_asked(host: str, address: str) -> None:
    assert address_of(Settings(host=host)) == address
