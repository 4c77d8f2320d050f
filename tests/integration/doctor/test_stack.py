"""What the doctor says of whoever takes telemetry, of Tempo and of Grafana: each real, or as wrong as it may be."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

from luthien.doctor import network, otlp, tracing
from luthien.doctor.finding import Finding, Level
from luthien.settings import Settings
from tests.otlp_receiver import Refusal, Reservation, otlp_grpc_receiver, otlp_receiver
from tests.playbook import DEADLINE_S, ScriptedProvider, answers
from tests.ports import reserved_port
from tests.tempo_server import grafana_proxy, tempo_server

RECEIVERS = {"http/protobuf": otlp_receiver, "grpc": otlp_grpc_receiver}
SIGNALS = ("OTLP traces", "OTLP metrics", "OTLP logs")


def by_check(findings: Iterator[Finding]) -> dict[str, Finding]:
    found = {finding.check: finding for finding in findings}
    assert not any("secret" in str(finding) for finding in found.values())
    return found


def receivers(endpoint: str, **settings: Any) -> dict[str, Finding]:
    return by_check(otlp.receivers(Settings(otlp_endpoint=endpoint, **settings)))


def traces(**settings: Any) -> dict[str, Finding]:
    return by_check(tracing.examine(Settings(**settings)))


@pytest.fixture(autouse=True)
def patiently(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (network, otlp, tracing):
        monkeypatch.setattr(each, "TIMEOUT_S", DEADLINE_S)


@pytest.fixture
def away() -> Iterator[str]:
    """An address at which nobody listens."""
    with reserved_port() as port:
        yield f"http://127.0.0.1:{port}"


def test_what_is_not_exported_is_told_with_the_reason() -> None:
    found = receivers("", metrics_exporter="prometheus", logs_exporter="console")
    assert {each.level for each in found.values()} == {Level.OK}
    assert found["OTLP traces"].found == "not exported: OTEL_EXPORTER_OTLP_ENDPOINT is not set"
    assert found["OTLP metrics"].found == "not exported over OTLP: OTEL_METRICS_EXPORTER is prometheus"
    assert found["OTLP logs"].found == "not exported over OTLP: OTEL_LOGS_EXPORTER is console"


@pytest.mark.parametrize("protocol", RECEIVERS)
class TestReceivers:
    def test_each_signal_is_sent_an_export_of_nothing_with_the_headers(self, protocol: str) -> None:
        with RECEIVERS[protocol]() as receiver:
            found = receivers(
                receiver.endpoint, otlp_protocol=protocol, otlp_headers=SecretStr("authorization=secret%20key")
            )
            assert [(check, each.level) for check, each in found.items()] == [(each, Level.OK) for each in SIGNALS]
            assert [headers["authorization"] for headers in receiver.headers] == ["secret key"] * 3
            assert not receiver.spans

    def test_one_that_is_not_there(self, protocol: str, away: str) -> None:
        found = receivers(away, otlp_protocol=protocol)
        assert {each.level for each in found.values()} == {Level.PROBLEM}
        assert "cannot be reached" in found["OTLP logs"].found
        assert "recorded all the same" in found["OTLP logs"].todo

    def test_one_that_speaks_the_other_protocol(self, protocol: str) -> None:
        """The port beside the right one is the mistake that is made most often."""
        other = next(each for each in RECEIVERS if each != protocol)
        with RECEIVERS[protocol]() as receiver:
            found = receivers(receiver.endpoint, otlp_protocol=other)
        assert {each.level for each in found.values()} == {Level.PROBLEM}
        assert ("4317, mostly" if other == "grpc" else "OTEL_EXPORTER_OTLP_PROTOCOL=grpc") in found["OTLP logs"].todo

    @pytest.mark.parametrize(
        ("refusal", "level", "word"),
        [
            (Refusal(401, grpc.StatusCode.UNAUTHENTICATED), Level.PROBLEM, "OTEL_EXPORTER_OTLP_HEADERS"),
            (Refusal(429, grpc.StatusCode.RESOURCE_EXHAUSTED), Level.WARNING, "log"),
        ],
    )
    def test_one_that_does_not_take_it(self, protocol: str, refusal: Refusal, level: Level, word: str) -> None:
        with RECEIVERS[protocol]() as receiver:
            receiver.refusal = lambda: refusal
            found = receivers(receiver.endpoint, otlp_protocol=protocol)
        assert {each.level for each in found.values()} == {level}
        assert word in found["OTLP traces"].todo

    def test_one_that_takes_it_with_a_warning(self, protocol: str) -> None:
        with RECEIVERS[protocol](lambda: Reservation(3, "a quota\nis used up")) as receiver:
            found = receivers(receiver.endpoint, otlp_protocol=protocol)
        assert {each.level for each in found.values()} == {Level.WARNING}
        assert "rejects 3, but says: a quota is used up" in found["OTLP metrics"].found

    def test_something_else_is_there(self, protocol: str, provider: ScriptedProvider) -> None:
        provider.will(answers(b"", status=404))
        found = receivers(provider.url, otlp_protocol=protocol)
        assert {each.level for each in found.values()} == {Level.PROBLEM}


@pytest.mark.parametrize(
    ("content_type", "level", "said"),
    [
        ("text/html", Level.PROBLEM, "with a web page: no receiver of OTLP does"),
        ("application/json", Level.WARNING, "what is no answer to an export"),
    ],
)
def test_a_page_that_says_all_is_well_is_no_receiver(content_type: str, level: Level, said: str) -> None:
    answer = Reservation(body=b"<html>Sign in", content_type=content_type)
    with otlp_receiver(lambda: answer) as receiver:
        found = receivers(receiver.endpoint)
    assert {each.level for each in found.values()} == {level}
    assert said in found["OTLP traces"].found


def test_what_is_not_exported_is_not_asked() -> None:
    found = receivers(
        "http://127.0.0.1:1", traces_exporter="none", metrics_exporter="prometheus", logs_exporter="none"
    )
    assert {each.level for each in found.values()} == {Level.OK}


def test_a_signal_of_its_own_is_asked_at_its_own_address(away: str) -> None:
    with otlp_receiver() as receiver:
        found = receivers(away, otlp_traces_endpoint=f"{receiver.endpoint}/v1/traces")
        assert receiver.paths == ["/v1/traces"]
    assert [found[check].level for check in SIGNALS] == [Level.OK, Level.PROBLEM, Level.PROBLEM]


class TestTempo:
    def test_it_is_searched_directly(self) -> None:
        with tempo_server() as server:
            server.tenant = "t-1"
            headers = SecretStr("X-Scope-OrgID=t-1")
            assert traces(tempo_url=server.url, tempo_headers=headers)["Tempo"].level is Level.OK
            [(path, _)] = server.asked
            assert path.startswith("/api/search?")
            refused = traces(tempo_url=server.url)["Tempo"]
        assert (refused.level, "LUTHIEN_TEMPO_HEADERS" in refused.found) == (Level.PROBLEM, True)

    def test_it_is_searched_through_grafana(self) -> None:
        with tempo_server() as server, grafana_proxy(server.url, "tempo", "secret-token") as url:
            found = traces(grafana_url=url, grafana_token=SecretStr("secret-token"))
            assert {each.level for each in found.values()} == {Level.OK}
            assert "13.2.3" in found["Grafana"].found
            wrong_token = traces(grafana_url=url, grafana_token=SecretStr("secret-other"))
            wrong_uid = traces(
                grafana_url=url, grafana_token=SecretStr("secret-token"), tempo_datasource="not-this-one"
            )
        for found, word in ((wrong_token, "LUTHIEN_GRAFANA_TOKEN"), (wrong_uid, "LUTHIEN_TEMPO_DATASOURCE")):
            assert (found["Tempo"].level, found["Grafana"].level) == (Level.PROBLEM, Level.OK)
            assert word in found["Tempo"].found

    def test_nothing_is_there(self, away: str) -> None:
        found = traces(tempo_url=away, grafana_url=away)
        assert found["Tempo"].level is Level.PROBLEM
        assert found["Grafana"].level is Level.WARNING  # a link for browsers, which may reach it
        assert traces(grafana_url=away)["Grafana"].level is Level.PROBLEM

    @pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"<html>", b"[" * 5000])
    def test_something_else_is_there(self, provider: ScriptedProvider, body: bytes) -> None:
        provider.will(answers(body))
        found = traces(tempo_url=provider.url, grafana_url=provider.url)
        assert {each.level for each in found.values()} == {Level.PROBLEM}
        assert "LUTHIEN_TEMPO_URL" in found["Tempo"].found
        assert "LUTHIEN_GRAFANA_URL" in found["Grafana"].todo

    def test_without_any_nothing_is_asked(self) -> None:
        assert [each.level for each in traces().values()] == [Level.OK]


def test_an_encrypted_port_that_is_asked_in_the_clear_and_the_other_way_round(provider: ScriptedProvider) -> None:
    """What is written in Go says the first itself."""
    provider.will(answers(b"Client sent an HTTP request to an HTTPS server.\n", status=400))
    found = {**receivers(provider.url), **traces(tempo_url=provider.url, grafana_url=provider.url)}
    for check in ("OTLP traces", "Grafana"):
        assert "is encrypted" in found[check].found
        assert "must begin with https://" in found[check].todo
    assert "an HTTP request to an HTTPS server" in found["Tempo"].found
    with otlp_receiver() as receiver:
        url = receiver.endpoint.replace("http:", "https:")
        for each in {**receivers(url), **traces(tempo_url=url, grafana_url=url)}.values():
            assert "not encrypted: its address must begin with http://" in each.found


def test_a_receiver_that_hangs_up_is_told_in_words() -> None:
    with otlp_receiver() as receiver:
        receiver.refusal = lambda: Refusal(hangs_up=True)
        with suppress(ConnectionError):
            found = receivers(receiver.endpoint)
    assert {each.level for each in found.values()} == {Level.PROBLEM}


def test_a_receiver_that_answers_a_byte_at_a_time_does_not_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and the answer never."""
    monkeypatch.setattr(network, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(otlp, "TIMEOUT_S", 0.3)
    is_over = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            ends = time.monotonic() + DEADLINE_S
            while time.monotonic() < ends and not is_over.wait(0.05):
                connection.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(3) as pool:
        pool.submit(lambda: drip(listener.accept()[0]))
        try:
            found = receivers(
                f"http://127.0.0.1:{listener.getsockname()[1]}",
                metrics_exporters=frozenset(),
                logs_exporters=frozenset(),
            )["OTLP traces"]
        finally:
            is_over.set()
    assert found.level is Level.PROBLEM
    assert "no answer within 0.3 s" in found.found
