"""The contract of logs: what leaves the process of them, with a real exporter and a real receiver."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    LogsServiceServicer,
    add_LogsServiceServicer_to_server,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber

from luthien.errors import ConfigError
from luthien.exchange import new_call_id
from luthien.policies.credential import NO_CREDENTIAL
from luthien.policies.policy import ModelFailed, Needs, Policy, Request, Response, Verdict
from luthien.policies.registry import BUILTIN
from luthien.settings import Settings
from luthien.telemetry import conventions as names
from luthien.telemetry.context import enter_call, leave_call
from luthien.telemetry.log_export import LogExport, start_log_export
from luthien.telemetry.logs import CallContextFilter, JsonFormatter
from tests.integration.conftest import StartGateway
from tests.otlp_receiver import AttributeValue, OtlpReceiver, attributes_of
from tests.playbook import DEADLINE_S, Gateway, ScriptedProvider, Turn, answers, eventually, running_gateway
from tests.tcp_proxy import TcpProxy
from tests.wire import openai_request, openai_response, openai_stream

OPENAI = "/v1/chat/completions"
CREDENTIAL = "sk-credential-mark"
HEADERS = {"authorization": f"Bearer {CREDENTIAL}", "x-odd": "header-mark"}
MARKS = [b"prompt-mark", b"answer-mark", b"reason-mark", b"header-mark", CREDENTIAL.encode()]


class Telling(Policy):
    """Does what the prompt says, and lets slip of it what it can."""

    needs = Needs.WHOLE

    async def on_request(self, request: Request) -> Verdict:
        text = str(request.body["messages"][-1]["content"])
        logging.getLogger("some.policy").error("saw %s", text, extra={names.ERROR_TYPE: text, "payload": text})
        logging.getLogger("luthien.telling").info("in the task", extra={"payload": text})
        await asyncio.to_thread(logging.getLogger("luthien.telling").info, "in a thread")
        if "block" in text:
            return Verdict.block(f"reason-mark {text}")
        if "break" in text:
            raise ValueError(text)
        if "ask" in text:
            asked = openai_request("child prompt-mark", model="child\x01")
            with suppress(ModelFailed):
                await self.call.models.ask("openai.chat_completions", asked, credential=NO_CREDENTIAL)
        return Verdict.allow()

    async def on_response(self, response: Response) -> Verdict:
        return Verdict.allow()


@pytest.fixture(autouse=True)
def telling(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """There is the policy, and the usual level."""
    monkeypatch.setitem(BUILTIN, "telling", Telling)
    caplog.set_level(logging.INFO, "luthien")


@contextmanager
def exporting(receiver: OtlpReceiver, **settings: Any) -> Iterator[LogExport]:
    """Exports what is logged inside the block; all of it has arrived afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(DEADLINE_S))
        export = start_log_export(Settings(**settings))
    assert export is not None
    try:
        yield export
    finally:
        assert export.stop(DEADLINE_S)


def lines(receiver: OtlpReceiver, logger: str) -> list[LogRecord]:
    return [record for name, record in receiver.logs if name == logger]


def said(record: LogRecord) -> dict[str, AttributeValue]:
    return attributes_of(record.attributes)


def told(receiver: OtlpReceiver) -> dict[AttributeValue, dict[str, AttributeValue]]:
    """What the lines of calls say, by call."""
    return {said(line)[names.CALL_ID]: said(line) for line in lines(receiver, "luthien.calls")}


def unusual_calls(gateway: Gateway, provider: ScriptedProvider) -> dict[str, tuple[str, str | None]]:
    """Calls that all carry what must not leak: how each must have ended, by its id."""
    provider.will(
        answers({"error": {"message": "answer-mark"}}, status=500),
        answers(b"answer-mark"),
        _cut,
        answers(openai_response("answer-mark")),
    )
    expected: dict[str, tuple[str, str | None]] = {}

    def call(outcome: str, error: str | None, body: Any, path: str = OPENAI) -> None:
        response = gateway.post(f"{path}?key={CREDENTIAL}", body, headers=HEADERS)
        expected[response.headers["luthien-call-id"]] = (outcome, error)

    call("upstream_error", "500", openai_request("prompt-mark"))
    call("upstream_error", "upstream_protocol", openai_request("prompt-mark"))
    call("upstream_error", "upstream_disconnected", openai_request("prompt-mark", stream=True))
    call("blocked", "policy_blocked", openai_request("block prompt-mark"))
    call("policy_error", "policy_error", openai_request("break prompt-mark"))
    call("rejected", "invalid_json", b"prompt-mark is no JSON")
    call("rejected", "path_not_open", b"prompt-mark", "/v1/prompt-mark")
    return expected


async def _cut(turn: Turn) -> None:
    await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
    await turn.chunk(openai_stream("answer-mark")[0])
    turn.cut()


def test_each_call_that_is_not_completed_has_one_line(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    with start([{"policy": "telling"}]) as gateway:
        expected = unusual_calls(gateway, provider)
        fine = gateway.post(OPENAI, openai_request("prompt-mark"), headers=HEADERS)
        recorded = {call_id: gateway.call(call_id) for call_id in expected}
    found = told(receiver)
    assert len(lines(receiver, "luthien.calls")) == len(expected)
    assert fine.headers["luthien-call-id"] not in found
    ends = {call_id: (line[names.OUTCOME], line.get(names.ERROR_TYPE)) for call_id, line in found.items()}
    assert ends == expected
    for call_id, call in recorded.items():
        line = found[call_id]
        assert line.get(names.HTTP_STATUS) == call["http_status"]
        assert line[names.WIRE_FORMAT] in ("openai.chat_completions", "passthrough")
        assert line[names.PROVIDER] == "openai"
        assert line[names.DURATION_MS] > 0  # type: ignore[operator]
    levels = {said(line)[names.OUTCOME]: line.severity_number for line in lines(receiver, "luthien.calls")}
    warn, info = SeverityNumber.SEVERITY_NUMBER_WARN, SeverityNumber.SEVERITY_NUMBER_INFO
    assert levels == {"upstream_error": warn, "policy_error": warn, "blocked": info, "rejected": info}
    assert {line.event_name for line in lines(receiver, "luthien.calls")} == {names.CALL_ENDED}


def test_a_client_that_hangs_up_leaves_a_line(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    async def stall(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await turn.chunk(openai_stream("answer-mark")[0])
        await turn.reader.read()

    provider.will(stall)
    with start() as gateway:
        body = json.dumps(openai_request("prompt-mark", stream=True))
        with httpx.stream(
            "POST", gateway.url + OPENAI, content=body, headers=HEADERS, timeout=DEADLINE_S
        ) as response:
            call_id = response.headers["luthien-call-id"]
            next(response.iter_bytes())
        gateway.call(call_id)
    assert told(receiver)[call_id][names.OUTCOME] == "client_disconnected"


@pytest.mark.parametrize(("which", "outcomes"), [("all", {"completed", "blocked"}), ("none", set())])
def test_which_calls_leave_a_line_can_be_chosen(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver, which: str, outcomes: set[str]
) -> None:
    provider.will(answers(openai_response()))
    with start([{"policy": "telling"}], log_calls=which) as gateway:
        gateway.post(OPENAI, openai_request("prompt-mark"))
        gateway.post(OPENAI, openai_request("block prompt-mark"))
    assert {line[names.OUTCOME] for line in told(receiver).values()} == outcomes


def test_no_payload_and_no_credential_is_in_any_exported_log(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    """Not in what a policy logs by a logger of its own, either, nor in what it raises."""
    with start([{"policy": "telling"}]) as gateway:
        for call_id in unusual_calls(gateway, provider):
            gateway.call(call_id)
    assert len(receiver.logs) > 10
    assert lines(receiver, "some.policy") == []
    everything = b"".join(receiver.bodies)
    assert [mark for mark in MARKS if mark in everything] == []
    assert {key for _, line in receiver.logs for key in said(line)} <= names.LOG_ATTRIBUTES


def test_every_line_of_a_call_has_its_ids(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    """On the event loop and in a thread; those of a call that a policy makes are its own."""
    provider.will(answers({"error": {"message": "answer-mark"}}, status=500))
    with start([{"policy": "telling"}]) as gateway:
        response = gateway.post(OPENAI, openai_request("ask prompt-mark"), headers=HEADERS)
        call = gateway.call(response)
        child_id = call["children"][0]["call_id"]
        gateway.call(child_id)
    exchanges = {attributes_of(s.attributes)[names.CALL_ID]: s for s in receiver.spans if s.name == names.EXCHANGE}
    telling, ended = lines(receiver, "luthien.telling"), lines(receiver, "luthien.calls")
    assert [line.body.string_value for line in telling] == ["in the task", "in a thread"]
    assert [said(line)[names.CALL_ID] for line in telling] == [call["call_id"]] * 2
    assert [said(line)[names.CALL_ID] for line in ended] == [child_id, call["call_id"]]
    assert [said(line).get(names.CHILD) for line in ended] == [True, None]
    assert said(ended[0])[names.REQUEST_MODEL] == "child\ufffd"
    for line in (*telling, *ended):
        exchange = exchanges[said(line)[names.CALL_ID]]
        assert (line.trace_id, line.span_id) == (exchange.trace_id, exchange.span_id)


def test_what_is_said_on_stderr_and_what_is_exported_agree(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(CallContextFilter())
    with start([{"policy": "telling"}]) as gateway:
        logging.getLogger("luthien").addHandler(handler)
        try:
            unusual_calls(gateway, provider)
        finally:
            logging.getLogger("luthien").removeHandler(handler)
    written = [json.loads(line) for line in stream.getvalue().splitlines()]
    exported = [_as_json(name, line) for name, line in receiver.logs]
    for entry in written:
        del entry[names.LOG_TIME]
        entry.pop("payload", None)  # of the policy, which wrote it itself
    assert len(written) > 10
    assert [entry for entry in written if entry not in exported] == []


def _as_json(logger: str, line: LogRecord) -> dict[str, Any]:
    own = {
        names.LOG_LEVEL: line.severity_text,
        names.LOG_LOGGER: logger,
        names.LOG_MESSAGE: line.body.string_value,
        names.LOG_TRACE_ID: line.trace_id.hex(),
        names.LOG_SPAN_ID: line.span_id.hex(),
        names.LOG_EVENT: line.event_name,
    }
    return {key: value for key, value in own.items() if value} | said(line)


def test_of_an_exception_its_type_and_its_frames_are_exported(receiver: OtlpReceiver) -> None:
    with exporting(receiver):
        try:
            json.loads("prompt-mark")
        except ValueError as error:
            try:
                raise LookupError("prompt-mark") from error
            except LookupError:
                logging.getLogger("luthien.test").exception("it broke")
    [line] = lines(receiver, "luthien.test")
    assert line.body.string_value == "it broke"
    assert said(line).keys() == {names.EXCEPTION_TYPE, names.EXCEPTION_FRAMES}
    assert said(line)[names.EXCEPTION_TYPE] == "LookupError"
    assert "test_log_export.py" in str(said(line)[names.EXCEPTION_FRAMES])
    assert b"prompt-mark" not in b"".join(receiver.bodies)


def test_a_line_that_cannot_be_made_harms_nobody(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do those that hold what no encoder takes: all of their batch arrive."""
    monkeypatch.setattr(logging, "raiseExceptions", False)  # other handlers, pytest's, would raise
    log = logging.getLogger("luthien.test")
    log.propagate = False
    try:
        with exporting(receiver) as export:
            log.addHandler(export.handler)
            log.error("saw %d", "prompt-mark")
            log.error("lone \ud800 surrogate", extra={names.ERROR_TYPE: "\ud800"})
            log.error("x" * 100_000, extra={names.OUTCOME: object()})
            assert export.handler.lost == 0
    finally:
        log.propagate = True
        log.handlers.clear()
    unfit, cleaned, long = lines(receiver, "luthien.test")
    assert unfit.body.string_value == "saw %d (what it says cannot be told)"
    assert (cleaned.body.string_value, said(cleaned)) == ("lone \ufffd surrogate", {names.ERROR_TYPE: "\ufffd"})
    assert (len(long.body.string_value), said(long)) == (8192, {})


def test_only_luthiens_lines_are_exported_and_those_of_loggers_that_are_named(receiver: OtlpReceiver) -> None:
    named = ("some.policy", "some.policy.part", "luthien.twice")
    with exporting(receiver, export_loggers=named):
        for name in ("root", "some", "some.policy", "some.policy.part", "luthien.twice", "uvicorn.error", "asyncio"):
            logging.getLogger(name).error("from %s", name)
    assert sorted(name for name, _ in receiver.logs) == [
        "luthien.twice",
        "some.policy",
        "some.policy.part",
        "uvicorn.error",
    ]


def test_a_line_about_another_call_names_that_one(receiver: OtlpReceiver) -> None:
    """As the writer and the indexer do, which work for all of them."""
    other = str(new_call_id())
    with exporting(receiver):
        token = enter_call(new_call_id())
        logging.getLogger("luthien.test").error("set aside", extra={names.CALL_ID: other})
        leave_call(token)
    assert [said(line) for line in lines(receiver, "luthien.test")] == [{names.CALL_ID: other}]


def test_what_the_exporter_says_of_itself_is_not_exported(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else every failure would be something to export, for ever. Even if somebody names its loggers."""
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "10")
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "urllib3")

    def spoken() -> set[str]:
        return {record.name.partition(".")[0] for record in caplog.records}

    proxy = TcpProxy("127.0.0.1", int(receiver.endpoint.rpartition(":")[2]))
    receiver.endpoint = f"http://127.0.0.1:{proxy.port}"
    proxy.hang_up()
    try:
        with exporting(receiver, export_loggers=("opentelemetry", "urllib3")):
            logging.getLogger("luthien.test").error("while it is away")
            eventually(spoken, lambda said: said >= {"opentelemetry", "urllib3"})
            proxy.accept()
            logging.getLogger("luthien.test").error("when it is back")
            eventually(lambda: [*receiver.logs], bool)
    finally:
        proxy.close()
    assert spoken() >= {"opentelemetry", "urllib3"}
    assert {name for name, _ in receiver.logs} == {"luthien.test"}


def test_a_collector_that_takes_nothing_holds_up_neither_calls_nor_the_end(
    record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections and never answers."""
    provider.will(answers({}, status=500))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}/v1/logs")
        monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "1")
        monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "8")
        monkeypatch.setenv("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "8")
        with running_gateway(record_database, provider.url) as gateway:
            calls = [gateway.post(OPENAI, openai_request()) for _ in range(20)]
            assert {call.status_code for call in calls} == {500}
            for call in calls:
                gateway.call(call)


def test_logs_have_the_resource_of_spans(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    provider.will(answers({}, status=500))
    with start() as gateway:
        gateway.call(gateway.post(OPENAI, openai_request()))
    assert receiver.spans
    assert receiver.logs
    assert len(receiver.instances) == 1
    assert receiver.encodings == {"gzip"}


def test_logs_over_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressed: a line of 8,192 letters comes through an opening that lets 6,000 bytes pass."""
    arrived: list[ExportLogsServiceRequest] = []

    class Service(LogsServiceServicer):
        def Export(self, request: ExportLogsServiceRequest, context: Any) -> ExportLogsServiceResponse:  # noqa: N802
            arrived.append(request)
            return ExportLogsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    add_LogsServiceServicer_to_server(Service(), server)  # type: ignore[no-untyped-call]
    proxy = TcpProxy("127.0.0.1", server.add_insecure_port("127.0.0.1:0"))
    proxy.stall_after(6000)
    server.start()
    try:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(DEADLINE_S))
        export = start_log_export(Settings(otlp_protocol="grpc"))
        assert export is not None
        logging.getLogger("luthien.test").error("x" * 8192)
        assert export.stop(DEADLINE_S)
    finally:
        proxy.close()
        server.stop(None).wait()
    [record] = arrived[0].resource_logs[0].scope_logs[0].log_records
    assert record.body.string_value == "x" * 8192


def test_logs_on_the_console(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    export = start_log_export(Settings(logs_exporter="console"))
    assert export is not None
    logging.getLogger("luthien.test").error("here")
    assert export.stop(DEADLINE_S)
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["body"] == "here"


def test_nothing_is_started_unless_logs_are_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    before = {*threading.enumerate()}
    assert start_log_export(Settings()) is None
    assert start_log_export(Settings(otlp_endpoint="http://c:4318", logs_exporter="none")) is None
    assert start_log_export(Settings(otlp_traces_endpoint="http://c:4318/v1/traces")) is None
    assert {*threading.enumerate()} <= before


def test_a_wrong_variable_of_the_sdk_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "1")
    with pytest.raises(ConfigError, match="max_export_batch_size"):
        start_log_export(Settings(otlp_endpoint="http://127.0.0.1:9"))


def test_a_line_has_the_time_at_which_it_was_said(receiver: OtlpReceiver) -> None:
    before = time.time_ns()
    with exporting(receiver):
        logging.getLogger("luthien.test").error("now")
    [line] = lines(receiver, "luthien.test")
    assert before - 1000 <= line.time_unix_nano <= time.time_ns()
