"""A gateway that is told to stop: open calls may finish for a while, others are ended cleanly, all is recorded."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.dialects import CHAT, DIALECTS, Dialect
from tests.playbook import (
    Gate,
    Gateway,
    ScriptedProvider,
    Turn,
    answers,
    ended,
    eventually,
    running_gateway,
    states,
    streams,
)
from tests.serving import Serving, read_response, read_until, serving
from tests.tcp_proxy import TcpProxy
from tests.validity import assert_valid
from tests.wire import (
    DONE,
    openai_chunk,
    openai_request,
    openai_stream,
)

OPENAI = "/v1/chat/completions"
FOREVER = "3600"


def acting(frames: list[bytes], body: Any, gate: Gate) -> Callable[[Turn], Any]:
    """Answers a plain call and a stream once the gate is open; what says "for ever" is never answered to the end."""

    async def play(turn: Turn) -> None:
        is_endless = b"for ever" in turn.body
        if not turn.json.get("stream"):
            await (turn.reader.read() if is_endless else gate.wait())
            await answers(body)(turn)
            return
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await turn.chunk(b"".join(frames[:-2]))
        await (turn.reader.read() if is_endless else gate.wait())
        await turn.chunk(b"".join(frames[-2:]))
        await turn.send(b"0\r\n\r\n")

    return play


def stops_listening(gateway: Serving) -> bool:
    try:
        socket.create_connection(("127.0.0.1", gateway.port), timeout=5).close()
    except ConnectionError:
        return True
    return False


@contextmanager
def looking_back(dsn: str, provider: ScriptedProvider, data_dir: Path) -> Iterator[Gateway]:
    """A later gateway, with the record of the one before."""
    with running_gateway(dsn, provider.url, spool_dir=data_dir / "spool") as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("dialect", "arguments"),
    [
        *(pytest.param(each, (), id=each.format.name) for each in DIALECTS),
        pytest.param(CHAT, ("--workers", "2"), id="workers"),
    ],
)
def test_open_calls_finish_within_the_grace_period_or_are_ended_cleanly(
    record_database: str,
    provider: ScriptedProvider,
    data_dir: Path,
    dialect: Dialect,
    arguments: tuple[str, ...],
) -> None:
    frames, gate = dialect.stream("Hello ", "there"), provider.gate()
    provider.will(acting(frames, dialect.response(), gate))
    is_one = not arguments  # the period of one process ends with a second signal, that of workers by itself
    with (
        ExitStack() as clients,
        serving(
            data_dir, record_database, provider.url, *arguments, LUTHIEN_GRACE_S=FOREVER if is_one else "10"
        ) as gateway,
    ):
        plain, streamed, endless, endless_stream = (
            clients.enter_context(closing(gateway.open(dialect.path, dialect.request(text, stream=streaming))))
            for text, streaming in (("x", False), ("x", True), ("for ever", False), ("for ever", True))
        )
        eventually(lambda: len(provider.turns), lambda count: count == 4)
        eventually(lambda: peeked(streamed) and peeked(endless_stream), bool)
        gateway.signal(signal.SIGTERM)
        assert eventually(lambda: stops_listening(gateway), bool)
        gate.open()
        response, body = read_response(plain)
        assert (response.status, json.loads(body)) == (200, dialect.response())
        response, body = read_response(streamed)
        assert body == b"".join(frames)
        finished_id = response.headers["luthien-call-id"]
        if is_one:
            gateway.signal(signal.SIGTERM)

        response, body = read_response(endless)
        assert response.status == 503
        assert json.loads(body)["error"]["code"] == "gateway_stopped"
        assert int(response.headers["retry-after"]) > 0
        assert response.headers["x-should-retry"] is None
        refused_id = response.headers["luthien-call-id"]

        response, body = read_response(endless_stream)
        assert response.status == 200
        assert body.startswith(b"".join(frames[:-2]))
        assert b"gateway_stopped" in body
        assert frames[-1] not in body
        assert_valid(dialect.path, body)
        cut_id = response.headers["luthien-call-id"]
        assert gateway.command.wait() == 0, gateway.command.output
    with looking_back(record_database, provider, data_dir) as later:
        assert ended(later.call(finished_id)) == ("completed", None)
        refused, cut = later.call(refused_id), later.call(cut_id)
        assert ended(refused) == ended(cut) == ("policy_error", "gateway_stopped")
        assert states(refused) == ["recorded", "recorded", "not_reached", "gateway_generated"]
        assert states(cut) == ["recorded"] * 4
        assert cut["stages"]["response_final"]["wire_bytes"] == len(body)
        assert [each["completeness"]["state"] for each in (refused, cut)] == ["complete"] * 2


def peeked(client: socket.socket) -> bytes:
    """What has come on a connection, which leaves it there."""
    client.setblocking(False)
    try:
        return client.recv(65536, socket.MSG_PEEK)
    except BlockingIOError:
        return b""
    finally:
        client.settimeout(60)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_grace_period_and_nothing_else(
    record_database: str, provider: ScriptedProvider, data_dir: Path, second: signal.Signals
) -> None:
    frames = openai_stream("Hello ", "there")
    provider.will(acting(frames, {}, provider.gate()))
    with (
        serving(data_dir, record_database, provider.url, LUTHIEN_GRACE_S=FOREVER) as gateway,
        gateway.open(OPENAI, openai_request("for ever", stream=True)) as client,
    ):
        eventually(lambda: peeked(client), bool)
        gateway.signal(signal.SIGTERM)
        assert eventually(lambda: stops_listening(gateway), bool)
        gateway.signal(second)
        response, body = read_response(client)
        assert b"gateway_stopped" in body
        assert gateway.command.wait() == 0, gateway.command.output
    with looking_back(record_database, provider, data_dir) as later:
        call = later.call(response.headers["luthien-call-id"])
        assert ended(call) == ("policy_error", "gateway_stopped")


def test_workers_that_are_interrupted_twice_still_end_their_calls(
    record_database: str, provider: ScriptedProvider, data_dir: Path
) -> None:
    """As Ctrl-C does it, which all processes of a terminal hear."""
    frames = openai_stream("Hello ", "there")
    provider.will(acting(frames, {}, provider.gate()))
    with (
        serving(data_dir, record_database, provider.url, "--workers", "2", LUTHIEN_GRACE_S="3") as gateway,
        gateway.open(OPENAI, openai_request("for ever", stream=True)) as client,
    ):
        eventually(lambda: peeked(client), bool)
        process = psutil.Process(gateway.command.process.pid)
        for _ in range(2):
            for each in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):  # a worker without calls may have ended
                    each.send_signal(signal.SIGINT)
            assert eventually(lambda: stops_listening(gateway), bool)
        response, body = read_response(client)
        assert b"gateway_stopped" in body
        assert gateway.command.wait() == 0, gateway.command.output
    with looking_back(record_database, provider, data_dir) as later:
        assert ended(later.call(response.headers["luthien-call-id"])) == ("policy_error", "gateway_stopped")


def test_a_client_that_does_not_read_does_not_keep_the_gateway_from_stopping(
    record_database: str, provider: ScriptedProvider, data_dir: Path
) -> None:
    """Nor does one that has not sent its request."""
    frame = openai_chunk({"content": "x" * 60_000})

    async def flood(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        while True:
            await turn.chunk(frame)

    provider.will(flood)
    with (
        serving(data_dir, record_database, provider.url, LUTHIEN_GRACE_S="0.5") as gateway,
        gateway.open(OPENAI, openai_request(stream=True)) as client,
        socket.create_connection(("127.0.0.1", gateway.port)) as halting,
    ):
        halting.sendall(f"POST {OPENAI} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode())
        call_id = dict(
            line.split(": ", 1)
            for line in read_until(client, b"\r\n\r\n").decode("latin-1").split("\r\n")
            if ": " in line
        )["luthien-call-id"]
        gateway.signal(signal.SIGTERM)
        response, body = read_response(halting)
        assert (response.status, json.loads(body)["error"]["code"]) == (503, "gateway_stopped")
        assert gateway.command.wait() == 0, gateway.command.output
    with looking_back(record_database, provider, data_dir) as later:
        call = later.call(call_id)
        assert ended(call) == ("policy_error", "gateway_stopped")
        assert states(call) == ["recorded"] * 4
        assert states(later.call(response.headers["luthien-call-id"])) == ["not_reached"] * 3 + ["gateway_generated"]


def test_what_is_recorded_as_released_is_given_although_the_gateway_stops(
    record_database: str, provider: ScriptedProvider, data_dir: Path
) -> None:
    """The client reads slowly, the end marker waits for it, and then comes the signal."""
    frames = [openai_chunk({"content": "x" * 20_000_000}), DONE]
    provider.will(streams(b"".join(frames)))
    with (
        serving(data_dir, record_database, provider.url, LUTHIEN_GRACE_S="0.5") as gateway,
        gateway.open(OPENAI, openai_request(stream=True)) as client,
    ):
        eventually(lambda: outcomes(record_database), bool)
        gateway.signal(signal.SIGTERM)
        gateway.command.wait_for("Cancel 1 running task")
        response, body = read_response(client)
        assert body == b"".join(frames)
        assert gateway.command.wait() == 0, gateway.command.output
    with looking_back(record_database, provider, data_dir) as later:
        assert ended(later.call(response.headers["luthien-call-id"])) == ("completed", None)


def outcomes(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as conn:
        return [row[0] for row in conn.execute("SELECT outcome FROM conversation_calls WHERE outcome IS NOT NULL")]


def test_with_a_dead_collector_and_a_dead_database_it_stops_in_time_and_the_record_stays_in_the_spool(
    record_database: str, provider: ScriptedProvider, data_dir: Path
) -> None:
    provider.will(acting(openai_stream("Hello ", "there"), {}, provider.gate()))
    info = psycopg.conninfo.conninfo_to_dict(record_database)
    # Both take connections and say nothing, ever.
    database, collector = (TcpProxy(str(info["host"]), int(str(info["port"]))) for _ in range(2))
    dsn = database.dsn(record_database)
    database.stall()
    collector.stall()
    try:
        with (
            serving(
                data_dir,
                dsn,
                provider.url,
                LUTHIEN_GRACE_S="1",
                OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.port}",
                OTEL_BSP_SCHEDULE_DELAY="100",
            ) as gateway,
            gateway.open(OPENAI, openai_request("for ever", stream=True)) as client,
        ):
            eventually(lambda: peeked(client), bool)
            gateway.signal(signal.SIGTERM)
            response, body = read_response(client)
            assert b"gateway_stopped" in body
            # The grace period and 15 seconds are what the documentation promises.
            assert gateway.command.process.wait(1 + 15) == 0, gateway.command.output
        database.resume()
        with looking_back(dsn, provider, data_dir) as later:
            call = later.call(response.headers["luthien-call-id"])
            assert ended(call) == ("policy_error", "gateway_stopped")
            assert states(call) == ["recorded"] * 4
    finally:
        database.close()
        collector.close()
