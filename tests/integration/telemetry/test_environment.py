"""The standard `OTEL_*` variables do what they are known for, but for the exceptions that the settings list."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric

from luthien import __version__
from luthien.errors import ConfigError
from luthien.exchange import EventType, StageRecord, new_call_id
from luthien.record.sink import DiscardingSink, Receipt
from luthien.settings import read_settings
from luthien.telemetry import conventions as names
from luthien.telemetry.context import enter_call, leave_call
from luthien.telemetry.metrics import CallMetrics
from luthien.telemetry.setup import Telemetry, start_telemetry
from luthien.telemetry.spans import StageEvent, emit_stage
from tests.otlp_receiver import OtlpReceiver, Refusal, attributes_of, exports_unhurried, otlp_receiver
from tests.playbook import DEADLINE_S, ScriptedProvider, answers, eventually, running_gateway
from tests.serving import LONG_S, serving
from tests.wire import openai_request, openai_response

OPENAI = "/v1/chat/completions"
DOCUMENT = Path(__file__).parents[3] / "docs" / "settings.md"
EXCEPTIONS: dict[str, Callable[..., object]] = {}
"""The test of each row of the table, by the row's first cell."""


def exception(*variables: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Marks a test as that of a row."""

    def marked(test: Callable[..., None]) -> Callable[..., None]:
        EXCEPTIONS[", ".join(f"`{each}`" for each in variables)] = test
        return test

    return marked


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which nothing is said of telemetry."""
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    return monkeypatch


class Sink:
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[StageRecord] = []

    def submit(self, records: Sequence[StageRecord]) -> Receipt:
        self.records += records
        return Receipt.settled()


@pytest.fixture
def receiver(environment: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with otlp_receiver() as running:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.endpoint)
        yield running


@contextmanager
def telemetry_of(variables: Mapping[str, str], sink: Sink | None = None) -> Iterator[Telemetry]:
    """Running as these variables say; all is exported at the end."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"OTEL_EXPORTER_OTLP_TIMEOUT": str(DEADLINE_S), **variables}.items():
            patch.setenv(name, value)
        telemetry = start_telemetry(read_settings(), sink or DiscardingSink())
        yield telemetry
        assert telemetry.shutdown(DEADLINE_S)


def spans(telemetry: Telemetry, count: int) -> None:
    for number in range(count):
        telemetry.tracer.start_span(f"span {number}").end()


def resource_of(variables: Mapping[str, str], receiver: OtlpReceiver) -> dict[str, object]:
    with telemetry_of(variables) as telemetry:
        spans(telemetry, 1)
        telemetry.meter.create_counter(names.CALLS).add(1)
    traces, metrics = receiver.resources
    assert traces == metrics
    receiver.resources.clear()
    return dict(traces)


class TestResource:
    def test_the_service_is_named_by_its_variable_then_by_the_attributes_then_by_us(
        self, receiver: OtlpReceiver
    ) -> None:
        attributes = {"OTEL_RESOURCE_ATTRIBUTES": "service.name=one,deployment.environment.name=a%20test"}
        assert resource_of({}, receiver)["service.name"] == "luthien"
        named = resource_of(attributes, receiver)
        assert (named["service.name"], named["deployment.environment.name"]) == ("one", "a test")
        assert resource_of({**attributes, "OTEL_SERVICE_NAME": "two"}, receiver)["service.name"] == "two"
        assert resource_of({**attributes, "OTEL_SERVICE_NAME": "luthien"}, receiver)["service.name"] == "luthien"

    @exception("OTEL_RESOURCE_ATTRIBUTES")
    def test_nobody_else_says_which_version_and_process_it_is(self, receiver: OtlpReceiver) -> None:
        found = resource_of({"OTEL_RESOURCE_ATTRIBUTES": "service.version=0,service.instance.id=me"}, receiver)
        assert found["service.version"] == __version__
        assert found["service.instance.id"] != "me"


class TestSampling:
    @pytest.mark.parametrize(
        ("sampler", "argument", "exported"),
        [
            ("always_on", "", 40),
            ("always_off", "", 0),
            ("ALWAYS_OFF", "", 0),
            ("traceidratio", "1", 40),
            ("traceidratio", "0", 0),
            ("traceidratio", "", 40),
            ("traceidratio", "0.5", range(1, 40)),
            ("parentbased_always_on", "", 40),
            ("parentbased_always_off", "", 0),
            ("parentbased_traceidratio", "1", 40),
            ("parentbased_traceidratio", "0", 0),
        ],
    )
    @exception("OTEL_TRACES_SAMPLER")
    def test_it_decides_what_is_exported_and_all_is_recorded(
        self, receiver: OtlpReceiver, sampler: str, argument: str, exported: int | range
    ) -> None:
        variables = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
        sink = Sink()
        with telemetry_of(variables, sink) as telemetry:
            token = enter_call(new_call_id())
            for _ in range(40):
                span = telemetry.tracer.start_span("a span")
                emit_stage(span, StageEvent(EventType.REQUEST_ORIGINAL, 0, payload=b"x"))
                span.end()
            leave_call(token)
        assert len(sink.records) == 40
        found = len(receiver.spans)
        assert found in exported if isinstance(exported, range) else found == exported

    @pytest.mark.parametrize("sampler", ["jaeger_remote", "xray", "sometimes"])
    def test_one_that_is_not_there_is_refused(self, sampler: str) -> None:
        with (
            pytest.raises(ConfigError, match="use one of always_on, always_off"),
            telemetry_of({"OTEL_TRACES_SAMPLER": sampler}),
        ):
            pass

    @exception("OTEL_SDK_DISABLED")
    def test_a_tracer_that_records_nothing_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="Unset OTEL_SDK_DISABLED"), telemetry_of({"OTEL_SDK_DISABLED": "true"}):
            pass

    @exception("OTEL_ATTRIBUTE_*_LIMIT", "OTEL_SPAN_*_LIMIT", "OTEL_EVENT_*_LIMIT", "OTEL_LINK_*_LIMIT")
    def test_no_limit_truncates_a_span(self, receiver: OtlpReceiver) -> None:
        limits = (
            "ATTRIBUTE_VALUE_LENGTH",
            "ATTRIBUTE_COUNT",
            "SPAN_ATTRIBUTE_VALUE_LENGTH",
            "SPAN_ATTRIBUTE_COUNT",
            "SPAN_EVENT_COUNT",
            "SPAN_LINK_COUNT",
            "EVENT_ATTRIBUTE_COUNT",
            "LINK_ATTRIBUTE_COUNT",
        )
        sink = Sink()
        with telemetry_of({f"OTEL_{limit}_LIMIT": "1" for limit in limits}, sink) as telemetry:
            token = enter_call(new_call_id())
            span = telemetry.tracer.start_span("s", attributes={names.OUTCOME: "completed", names.CHANGED: True})
            for sequence in range(3):
                emit_stage(span, StageEvent(EventType.REQUEST_ORIGINAL, sequence, payload=b"whole"))
            span.end()
            leave_call(token)
        assert [record.payload for record in sink.records] == [b"whole"] * 3
        [exported] = receiver.spans
        assert attributes_of(exported.attributes)[names.OUTCOME] == "completed"
        assert len(exported.attributes) == 3
        assert len(exported.events) == 3


class TestExport:
    def test_spans_go_in_batches_as_they_come(self, receiver: OtlpReceiver) -> None:
        variables = {"OTEL_BSP_SCHEDULE_DELAY": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"}
        with telemetry_of({**variables, "OTEL_METRICS_EXPORTER": "none"}) as telemetry:
            spans(telemetry, 4)
            assert len(eventually(lambda: list(receiver.spans), lambda found: len(found) == 4)) == 4
        assert receiver.requests >= 2

    def test_of_more_spans_than_may_wait_the_first_are_kept(self, receiver: OtlpReceiver) -> None:
        variables = {
            "OTEL_BSP_MAX_QUEUE_SIZE": "2",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2",
            "OTEL_BSP_SCHEDULE_DELAY": "600000",  # only two spans are a batch, however long the second takes
        }
        answered = threading.Event()
        left = [Refusal(waits_for=answered, headers={"retry-after": "0"})]
        receiver.refusal = lambda: left.pop() if left else None
        with telemetry_of(variables) as telemetry:
            spans(telemetry, 2)
            eventually(lambda: receiver.requests, bool)
            spans(telemetry, 7)
            answered.set()
        assert [span.name for span in receiver.spans] == ["span 0", "span 1"] * 2
        assert telemetry.processor.lost_on_the_way()["queue_full"] == 5

    def test_a_batch_larger_than_the_queue_is_refused_in_words(self, receiver: OtlpReceiver) -> None:
        variables = {"OTEL_BSP_MAX_QUEUE_SIZE": "2", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "3"}
        with (
            pytest.raises(ConfigError, match="OpenTelemetry refuses a setting: max_export_batch_size"),
            telemetry_of(variables),
        ):
            pass

    def test_metrics_go_as_often_as_is_said(self, receiver: OtlpReceiver) -> None:
        with telemetry_of({"OTEL_METRIC_EXPORT_INTERVAL": "10"}) as telemetry:
            telemetry.meter.create_counter(names.CALLS).add(1)
            assert eventually(lambda: receiver.requests, lambda requests: requests > 2) > 2

    @exception("OTEL_BSP_EXPORT_TIMEOUT", "OTEL_METRIC_EXPORT_TIMEOUT")
    def test_only_the_exporters_timeout_ends_an_export(self, receiver: OtlpReceiver) -> None:
        """A millisecond is not enough for three requests."""
        left = [Refusal(headers={"retry-after": "0"})] * 4
        receiver.refusal = lambda: left.pop() if left else None
        with telemetry_of({"OTEL_BSP_EXPORT_TIMEOUT": "1", "OTEL_METRIC_EXPORT_TIMEOUT": "1"}) as telemetry:
            spans(telemetry, 1)
            telemetry.meter.create_counter(names.CALLS).add(1)
        assert len(receiver.spans) == 1
        assert [metric.name for metric in receiver.metrics] == [names.CALLS]

    @exception("OTEL_EXPORTER_OTLP_ENDPOINT")
    def test_nothing_is_sent_without_an_endpoint(self, caplog: pytest.LogCaptureFixture) -> None:
        with telemetry_of({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp"}) as telemetry:
            spans(telemetry, 1)
            telemetry.meter.create_counter(names.CALLS).add(1)
        assert not caplog.records

    @exception("OTEL_EXPORTER_OTLP_COMPRESSION")
    def test_bodies_are_compressed_unless_it_is_said_otherwise(self, receiver: OtlpReceiver) -> None:
        with telemetry_of({}) as telemetry:
            spans(telemetry, 1)
        assert receiver.encodings == {"gzip"}

    @exception("OTEL_EXPORTER_OTLP_TIMEOUT")
    def test_an_export_may_take_three_seconds_or_as_many_as_is_said(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")
        assert read_settings().otlp("traces").timeout_s == 3
        environment.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10")
        environment.setenv("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "0.5")
        settings = read_settings()
        assert (settings.otlp("traces").timeout_s, settings.otlp("metrics").timeout_s) == (10, 0.5)

    @pytest.mark.parametrize("signal", ["", "TRACES_", "METRICS_", "LOGS_"])
    @exception("OTEL_EXPORTER_OTLP_PROTOCOL")
    def test_json_is_not_spoken(self, environment: pytest.MonkeyPatch, signal: str) -> None:
        environment.setenv(f"OTEL_EXPORTER_OTLP_{signal}PROTOCOL", "http/json")
        with pytest.raises(ConfigError, match="http/json is not spoken"):
            read_settings()

    @pytest.mark.parametrize("name", ["OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"])
    @pytest.mark.parametrize("value", ["zipkin", "otlp,none", "otlp_proto_grpc"])
    @exception("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER")
    def test_an_exporter_that_is_not_there_is_refused(
        self, environment: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        environment.setenv(name, value)
        with pytest.raises(ConfigError, match=f"{name}: must be a list, separated by commas, of otlp, "):
            read_settings()

    @exception("OTEL_EXPORTER_PROMETHEUS_PORT")
    def test_processes_serve_their_metrics_beside_each_other(self) -> None:
        variables = {
            "OTEL_METRICS_EXPORTER": "prometheus",
            "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
            "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
        }
        with telemetry_of(variables) as first:
            assert first.scraping is not None
            port = httpx.URL(str(first.scraping.url)).port
            with pytest.MonkeyPatch.context() as patch:
                for name, value in {**variables, "OTEL_EXPORTER_PROMETHEUS_PORT": str(port)}.items():
                    patch.setenv(name, value)
                second = start_telemetry(read_settings(), DiscardingSink(), uuid4(), processes=20)
            assert second.scraping is not None
            try:
                assert port is not None
                assert httpx.URL(str(second.scraping.url)).port in range(port + 1, port + 20)
            finally:
                second.shutdown(DEADLINE_S)


def exported(receiver: OtlpReceiver, variables: Mapping[str, str]) -> dict[str, Metric]:
    """A counter and a histogram, each measured in a span that is exported."""
    with telemetry_of(variables) as telemetry:
        metrics = CallMetrics(telemetry.meter)
        with telemetry.tracer.start_as_current_span("a span"):
            metrics.calls.add(1)
            metrics.operation_duration.record(0.2)
    return {metric.name: metric for metric in receiver.metrics}


class TestMetrics:
    @pytest.mark.parametrize(
        ("preference", "temporality"),
        [
            ("", AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE),
            ("cumulative", AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE),
            ("delta", AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA),
            ("lowmemory", AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA),
        ],
    )
    def test_sums_are_since_the_start_or_since_the_last(
        self, receiver: OtlpReceiver, preference: str, temporality: int
    ) -> None:
        found = exported(receiver, {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": preference})
        assert found[names.CALLS].sum.aggregation_temporality == temporality
        assert found[names.OPERATION_DURATION].histogram.aggregation_temporality == temporality

    def test_histograms_may_be_exponential(self, receiver: OtlpReceiver) -> None:
        variable = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
        found = exported(receiver, {variable: "base2_exponential_bucket_histogram"})
        assert found[names.OPERATION_DURATION].WhichOneof("data") == "exponential_histogram"

    @pytest.mark.parametrize(
        ("variables", "exemplars"),
        [
            ({}, 1),
            ({"OTEL_METRICS_EXEMPLAR_FILTER": "trace_based"}, 1),
            ({"OTEL_METRICS_EXEMPLAR_FILTER": "trace_based", "OTEL_TRACES_SAMPLER": "always_off"}, 0),
            ({"OTEL_METRICS_EXEMPLAR_FILTER": "always_on", "OTEL_TRACES_SAMPLER": "always_off"}, 1),
            ({"OTEL_METRICS_EXEMPLAR_FILTER": "always_off"}, 0),
            ({"OTEL_METRICS_EXEMPLAR_FILTER": ""}, 1),
        ],
    )
    def test_a_measurement_may_name_its_trace(
        self, receiver: OtlpReceiver, variables: dict[str, str], exemplars: int
    ) -> None:
        found = exported(receiver, variables)
        [point] = found[names.OPERATION_DURATION].histogram.data_points
        assert len(point.exemplars) == exemplars

    def test_an_unknown_filter_of_exemplars_is_refused(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("OTEL_METRICS_EXEMPLAR_FILTER", "some")
        with pytest.raises(ConfigError, match=r"OTEL_METRICS_EXEMPLAR_FILTER: .*'trace_based'"):
            read_settings()


@exception("OTEL_PYTHON_EXCLUDED_URLS", "OTEL_PYTHON_FASTAPI_EXCLUDED_URLS")
@exception(
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE",
)
def test_no_call_is_excluded_and_no_header_exported(
    data_dir: Path, record_database: str, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    """In a process of its own: the instrumentation of the server reads some of this when it is loaded."""
    variables: dict[str, Any] = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_PYTHON_EXCLUDED_URLS": ".*",
        "OTEL_PYTHON_FASTAPI_EXCLUDED_URLS": ".*",
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": ".*",
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE": ".*",
        "OTEL_SEMCONV_STABILITY_OPT_IN": "http",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
    }
    provider.will(answers(openai_response(), headers={"x-request-id": "an-answers-header"}))
    headers = {"authorization": "Bearer sk-a-secret", "x-custom": "sk-a-secret"}
    with serving(data_dir, record_database, provider.url, **variables) as running:
        sent = httpx.post(running.url + OPENAI, json=openai_request(), headers=headers, timeout=LONG_S)
        assert sent.status_code == 200
        server = eventually(
            lambda: [attributes_of(span.attributes) for span in receiver.spans if span.name == f"POST {OPENAI}"], bool
        )
    [attributes] = server
    assert attributes["http.request.method"] == "POST"
    assert attributes[names.CALL_ID] == sent.headers["luthien-call-id"]
    assert set(attributes) <= names.EXPORTED_ATTRIBUTES
    exported = b"".join(receiver.bodies)
    assert b"sk-a-secret" not in exported
    assert b"an-answers-header" not in exported


@exception("OTEL_PROPAGATORS")
def test_baggage_goes_nowhere(
    shared_record_database: str,
    shared_provider: ScriptedProvider,
    receiver: OtlpReceiver,
    environment: pytest.MonkeyPatch,
) -> None:
    """Although it is among the propagators unless they are named."""
    exports_unhurried(environment, receiver)
    shared_provider.will(answers(openai_response()))
    with running_gateway(shared_record_database, shared_provider.url) as gateway:
        gateway.call(gateway.post(OPENAI, openai_request(), headers={"baggage": "user=baggage-mark"}))
    assert receiver.spans
    assert b"baggage-mark" not in b"".join(receiver.bodies)
    assert "baggage" not in shared_provider.turns[-1].headers


@exception("OTEL_LOG_LEVEL")
def test_luthiens_own_variable_sets_its_log_level(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OTEL_LOG_LEVEL", "debug")
    assert read_settings().log_level == "INFO"


@exception("OTEL_CONFIG_FILE", "OTEL_PYTHON_CONFIGURATOR", "OTEL_PYTHON_ID_GENERATOR")
def test_luthien_sets_itself_up(receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture) -> None:
    variables = {
        "OTEL_CONFIG_FILE": "/nonexistent.yaml",
        "OTEL_PYTHON_CONFIGURATOR": "nobody",
        "OTEL_PYTHON_ID_GENERATOR": "nobody",
    }
    with caplog.at_level(logging.WARNING), telemetry_of(variables) as telemetry:
        spans(telemetry, 1)
    assert len(receiver.spans) == 1
    assert not caplog.records


def test_each_row_of_the_table_of_exceptions_has_its_test() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").split("### What is deliberately different")[1]
    rows = re.findall(r"^\| (`OTEL_[^|]+) \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(EXCEPTIONS)
