"""`webhook` in a running gateway, in front of a real service that says what a test wants."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

import pytest

from luthien.config_file import ConfigFile
from luthien.errors import ConfigError
from luthien.policies.builtin.webhook_client import signature, signing_key
from luthien.policies.registry import load_chain
from tests.dialects import Dialect, in_dialects
from tests.integration.policies.test_child_calls import everything_in, hanging
from tests.playbook import Gateway, Play, ScriptedProvider, Turn, answers, eventually, running_gateway, streams
from tests.wire import (
    openai_request,
    openai_response,
)

OPENAI = "/v1/chat/completions"
KEY = b"a key of twenty-four bytes"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
TOKEN = "token-0123456789abcdef"
ALLOW = {"action": "allow"}


@pytest.fixture
def service() -> Iterator[ScriptedProvider]:
    scripted = ScriptedProvider()
    scripted.will(answers(ALLOW))
    yield scripted
    scripted.close()


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("HOOK_TOKEN", TOKEN)
    monkeypatch.setenv("NO_KEY", "whsec_")


@contextmanager
def hooked(
    dsn: str, provider: ScriptedProvider, service: ScriptedProvider, *, entry: Any = None, **config: Any
) -> Iterator[Gateway]:
    base = {"url": f"{service.url}/decide?for=luthien", "timeout_s": 20}
    with running_gateway(
        dsn, provider.url, [{"policy": "webhook", "config": base | config, **(entry or {})}]
    ) as gateway:
        yield gateway


def told(gateway: Gateway, response: Any) -> list[tuple[str, str, str]]:
    return [(each["side"], each["action"], each["reason"]) for each in gateway.call(response)["decisions"]]


def shouting(turn: Turn) -> Any:
    """Says in capitals what it is sent."""
    return {"action": "modify", "reason": "shouted", "texts": [each["text"].upper() for each in turn.json["texts"]]}


def saying(answer: Callable[[Turn], Any]) -> Play:
    async def play(turn: Turn) -> None:
        await answers(answer(turn))(turn)

    return play


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@in_dialects()
class TestInEachFormat:
    def test_what_is_allowed_passes_as_it_came(
        self,
        record_database: str,
        provider: ScriptedProvider,
        service: ScriptedProvider,
        dialect: Dialect,
        streamed: bool,
    ) -> None:
        frames, body = dialect.stream("Hello ", "there"), json.dumps(dialect.response()).encode()
        provider.will(streams(*frames) if streamed else answers(body))
        service.will(answers({"action": "annotate", "reason": "seen", "details": {"score": 0.5, "rule": "r-1"}}))
        with hooked(record_database, provider, service) as gateway:
            request = dialect.request("Hello", stream=streamed)
            response = gateway.post(dialect.path, request)
            assert response.content == (b"".join(frames) if streamed else body)
            call = gateway.call(response)
            assert [(each["side"], each["action"], each["reason"]) for each in call["decisions"]] == [
                ("request", "annotate", "seen"),
                ("response", "annotate", "seen"),
            ]
            assert [each["details"] for each in call["decisions"]] == [{"score": 0.5, "rule": "r-1"}] * 2
            version = call["decisions"][0]["version"]
        asked = [turn.json for turn in service.turns]
        assert asked[0] == {
            "call_id": call["call_id"],
            "side": "request",
            "wire_format": call["wire_format"],
            "model": request["model"],
            "streaming": streamed,
            "policy": "webhook",
            "version": version,
            "body": request,
        }
        assert asked[1]["side"] == "response"
        assert "Hello there" in json.dumps(asked[1]["body"])

    def test_texts_are_changed(
        self,
        record_database: str,
        provider: ScriptedProvider,
        service: ScriptedProvider,
        dialect: Dialect,
        streamed: bool,
    ) -> None:
        provider.will(dialect.play("Hello ", "there", streamed=streamed))
        service.will(saying(shouting))
        with hooked(record_database, provider, service, send="texts") as gateway:
            response = gateway.post(dialect.path, dialect.request("Hello", stream=streamed))
            assert b"HELLO THERE" in response.content
            assert b"Hello there" not in response.content
            assert told(gateway, response) == [("request", "modify", "shouted"), ("response", "modify", "shouted")]
            assert provider.turns[0].json == dialect.request("HELLO", stream=streamed)
            assert gateway.call(response)["changed"] == {"request": True, "response": True}

    def test_a_response_is_blocked(
        self,
        record_database: str,
        provider: ScriptedProvider,
        service: ScriptedProvider,
        dialect: Dialect,
        streamed: bool,
    ) -> None:
        provider.will(dialect.play("the ", "unsaid", streamed=streamed))
        service.will(answers({"action": "block", "reason": "not today"}))
        with hooked(record_database, provider, service, sides=["response"]) as gateway:
            response = gateway.post(dialect.path, dialect.request("Hello", stream=streamed))
            assert b"unsaid" not in response.content
            assert b"blocked by the policy 'webhook': not today" in response.content
            assert gateway.call(response)["outcome"] == "blocked"
            assert told(gateway, response) == [("response", "block", "not today")]


def test_a_whole_body_is_changed(record_database: str, provider: ScriptedProvider, service: ScriptedProvider) -> None:
    provider.will(answers(openai_response()))
    service.will(
        saying(lambda turn: {"action": "modify", "body": turn.json["body"] | {"seed": 12345678901234567890}})
    )
    with hooked(record_database, provider, service, sides=["request"]) as gateway:
        response = gateway.post(OPENAI, openai_request())
        assert provider.turns[0].json == openai_request(seed=12345678901234567890)
        assert told(gateway, response) == [("request", "modify", "")]


def test_it_is_asked_in_the_way_of_standard_webhooks(
    record_database: str, provider: ScriptedProvider, service: ScriptedProvider
) -> None:
    provider.will(answers(openai_response()))
    headers = {"Authorization": {"env": "HOOK_TOKEN"}, "x-team": "red"}
    with hooked(record_database, provider, service, secret={"env": "HOOK_SECRET"}, headers=headers) as gateway:
        asked_by = {"authorization": "Bearer sk-of-the-client", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
        gateway.call(gateway.post(OPENAI, openai_request(), headers=asked_by))
    first, second = service.turns
    assert (first.method, first.path) == ("POST", "/decide?for=luthien")
    assert (first.headers["authorization"], first.headers["x-team"]) == (TOKEN, "red")
    assert not {"traceparent", "baggage", "cookie"} & {*first.headers}
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    assert abs(int(first.headers["webhook-timestamp"]) - time.time()) < 300
    for turn in service.turns:
        signed = f"{turn.headers['webhook-id']}.{turn.headers['webhook-timestamp']}.".encode() + turn.body
        expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert turn.headers["webhook-signature"] == f"v1,{expected}"
    stored = everything_in(record_database)
    for secret in (TOKEN, SECRET, KEY.decode()):
        assert secret.encode() not in stored


def test_the_example_of_the_specification_is_signed_as_it_says() -> None:
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    message = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature(key, *message) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def cut(turn: Turn) -> None:
    turn.cut()


@pytest.mark.parametrize(
    "failing",
    [
        answers(b"", status=500),
        answers(b"", status=503, headers={"retry-after": "0"}),
        answers(b"", status=429, headers={"retry-after": formatdate(0, usegmt=True)}),
        answers(b"", status=429, headers={"retry-after": "soon"}),
        answers(b"", status=429, headers={"retry-after": f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT"}),
        cut,
    ],
    ids=["500", "503", "429-date", "429-nonsense", "429-no-year", "cut"],
)
def test_it_is_asked_again(
    record_database: str, provider: ScriptedProvider, service: ScriptedProvider, failing: Play
) -> None:
    """With the same id, so that the service can tell."""
    provider.will(answers(openai_response()))
    service.will(failing, failing, answers({"action": "annotate", "reason": "seen"}))
    with hooked(record_database, provider, service, sides=["request"]) as gateway:
        assert told(gateway, gateway.post(OPENAI, openai_request())) == [("request", "annotate", "seen")]
    assert len({turn.headers["webhook-id"] for turn in service.turns}) == 1
    assert len(service.turns) == 3


@pytest.mark.parametrize(
    ("play", "reason", "turns"),
    [
        (answers(b"", status=500), "answered with status 500 (3 attempts)", 3),
        (answers(b"", status=429, headers={"retry-after": "100"}), "answered with status 429", 1),
        (answers(b"", status=404), "answered with status 404", 1),
        (answers(b"", status=302, headers={"location": "/other"}), "answered with status 302", 1),
        (answers(b"", status=204), "answered with status 204", 1),
        (answers(b"no"), "not a JSON object", 1),
        (answers([ALLOW]), "not a JSON object", 1),
        (answers({}), "action: Field required", 1),
        (answers({"action": "permit"}), "action: Input should be", 1),
        (answers({"action": "allow", "reson": "typo"}), "reson: Extra inputs", 1),
        (answers({"action": "modify"}), "modifies, and has no body", 1),
        (answers({"action": "allow", "details": {"a b": 1}}), "a detail's name", 1),
        (answers({"action": "allow", "details": {"a": [1]}}), "details.a", 1),
        (answers({"action": "allow", "details": {"a": 2**64}}), "the detail a must be", 1),
        (answers(ALLOW | {"reason": "x" * 2000}), "answered with more than 1000 bytes", 1),
        (answers(ALLOW, headers={"content-encoding": "gzip"}), "compressed", 1),
        (cut, "could not be asked", 3),
    ],
)
@pytest.mark.parametrize("on_error", ["block", "allow"])
def test_whatever_goes_wrong_breaks_it(
    record_database: str,
    provider: ScriptedProvider,
    service: ScriptedProvider,
    play: Play,
    reason: str,
    turns: int,
    on_error: str,
) -> None:
    provider.will(answers(openai_response()))
    service.will(play)
    entry = {"on_error": on_error}
    with hooked(record_database, provider, service, entry=entry, sides=["request"], max_answer_bytes=1000) as gateway:
        response = gateway.post(OPENAI, openai_request())
        ((side, action, said),) = told(gateway, response)
        assert (side, action) == ("request", "error")
        assert said.startswith("WebhookFailed: the webhook")
        assert reason in said
        assert response.status_code == (200 if on_error == "allow" else 500)
    assert len(service.turns) == turns
    assert len(provider.turns) == (on_error == "allow")


def test_one_that_is_slow_or_down(record_database: str, provider: ScriptedProvider) -> None:
    service = ScriptedProvider()
    gate = service.gate()

    async def slow(turn: Turn) -> None:
        await gate.wait()
        await answers(ALLOW)(turn)

    service.will(slow)
    with hooked(record_database, provider, service, timeout_s=1) as gateway:
        response = gateway.post(OPENAI, openai_request())
        ((_, _, said),) = told(gateway, response)
        assert said == "WebhookFailed: the webhook at 127.0.0.1 did not answer within 1 s"
        gate.open()
        service.close()
        response = gateway.post(OPENAI, openai_request())
        ((_, _, said),) = told(gateway, response)
        assert response.status_code == 500
        assert said.startswith("WebhookFailed: the webhook at 127.0.0.1 could not be asked")


def test_texts_that_are_too_few(record_database: str, provider: ScriptedProvider, service: ScriptedProvider) -> None:
    service.will(answers({"action": "modify", "texts": []}))
    with hooked(record_database, provider, service, send="texts") as gateway:
        ((_, _, said),) = told(gateway, gateway.post(OPENAI, openai_request()))
        assert said == "WebhookFailed: the webhook's answer modifies, and has not the 1 texts it was sent"


def test_a_client_that_hangs_up(record_database: str, provider: ScriptedProvider, service: ScriptedProvider) -> None:
    gate = service.gate()

    async def never(turn: Turn) -> None:
        await gate.wait()

    service.will(never)
    with hooked(record_database, provider, service) as gateway:
        client = hanging(gateway)
        eventually(lambda: service.turns, bool)
        client.close()
        (call,) = eventually(
            lambda: gateway.get("/debug/calls.json").json()["calls"],
            lambda calls: calls and calls[0]["outcome"],
        )
        assert call["outcome"] == "client_disconnected"
        gate.open()
    assert provider.turns == []


def test_connections_are_used_again(
    record_database: str, provider: ScriptedProvider, service: ScriptedProvider
) -> None:
    provider.will(answers(openai_response()))
    with hooked(record_database, provider, service) as gateway:
        for _ in range(3):
            assert gateway.post(OPENAI, openai_request()).status_code == 200
    assert len(service.turns) == 6
    assert len({id(turn.writer) for turn in service.turns}) == 1


BASE = "policies:\n  - policy: webhook\n    config:\n      url: "


@pytest.mark.parametrize(
    ("more", "line", "mistake"),
    [
        ("ftp://a\n", 4, "url: must be an http:// or https:// address"),
        ("https://\u2603.example\n", 4, "url: is no address that can be asked"),
        ("https://user:pw@a.example\n", 4, "url: must have no credentials"),
        (
            "https://a.example\n      secret: {env: NOT_SET}\n",
            5,
            "secret: the environment variable NOT_SET is not set",
        ),
        ("https://a.example\n      secret: whsec_1234\n", 5, "secret: must be {env: NAME}"),
        ("https://a.example\n      secret: {env: HOOK_TOKEN}\n", 5, "secret: is no secret of Standard Webhooks"),
        ("https://a.example\n      secret: {env: NO_KEY}\n", 5, "secret: is no secret of Standard Webhooks"),
        ('https://a.example\n      headers: {x: " a"}\n', 5, "headers.x: must be printable ASCII without spaces"),
        ("https://a.example\n      headers: {host: a}\n", 5, "headers: the header 'host' cannot be set"),
        ('https://a.example\n      headers: {x: "a\\nb"}\n', 5, "headers.x: must be printable ASCII"),
        ("https://a.example\n      retries: 99\n", 5, "retries: "),
        ("https://a.example\n      send: all\n", 5, "send: "),
    ],
)
def test_mistakes_are_named_with_line_and_key(more: str, line: int, mistake: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_chain(ConfigFile("luthien.yaml", BASE + more))
    assert f"luthien.yaml:{line}: policies[0].config.{mistake}" in str(raised.value)
    assert "1234" not in str(raised.value)
    assert TOKEN not in str(raised.value)
