"""What is measured of calls, as it arrives over OTLP from a gateway with real clients and a real database."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint, Metric, NumberDataPoint

from luthien.policies.policy import Policy, Request, Verdict
from luthien.telemetry import conventions as names
from tests.integration.conftest import StartGateway
from tests.otlp_receiver import AttributeValue, OtlpReceiver, attributes_of
from tests.playbook import (
    DEADLINE_S,
    Gateway,
    Play,
    ScriptedProvider,
    Turn,
    answers,
    call_id_of,
    eventually,
    streams,
)
from tests.wire import (
    DONE,
    anthropic_request,
    anthropic_response,
    openai_chunk,
    openai_request,
    openai_response,
    openai_stream,
)

OPENAI = "/v1/chat/completions"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-00"}
KINDS = {
    "counter": ("sum", True),
    "updowncounter": ("sum", False),
    "gauge": ("gauge", None),
    "histogram": ("histogram", None),
}
REPLACE = {"policy": "replace_text", "config": {"rules": [{"find": "needle", "replace": "pins"}]}}
SHADOW = {"policy": "replace_text", "mode": "shadow", "config": {"rules": [{"find": "e", "replace": "eee"}]}}

Point = NumberDataPoint | HistogramDataPoint
Attributes = Mapping[str, AttributeValue]


class Obedient(Policy):
    """Does with a request what it says."""

    async def on_request(self, request: Request) -> Verdict:
        said = str(request.body["messages"][-1]["content"])
        if said == "block":
            return Verdict.block("it says so")
        if said == "break":
            raise ValueError
        if said == "ask":
            await self.call.models.ask("anthropic.messages", anthropic_request())
        return Verdict.allow()


OBEDIENT = {"policy": f"{__name__}:Obedient"}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics are exported often, and for the last time when the gateway stops."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")


def newest(receiver: OtlpReceiver, name: str) -> Metric | None:
    """The metric as it arrived last."""
    return next((metric for metric in reversed([*receiver.metrics]) if metric.name == name), None)


def points(receiver: OtlpReceiver, name: str) -> list[tuple[Attributes, Point]]:
    metric = newest(receiver, name)
    return [] if metric is None else points_of(metric)


def points_of(metric: Metric) -> list[tuple[Attributes, Point]]:
    found = getattr(metric, str(metric.WhichOneof("data"))).data_points
    return [(attributes_of(point.attributes), point) for point in found]


def values(receiver: OtlpReceiver, name: str, *by: str) -> dict[tuple[AttributeValue | None, ...], float]:
    """The sums of a metric by some of its attributes."""
    found: dict[tuple[AttributeValue | None, ...], float] = {}
    for attributes, point in points(receiver, name):
        key = tuple(attributes.get(each) for each in by)
        found[key] = found.get(key, 0) + value_of(point)
    return found


def value_of(point: Point) -> float:
    if isinstance(point, HistogramDataPoint):
        return point.sum
    return float(point.as_int if point.HasField("as_int") else point.as_double)


def measured(receiver: OtlpReceiver, name: str, *by: str) -> Counter[tuple[AttributeValue | None, ...]]:
    """How often a histogram was recorded, by some of its attributes."""
    counts: Counter[tuple[AttributeValue | None, ...]] = Counter()
    for attributes, point in points(receiver, name):
        assert isinstance(point, HistogramDataPoint)
        counts[tuple(attributes.get(each) for each in by)] += point.count
    return counts


@contextmanager
def held(gateway: Gateway, provider: ScriptedProvider, path: str = OPENAI) -> Iterator[tuple[str, Iterator[bytes]]]:
    """A call whose stream has begun, and whose provider says no more until it is given up: its id, and the rest."""

    async def play(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await turn.chunk(openai_stream("a")[0])
        await turn.reader.read(1)

    provider.will(play)
    with httpx.stream("POST", gateway.url + path, json=openai_request(stream=True), timeout=DEADLINE_S) as response:
        pieces = response.iter_raw()
        next(pieces)
        yield call_id_of(response), pieces


def test_calls_are_counted_by_outcome_provider_and_model(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    """And by what went wrong, if anything did; the model is what the client asked for."""
    provider.will(
        answers(openai_response()),
        streams(*openai_stream("a", "b")),
        answers({"error": {}}, status=429),
        answers(anthropic_response()),
        answers(openai_response()),
    )
    with start([OBEDIENT]) as gateway:
        for body in (openai_request(), openai_request(stream=True), openai_request(), openai_request("ask")):
            gateway.call(gateway.post(OPENAI, body))
        for wrong in (openai_request("block"), openai_request("break"), b"not JSON", b'{"model": 7}'):
            gateway.call(gateway.post(OPENAI, wrong))
    openai, model = "openai", "gpt-test"
    by = (names.OUTCOME, names.PROVIDER, names.REQUEST_MODEL, names.ERROR_TYPE, names.CHILD)
    assert values(receiver, names.CALLS, *by) == {
        ("completed", openai, model, None, None): 3,
        ("completed", "anthropic", "claude-test", None, True): 1,
        ("upstream_error", openai, model, "429", None): 1,
        ("blocked", openai, model, "policy_blocked", None): 1,
        ("policy_error", openai, model, "policy_error", None): 1,
        ("rejected", openai, None, "invalid_json", None): 1,
        ("policy_error", openai, None, "policy_error", None): 1,
    }
    calls = measured(receiver, names.CALL_DURATION, names.OUTCOME, names.STREAMING, names.CHILD)
    assert calls == {
        ("completed", False, None): 2,
        ("completed", True, None): 1,
        ("completed", False, True): 1,
        ("upstream_error", False, None): 1,
        ("blocked", False, None): 1,
        ("policy_error", False, None): 2,
        ("rejected", None, None): 1,
    }
    # One for each call in which the client was given an answer of the provider's.
    assert measured(receiver, names.CALL_FIRST_CHUNK, names.CHILD) == {(None,): 4, (True,): 1}


def test_the_parts_of_calls_add_up_to_their_durations(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    stream = streams(*openai_stream("a", "needle"))

    async def slowly(turn: Turn) -> None:
        await asyncio.sleep(0.06)  # in which the gateway has nothing else to do than to wait for it
        await stream(turn)

    provider.will(slowly, answers(b"", status=500), answers(b"{}"))
    with start([REPLACE]) as gateway:
        for _ in range(2):
            gateway.call(gateway.post(OPENAI, openai_request("needle", stream=True)))
        gateway.call(gateway.get("/v1/models"))
    whole = values(receiver, names.CALL_DURATION, names.PROVIDER, names.REQUEST_MODEL)
    assert values(receiver, names.CALL_PART_DURATION, names.PROVIDER, names.REQUEST_MODEL) == pytest.approx(whole)
    assert measured(receiver, names.CALL_PART_DURATION, names.PART) == {
        ("upstream",): 3,
        ("policy",): 3,
        ("gateway",): 3,
    }
    parts = values(receiver, names.CALL_PART_DURATION, names.PART)
    assert parts["upstream",] > 0.05
    assert parts["policy",] > 0
    assert parts["gateway",] > 0


def test_each_metric_is_what_its_convention_says(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    """Of the instrument and the unit that it names, and with no attribute that it does not."""
    provider.will(streams(*openai_stream("needle")), answers(b"{}"))
    with start([REPLACE, SHADOW, OBEDIENT]) as gateway:
        gateway.call(gateway.post(OPENAI, openai_request("needle", stream=True)))
        gateway.call(gateway.post(OPENAI, openai_request("block")))
        gateway.call(gateway.get("/v1/models"))
    ours = {metric.name: metric for metric in receiver.metrics if ("metric", metric.name) in names.CONVENTIONS}
    assert {metric.name for metric in receiver.metrics if metric.name.startswith("luthien.")} <= ours.keys()
    assert len(ours) > 25
    for name, metric in ours.items():
        convention = names.CONVENTIONS["metric", name]
        data, is_monotonic = KINDS[convention.instrument]
        assert (name, metric.WhichOneof("data"), metric.unit) == (name, data, convention.unit)
        assert is_monotonic is None or metric.sum.is_monotonic is is_monotonic
        assert {key for attributes, _ in points_of(metric) for key in attributes} <= {*convention.attributes}, name


ALL_ATTRIBUTES = (names.WIRE_FORMAT, names.PROVIDER, names.REQUEST_MODEL)


class TestWhatIsOpen:
    """What was counted in is counted out, whichever way the call ends, under the same attributes."""

    def test_while_a_stream_is_open_it_is_counted_with_its_model(
        self, start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
    ) -> None:
        def streams_open() -> float:
            return sum(values(receiver, names.STREAMS_OPEN).values())

        with start() as gateway:
            with held(gateway, provider):
                assert eventually(streams_open, lambda count: count == 1) == 1
                one = {("openai.chat_completions", "openai", "gpt-test"): 1}
                assert values(receiver, names.STREAMS_OPEN, *ALL_ATTRIBUTES) == one
                # Before its request was read, it was open without a model.
                calls = one | {(*next(iter(one))[:2], None): 0}
                calls_open = lambda: values(receiver, names.CALLS_OPEN, *ALL_ATTRIBUTES)  # noqa: E731
                assert eventually(calls_open, lambda found: found == calls) == calls
            assert eventually(streams_open, lambda count: count == 0) == 0

    def test_an_answered_call_is_open_no_more_whatever_the_answer(
        self, start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
    ) -> None:
        ends: list[tuple[str, Play]] = [
            ("completed", answers(openai_response())),
            ("completed", streams(*openai_stream("a"))),
            ("block", answers(openai_response())),
            ("break", answers(openai_response())),
            ("ask", answers({"error": {}}, status=500)),
            ("a stream that breaks off", streams(openai_chunk({"content": "a"}), then_cut=True)),
            ("a stream that ends too soon", streams(openai_chunk({"content": "a"}))),
            ("an answer that is none", answers(b"not JSON")),
        ]
        outcomes: set[str] = set()
        with start([OBEDIENT]) as gateway:
            for said, play in ends:
                provider.will(play)
                outcomes.add(gateway.call(gateway.post(OPENAI, openai_request(said, stream=True)))["outcome"])
                with suppress(httpx.RemoteProtocolError):  # that is how a response that was begun is broken off
                    gateway.post("/v1/embeddings", {"input": said})
            gateway.post("/v1/files", b"not on the list")
            gateway.post(OPENAI, b"not JSON")
        assert outcomes == {"completed", "blocked", "policy_error", "upstream_error"}
        assert len(points(receiver, names.CALLS_OPEN)) == 5  # with and without a model, or passed through
        assert {*values(receiver, names.CALLS_OPEN, *ALL_ATTRIBUTES).values()} == {0}
        assert len(points(receiver, names.STREAMS_OPEN)) == 2
        assert {*values(receiver, names.STREAMS_OPEN, *ALL_ATTRIBUTES).values()} == {0}

    @pytest.mark.parametrize("path", [OPENAI, "/v1/embeddings"])
    @pytest.mark.parametrize("who", ["client", "gateway"])
    def test_a_call_is_open_no_more_when_somebody_leaves(
        self, start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver, who: str, path: str
    ) -> None:
        with start(grace_s=0.1) as gateway:
            with held(gateway, provider, path) as (call_id, pieces):
                is_open = lambda: sum(values(receiver, names.STREAMS_OPEN).values())  # noqa: E731
                assert eventually(is_open, lambda count: count == 1) == 1
                if who == "gateway":
                    stopping = threading.Thread(target=gateway.server.stop)
                    stopping.start()
                    with suppress(httpx.RemoteProtocolError):
                        assert b"gateway_stopped" in b"".join(pieces)
                    stopping.join()
            if who == "client":
                assert gateway.call(call_id)["outcome"] == "client_disconnected"
        assert {*values(receiver, names.CALLS_OPEN, *ALL_ATTRIBUTES).values()} == {0}
        assert {*values(receiver, names.STREAMS_OPEN, *ALL_ATTRIBUTES).values()} == {0}


class TestWhatPoliciesChange:
    def test_decisions_say_the_version_and_whether_something_changed(
        self, start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
    ) -> None:
        provider.will(answers(openai_response("nothing of it")))
        with start([REPLACE]) as gateway:
            call = gateway.call(gateway.post(OPENAI, openai_request("a needle")))
        [version] = {decision["version"] for decision in call["decisions"]}
        by = (names.POLICY_SIDE, names.POLICY_VERSION, names.POLICY_CHANGED, names.POLICY_ACTION)
        assert values(receiver, names.POLICY_DECISIONS, *by) == {
            ("request", version, True, "modify"): 1,
            ("response", version, False, "allow"): 1,
        }
        assert measured(receiver, names.POLICY_DURATION, names.POLICY_VERSION) == {(version,): 2}

    @pytest.mark.parametrize("is_streaming", [False, True])
    def test_the_bytes_that_a_step_removed_and_added(
        self, start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver, is_streaming: bool
    ) -> None:
        """From the first that differs to the last: `needle and a needle` gives way to `pins and a pins`.

        How the client formats its JSON makes no difference, and a policy in shadow changes nothing.
        """
        answer = "a needle, a needle"
        play = streams(*openai_stream(*answer)) if is_streaming else answers(openai_response(answer))
        provider.will(play)
        body = b'  {"stream": %s,\n "model":"m", "messages": [ {"role": "user", "content": "one needle"}]}'
        with start(
            [SHADOW, REPLACE, {**REPLACE, "config": {"rules": [{"find": "pins", "replace": "0"}]}}]
        ) as gateway:
            gateway.call(gateway.post(OPENAI, body % (b"true" if is_streaming else b"false")))
        versions = [attributes[names.POLICY_VERSION] for attributes, _ in points(receiver, names.POLICY_DURATION)]
        by = (names.POLICY_SIDE, names.CHANGE)
        found = values(receiver, names.POLICY_CHANGED_SIZE, *by)
        assert len({*versions}) == 3
        # Two steps: first needle -> pins, then pins -> 0.
        assert found == {
            ("request", "removed"): len("needle") + len("pins"),
            ("request", "added"): len("pins") + len("0"),
            ("response", "removed"): len("needle, a needle") + len("pins, a pins"),
            ("response", "added"): len("pins, a pins") + len("0, a 0"),
        }

    def test_a_stream_that_was_not_whole_is_not_compared(
        self, start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
    ) -> None:
        """What was not released of it would look as if a policy had removed it."""
        provider.will(streams(*openai_stream("a needle", "and more")[:3], then_cut=True))
        with start([REPLACE]) as gateway:
            call = gateway.call(gateway.post(OPENAI, openai_request(stream=True)))
        assert [decision["changed"] for decision in call["decisions"]] == [False, True]
        assert points(receiver, names.POLICY_CHANGED_SIZE) == []


def test_hostile_models_are_measured_under_names_that_can_be_exported(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    hostile = ["\ud800", "m" * 100_000, "a\x00b\nc", "", "_OTHER"]
    provider.will(*[answers(openai_response() | {"model": model}) for model in hostile])
    with start() as gateway:
        for model in hostile:
            gateway.post(OPENAI, openai_request() | {"model": model})
    cleaned = {"\ufffd", "m" * 128, "a\ufffdb\ufffdc", "", "_OTHER"}
    assert values(receiver, names.CALLS, names.REQUEST_MODEL) == {(name,): 1 for name in cleaned}
    both = measured(receiver, names.OPERATION_DURATION, names.REQUEST_MODEL, names.RESPONSE_MODEL)
    assert both == {(name, name): 1 for name in cleaned}


def test_models_without_end_make_no_series_without_end_and_hide_no_real_one(
    start: StartGateway,
    provider: ScriptedProvider,
    receiver: OtlpReceiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whom the provider does not answer has a few names; whom it answers has one of its own."""
    monkeypatch.setattr("luthien.telemetry.metrics.ModelNames.__init__.__defaults__", (2, 1))
    provider.will(*[answers({"error": {"message": "no such model"}}, status=404)] * 3, answers(openai_response()))
    with start() as gateway:
        for name in ("x0", "x1", "x2", "m0", "m1", "m2", "m0"):
            gateway.call(gateway.post(OPENAI, openai_request() | {"model": name}))
    counted = {("x0",): 1, (names.OTHER,): 3, ("m0",): 2, ("m1",): 1}
    assert values(receiver, names.CALLS, names.REQUEST_MODEL) == counted
    assert measured(receiver, names.OPERATION_DURATION, names.REQUEST_MODEL) == counted
    assert {*values(receiver, names.CALLS_OPEN, names.REQUEST_MODEL).values()} == {0}


class TestExemplars:
    MEASURED = (
        names.CALLS,
        names.CALL_DURATION,
        names.CALL_PART_DURATION,
        names.CALL_FIRST_CHUNK,
        names.OPERATION_DURATION,
        names.TIME_TO_FIRST_CHUNK,
        names.TIME_PER_OUTPUT_CHUNK,
        names.TOKEN_USAGE,
        names.POLICY_DECISIONS,
        names.POLICY_DURATION,
        names.POLICY_CHANGED_SIZE,
        names.STREAM_VIOLATIONS,
    )

    def spans(self, receiver: OtlpReceiver) -> dict[str, set[tuple[str, str]]]:
        """The trace and the name of the span that the exemplars of each metric lead to."""
        by_id = {span.span_id: span.name for span in receiver.spans}
        found: dict[str, set[tuple[str, str]]] = {name: set() for name in self.MEASURED}
        for metric in receiver.metrics:
            for _, point in points_of(metric):
                if not isinstance(point, NumberDataPoint | HistogramDataPoint):
                    continue
                for exemplar in point.exemplars:
                    leads_to = exemplar.trace_id.hex(), by_id.get(exemplar.span_id, "nowhere")
                    found.setdefault(metric.name, set()).add(leads_to)
        return found

    def make_a_call(self, gateway: Gateway, provider: ScriptedProvider, headers: dict[str, str]) -> None:
        # Its second chunk breaks a rule: a choice that has ended goes on.
        frames = [*openai_stream("a needle")[:-1], openai_chunk({"content": "b"}), DONE]
        provider.will(streams(*frames, pause_s=0.001))
        gateway.call(gateway.post(OPENAI, openai_request("needle", stream=True), headers=headers))

    def test_what_is_measured_of_a_sampled_call_leads_to_the_span_whose_work_it_was(
        self, start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
    ) -> None:
        with start([REPLACE]) as gateway:
            self.make_a_call(gateway, provider, SAMPLED)
        found = self.spans(receiver)
        exchange, chat = {(TRACE_ID, names.EXCHANGE)}, {(TRACE_ID, "chat gpt-test")}
        policies = {(TRACE_ID, names.POLICY_REQUEST), (TRACE_ID, names.POLICY_RESPONSE)}
        assert found == {
            names.CALLS: exchange,
            names.CALL_DURATION: exchange,
            names.CALL_PART_DURATION: exchange,
            names.CALL_FIRST_CHUNK: exchange,
            names.STREAM_VIOLATIONS: exchange,
            names.OPERATION_DURATION: chat,
            names.TIME_TO_FIRST_CHUNK: chat,
            names.TIME_PER_OUTPUT_CHUNK: chat,
            names.TOKEN_USAGE: chat,
            names.POLICY_DECISIONS: policies,
            names.POLICY_DURATION: policies,
            names.POLICY_CHANGED_SIZE: policies,
        }

    @pytest.mark.parametrize("exemplar_filter", ["trace_based", "always_off"])
    def test_a_call_that_is_not_sampled_leaves_none_and_so_does_the_filter_that_keeps_none(
        self,
        start: StartGateway,
        provider: ScriptedProvider,
        receiver: OtlpReceiver,
        monkeypatch: pytest.MonkeyPatch,
        exemplar_filter: str,
    ) -> None:
        monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", exemplar_filter)
        with start([REPLACE]) as gateway:
            self.make_a_call(gateway, provider, UNSAMPLED if exemplar_filter == "trace_based" else SAMPLED)
        assert all(newest(receiver, name) for name in self.MEASURED)
        assert self.spans(receiver) == {name: set() for name in self.MEASURED}


def test_the_batches_of_the_writer_are_measured(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver
) -> None:
    provider.will(answers(openai_response()))
    with start() as gateway:
        for _ in range(3):
            gateway.call(gateway.post(OPENAI, openai_request("x" * 10_000)))
        batches = lambda: values(receiver, names.RECORD_BATCH_SIZE)  # noqa: E731
        assert eventually(batches, lambda found: found == {(): 15}) == {(): 15}
    [count] = measured(receiver, names.RECORD_BATCH_SIZE).values()
    assert (
        measured(receiver, names.RECORD_BATCH_BYTES) == measured(receiver, names.RECORD_BATCH_DURATION) == {(): count}
    )
    assert values(receiver, names.RECORD_BATCH_BYTES)[()] > 3 * 10_000 + 15 * 1024
    assert values(receiver, names.RECORD_BATCH_DURATION)[()] > 0


def test_spans_that_do_not_reach_the_trace_backend_are_counted(
    start: StartGateway, provider: ScriptedProvider, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens where they go, and metrics go elsewhere. The record does not mind."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.5")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    provider.will(answers(openai_response()))

    def lost() -> dict[Any, float]:
        return values(receiver, names.EXPORT_DROPPED, names.SIGNAL, names.ERROR_TYPE)

    with start() as gateway:
        call = gateway.call(gateway.post(OPENAI, openai_request()))
        assert call["completeness"]["state"] == "complete"
        expected = {
            ("traces", "export_failed"): 6,
            ("traces", "queue_full"): 0,
            ("traces", "rejected"): 0,
            ("metrics", "rejected"): 0,
            ("logs", "export_failed"): 0,
            ("logs", "queue_full"): 0,
            ("logs", "rejected"): 0,
        }
        assert eventually(lost, lambda found: found == expected) == expected
