"""Which calls tail sampling keeps: its policies, over the traces that a gateway exports of real calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from luthien.telemetry import conventions as names
from tests.otlp_receiver import OtlpReceiver, attributes_of, exports_unhurried, otlp_receiver
from tests.playbook import DEADLINE_S, Gateway, ScriptedProvider, Turn, answers, call_id_of, running_gateway, streams
from tests.stack.files import VARIANTS, collector
from tests.stack.grafana import STERN
from tests.stack.ottl import condition, regex, value_of
from tests.wire import openai_request, openai_response, openai_stream

CHAT = "/v1/chat/completions"
SAMPLING = collector(*VARIANTS["sampling"])["processors"]["tail_sampling"]["policies"]

Trace = Sequence[Span]


def kept_by(trace: Trace) -> set[str]:
    """The names of the policies that keep a trace, without those of chance."""
    return {policy["name"] for policy in SAMPLING if keeps(policy, trace)}


def keeps(policy: dict[str, Any], trace: Trace) -> bool:
    settings = policy[policy["type"]]
    attributes = [attributes_of(span.attributes) for span in trace]
    match policy["type"]:
        case "status_code":
            codes = {"STATUS_CODE_" + code for code in settings["status_codes"]}
            return any(Status.StatusCode.Name(span.status.code) in codes for span in trace)
        case "string_attribute":
            return any(is_one_of(settings, each.get(settings["key"])) for each in attributes)
        case "boolean_attribute":
            return any(each.get(settings["key"]) is settings["value"] for each in attributes)
        case "ottl_condition":
            conditions = [condition(text, "spanevent", bare=True) for text in settings["spanevent"]]
            events = [{"spanevent": {"attributes": attributes_of(e.attributes)}} for s in trace for e in s.events]
            return any(value_of(each, event) for each in conditions for event in events)
        case "latency":
            first, last = min(s.start_time_unix_nano for s in trace), max(s.end_time_unix_nano for s in trace)
            return (last - first) // 1_000_000 > int(settings["threshold_ms"])
        case "not":
            return not keeps(settings["not_sub_policy"], trace)
        case "probabilistic":
            return False
    raise AssertionError(policy["type"])


def is_one_of(settings: dict[str, Any], value: object) -> bool:
    if not isinstance(value, str):
        return False
    if settings.get("enabled_regex_matching"):
        return any(regex(pattern).search(value) for pattern in settings["values"])
    return value in settings["values"]


def traces_by_call(receiver: OtlpReceiver) -> dict[object, list[Span]]:
    of_trace: dict[bytes, list[Span]] = {}
    for span in receiver.spans:
        of_trace.setdefault(span.trace_id, []).append(span)
    return {attributes_of(spans[0].attributes)[names.CALL_ID]: spans for spans in of_trace.values()}


async def stalls(turn: Turn) -> None:
    await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
    await turn.chunk(openai_stream("One")[0])
    await turn.reader.read()


def made_calls(gateway: Gateway, provider: ScriptedProvider) -> dict[str, str]:
    """The ids of all calls by name."""
    fine, refusal = answers(openai_response("Fine.")), answers({"error": {"message": "no"}}, status=500)
    wanted = {
        "plain": (fine, openai_request("Hello")),
        "streamed": (streams(*openai_stream("One", " two")), openai_request("Hello", stream=True)),
        "request changed": (fine, openai_request("This is classified.")),
        "response changed": (answers(openai_response("classified")), openai_request("Hello")),
        "stream changed": (streams(*openai_stream("class", "ified")), openai_request("Hello", stream=True)),
        "in shadow": (fine, openai_request("Hidden")),
        "noted": (fine, openai_request("How odd")),
        "blocked": (fine, openai_request("This is forbidden.")),
        "policy error": (fine, openai_request("This is fragile.")),
        "provider's error": (refusal, openai_request("Hello")),
        "cut off": (streams(openai_stream("One")[0], then_cut=True), openai_request("Hello", stream=True)),
    }
    ids = {}
    for name, (play, body) in wanted.items():
        provider.will(play)
        ids[name] = call_id_of(gateway.post(CHAT, body))
    ids["rejected"] = call_id_of(gateway.post(CHAT, b"{"))
    provider.will(answers(b"{}"))
    ids["passed through"] = call_id_of(gateway.get("/v1/models", {"authorization": "Bearer sk-client"}))
    provider.will(refusal)
    ids["passed through in vain"] = call_id_of(gateway.get("/v1/models", {"authorization": "Bearer sk-client"}))
    provider.will(stalls)
    body = openai_request("Hello", stream=True)
    with httpx.stream("POST", gateway.url + CHAT, json=body, timeout=DEADLINE_S) as response:
        ids["hung up"] = call_id_of(response)
        next(response.iter_bytes())
    for call_id in ids.values():
        gateway.call(call_id)
    return ids


@pytest.fixture(scope="module")
def traces(
    module_record_database: str, shared_provider: ScriptedProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Trace]]:
    file = tmp_path_factory.mktemp("policies") / "own.py"
    file.write_text(STERN)
    hide = {"policy": "replace_text", "config": {"rules": [{"find": "classified", "replace": "[hidden]"}]}}
    shadow = {
        "policy": "replace_text",
        "config": {"rules": [{"find": "Hidden", "replace": "Shown"}]},
        "mode": "shadow",
    }
    policies: list[dict[str, Any]] = [hide, {"policy": f"{file}:Stern"}, shadow]
    with otlp_receiver() as receiver, pytest.MonkeyPatch.context() as environment:
        exports_unhurried(environment, receiver)
        with running_gateway(module_record_database, shared_provider.url, policies) as gateway:
            ids = made_calls(gateway, shared_provider)
        found = traces_by_call(receiver)
        yield {name: found[call_id] for name, call_id in ids.items()}


def test_what_is_out_of_the_ordinary_is_kept_and_what_is_not_is_left_to_chance(traces: dict[str, Trace]) -> None:
    assert {name: kept_by(trace) for name, trace in traces.items()} == {
        "plain": set(),
        "streamed": set(),
        "passed through": set(),
        "request changed": {"policy-changes"},
        "response changed": {"policy-changes"},
        "stream changed": {"policy-changes"},
        "in shadow": {"policy-changes"},
        "noted": {"policy-changes"},
        "blocked": {"errors", "outcomes", "policy-changes"},
        "policy error": {"errors", "outcomes", "policy-changes"},
        "provider's error": {"errors", "outcomes"},
        "passed through in vain": {"errors", "outcomes"},
        "cut off": {"errors", "outcomes"},
        "rejected": {"errors", "outcomes"},
        "hung up": {"errors", "outcomes"},
    }


def test_a_slow_call_is_kept(traces: dict[str, Trace]) -> None:
    slow = [Span.FromString(span.SerializeToString()) for span in traces["plain"]]
    max(slow, key=lambda span: span.end_time_unix_nano).end_time_unix_nano += 10_001_000_000
    assert kept_by(slow) == {"slow"}


def test_a_call_that_is_still_open_when_it_is_decided_is_kept(traces: dict[str, Trace]) -> None:
    """Its exchange and the server's span end last."""
    ended = [span for span in traces["streamed"] if span.name not in (names.EXCHANGE, f"POST {CHAT}")]
    assert kept_by(ended) == {"unfinished"}
