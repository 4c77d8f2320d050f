"""Metrics that Prometheus fetches from the gateway itself."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from luthien.record.sink import DiscardingSink
from luthien.settings import Settings
from luthien.telemetry.conventions import CONVENTIONS
from luthien.telemetry.document import name_in_prometheus
from luthien.telemetry.scraping import Scrape, ports_of
from luthien.telemetry.setup import start_telemetry
from tests.playbook import DEADLINE_S, ScriptedProvider, answers, eventually, running_gateway
from tests.programs import program
from tests.serving import serving
from tests.wire import openai_request, openai_response

OPENAI = "/v1/chat/completions"
HERE: dict[str, Any] = {"metrics_exporter": "prometheus", "prometheus_host": "127.0.0.1", "prometheus_port": 0}


def samples(text: str) -> dict[str, float]:
    """The samples of the exposition format, by name and labels."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_calls_are_counted_under_the_names_that_prometheus_gives_what_comes_over_otlp(
    record_database: str, provider: ScriptedProvider
) -> None:
    provider.will(answers(openai_response()))
    with running_gateway(record_database, provider.url, **HERE) as gateway:
        gateway.call(gateway.post(OPENAI, openai_request()))
        text = eventually(gateway.metrics, lambda text: "luthien_calls_total{" in text)
    promtool = [program("promtool"), "check", "metrics"]
    checked = subprocess.run(promtool, input=text, text=True, capture_output=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    found = samples(text)
    names = {re.split(r"[{ ]", name)[0] for name in found}
    assert {
        "luthien_calls_total",
        "luthien_record_stored_total",
        "luthien_record_spool_size_bytes",
        "luthien_record_oldest_unsaved_age_seconds",
        "gen_ai_client_operation_duration_seconds_bucket",
        "gen_ai_client_token_usage_sum",
        "target_info",
    } <= names
    histograms = re.compile("_(?:bucket|sum|count)$")
    documented = {name_in_prometheus(each) for each in CONVENTIONS.values() if each.kind == "metric"}
    assert {histograms.sub("", name) for name in names} <= {*documented, "target_info"}
    [calls] = [name for name in found if name.startswith("luthien_calls_total")]
    assert 'luthien_outcome="completed"' in calls
    assert "otel_scope" not in calls


def test_each_gateway_of_a_process_has_its_own_metrics(record_database: str, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response()))
    with (
        running_gateway(record_database, provider.url, **HERE) as one,
        running_gateway(record_database, provider.url, **HERE) as other,
    ):
        one.call(one.post(OPENAI, openai_request()))
        assert one.app.metrics_url != other.app.metrics_url
        assert "luthien_calls_total{" in eventually(one.metrics, lambda text: "luthien_calls_total{" in text)
        assert "luthien_calls_total{" not in other.metrics()
        url = str(one.app.metrics_url)
        [instance] = instances_at(url)
    with suppress(httpx.TransportError):  # else somebody else has been given the port meanwhile
        assert instance not in httpx.get(url, timeout=DEADLINE_S).text


def test_a_taken_port_is_said_and_stops_nothing(
    record_database: str, provider: ScriptedProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    provider.will(answers(openai_response()))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running_gateway(record_database, provider.url, **(HERE | {"prometheus_port": port})) as gateway:
            assert gateway.post(OPENAI, openai_request()).status_code == 200
            assert gateway.app.metrics_url is None
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    [line] = [line for line in lines if line["logger"] == "luthien.telemetry.scraping"]
    assert line["level"] == "ERROR"
    said = f"calls are served, but no metrics for Prometheus: cannot listen at 127.0.0.1:{port} ("
    assert line["message"].startswith(said)


def test_who_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A connection has a thread. Others are served meanwhile."""
    monkeypatch.setattr(Scrape, "timeout", DEADLINE_S)
    telemetry = start_telemetry(Settings(**HERE), DiscardingSink())
    try:
        assert telemetry.scraping is not None
        url = telemetry.scraping.url or ""
        address = "127.0.0.1", httpx.URL(url).port or 0
        with ExitStack() as connections:

            def silent() -> list[socket.socket]:
                lines = [connections.enter_context(socket.create_connection(address, DEADLINE_S)) for _ in range(3)]
                for each, said in zip(lines, (b"", b"GET /met", b"\x16\x03\x01 \xff"), strict=True):
                    each.sendall(said)
                return lines

            silent()
            assert httpx.get(url, timeout=DEADLINE_S).status_code == 200
            monkeypatch.setattr(Scrape, "timeout", 0.2)  # of who comes now; whoever asks may need longer than that
            assert [left(each) for each in silent()] == [True] * 3
    finally:
        telemetry.shutdown(DEADLINE_S)
    assert "Exception occurred" not in capfd.readouterr().err


def left(line: socket.socket) -> bool:
    """Whether the other end has closed it without a word, be it while something was said."""
    with suppress(ConnectionError):
        return line.recv(1) == b""
    return True


def test_processes_take_the_ports_from_the_first_on() -> None:
    settings = Settings(**HERE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        later = start_telemetry(settings.model_copy(update={"prometheus_port": port}), DiscardingSink(), processes=20)
        assert later.scraping is not None
        url = str(later.scraping.url)
        try:
            assert port < int(url.split(":")[2].split("/")[0]) < port + 20
            assert httpx.get(url, timeout=DEADLINE_S).status_code == 200
        finally:
            assert later.shutdown(DEADLINE_S)


def test_the_ports_of_processes() -> None:
    assert list(ports_of(9464, 3)) == [9464, 9465, 9466]
    assert list(ports_of(65535, 3)) == [65535]
    assert list(ports_of(0, 3)) == [0]


def test_each_worker_serves_metrics_of_its_own(
    data_dir: Path, record_database: str, provider: ScriptedProvider
) -> None:
    environment: dict[str, Any] = {
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
        "LUTHIEN_LOG_FORMAT": "text",
    }
    with serving(data_dir, record_database, provider.url, "--workers", "2", **environment) as running:
        urls = eventually(
            lambda: re.findall(r"metrics are served at (http://127\.0\.0\.1:\d+/metrics)", running.command.output),
            lambda found: len(found) == 2,
        )
        instances = eventually(lambda: [instances_at(url) for url in urls], all)
    assert len(set.union(*instances)) == 2


def instances_at(url: str) -> set[str]:
    """Who says to be there; nobody before there are metrics."""
    text = httpx.get(url, timeout=DEADLINE_S).raise_for_status().text
    return {*re.findall(r'service_instance_id="([^"]+)"', text)}


def test_spans_and_metrics_are_written_to_the_console(
    record_database: str, provider: ScriptedProvider, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without payloads, as anywhere else."""
    provider.will(answers(openai_response("answer-mark")))
    consoles = {"traces_exporter": "console", "metrics_exporter": "console,prometheus"}
    with running_gateway(record_database, provider.url, **(HERE | consoles)) as gateway:
        gateway.call(gateway.post(OPENAI, openai_request("prompt-mark")))
    written = capfd.readouterr().out
    assert '"name": "luthien.exchange"' in written
    assert '"name": "luthien.calls"' in written
    assert "answer-mark" not in written
    assert "prompt-mark" not in written
