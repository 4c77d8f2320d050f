"""What a schema cannot say of the Collector's configuration: that its parts fit together, in both variants."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from luthien.exchange import Outcome
from luthien.telemetry import conventions as names
from tests.stack.files import OTEL, VARIANTS, collector, read
from tests.stack.ottl import OttlError, condition, regex, statement, value_of

CONNECTORS = {
    "forward": {"traces": "traces"},
    "count": {"traces": "metrics", "logs": "metrics"},
    "span_metrics": {"traces": "metrics"},
}
SIGNALS = ("traces", "metrics", "logs")


@pytest.fixture(params=VARIANTS)
def configured(request: pytest.FixtureRequest) -> dict[str, Any]:
    return collector(*VARIANTS[request.param])


def pipelines(configured: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = configured["service"]["pipelines"]
    return found


def kind_of(component: str) -> str:
    return component.partition("/")[0]


def users(configured: dict[str, Any], part: str) -> set[str]:
    return {name for pipeline in pipelines(configured).values() for name in pipeline.get(part, [])}


def test_what_is_used_is_defined_and_what_is_defined_is_used(configured: dict[str, Any]) -> None:
    receivers, exporters = users(configured, "receivers"), users(configured, "exporters")
    connectors = set(configured["connectors"])
    assert receivers - connectors == set(configured["receivers"])
    assert exporters - connectors == set(configured["exporters"])
    assert receivers & connectors == exporters & connectors == connectors
    assert users(configured, "processors") == set(configured["processors"])
    queues = {exporter["sending_queue"]["storage"] for exporter in configured["exporters"].values()}
    assert queues <= set(configured["extensions"])
    assert configured["service"]["extensions"] == list(configured["extensions"])


def test_connectors_lead_to_pipelines_of_what_they_make(configured: dict[str, Any]) -> None:
    for connector in configured["connectors"]:
        makes = CONNECTORS[kind_of(connector)]
        into = {kind_of(name) for name, each in pipelines(configured).items() if connector in each["exporters"]}
        out_of = {kind_of(name) for name, each in pipelines(configured).items() if connector in each["receivers"]}
        assert out_of == {makes[signal] for signal in into}, connector


def test_every_signal_comes_in_and_goes_out(configured: dict[str, Any]) -> None:
    taken = {kind_of(name) for name, each in pipelines(configured).items() if "otlp" in each["receivers"]}
    sent = {
        kind_of(name)
        for name, each in pipelines(configured).items()
        if set(each["exporters"]) & set(configured["exporters"])
    }
    assert taken == sent == set(SIGNALS)


def test_memory_is_limited_first(configured: dict[str, Any]) -> None:
    for name, pipeline in pipelines(configured).items():
        if pipeline["receivers"] != ["forward/traces"]:
            assert pipeline["processors"][0] == "memory_limiter", name


def ways(configured: dict[str, Any], receiver: str, signal: str) -> Iterator[tuple[str, ...]]:
    """Every way of a signal from a receiver to an exporter, as the components that it passes."""
    for name, pipeline in pipelines(configured).items():
        if receiver not in pipeline["receivers"] or kind_of(name) != signal:
            continue
        for exporter in pipeline["exporters"]:
            passed = (receiver, *pipeline["processors"], exporter)
            if exporter not in configured["connectors"]:
                yield passed
                continue
            for further in ways(configured, exporter, CONNECTORS[kind_of(exporter)][signal]):
                yield (*passed, *further[1:])


@pytest.mark.parametrize("signal", ["traces", "logs"])
def test_nothing_is_exported_counted_or_sampled_that_was_not_stripped(
    configured: dict[str, Any], signal: str
) -> None:
    found = list(ways(configured, "otlp", signal))
    assert len(found) == {"traces": 3, "logs": 2}[signal]
    for way in found:
        assert way[:3] == ("otlp", "memory_limiter", "transform/strip"), way


def test_spans_are_measured_and_counted_before_sampling() -> None:
    found = list(ways(collector(*VARIANTS["sampling"]), "otlp", "traces"))
    sampled = [way for way in found if "tail_sampling" in way]
    assert [way[-1] for way in sampled] == ["otlp_grpc/tempo"]
    assert not any({"span_metrics", "count/payloads"} & set(way) for way in sampled)
    assert not any("tail_sampling" in way for way in ways(collector("collector.yaml"), "otlp", "traces"))


def test_counts_become_totals_before_they_are_exported(configured: dict[str, Any]) -> None:
    """Prometheus refuses deltas, and `count` makes nothing else."""
    for way in (*ways(configured, "otlp", "traces"), *ways(configured, "otlp", "logs")):
        if "count/payloads" in way:
            assert "delta_to_cumulative" in way[way.index("count/payloads") :]


def test_every_queue_is_a_file_and_bounded(configured: dict[str, Any]) -> None:
    for name, exporter in configured["exporters"].items():
        queue, retry = exporter["sending_queue"], exporter["retry_on_failure"]
        assert (queue["storage"], queue["sizer"]) == ("file_storage/queue", "bytes"), name
        assert queue["queue_size"] <= 128 * 1024 * 1024
        assert queue["batch"]["min_size"] <= queue["batch"]["max_size"]
        assert (retry["enabled"], retry["max_elapsed_time"]) == (True, "0s")
    assert configured["exporters"]["otlp_http/prometheus"]["sending_queue"]["num_consumers"] == 1


def test_what_is_taken_fits_into_a_batch_and_a_batch_into_what_the_backends_take(configured: dict[str, Any]) -> None:
    """What is too large is tried again for ever, and holds up the rest, or is lost."""
    mib = 1024 * 1024
    protocols = configured["receivers"]["otlp"]["protocols"]
    taken = {protocols["grpc"]["max_recv_msg_size_mib"] * mib, protocols["http"]["max_request_body_size"]}
    batches = [
        configured["exporters"][name]["sending_queue"]["batch"] for name in ("otlp_grpc/tempo", "otlp_http/loki")
    ]
    assert {batch["sizer"] for batch in batches} == {"bytes"}
    largest = {batch["max_size"] for batch in batches}
    assert max(taken) < min(largest)

    tempo, loki = read(OTEL / "tempo.yaml"), read(OTEL / "loki.yaml")
    spans = tempo["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["max_recv_msg_size_mib"] * mib
    assert min(spans, *tempo["overrides"]["defaults"]["ingestion"].values()) >= 2 * max(largest)
    limits, inside = loki["limits_config"], loki["ingester_client"]["grpc_client_config"]
    lines = [
        loki["server"]["grpc_server_max_recv_msg_size"],
        *inside.values(),
        limits["ingestion_burst_size_mb"] * mib,
        int(limits["per_stream_rate_limit_burst"].removesuffix("MB")) * mib,
    ]
    assert min(lines) >= 3 * max(largest), "its lines have the attributes of their resource"


def test_tempo_cuts_no_text_that_the_collector_let_pass(configured: dict[str, Any]) -> None:
    statements = str(configured["processors"]["transform/strip"]["trace_statements"])
    lengths = re.findall(r"truncate_all\((?:span|spanevent)\.attributes, (\d+)\)", statements)
    assert set(lengths) == {str(read(OTEL / "tempo.yaml")["distributor"]["max_attribute_bytes"])}


def test_the_memory_limit_leaves_room_for_a_spike(configured: dict[str, Any]) -> None:
    limiter = configured["processors"]["memory_limiter"]
    assert limiter["spike_limit_mib"] < limiter["limit_mib"]


def test_every_ottl_statement_is_one(configured: dict[str, Any]) -> None:
    strip = configured["processors"]["transform/strip"]
    groups = [*strip["trace_statements"], *strip["log_statements"]]
    assert {group["context"] for group in strip["log_statements"]} == {"resource", "scope", "log"}
    for group in groups:
        assert [statement(text, group["context"]) for text in group["statements"]]
    for group in configured["processors"]["filter/content"]["trace_conditions"]:
        assert [condition(text, group["context"]) for text in group["conditions"]]
    for signal, context in {"spans": "span", "spanevents": "spanevent", "logs": "log"}.items():
        for metric in configured["connectors"]["count/payloads"][signal].values():
            assert [condition(text, context, bare=True) for text in metric["conditions"]]


@pytest.mark.parametrize(
    "wrong",
    [
        'set(span.attributes["a"], true',
        'set(span.attributes["a"]) where true',
        'set(span.attribute["a"], true)',
        'sets(span.attributes["a"], true)',
        'set("a", true)',
        'set(log.attributes["a"], true)',
        'delete_matching_keys(span.attributes, "(?=a)")',
        'delete_matching_keys(span.attributes, "a\\d")',
        "delete_matching_keys(span.attributes, 1)",
        'truncate_all(span.attributes, "1")',
        'set(span.name, "a") where span.name',
        'set(span.name, "a") where span.name = "b"',
        'set(span.name, "a") and true',
        "set(span.name, 'a')",
    ],
)
def test_what_is_no_ottl_statement_is_seen(wrong: str) -> None:
    with pytest.raises(OttlError):
        statement(wrong, "span")


def policies() -> dict[str, Any]:
    found = collector(*VARIANTS["sampling"])["processors"]["tail_sampling"]["policies"]
    return {policy["name"]: policy for policy in found}


def test_a_sampling_policy_has_the_settings_of_its_type() -> None:
    found = policies()
    for policy in (*found.values(), found["unfinished"]["not"]["not_sub_policy"]):
        assert set(policy) == {"name", "type", policy["type"]}


def test_every_outcome_but_the_good_one_is_sampled() -> None:
    outcomes = policies()["outcomes"]["string_attribute"]
    assert outcomes["key"] == names.OUTCOME
    assert set(outcomes["values"]) == {outcome.value for outcome in Outcome} - {Outcome.COMPLETED.value}


def test_what_policies_changed_or_noted_is_sampled() -> None:
    said = policies()["policy-changes"]["ottl_condition"]["spanevent"]
    conditions = [condition(text, "spanevent", bare=True) for text in said]

    def sampled(attributes: dict[str, Any]) -> bool:
        return any(value_of(each, {"spanevent": {"attributes": attributes}}) for each in conditions)

    assert sampled({names.CHANGED: True})
    assert sampled({names.POLICY_CHANGED: True, names.POLICY_ACTION: "modify"})
    assert sampled({names.POLICY_CHANGED: False, names.POLICY_ACTION: "block"})
    assert sampled({names.POLICY_CHANGED: False, names.POLICY_ACTION: "annotate"})
    assert not sampled({names.POLICY_CHANGED: False, names.POLICY_ACTION: "allow"})
    assert not sampled({names.CHANGED: False})
    assert not sampled({})


def test_a_call_without_an_outcome_yet_is_sampled() -> None:
    finished = policies()["unfinished"]["not"]["not_sub_policy"]["string_attribute"]
    assert (finished["key"], finished["enabled_regex_matching"]) == (names.OUTCOME, True)
    (pattern,) = finished["values"]
    assert all(regex(pattern).search(outcome.value) for outcome in Outcome)
