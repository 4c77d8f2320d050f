"""What receivers say of what they took, and receivers that are none: nothing hangs, and every loss is counted."""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from luthien.record.sink import DiscardingSink
from luthien.settings import read_settings
from luthien.telemetry import conventions as names
from luthien.telemetry.log_export import start_log_export
from luthien.telemetry.setup import Telemetry, start_telemetry
from tests.otlp_receiver import Reservation, otlp_grpc_receiver, otlp_receiver
from tests.playbook import DEADLINE_S, eventually
from tests.tcp_proxy import TcpProxy

PREFIX = "OTEL_EXPORTER_OTLP_"
RECEIVERS = {"http/protobuf": otlp_receiver, "grpc": otlp_grpc_receiver}
PROTOCOLS = pytest.mark.parametrize("protocol", list(RECEIVERS))
KEPT: dict[str, int] = {"queue_full": 0, "export_failed": 0, "rejected": 0}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which nothing is said of telemetry."""
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    return monkeypatch


def exporting_to(endpoint: str, protocol: str, timeout_s: str = str(DEADLINE_S), **others: str) -> Telemetry:
    with pytest.MonkeyPatch.context() as patch:
        variables = {"ENDPOINT": endpoint, "PROTOCOL": protocol, "TIMEOUT": timeout_s, **others}
        for name, value in variables.items():
            patch.setenv(PREFIX + name, value)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # what is ended together is exported together
        return start_telemetry(read_settings(), DiscardingSink())


def end_spans(telemetry: Telemetry, count: int) -> None:
    """Ends them, and waits until they are exported or lost."""
    for _ in range(count):
        telemetry.tracer.start_span("a-span").end()
    telemetry.processor.force_flush()


def lost_of(telemetry: Telemetry, count: int) -> int:
    """How many of so many spans were lost, all of them for the reason that their export failed."""
    before = telemetry.processor.lost_on_the_way()
    end_spans(telemetry, count)
    after = telemetry.processor.lost_on_the_way()
    assert after == KEPT | {"export_failed": after["export_failed"]}
    return after["export_failed"] - before["export_failed"]


def said_of(caplog: pytest.LogCaptureFixture, signal: str) -> list[str]:
    start = f"the receiver of {signal} rejected"
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(start)]


@PROTOCOLS
def test_what_is_rejected_is_counted_and_told_once(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is lost, and not sent again. Whoever rejects more than there was rejected all of it.

    However many words are made of it, the rest was taken.
    """
    answers = [Reservation(2, "too\nold \x1b[31m\u202e" + "x" * 10_000), Reservation(9, "again"), Reservation(-1)]
    answers.append(Reservation(0, "x" * 100_000))
    with RECEIVERS[protocol]() as receiver:
        telemetry = exporting_to(receiver.endpoint, protocol, TRACES_COMPRESSION="gzip")
        for answer in answers:
            receiver.refusal = lambda answer=answer: answer  # type: ignore[misc]
            end_spans(telemetry, 3)
        assert telemetry.processor.lost_on_the_way() == KEPT | {"rejected": 5}
        assert receiver.requests == 4
        receiver.refusal = lambda: Reservation(1, "a warning")
        telemetry.meter.create_counter(names.CALLS).add(1)
        assert telemetry.shutdown(DEADLINE_S)
        assert telemetry.lost_points() == {"rejected": 1}
    [line] = said_of(caplog, "traces")
    assert line.startswith(
        "the receiver of traces rejected 2 of what it was sent (0 before): too old \ufffd[31m\ufffdxx"
    )
    assert len(line) < 300
    assert len(said_of(caplog, "metrics")) == 1


@PROTOCOLS
def test_lines_that_are_rejected_are_counted_and_those_that_say_so_are_not_exported(
    protocol: str, environment: pytest.MonkeyPatch
) -> None:
    with RECEIVERS[protocol](lambda: Reservation(1, "no")) as receiver:
        environment.setenv(PREFIX + "ENDPOINT", receiver.endpoint)
        environment.setenv(PREFIX + "PROTOCOL", protocol)
        environment.setenv(PREFIX + "TIMEOUT", str(DEADLINE_S))
        export = start_log_export(read_settings())
        assert export is not None
        logging.getLogger("luthien.test").error("a line")
        assert export.stop(DEADLINE_S)
    assert export.lost_on_the_way() == KEPT | {"rejected": 1}
    assert [record.body.string_value for _, record in receiver.logs] == ["a line"]


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        (Reservation(body=b"{}", content_type="application/json"), 0),
        (Reservation(body=b"\x0a\xff\xff\xff\xff", content_type="application/x-protobuf"), 0),
        (Reservation(words="only a warning"), 0),
        (Reservation(body=b"<html>Sign in", content_type="text/html; charset=utf-8"), 3),
    ],
    ids=["json", "cut-off", "warning", "page"],
)
def test_what_else_is_answered_rejects_nothing_but_a_page_is_no_receiver(answer: Reservation, lost: int) -> None:
    with otlp_receiver(lambda: answer) as receiver:
        telemetry = exporting_to(receiver.endpoint, "http/protobuf")
        end_spans(telemetry, 3)
        assert telemetry.processor.lost_on_the_way() == KEPT | {"export_failed": lost}
        assert telemetry.shutdown(DEADLINE_S)


Answering = Callable[[socket.socket, threading.Event], object]


def drips(start: bytes, each: bytes) -> Answering:
    def answer(line: socket.socket, over: threading.Event) -> None:
        line.recv(65_536)
        line.sendall(start)
        while not over.wait(0.02):
            line.sendall(each)

    return answer


def says(what: bytes) -> Answering:
    def answer(line: socket.socket, over: threading.Event) -> None:
        line.recv(65_536)
        line.sendall(what)
        over.wait()

    return answer


def resets(line: socket.socket, over: threading.Event) -> None:
    """After what HTTP/2 begins with, so that the export is under way."""
    line.recv(65_536)
    line.sendall(b"\0\0\0\4\0\0\0\0\0")
    line.recv(65_536)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def listening(answer: Answering) -> Iterator[str]:
    """Whatever listens there: its address without a scheme."""
    over = threading.Event()

    def serve_one(line: socket.socket) -> None:
        with line, suppress(OSError):
            answer(line, over)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve_one, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)


HTTP_OK = b"HTTP/1.1 200 OK\r\n"
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("protocol", "scheme", "answer", "is_lost"),
    [
        ("http/protobuf", "http", drips(b"HTTP/1.1 200 ", b"O"), True),
        ("http/protobuf", "http", drips(HTTP_OK + b"x-a: ", b"a"), True),
        ("http/protobuf", "http", drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), True),
        ("http/protobuf", "http", drips(HTTP_OK + b"content-length: 50000\r\n\r\n", b"a"), False),
        ("http/protobuf", "https", says(BAD_REQUEST), True),
        ("grpc", "http", says(b"\xfe" * 5000), True),
        ("grpc", "http", says(b""), True),
        ("grpc", "http", says(BAD_REQUEST), True),
        ("grpc", "http", drips(b"", b"\0"), True),
        ("grpc", "http", resets, True),
        ("grpc", "https", says(BAD_REQUEST), True),
    ],
    ids=[
        "status-drips", "headers-drip", "100-for-ever", "body-drips", "not-encrypted",
        "grpc-garbage", "grpc-silence", "grpc-http", "grpc-drips", "grpc-resets", "grpc-not-encrypted",
    ],
)  # fmt: skip
def test_what_is_no_receiver_holds_nothing_up(protocol: str, scheme: str, answer: Answering, is_lost: bool) -> None:
    """Neither an export nor the end; what a status says was taken counts as taken, however slow the rest."""
    with listening(answer) as where:
        telemetry = exporting_to(f"{scheme}://{where}", protocol, "0.3", METRICS_ENDPOINT="http://127.0.0.1:9")
        # On a busy machine the status, too, may take longer than an export may.
        wanted = 2 if is_lost else 0
        assert eventually(lambda: lost_of(telemetry, 2), lambda lost: lost == wanted) == wanted
        telemetry.tracer.start_span("a-last-span").end()
        assert telemetry.shutdown(DEADLINE_S)


@PROTOCOLS
def test_exports_go_on_when_the_receiver_is_back(protocol: str) -> None:
    """It went in mid-export: what was on its way is lost and counted, and what comes next arrives."""
    with RECEIVERS[protocol]() as receiver:
        host, _, port = receiver.endpoint.removeprefix("http://").partition(":")
        proxy = TcpProxy(host, int(port))
        limit_s = 0.3
        telemetry = exporting_to(f"http://127.0.0.1:{proxy.port}", protocol, str(limit_s))

        def is_taken() -> bool:
            """Whether nothing is lost; only what took all the time that it had may be, as on a busy machine."""
            began_s = time.monotonic()
            lost = lost_of(telemetry, 4)
            assert lost == 0 or time.monotonic() - began_s >= limit_s, "given up too soon"
            return lost == 0

        assert eventually(is_taken, bool)
        proxy.stall()
        assert lost_of(telemetry, 2) == 2
        proxy.reset()
        proxy.refuse()
        assert lost_of(telemetry, 3) == 3
        arrived = len(receiver.spans)
        proxy.resume()
        proxy.accept()
        assert eventually(is_taken, bool)
        assert len(receiver.spans) >= arrived + 4
        assert telemetry.shutdown(DEADLINE_S)
        proxy.close()
