"""What the Collector takes out before it exports, run over what the gateway exports and over what it must not.

The statements themselves run, in a small reading of OTTL (ottl.py): each statement of a group on one record after the
other, as the transform processor does it.
"""

from __future__ import annotations

from typing import Any

import pytest

from luthien.telemetry import conventions as names
from tests.otlp_receiver import attributes_of, exports_unhurried, otlp_receiver
from tests.playbook import ScriptedProvider, answers, running_gateway, streams
from tests.stack.files import collector
from tests.stack.ottl import Data, Literal, condition, regex, run, statement, value_of
from tests.wire import (
    anthropic_request,
    anthropic_response,
    openai_request,
    openai_response,
    openai_stream,
    responses_request,
    responses_stream,
)

CONFIGURED = collector("collector.yaml")
STRIP = CONFIGURED["processors"]["transform/strip"]
MARK = "luthien.collector.stripped"
FRAMES = "/srv/luthien/app.py:12 lifespan\n<frozen importlib._bootstrap>:241 _call\n/srv/my code/p.py:7 <lambda>"

PAYLOAD_NAMES = [
    "luthien.payload",
    "luthien.payload.text",
    "luthien.payload.content",
    "luthien.payload.summary",
    "luthien.payload.s",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.prompt",
    "gen_ai.prompt.0.content",
    "gen_ai.completion",
    "gen_ai.completion.0.content",
    "gen_ai.completion.0.tool_calls.0.arguments",
    "gen_ai.tool.definitions",
    "gen_ai.tool.description",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "gen_ai.request.messages",
    "gen_ai.evaluation.explanation",
    "gen_ai.retrieval.documents",
    "llm.prompts",
    "llm.prompts.0.content",
    "llm.completions.0.content",
    "llm.input_messages.0.message.content",
    "llm.output_messages",
    "llm.prompt_template.template",
    "llm.invocation_parameters",
    "llm.tools",
    "input.value",
    "output.value",
    "message.content",
    "tool.parameters",
    "tool_call.function.arguments",
    "document.content",
    "retrieval.documents.0.document.content",
    "embedding.text",
    "traceloop.entity.input",
    "traceloop.entity.output",
    "langfuse.observation.input",
    "langfuse.trace.output",
    "langsmith.span.inputs",
    "mlflow.spanInputs",
    "ai.prompt",
    "ai.prompt.messages",
    "ai.response.text",
    "ai.response.toolCalls",
    "ai.toolCall.args",
    "ai.toolCall.result",
    "all_messages",
    "pydantic_ai.all_messages",
    "all_messages_events",
    "request_data",
    "response_data",
    "http.request.body",
    "http.request.body.content",
    "http.response.body",
    "http.response.body.text",
    "http.request.header.authorization",
    "http.request.header.x-api-key",
    "http.response.header.set-cookie",
    "rpc.request.metadata.authorization",
    "rpc.grpc.request.metadata.authorization",
    "baggage",
    "baggage.user",
    "graphql.document",
    "db.statement",
    "db.query.text",
    "db.query.parameter.0",
    "exception.message",
    "error.message",
    "error.stack",
    "authorization",
    "Authorization",
    "x-api-key",
    "api_key",
    "openai_api_key",
    "http.cookie",
    "cookies",
    "set-cookie",
    "db.password",
    "client_secret",
    "aws.credentials",
    "ssh_private_key",
    "access_token",
    "auth.token",
    "session-token",
]
HARMLESS_NAMES = [
    "http.request.body.size",
    "http.response.body.size",
    "messaging.message.body.size",
    "gen_ai.usage.prompt_tokens",
    "gen_ai.usage.completion_tokens",
    "gen_ai.output.type",
    "gen_ai.tool.name",
    "gen_ai.tool.call.id",
    "gen_ai.prompt_version",
    "exception.type",
    "error.type",
    "db.system.name",
    "db.operation.name",
    "enduser.id",
    "code.function.name",
    "thread.name",
    "tokens",
]


def patterns(signal: str, path: str) -> list[str]:
    """By which keys are taken out of one map."""
    texts = [text for group in STRIP[f"{signal}_statements"] for text in group["statements"]]
    found = [text for text in texts if text.startswith(f"delete_matching_keys({path},")]
    arguments = [statement(text, path.partition(".")[0]).editor.arguments[1] for text in found]
    return [str(argument.value) for argument in arguments if isinstance(argument, Literal)]


def is_taken(key: str, found: list[str]) -> bool:
    return any(regex(pattern).search(key) for pattern in found)


def span(attributes: dict[str, Any], *events: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "a span", "attributes": attributes, "status": {"message": ""}, "events": list(events), **more}


def event(name: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "attributes": attributes}


def log(body: Any, attributes: dict[str, Any] | None = None, event_name: str = "") -> dict[str, Any]:
    return {"body": body, "attributes": attributes or {}, "event_name": event_name}


def strip(signal: str, record: dict[str, Any], resource: dict[str, Any] | None = None) -> dict[str, Any]:
    """Runs the statements on one span or log line, and says what its resource has become."""
    shared: Data = {"resource": {"attributes": resource or {}}, "scope": {"attributes": {"a": 1}}}
    subjects = {context: [data] for context, data in shared.items()}
    subjects |= {"span": [record], "log": [record], "spanevent": record.get("events", [])}
    for group in STRIP[f"{signal}_statements"]:
        for subject in subjects[group["context"]]:
            data = {**shared, "span": record, group["context"]: subject}
            subject["cache"] = {}
            for text in group["statements"]:
                run(statement(text, group["context"]), data)
            del subject["cache"]
    if signal == "trace":
        record["events"] = [each for each in record["events"] if not is_dropped(each)]
    assert shared["scope"]["attributes"] == {}
    found: dict[str, Any] = shared["resource"]["attributes"]
    return found


def is_dropped(event: dict[str, Any]) -> bool:
    (group,) = CONFIGURED["processors"]["filter/content"]["trace_conditions"]
    return any(value_of(condition(text, group["context"]), {"spanevent": event}) for text in group["conditions"])


def is_counted(signal: str, record: dict[str, Any], resource: dict[str, Any]) -> bool:
    (metric,) = CONFIGURED["connectors"]["count/payloads"][{"trace": "spans", "log": "logs"}[signal]].values()
    context = {"trace": "span", "log": "log"}[signal]
    data = {context: record, "resource": {"attributes": resource}}
    return any(value_of(condition(text, context, bare=True), data) for text in metric["conditions"])


@pytest.mark.parametrize("path", ["span.attributes", "spanevent.attributes", "log.attributes"])
def test_names_of_payloads_are_taken(path: str) -> None:
    found = patterns("log" if path == "log.attributes" else "trace", path)
    assert [key for key in PAYLOAD_NAMES if not is_taken(key, found)] == []


def test_spans_events_and_lines_are_held_against_the_same_names() -> None:
    """A stack of a log line is looked at by what is in it; a span's is never the gateway's."""
    lines = patterns("log", "log.attributes")
    stack = ["^exception[.]stacktrace$"]
    assert patterns("trace", "span.attributes") == patterns("trace", "spanevent.attributes") == [*lines, *stack]
    assert patterns("trace", "resource.attributes") == patterns("log", "resource.attributes")


def test_what_the_gateway_keeps_for_the_record_is_taken_wherever_it_stands() -> None:
    kept = {each.name for each in names.CONVENTIONS.values() if each.kind == "attribute" and not each.exported}
    found = patterns("trace", "span.attributes")
    assert {key for key in kept if not is_taken(key, found)} == {names.PROCESS_ID}


def test_what_the_gateway_exports_is_left() -> None:
    for path in ("span.attributes", "spanevent.attributes", "resource.attributes"):
        found = patterns("trace", path)
        assert [key for key in names.EXPORTED_ATTRIBUTES if is_taken(key, found)] == []
        assert [key for key in HARMLESS_NAMES if is_taken(key, found)] == []


REWRITE = {"policy": "replace_text", "config": {"rules": [{"find": "a", "replace": "the rewritten"}]}}
BLOCK = {"policy": "limit", "config": {"models": {"deny": ["forbidden"]}}}


def test_real_calls_pass_as_they_are(
    record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each wire format, streamed and not, changed, blocked, failed and refused."""
    provider.will(
        answers(openai_response()),
        streams(*openai_stream("a", "b")),
        answers(anthropic_response()),
        streams(*responses_stream("a", "b")),
        answers({"error": {"message": "no"}}, status=500),
    )
    with otlp_receiver() as receiver:
        exports_unhurried(monkeypatch, receiver)
        with running_gateway(record_database, provider.url, [REWRITE, BLOCK]) as gateway:
            gateway.post("/v1/chat/completions", openai_request())
            gateway.post("/v1/chat/completions", openai_request(stream=True))
            gateway.post("/v1/messages", anthropic_request())
            gateway.post("/v1/responses", responses_request(stream=True))
            gateway.post("/v1/chat/completions", openai_request())
            gateway.post("/v1/chat/completions", openai_request(model="forbidden"))
            gateway.post("/v1/chat/completions", b"no JSON")
            gateway.post("/v1/elsewhere", {})
    outcomes = {attributes_of(each.attributes).get(names.OUTCOME) for each in receiver.spans}
    assert outcomes >= {"completed", "blocked", "upstream_error", "rejected"}
    for each in receiver.spans:
        events = [event(one.name, attributes_of(one.attributes)) for one in each.events]
        record = span(
            attributes_of(each.attributes), *events, name=each.name, status={"message": each.status.message}
        )
        before = repr(record)
        resource = strip("trace", record, {"service.name": "luthien", "service.instance.id": "1"})
        assert repr(record) == before
        assert not is_counted("trace", record, resource)
    assert "luthien.calls" in {logger for logger, _ in receiver.logs}
    for _, line in receiver.logs:
        record = log(line.body.string_value, attributes_of(line.attributes), line.event_name)
        before = repr(record)
        resource = strip("log", record, {"service.name": "luthien", "service.instance.id": "1"})
        assert repr(record) == before
        assert not is_counted("log", record, resource)


def test_a_payload_on_a_span_is_taken_and_counted() -> None:
    for key in PAYLOAD_NAMES:
        record = span({key: "secret", names.OUTCOME: "completed"})
        resource = strip("trace", record)
        assert record["attributes"] == {names.OUTCOME: "completed", MARK: True}, key
        assert is_counted("trace", record, resource)


def test_a_payload_on_an_event_is_taken_and_its_span_is_counted() -> None:
    record = span({}, event(names.STAGE_EVENT, {names.STAGE: "request_original", names.PAYLOAD: "secret"}))
    resource = strip("trace", record)
    assert record["events"] == [event(names.STAGE_EVENT, {names.STAGE: "request_original"})]
    assert is_counted("trace", record, resource)


@pytest.mark.parametrize("name", ["gen_ai.content.prompt", "gen_ai.user.message", "gen_ai.choice"])
def test_an_event_that_is_content_is_dropped_and_its_span_is_counted(name: str) -> None:
    record = span({}, event("exception", {"exception.type": "E"}), event(name, {"anything": "secret"}))
    resource = strip("trace", record)
    assert record["events"] == [event("exception", {"exception.type": "E"})]
    assert is_counted("trace", record, resource)


def test_what_an_exception_says_is_taken_from_span_event_and_status() -> None:
    said = {"exception.type": "E", "exception.message": "secret", "exception.stacktrace": FRAMES}
    record = span({}, event("exception", said), status={"message": "secret"})
    strip("trace", record)
    assert record["events"] == [event("exception", {"exception.type": "E"})]
    assert record["status"] == {"message": ""}
    only_status = span({}, status={"message": "secret"})
    assert is_counted("trace", only_status, strip("trace", only_status))


def test_a_text_that_is_too_long_is_cut_and_counted() -> None:
    """At 4,096 bytes, which is no character in two; what the gateway exports has 1,024 characters at most."""
    record = span({"unknown": "é" * 3000, "short": "é" * 1024}, event("e", {"unknown": "x" * 5000}))
    resource = strip("trace", record)
    assert len(record["attributes"]["unknown"].encode()) == 4096
    assert record["attributes"]["short"] == "é" * 1024
    assert len(record["events"][0]["attributes"]["unknown"]) == 4096
    assert is_counted("trace", record, resource)
    longest = span({"unknown": "\U0001f600" * 1024})
    assert not is_counted("trace", longest, strip("trace", longest))


def test_addresses_lose_what_they_ask_and_are_not_counted() -> None:
    """Instrumented clients put them on every span, so an alert would say nothing."""
    record = span({"url.full": "https://a.example/v1?key=secret", "url.query": "key=secret", "http.target": "/v1#a"})
    resource = strip("trace", record)
    assert record["attributes"] == {"url.full": "https://a.example/v1", "http.target": "/v1"}
    assert not is_counted("trace", record, resource)


@pytest.mark.parametrize("signal", ["trace", "log"])
def test_credentials_on_a_resource_are_taken_and_counted(signal: str) -> None:
    record = span({}) if signal == "trace" else log("a line")
    given = {"service.name": "a", "process.command_args": "--key secret", "api_key": "secret", "team": "b"}
    resource = strip(signal, record, given)
    assert resource == {"service.name": "a", "team": "b", MARK: True}
    assert is_counted(signal, record, resource)


def test_the_gateways_lines_pass_as_they_are() -> None:
    said = {names.CALL_ID: "0199", "exception.type": "ValueError", "exception.stacktrace": FRAMES}
    record = log("the record of a span was lost", dict(said))
    resource = strip("log", record)
    assert record == log("the record of a span was lost", said)
    assert not is_counted("log", record, resource)


def test_the_stack_of_another_program_is_taken_from_its_line() -> None:
    stack = f"Traceback (most recent call last):\n  File a.py, line 1, in f\nValueError: secret\n{FRAMES}"
    record = log("failed", {"exception.stacktrace": stack})
    resource = strip("log", record)
    assert record["attributes"] == {MARK: True}
    assert is_counted("log", record, resource)


@pytest.mark.parametrize(
    "record",
    [
        log({"messages": [{"role": "user", "content": "secret"}]}),
        log(["secret"]),
        log("secret", event_name="gen_ai.user.message"),
        log("secret", {"event.name": "gen_ai.choice"}),
        log("a line", {"gen_ai.input.messages": "secret"}),
        log("a line", {"unknown": "secret" * 5000}),
        log("secret" * 10000),
    ],
)
def test_a_payload_in_a_line_is_taken_and_counted(record: dict[str, Any]) -> None:
    resource = strip("log", record)
    assert len(record["body"]) <= 32768
    assert "secret" not in record["body"][:6] or len(record["body"]) == 32768
    assert all(len(str(value)) <= 16384 for value in record["attributes"].values())
    assert record["attributes"].keys() <= {MARK, "event.name", "unknown"}
    assert is_counted("log", record, resource)


def test_a_failed_statement_drops_what_it_could_not_look_at() -> None:
    """Only what shortens texts may fail and go on: it runs after all that takes names out."""
    for signal in ("trace", "log"):
        groups = STRIP[f"{signal}_statements"]
        modes = [group["error_mode"] for group in groups]
        assert modes == sorted(modes, reverse=True)
        assert all("delete" not in " ".join(g["statements"]) for g in groups if g["error_mode"] == "ignore")
    assert CONFIGURED["processors"]["filter/content"]["error_mode"] == STRIP["error_mode"] == "propagate"
