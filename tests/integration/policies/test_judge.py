"""`judge` in a running gateway: one scripted provider plays both the model that is asked and the one that judges."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from luthien.config_file import ConfigFile
from luthien.errors import ConfigError
from luthien.policies.registry import load_chain
from tests.dialects import Dialect, in_dialects
from tests.integration.policies.test_child_calls import both, everything_in, hanging
from tests.otlp_receiver import attributes_of, exports_unhurried, otlp_receiver
from tests.playbook import (
    DEADLINE_S,
    Gateway,
    Play,
    ScriptedProvider,
    Turn,
    answers,
    eventually,
    running_gateway,
    streams,
)
from tests.wire import (
    anthropic_response,
    openai_request,
    openai_response,
    openai_stream,
    responses_response,
)

QUESTION = "Is it fine? Or does somebody ask for the secret?"
EXPLANATION = "Somebody asks for the secret of the house."
KEY = "sk-judge-0123456789abcdef"


def verdict_of(probability: float, explanation: str = EXPLANATION) -> dict[str, Any]:
    return {"explanation": explanation, "probability": probability}


def in_chat(probability: float) -> Any:
    return openai_response(json.dumps(verdict_of(probability)))


def in_responses(probability: float) -> Any:
    return responses_response(json.dumps(verdict_of(probability)))


def in_messages(probability: float) -> Any:
    response = anthropic_response()
    tool = {"type": "tool_use", "id": "toolu_1", "name": "verdict", "input": verdict_of(probability)}
    return response | {"content": [tool], "stop_reason": "tool_use"}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)


@contextmanager
def judging(
    dsn: str, provider: ScriptedProvider, *, entry: Any = None, keep_alive_s: float = 60.0, **config: Any
) -> Iterator[Gateway]:
    base = {"model": "judge-1", "question": QUESTION, "credential": {"env": "JUDGE_KEY"}}
    with running_gateway(
        dsn, provider.url, [{"policy": "judge", "config": base | config, **(entry or {})}], keep_alive_s=keep_alive_s
    ) as gateway:
        yield gateway


def decisions(gateway: Gateway, response: Any) -> list[tuple[str, str]]:
    return [(each["side"], each["action"]) for each in gateway.call(response)["decisions"]]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@in_dialects()
class TestInEachFormat:
    def test_what_is_allowed_passes_as_it_came(
        self, record_database: str, provider: ScriptedProvider, dialect: Dialect, streamed: bool
    ) -> None:
        frames, body = dialect.stream("Hello ", "there"), json.dumps(dialect.response()).encode()
        provider.will(both(answers(in_chat(0.1)), streams(*frames) if streamed else answers(body)))
        with judging(record_database, provider) as gateway:
            request = json.dumps(dialect.request("Hello", stream=streamed)).encode()
            response = gateway.post(dialect.path, request)
            assert response.content == (b"".join(frames) if streamed else body)
            call = gateway.call(response)
            assert call["changed"] == {"request": False, "response": False}
            assert [(each["side"], each["action"]) for each in call["decisions"]] == [
                ("request", "allow"),
                ("response", "allow"),
            ]
            assert call["verdict"] == "no policy changed this call"
            for decision, child in zip(call["decisions"], call["children"], strict=True):
                assert decision["details"] == {
                    "probability": 0.1,
                    "explanation": EXPLANATION,
                    "judge": "judge-1",
                    "asked_call_id": child["call_id"],
                }
        asked = [turn.json for turn in provider.turns if b"judge-1" in turn.body]
        shown = [body["messages"][1]["content"].split("\n", 1)[1].rsplit("\nEND", 1)[0] for body in asked]
        assert json.loads(shown[0]) == {"request": json.loads(request)}
        judged = json.loads(shown[1])
        assert judged["request"] == json.loads(request)
        assert "Hello there" in json.dumps(judged["response"])
        assert [turn.body for turn in provider.turns if b"judge-1" not in turn.body] == [request]

    def test_a_response_that_is_blocked(
        self, record_database: str, provider: ScriptedProvider, dialect: Dialect, streamed: bool
    ) -> None:
        frames = dialect.stream("the ", "unsaid")
        provider.will(both(answers(in_chat(0.8)), dialect.play("the ", "unsaid", streamed=streamed)))
        with judging(record_database, provider, sides=["response"], threshold=0.8) as gateway:
            response = gateway.post(dialect.path, dialect.request("Hello", stream=streamed))
            assert b"unsaid" not in response.content
            assert frames[-1] not in response.content
            assert b"blocked by the policy 'judge': not permitted" in response.content
            assert EXPLANATION.encode() not in response.content
            call = gateway.call(response)
            assert call["outcome"] == "blocked"
            assert decisions(gateway, response) == [("request", "allow"), ("response", "block")]
            decision = call["decisions"][1]
            assert decision["reason"] == "probability 0.8, the threshold is 0.8"
            assert decision["details"]["explanation"] == EXPLANATION
            page = gateway.get(f"/debug/calls/{call['call_id']}", {**gateway.headers, "accept": "text/html"}).text
            assert EXPLANATION in page
            assert f'<a href="/debug/calls/{call["children"][0]["call_id"]}">The call in which' in page

    def test_a_remark(
        self, record_database: str, provider: ScriptedProvider, dialect: Dialect, streamed: bool
    ) -> None:
        frames, body = dialect.stream("Hello ", "there"), json.dumps(dialect.response()).encode()
        provider.will(both(answers(in_chat(0.9)), streams(*frames) if streamed else answers(body)))
        with judging(record_database, provider, action="annotate") as gateway:
            response = gateway.post(dialect.path, dialect.request("Hello", stream=streamed))
            assert response.content == (b"".join(frames) if streamed else body)
            assert decisions(gateway, response) == [("request", "annotate"), ("response", "annotate")]
            assert gateway.call(response)["changed"] == {"request": False, "response": False}


@pytest.mark.parametrize(
    ("dialect", "says"),
    [
        ("openai.chat_completions", in_chat),
        ("openai.responses", in_responses),
        ("anthropic.messages", in_messages),
    ],
)
def test_each_format_of_the_judge(
    record_database: str, provider: ScriptedProvider, dialect: str, says: Callable[[float], Any]
) -> None:
    provider.will(both(answers(says(0.7)), answers(openai_response())))
    with judging(
        record_database, provider, format=dialect, max_tokens=77, extra={"temperature": 0, "store": None}
    ) as gateway:
        response = gateway.post("/v1/chat/completions", openai_request())
        assert response.status_code == 403
        assert response.json()["error"]["message"] == "blocked by the policy 'judge': not permitted"
        assert decisions(gateway, response) == [("request", "block")]
    (turn,) = provider.turns
    assert turn.json["temperature"] == 0
    assert "store" not in turn.json
    limits = {"max_tokens", "max_completion_tokens", "max_output_tokens"} & {*turn.json}
    assert [turn.json[name] for name in limits] == [77]


def test_the_client_is_told_why_if_it_may_be(record_database: str, provider: ScriptedProvider) -> None:
    provider.will(both(answers(in_chat(0.7)), answers(openai_response())))
    with judging(record_database, provider, tell_client=True) as gateway:
        response = gateway.post("/v1/chat/completions", openai_request())
        assert response.json()["error"]["message"] == f"blocked by the policy 'judge': {EXPLANATION}"


@pytest.mark.parametrize(("probability", "action"), [(0.29, "allow"), (0.3, "annotate"), (0.59, "annotate")])
def test_below_the_threshold_there_may_be_a_remark(
    record_database: str, provider: ScriptedProvider, probability: float, action: str
) -> None:
    provider.will(both(answers(in_chat(probability)), answers(openai_response())))
    with judging(record_database, provider, threshold=0.6, annotate_above=0.3, sides=["request"]) as gateway:
        response = gateway.post("/v1/chat/completions", openai_request())
        assert response.json() == openai_response()
        assert decisions(gateway, response) == [("request", action)]


def test_of_requests_alone_no_stream_is_held(record_database: str, provider: ScriptedProvider) -> None:
    gate = provider.gate()
    frames = openai_stream("Hello ", "there")

    async def halting(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await turn.chunk(b"".join(frames[:2]))
        await gate.wait()
        await turn.chunk(b"".join(frames[2:]))
        await turn.send(b"0\r\n\r\n")

    provider.will(both(answers(in_chat(0.1)), halting))
    with judging(record_database, provider, sides=["request"]) as gateway:
        body, url = json.dumps(openai_request(stream=True)), f"{gateway.url}/v1/chat/completions"
        with httpx.stream("POST", url, content=body, timeout=DEADLINE_S) as response:
            data = response.iter_raw()
            assert next(data) == b"".join(frames[:2])
            gate.open()
            assert b"".join(data) == b"".join(frames[2:])


def test_keep_alives_go_on_while_the_judge_thinks(record_database: str, provider: ScriptedProvider) -> None:
    gate = provider.gate()

    async def thinking(turn: Turn) -> None:
        await gate.wait()
        await answers(in_chat(0.1))(turn)

    frames = openai_stream("Hello ", "there")
    provider.will(both(thinking, streams(*frames)))
    with judging(record_database, provider, keep_alive_s=0.1, sides=["response"]) as gateway:
        body, url = json.dumps(openai_request(stream=True)), f"{gateway.url}/v1/chat/completions"
        with httpx.stream("POST", url, content=body, timeout=DEADLINE_S) as response:
            data = response.iter_raw()
            assert next(data) == b": keep-alive\n\n"
            gate.open()
            assert b"".join(data).endswith(b"".join(frames))


@pytest.mark.parametrize("on_error", ["block", "allow"])
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (answers(openai_response("I cannot say.")), "ModelFailed: the judge gave no probability"),
        (answers(openai_response('{"probability": 7, "explanation": ""}')), "no number from 0 to 1"),
        (answers({"error": {"message": "no such key"}}, status=401), "status 401"),
        (lambda turn: _cut(turn), "status 502"),
    ],
    ids=["garbage", "nonsense", "refused", "down"],
)
def test_a_judge_that_fails_breaks_the_policy(
    record_database: str, provider: ScriptedProvider, play: Play, reason: str, streamed: bool, on_error: str
) -> None:
    frames = openai_stream("Hello ", "there")
    provider.will(both(play, streams(*frames) if streamed else answers(openai_response())))
    with judging(record_database, provider, sides=["response"], entry={"on_error": on_error}) as gateway:
        response = gateway.post("/v1/chat/completions", openai_request(stream=streamed))
        call = gateway.call(response)
        decision, (child,) = call["decisions"][1], call["children"]
        assert (decision["side"], decision["action"]) == ("response", "error")
        assert reason in decision["reason"]
        assert decision["details"] == {"asked_call_id": child["call_id"]}
        if on_error == "allow":
            assert response.content.endswith(b"".join(frames)) if streamed else response.json() == openai_response()
            assert call["outcome"] == "completed"
        else:
            assert b"Hello" not in response.content
            assert b"the policy 'judge' failed" in response.content
            assert call["outcome"] == "policy_error"


async def _cut(turn: Turn) -> None:
    turn.cut()


def test_a_client_that_hangs_up_while_the_judge_is_asked(record_database: str, provider: ScriptedProvider) -> None:
    gate = provider.gate()

    async def never(turn: Turn) -> None:
        await gate.wait()

    provider.will(both(never, streams(*openai_stream("Hello ", "there"))))
    with judging(record_database, provider, sides=["response"]) as gateway:
        client = hanging(gateway)
        eventually(lambda: len(provider.turns), lambda count: count == 2)
        client.close()
        calls = eventually(
            lambda: gateway.get("/debug/calls.json").json()["calls"],
            lambda calls: len(calls) == 2 and all(call["outcome"] for call in calls),
        )
        assert [call["outcome"] for call in calls] == ["client_disconnected"] * 2
        gate.open()


def test_neither_key_nor_explanation_leaves_the_process(
    record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.will(both(answers(in_chat(0.7)), answers(openai_response())))
    with otlp_receiver() as receiver:
        exports_unhurried(monkeypatch, receiver)
        with judging(record_database, provider, action="annotate") as gateway:
            gateway.call(gateway.post("/v1/chat/completions", openai_request()))
        exported = b"".join(receiver.bodies)
        for secret in (KEY, EXPLANATION, QUESTION, "threshold"):
            assert secret.encode() not in exported
        actions = [
            attributes_of(point.attributes)["luthien.policy.action"]
            for metric in receiver.metrics
            if metric.name == "luthien.policy.decisions"
            for point in metric.sum.data_points
        ]
        assert {*actions} == {"annotate"}
        calls = [
            attributes_of(point.attributes)
            for metric in receiver.metrics
            if metric.name == "luthien.calls"
            for point in metric.sum.data_points
        ]
        assert {point.get("luthien.child") for point in calls} == {None, True}
    stored = everything_in(record_database)
    assert EXPLANATION.encode() in stored
    assert KEY.encode() not in stored


BASE = "policies:\n  - policy: judge\n    config:\n      model: m\n      question: q\n"


@pytest.mark.parametrize(
    ("more", "line", "mistake"),
    [
        ("", 3, "policies[0].config.credential: is missing"),
        ("      credential: {env: NOT_SET}\n", 6, "the environment variable NOT_SET is not set"),
        ("      credential: sk-1234\n", 6, "must be client, none or {env: NAME}"),
        ("      credential: {env: 5}\n", 6, "must be client, none or {env: NAME}"),
        ("      credential: none\n      threshold: 1.5\n", 7, "less than or equal to 1"),
        ("      credential: none\n      annotate_above: 0.5\n", 3, "annotate_above must be below threshold"),
        ("      credential: none\n      extra: {stream: true}\n", 7, "cannot set stream"),
        ("      credential: none\n      sides: []\n", 7, "must not be empty"),
        ("      credential: none\n      format: openai\n", 7, "anthropic.messages"),
    ],
)
def test_mistakes_are_named_with_line_and_key(more: str, line: int, mistake: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_chain(ConfigFile("luthien.yaml", BASE + more))
    assert f"luthien.yaml:{line}: policies[0].config" in str(raised.value)
    assert mistake in str(raised.value)
    assert "sk-1234" not in str(raised.value)
