"""Traces and metrics over OTLP, to real receivers over HTTP and gRPC, and what becomes of them when those refuse."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult

from luthien.errors import ConfigError
from luthien.otlp import Otlp
from luthien.record.sink import DiscardingSink
from luthien.settings import read_settings
from luthien.telemetry import conventions as names
from luthien.telemetry.answers import Answers
from luthien.telemetry.exporters import otlp_logs, span_exporter
from luthien.telemetry.grpc_export import SERVICES, Sender
from luthien.telemetry.setup import start_telemetry
from tests import certificates
from tests.certificates import Certificates
from tests.otlp_receiver import (
    OtlpReceiver,
    Refusal,
    attributes_of,
    exports_unhurried,
    otlp_grpc_receiver,
    otlp_receiver,
)
from tests.playbook import DEADLINE_S, ScriptedProvider, Turn, answers, eventually, running_gateway
from tests.wire import openai_request, openai_response

OPENAI = "/v1/chat/completions"
PATIENCE = str(DEADLINE_S)
PREFIX = "OTEL_EXPORTER_OTLP_"
RECEIVERS: dict[str, Callable[..., AbstractContextManager[OtlpReceiver]]] = {
    "http/protobuf": otlp_receiver,
    "grpc": otlp_grpc_receiver,
}
PROTOCOLS = list(RECEIVERS)
KNOWN_LATER = {names.RECORD_DEFAULT_PARTITION, names.INDEX_WAITING, names.INDEX_LAG}
"""What a gateway tells once it has asked the database, which may be after it has stopped."""
REWRITE = [{"policy": "replace_text", "config": {"rules": [{"find": "apple", "replace": "pear"}]}}]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which nothing is said of telemetry."""
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.made_in(tmp_path_factory.mktemp("certificates"))


def export(variables: Mapping[str, str | Path]) -> None:
    """Exports one span and one metric as the variables say, which stay set as long as the exporters live."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"TIMEOUT": PATIENCE, **variables}.items():
            patch.setenv(PREFIX + name, str(value))
        telemetry = start_telemetry(read_settings(), DiscardingSink())
        telemetry.tracer.start_span("a-span", attributes={names.OUTCOME: "completed"}).end()
        telemetry.meter.create_counter(names.CALLS).add(1)
        assert telemetry.shutdown(DEADLINE_S)


def arrived(receiver: OtlpReceiver) -> tuple[list[str], list[str]]:
    return [span.name for span in receiver.spans], [metric.name for metric in receiver.metrics]


BOTH = (["a-span"], [names.CALLS])
NOTHING: tuple[list[str], list[str]] = ([], [])


def shape(receiver: OtlpReceiver) -> tuple[Any, Any]:
    """All that does not change from one run to the next."""
    spans = sorted((span.name, span.kind, sorted(attributes_of(span.attributes))) for span in receiver.spans)
    events = sorted((span.name, [event.name for event in span.events]) for span in receiver.spans)
    metrics = {
        (metric.name, metric.unit, metric.WhichOneof("data"))
        for metric in receiver.metrics
        if metric.name not in KNOWN_LATER
    }
    return (spans, events), metrics


def test_the_same_call_leaves_the_same_over_both_protocols(
    module_record_database: str, shared_provider: ScriptedProvider, environment: pytest.MonkeyPatch
) -> None:
    shared_provider.will(answers(openai_response("an apple")))
    shapes = []
    for protocol, compression in (
        ("http/protobuf", "gzip"),
        ("http/protobuf", "none"),
        ("grpc", "gzip"),
        ("grpc", "none"),
    ):
        with RECEIVERS[protocol]() as receiver:
            exports_unhurried(environment, receiver)
            environment.setenv(PREFIX + "PROTOCOL", protocol)
            environment.setenv(PREFIX + "COMPRESSION", compression)
            with running_gateway(module_record_database, shared_provider.url, REWRITE) as gateway:
                call = gateway.call(gateway.post(OPENAI, openai_request("an apple")))
            assert {attributes_of(span.attributes)[names.CALL_ID] for span in receiver.spans} == {call["call_id"]}
            assert b"apple" not in b"".join(receiver.bodies)
            shapes.append(shape(receiver))
    (spans, _), metrics = shapes[0]
    assert {"luthien.exchange", "luthien.policy.response"} <= {span[0] for span in spans}
    assert {names.CALLS, names.POLICY_DECISIONS, names.RECORD_STORED} <= {metric[0] for metric in metrics}
    assert all(each == shapes[0] for each in shapes[1:])


@pytest.mark.parametrize("compression", ["gzip", "deflate", "none"])
def test_a_body_is_compressed_as_it_says(compression: str) -> None:
    with otlp_receiver() as receiver:
        export({"ENDPOINT": receiver.endpoint, "COMPRESSION": compression})
    assert arrived(receiver) == BOTH
    assert receiver.encodings == {None if compression == "none" else compression}


def test_grpc_compresses_unless_it_is_told_not_to() -> None:
    """A receiver that understands nothing compressed shows it."""
    with otlp_grpc_receiver(takes_compressed=False) as receiver:
        variables = {"ENDPOINT": receiver.endpoint, "PROTOCOL": "grpc"}
        export(variables)
        assert arrived(receiver) == NOTHING
        export({**variables, "TRACES_COMPRESSION": "none"})
        assert arrived(receiver) == (["a-span"], [])
        export({**variables, "COMPRESSION": "none"})
    assert arrived(receiver) == (["a-span"] * 2, [names.CALLS])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_signal_has_its_headers_or_those_of_all(
    protocol: str, caplog: pytest.LogCaptureFixture, environment: pytest.MonkeyPatch
) -> None:
    """They are secrets, and are written nowhere."""
    caplog.set_level(logging.DEBUG)
    with RECEIVERS[protocol]() as receiver:
        export(
            {
                "ENDPOINT": receiver.endpoint,
                "PROTOCOL": protocol,
                "HEADERS": "Authorization=Bearer%20sk-of-all,x-tenant=one",
                "METRICS_HEADERS": "x-tenant=two words",
            }
        )
    found = dict(zip(receiver.paths, receiver.headers, strict=True))
    assert (found["/v1/traces"]["authorization"], found["/v1/traces"]["x-tenant"]) == ("Bearer sk-of-all", "one")
    assert found["/v1/metrics"]["x-tenant"] == "two words"
    assert "authorization" not in found["/v1/metrics"]
    assert "sk-of-all" not in caplog.text
    environment.setenv(PREFIX + "HEADERS", "Authorization=Bearer%20sk-of-all")
    environment.setenv(PREFIX + "ENDPOINT", "http://127.0.0.1:9")
    settings = read_settings()
    assert "sk-of-all" not in f"{settings!r} {settings.otlp('traces')!r}"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_shows_its_certificate_and_wants_to_see_the_receivers(
    protocol: str, tls: Certificates, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("REQUESTS_CA_BUNDLE", str(tls.client))
    with RECEIVERS[protocol](tls=tls) as receiver:
        variables: dict[str, str | Path] = {"ENDPOINT": receiver.endpoint, "PROTOCOL": protocol, "TIMEOUT": "0.5"}
        export({**variables, "CERTIFICATE": tls.authority})
        export({**variables, "CLIENT_CERTIFICATE": tls.client, "CLIENT_KEY": tls.client_key})
        assert arrived(receiver) == NOTHING
        client: dict[str, str | Path] = {"CLIENT_CERTIFICATE": tls.client, "CLIENT_KEY": tls.client_key}
        # A busy machine may need longer for its first handshake than the half second that the others are to wait.
        export({**variables, **client, "CERTIFICATE": tls.authority, "TIMEOUT": PATIENCE})
    assert arrived(receiver) == BOTH
    assert receiver.clients == ({certificates.CLIENT} if protocol == "grpc" else set())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_signal_may_have_certificates_of_its_own(protocol: str, tls: Certificates) -> None:
    with RECEIVERS[protocol](tls=tls) as safe, otlp_receiver() as plain:
        export(
            {
                "TRACES_ENDPOINT": safe.endpoint + ("/v1/traces" if protocol != "grpc" else ""),
                "TRACES_PROTOCOL": protocol,
                "TRACES_CERTIFICATE": tls.authority,
                "TRACES_CLIENT_CERTIFICATE": tls.client,
                "TRACES_CLIENT_KEY": tls.client_key,
                "ENDPOINT": plain.endpoint,
            }
        )
    assert arrived(safe) == (["a-span"], [])
    assert arrived(plain) == ([], [names.CALLS])


def test_one_signal_may_speak_another_protocol() -> None:
    with otlp_receiver() as http, otlp_grpc_receiver() as over_grpc:
        export(
            {
                "ENDPOINT": http.endpoint,
                "TRACES_ENDPOINT": over_grpc.endpoint,
                "TRACES_PROTOCOL": "grpc",
            }
        )
    assert arrived(over_grpc) == (["a-span"], [])
    assert arrived(http) == ([], [names.CALLS])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_logs_go_the_same_way(protocol: str, environment: pytest.MonkeyPatch) -> None:
    with RECEIVERS[protocol]() as receiver:
        variables = {"ENDPOINT": receiver.endpoint, "LOGS_PROTOCOL": protocol, "LOGS_HEADERS": "x-tenant=one"}
        variables["TIMEOUT"] = PATIENCE
        for name, value in variables.items():
            environment.setenv(PREFIX + name, value)
        provider = LoggerProvider(Resource({"service.instance.id": "one"}), shutdown_on_exit=False)
        exporter = otlp_logs(read_settings().otlp("logs"), Answers("logs"))
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        provider.get_logger("a-logger").emit(LogRecord(body="a line"))
        provider.shutdown()
    [(logger, record)] = receiver.logs
    assert (logger, record.body.string_value) == ("a-logger", "a line")
    assert receiver.headers[0]["x-tenant"] == "one"


def test_the_path_of_the_endpoint_is_kept_and_that_of_a_signal_is_taken_as_it_is() -> None:
    with otlp_receiver() as receiver:
        export({"ENDPOINT": f"{receiver.endpoint}/otlp/", "METRICS_ENDPOINT": f"{receiver.endpoint}/here"})
    assert sorted(receiver.paths) == ["/here", "/otlp/v1/traces"]


def test_grpc_takes_an_address_without_a_scheme() -> None:
    """It is then encrypted, unless `INSECURE` says otherwise; a path means nothing to it."""
    with otlp_grpc_receiver() as receiver:
        bare = receiver.endpoint.removeprefix("http://")
        export({"ENDPOINT": bare, "PROTOCOL": "grpc", "TIMEOUT": "0.3"})
        assert arrived(receiver) == NOTHING
        export({"ENDPOINT": bare, "PROTOCOL": "grpc", "METRICS_INSECURE": "true", "TRACES_TIMEOUT": "0.3"})
        assert arrived(receiver) == ([], [names.CALLS])
        export({"ENDPOINT": bare, "PROTOCOL": "grpc", "INSECURE": "true"})
        export({"ENDPOINT": f"{receiver.endpoint}/path", "PROTOCOL": "grpc"})
    assert arrived(receiver) == (["a-span"] * 2, [names.CALLS] * 3)


@contextmanager
def refusing(protocol: str, *refusals: Refusal, then: Refusal | None = None) -> Iterator[OtlpReceiver]:
    """A receiver that refuses the first requests so, and all after them as `then` says."""
    left = list(refusals)
    with RECEIVERS[protocol](lambda: left.pop(0) if left else then) as receiver:
        yield receiver


LATER = {"retry-after": "3600"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_refused_for_a_moment_is_sent_again(protocol: str) -> None:
    at_once = {"retry-after": "0"}
    with refusing(protocol, Refusal(503, headers=at_once), Refusal(429, headers=at_once)) as receiver:
        export({"ENDPOINT": receiver.endpoint, "PROTOCOL": protocol})
    assert arrived(receiver) == BOTH


def test_a_receiver_that_resets_a_line_is_asked_once_more() -> None:
    with refusing("http/protobuf", Refusal(hangs_up=True)) as receiver:
        export({"ENDPOINT": receiver.endpoint})
    assert arrived(receiver) == BOTH


@pytest.mark.parametrize("status", [302, 307])
def test_what_is_led_elsewhere_is_lost_and_not_followed(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """A sign-in page in the receiver's place: the exporters would call that well."""
    with refusing("http/protobuf", then=Refusal(status, headers={"location": "/v1/traces"})) as receiver:
        assert exported_spans(receiver.endpoint) is SpanExportResult.FAILURE
        assert receiver.requests == 1
    assert f"status {status} leads elsewhere" in caplog.text


@pytest.mark.parametrize("piece_bytes", [1, 65_536])
def test_an_answer_that_does_not_end_is_not_listened_to(shared_provider: ScriptedProvider, piece_bytes: int) -> None:
    """Neither when it is long, which would have to be kept, nor when it is slow, however often a byte of it comes."""
    left = threading.Event()

    async def goes_on(turn: Turn) -> None:
        await turn.head(200, {"transfer-encoding": "chunked"})
        try:
            for _ in range(2000):
                await turn.chunk(b"x" * piece_bytes)
                await asyncio.sleep(0.005)
        except ConnectionError:
            left.set()

    def tried() -> SpanExportResult:
        return exported_spans(shared_provider.url, timeout_s="2")

    shared_provider.will(goes_on)
    # On a busy machine the status, too, may take longer than an export may.
    assert eventually(tried, lambda result: result is SpanExportResult.SUCCESS) is SpanExportResult.SUCCESS
    assert left.wait(DEADLINE_S)


def exported_spans(endpoint: str, timeout_s: str = PATIENCE) -> SpanExportResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"{PREFIX}ENDPOINT", endpoint)
        patch.setenv(f"{PREFIX}TIMEOUT", timeout_s)
        exporter = span_exporter(read_settings(), Answers("traces"))
    assert exporter is not None
    try:
        return exporter.export([])
    finally:
        exporter.shutdown()


@pytest.mark.parametrize(
    ("protocol", "refusal"),
    [
        ("http/protobuf", Refusal(429, headers=LATER)),
        ("http/protobuf", Refusal(hangs_up=True)),
        ("http/protobuf", Refusal(waits_for=threading.Event())),
        ("grpc", Refusal(code=grpc.StatusCode.UNAVAILABLE)),
        ("grpc", Refusal(waits_for=threading.Event())),
    ],
    ids=["429", "resets", "hangs", "grpc-unavailable", "grpc-hangs"],
)
def test_a_receiver_that_takes_nothing_costs_its_spans_and_nothing_else(
    module_record_database: str,
    shared_provider: ScriptedProvider,
    environment: pytest.MonkeyPatch,
    protocol: str,
    refusal: Refusal,
) -> None:
    """It was asked while the calls were made: they did not wait for it."""
    shared_provider.will(answers(openai_response("an apple")))
    with refusing(protocol, then=refusal) as receiver:
        for name, value in (("ENDPOINT", receiver.endpoint), ("PROTOCOL", protocol), ("TIMEOUT", "0.3")):
            environment.setenv(PREFIX + name, value)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        environment.setenv("OTEL_METRICS_EXPORTER", "none")
        with running_gateway(module_record_database, shared_provider.url, REWRITE) as gateway:
            first = gateway.post(OPENAI, openai_request("an apple"))
            assert eventually(lambda: receiver.requests, bool)
            responses = [first, *(gateway.post(OPENAI, openai_request("an apple")) for _ in range(2))]
            assert [response.status_code for response in responses] == [200] * 3
            assert [gateway.call(each)["completeness"]["state"] for each in responses] == ["complete"] * 3
        if refusal.waits_for is not None:
            refusal.waits_for.set()
    assert receiver.spans == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PROTOCOL", "http/json", "must be http/protobuf or grpc; http/json is not spoken"),
        ("METRICS_PROTOCOL", "udp", "must be http/protobuf or grpc"),
        ("COMPRESSION", "zstd", "must be gzip, deflate or none"),
        ("TIMEOUT", "0", "greater than 0"),
        ("TRACES_TIMEOUT", "inf", "finite"),
        ("HEADERS", "Bearer sk-secret", "must be name=value, separated by commas, with values percent-encoded"),
        ("TRACES_HEADERS", "a=b,sk-secret", "must be name=value"),
        ("LOGS_HEADERS", "a=sk-secret%0d%0ab: c", "must be name=value"),
        ("METRICS_HEADERS", "a=sk-sécret", "must be name=value"),
        ("CERTIFICATE", "/nonexistent/sk-secret", "does not point to a file"),
        ("INSECURE", "perhaps", "valid boolean"),
        ("TIMEOUT", "1e12", "less than or equal to 3600"),
        ("HEADERS", "x=sk-secret,Content-Length=5", "must not have content-length, which belongs to the protocol"),
        ("LOGS_HEADERS", "grpc-timeout=1S", "must not have grpc-timeout"),
        ("METRICS_TEMPORALITY_PREFERENCE", "sometimes", "must be cumulative, delta or lowmemory"),
        ("METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "none", "must be explicit_bucket_histogram or base2_exp"),
    ],
)
def test_a_wrong_value_is_refused_at_the_start_and_not_repeated(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str, said: str
) -> None:
    environment.setenv(PREFIX + name, value)
    with pytest.raises(
        Exception, match=f"these settings are wrong:\n  {PREFIX}{name}: .*{re.escape(said)}"
    ) as raised:
        read_settings()
    assert "sk-s" not in str(raised.value) + caplog.text


GRPC = {"ENDPOINT": "http://c:4317", "PROTOCOL": "grpc"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT: must be an address that begins with http://"),
        ({"TRACES_ENDPOINT": "ftp://c"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: must be an address"),
        ({"ENDPOINT": "http://[c"}, "OTEL_EXPORTER_OTLP_ENDPOINT: must be an address"),
        ({"ENDPOINT": "ftp://c:1", "PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_ENDPOINT: must be an address"),
        ({"ENDPOINT": "http://a b"}, "OTEL_EXPORTER_OTLP_ENDPOINT: must be an address"),
        ({"LOGS_ENDPOINT": "http://c\n"}, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT: must be an address"),
        ({**GRPC, "HEADERS": "x-bin=sk-secret"}, "OTEL_EXPORTER_OTLP_HEADERS: must have names of letters, digits"),
        ({**GRPC, "LOGS_HEADERS": "a=b,x!y=sk-secret"}, "OTEL_EXPORTER_OTLP_LOGS_HEADERS: must have names of"),
    ],
)
def test_what_the_protocol_cannot_use_is_refused_at_the_start(
    environment: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        environment.setenv(PREFIX + name, value)
    with pytest.raises(ConfigError, match=re.escape(said)) as raised:
        read_settings()
    assert "sk-s" not in str(raised.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"CERTIFICATE": "empty"}, "CERTIFICATE: must be a file with certificates in PEM"),
        ({"LOGS_CERTIFICATE": "key"}, "LOGS_CERTIFICATE: must be a file with certificates in PEM"),
        ({"CLIENT_KEY": "key"}, "CLIENT_KEY: has no certificate: set that in CLIENT_CERTIFICATE, too"),
        (
            {"CLIENT_CERTIFICATE": "client"},
            "CLIENT_CERTIFICATE: must be a file with a certificate in PEM, and its key",
        ),
        (
            {"TRACES_CLIENT_CERTIFICATE": "client", "CLIENT_KEY": "empty"},
            "TRACES_CLIENT_CERTIFICATE: must be a file with a certificate in PEM, and CLIENT_KEY that of it",
        ),
    ],
)
def test_files_that_are_no_certificates_are_refused_at_the_start(
    environment: pytest.MonkeyPatch,
    tls: Certificates,
    tmp_path: Path,
    protocol: str,
    files: dict[str, str],
    said: str,
) -> None:
    """A key without a certificate would end the process, over gRPC, and the others each export."""
    empty = tmp_path / "empty.pem"
    empty.touch()
    found = {"empty": empty, "key": tls.client_key, "client": tls.client}
    environment.setenv(PREFIX + "ENDPOINT", "https://127.0.0.1:9")
    environment.setenv(PREFIX + "PROTOCOL", protocol)
    for name, which in files.items():
        environment.setenv(PREFIX + name, str(found[which]))
    with pytest.raises(ConfigError, match=re.escape(f"{PREFIX}{said}")):
        read_settings()


def test_exports_go_on_after_certificates_were_exchanged(tls: Certificates, tmp_path: Path) -> None:
    """For a moment they were not there, when a channel was to be made anew."""
    authority = tmp_path / "authority.pem"
    shutil.copy(tls.authority, authority)
    with otlp_grpc_receiver(lambda: Refusal(code=grpc.StatusCode.PERMISSION_DENIED), tls=tls) as receiver:
        files = (str(authority), str(tls.client_key), str(tls.client))
        otlp = Otlp(receiver.endpoint, "grpc", {}, DEADLINE_S, "gzip", *files, None)
        sender = Sender(otlp, "traces", Answers("traces"))
        authority.unlink()
        assert not sender.send(b"")
        shutil.copy(tls.authority, authority)
        receiver.refusal = lambda: None
        assert sender.send(b"")
        sender.shutdown()


def test_a_receiver_that_is_never_ready_is_asked_so_often_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """It says each time that now is the time to try again."""
    at_once = Status(code=grpc.StatusCode.UNAVAILABLE.value[0])
    at_once.details.add().Pack(RetryInfo())
    asked = []

    def refuse(request: bytes, context: grpc.ServicerContext) -> None:
        asked.append(request)
        context.set_trailing_metadata([("grpc-status-details-bin", at_once.SerializeToString())])
        context.abort(grpc.StatusCode.UNAVAILABLE, "never")

    handlers = {"Export": grpc.unary_unary_rpc_method_handler(refuse)}
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICES["traces"], handlers)])
        where = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        otlp = Otlp(where, "grpc", {}, DEADLINE_S, "none", None, None, None, None)
        sender = Sender(otlp, "traces", Answers("traces"))
        assert not sender.send(b"")
        sender.shutdown()
        server.stop(None).wait()
    assert len(asked) == 16
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == [
        "traces could not be exported over gRPC: UNAVAILABLE never"
    ]
