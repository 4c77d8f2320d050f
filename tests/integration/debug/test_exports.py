"""Exports: what leaves the pages says what the record has, and what runs does what the call did."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from luthien.testing import Case
from tests.integration.debug.har_schema import check_har
from tests.playbook import DEADLINE_S, TOKEN, Gateway, ScriptedProvider, answers, eventually, running_gateway, streams
from tests.programs import program
from tests.wire import (
    anthropic_request,
    anthropic_response,
    anthropic_stream,
    openai_request,
    openai_response,
    openai_stream,
    responses_request,
    responses_stream,
)

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
FALCON: dict[str, Any] = {
    "policy": "replace_text",
    "config": {"rules": [{"find": "Nightingale", "replace": "Falcon", "in": ["request", "response"]}]},
}
HOSTILE = "it's \"quoted\" `$(id)` $HOME \\ \n!! %s 'a' \N{SNOWMAN} é </script>"


@pytest.fixture
def changing(record_database: str, provider: ScriptedProvider) -> Iterator[Gateway]:
    with running_gateway(record_database, provider.url, [FALCON]) as gateway:
        yield gateway


def exported(gateway: Gateway, call_id: str, form: str) -> str:
    gateway.call(call_id)
    response = gateway.get(f"/debug/calls/{call_id}/export.{form}")
    assert response.status_code == 200, response.text
    assert response.headers["content-disposition"].startswith('attachment; filename="')
    return response.text


def called(gateway: Gateway, path: str, body: Any, **options: Any) -> str:
    return str(gateway.post(path, body, **options).headers["luthien-call-id"])


# JSON


def test_the_json_has_every_byte_every_decision_and_both_diffs(changing: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response("Nightingale it is")))
    sent = json.dumps(openai_request("Nightingale \N{SNOWMAN}"), ensure_ascii=False).encode()
    call_id = called(changing, CHAT, sent)
    told = json.loads(exported(changing, call_id, "json"))
    assert told["luthien_export"] == 1
    assert told["stages"]["request_original"]["encoding"] == "utf-8"
    assert told["stages"]["request_original"]["payload"].encode() == sent
    assert told["stages"]["request_final"]["payload"].encode() == provider.turns[0].body
    for name, stage in told["stages"].items():
        assert stage["payload"].encode() == changing.raw(call_id, name)
        assert len(stage["payload_sha256"]) == 64
    assert [each["policy"] for each in told["decisions"]] == ["replace_text", "replace_text"]
    assert told["diff"]["request"]["ops"]
    assert told["diff"]["response"]["ops"]
    assert [each["sequence"] for each in told["records"]] == list(range(told["records"][-1]["sequence"] + 1))


def test_bytes_that_are_no_text_are_in_base64(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(b"\xff\x00 no text"))
    call_id = called(gateway, CHAT, openai_request())
    stage = json.loads(exported(gateway, call_id, "json"))["stages"]["response_original"]
    assert stage["encoding"] == "base64"
    assert base64.b64decode(stage["payload"]) == b"\xff\x00 no text"


# HAR


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_the_archive_is_one_and_has_both_sides(changing: Gateway, provider: ScriptedProvider, path: str) -> None:
    is_chat = path == CHAT
    provider.will(answers(openai_response("Hi") if is_chat else anthropic_response("Hi")))
    body = openai_request("Nightingale") if is_chat else anthropic_request("Nightingale")
    call_id = called(changing, path, body, headers={"anthropic-version": "2023-06-01"})
    har = json.loads(exported(changing, call_id, "har"))
    check_har(har)
    client, upstream = har["log"]["entries"]
    assert client["request"]["url"] == f"{changing.url}{path}"
    assert upstream["request"]["url"] == f"{provider.url}{path}"
    assert client["request"]["postData"]["text"].encode() == changing.raw(call_id, "request_original")
    assert upstream["request"]["postData"]["text"].encode() == provider.turns[0].body
    assert {"name": "anthropic-version", "value": "2023-06-01"} in upstream["request"]["headers"]
    assert upstream["response"]["content"]["text"].encode() == changing.raw(call_id, "response_original")
    assert client["response"]["status"] == upstream["response"]["status"] == 200
    assert client["time"] >= upstream["time"] > 0
    assert har["log"]["_luthien"]["call"]["call_id"] == call_id


def test_the_archive_of_a_stream_says_that_it_is_put_together(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(streams(*openai_stream("Hel", "lo")))
    call_id = called(gateway, CHAT, openai_request(stream=True))
    har = json.loads(exported(gateway, call_id, "har"))
    check_har(har)
    for entry in har["log"]["entries"]:
        content = entry["response"]["content"]
        assert content["mimeType"] == "application/json"
        assert content["comment"] == "a stream, as the plain response that it adds up to"
        assert json.loads(content["text"])["choices"][0]["message"]["content"] == "Hello"


def test_the_archive_of_a_blocked_call_has_one_side(record_database: str, provider: ScriptedProvider) -> None:
    stop = {"policy": "limit", "config": {"max_messages": 1}}
    with running_gateway(record_database, provider.url, [stop]) as gateway:
        messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
        call_id = called(gateway, CHAT, openai_request() | {"messages": messages})
        har = json.loads(exported(gateway, call_id, "har"))
        check_har(har)
        [entry] = har["log"]["entries"]
        assert entry["response"]["status"] == 403
        assert entry["comment"] == "the request was never sent to the provider"
        missing = gateway.get(f"/debug/calls/{call_id}/export.curl-provider")
        assert missing.status_code == 404
        assert missing.json() == {"error": "the request was never sent to the provider"}


def test_bytes_in_an_archive(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(b"\xff\x00", headers={"content-type": "audio/mpeg"}))
    call_id = called(gateway, CHAT, b"\xfe no JSON")
    har = json.loads(exported(gateway, call_id, "har"))
    check_har(har)
    request = har["log"]["entries"][0]["request"]["postData"]
    assert base64.b64decode(request["_luthien"]["text"]) == b"\xfe no JSON"
    call_id = called(gateway, CHAT, openai_request())
    content = json.loads(exported(gateway, call_id, "har"))["log"]["entries"][1]["response"]["content"]
    assert content["encoding"] == "base64"
    assert content["mimeType"] == "audio/mpeg"
    assert base64.b64decode(content["text"]) == b"\xff\x00"


# curl


def run_shell(command: str, **environment: str) -> bytes:
    """What the command, which calls curl, prints."""
    program("curl")
    told = {"PATH": os.environ["PATH"], "no_proxy": "127.0.0.1"} | environment
    done = subprocess.run(["/bin/sh"], input=command.encode(), capture_output=True, timeout=60, env=told, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return done.stdout


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(openai_request(HOSTILE), ensure_ascii=False).encode(),
        json.dumps(openai_request(HOSTILE), indent=2).encode(),
        b'@/etc/passwd {"not": "JSON"}',
        b'{"nul": "\x00", "messages": []}',
        b"\xff\xfe\x00 bytes",
        '{"bidi": "\u202eevil\u200b"}\r\n\t'.encode(),
        json.dumps(openai_request("'" * 70_000)).encode(),
        json.dumps(openai_request("x" * 600_000)).encode(),
        b"-H --output /tmp/x",
        b"\n\n",
    ],
    ids=["hostile", "lines", "at", "nul", "bytes", "invisible", "quotes", "large", "options", "blank"],
)
def test_what_curl_sends_to_the_gateway_is_what_the_client_sent(
    gateway: Gateway, provider: ScriptedProvider, body: bytes
) -> None:
    provider.will(answers(openai_response()))
    headers = {"content-type": "application/json; it's=x", "user-agent": "agent/1 (a 'b' \"c\" $d `e` \\ 100%)"}
    call_id = called(gateway, CHAT, body, headers=headers | {"authorization": "Bearer sk-hidden"})
    command = exported(gateway, call_id, "curl")
    assert "sk-hidden" not in command
    run_shell(command, OPENAI_API_KEY="sk-from-variable")
    newest = eventually(
        lambda: gateway.get("/debug/calls.json").json()["calls"][0]["call_id"], lambda it: it != call_id
    )
    again = str(gateway.call(newest)["call_id"])
    assert again != call_id
    assert gateway.raw(again, "request_original") == body
    records = [json.loads(exported(gateway, each, "json"))["records"][0]["attributes"] for each in (call_id, again)]
    assert records[0]["luthien.request.headers"] == records[1]["luthien.request.headers"]


@pytest.mark.parametrize(
    ("path", "body", "response", "variable", "header"),
    [
        (CHAT, openai_request("Nightingale's"), openai_response(), "OPENAI_API_KEY", "authorization"),
        (MESSAGES, anthropic_request("Nightingale's"), anthropic_response(), "ANTHROPIC_API_KEY", "x-api-key"),
    ],
)
def test_what_curl_sends_to_the_provider_is_what_the_gateway_sent(
    changing: Gateway,
    provider: ScriptedProvider,
    path: str,
    body: dict[str, Any],
    response: dict[str, Any],
    variable: str,
    header: str,
) -> None:
    provider.will(answers(response))
    shown = {header: "Bearer a-key" if header == "authorization" else "a-key"}
    call_id = called(changing, path, body, headers=shown | {"anthropic-version": "2023-06-01"})
    output = run_shell(exported(changing, call_id, "curl-provider"), **{variable: "a-key"})
    first, second = provider.turns
    assert b"Falcon" in first.body
    assert (second.method, second.path, second.body) == (first.method, first.path, first.body)
    ours = {"host", "accept-encoding", "connection", "traceparent", "content-length"}
    assert {k: v for k, v in second.headers.items() if k not in ours} == {
        k: v for k, v in first.headers.items() if k not in ours
    }
    assert json.loads(output) == response


def test_a_gateway_key_is_a_variable_of_its_own(
    record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_A", "a-gateway-key-of-24-chars")
    monkeypatch.setenv("REAL_KEY", "sk-real")
    key = {"name": "a", "key": {"env": "TEAM_A"}, "upstreams": {"openai": {"env": "REAL_KEY"}}}
    provider.will(answers(openai_response()))
    more = {"keys": [key], "accept_provider_keys": False}
    with running_gateway(record_database, provider.url, more=more) as gateway:
        shown = {"authorization": "Bearer a-gateway-key-of-24-chars"}
        call_id = called(gateway, CHAT, openai_request(), headers=shown)
        command = exported(gateway, call_id, "curl")
        assert '"authorization: Bearer $LUTHIEN_KEY"' in command
        assert b"chat.completion" in run_shell(command, LUTHIEN_KEY="a-gateway-key-of-24-chars")
        assert "$OPENAI_API_KEY" in exported(gateway, call_id, "curl-provider")


def test_masked_credentials_are_variables_in_the_body(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response()))
    tools = [
        {"type": "mcp", "server_url": "https://x.example", "authorization": "secret-1", "server_label": "it's"},
        {"type": "mcp", "server_url": "https://y.example/?key=secret-2", "server_label": "b"},
    ]
    body = json.dumps(responses_request("Hi") | {"tools": tools}, separators=(",", ":")).encode()
    call_id = called(gateway, RESPONSES, body)
    command = exported(gateway, call_id, "curl-provider")
    assert "secret" not in command
    assert "masked in the record" in command
    run_shell(command, OPENAI_API_KEY="k", MASKED_CREDENTIAL_1="secret-1", MASKED_CREDENTIAL_2="key=secret-2")
    assert json.loads(provider.turns[-1].body) == json.loads(body)


def test_what_is_passed_through_goes_where_it_went(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers({"data": []}))
    call_id = str(gateway.get("/v1/models", {"authorization": "Bearer k"}).headers["luthien-call-id"])
    assert b'"data"' in run_shell(exported(gateway, call_id, "curl-provider"), OPENAI_API_KEY="k")
    assert [(turn.method, turn.path) for turn in provider.turns] == [("GET", "/v1/models")] * 2
    assert gateway.get(f"/debug/calls/{call_id}/export.pytest").json() == {
        "error": "no policy looks at what is passed through"
    }


# pytest and fixtures


def run_pytest(folder: Path, call_id: str, source: str, policies: list[dict[str, Any]]) -> tuple[int, str]:
    """Runs the generated file where nothing but Luthien and pytest is."""
    folder.mkdir(exist_ok=True)
    (folder / "luthien.yaml").write_text(json.dumps({"policies": policies}))
    (folder / f"test_call_{UUID(call_id).hex}.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(folder)]
    environment = {
        **os.environ,
        "LUTHIEN_CONFIG": str(folder / "luthien.yaml"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=folder, env=environment, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("wire", ["chat", "chat stream", "responses stream", "messages", "messages stream"])
def test_the_generated_test_passes_and_fails_when_the_policy_is_changed(
    changing: Gateway, provider: ScriptedProvider, tmp_path: Path, wire: str
) -> None:
    text = "a Nightingale's '''song'''"
    path, body, play = {
        "chat": (CHAT, openai_request(text), answers(openai_response(text))),
        "chat stream": (CHAT, openai_request(text, stream=True), streams(*openai_stream("Night", "ingale", "!"))),
        "responses stream": (
            RESPONSES,
            responses_request(text, stream=True),
            streams(*responses_stream("Night", "ingale", "!")),
        ),
        "messages": (MESSAGES, anthropic_request(text), answers(anthropic_response(text))),
        "messages stream": (
            MESSAGES,
            anthropic_request(text, stream=True),
            streams(*anthropic_stream("Night", "ingale", "!")),
        ),
    }[wire]
    provider.will(play)
    call_id = called(changing, path, body)
    source = exported(changing, call_id, "pytest")
    status, said = run_pytest(tmp_path, call_id, source, [FALCON])
    assert (status, "1 passed" in said) == (0, True), said
    for sides in (["request"], ["response"]):
        rules = [{"find": "Nightingale", "replace": "Falcon", "in": sides}]
        other = {"policy": "replace_text", "config": {"rules": rules}}
        status, said = run_pytest(tmp_path, call_id, source, [other])
        assert (status, "Falcon" in said) == (1, True), said


@pytest.mark.parametrize("side", ["request", "response"])
def test_the_generated_test_of_a_blocked_call(
    record_database: str, provider: ScriptedProvider, tmp_path: Path, side: str
) -> None:
    if side == "request":
        stop: dict[str, Any] = {"policy": "limit", "config": {"max_messages": 1}}
        body = openai_request() | {"messages": [{"role": "user", "content": "a"}] * 2}
    else:
        stop = {
            "policy": "redact",
            "config": {"rules": [{"kinds": ["email"], "action": "block", "in": ["response"]}]},
        }
        body = openai_request("Hi")
    provider.will(answers(openai_response("write to ada@example.com")))
    with running_gateway(record_database, provider.url, [stop]) as gateway:
        call_id = called(gateway, CHAT, body)
        assert gateway.call(call_id)["outcome"] == "blocked"
        source = exported(gateway, call_id, "pytest")
    status, said = run_pytest(tmp_path, call_id, source, [stop])
    assert status == 0, said
    status, said = run_pytest(tmp_path, call_id, source, [])
    assert status == 1, said


def test_a_fixture_is_a_case(changing: Gateway, provider: ScriptedProvider, tmp_path: Path) -> None:
    provider.will(answers(openai_response("Nightingale")))
    call_id = called(changing, CHAT, openai_request("Nightingale"))
    fixture = exported(changing, call_id, "fixture")
    told = json.loads(fixture)
    assert told["request"]["before"] == openai_request("Nightingale")
    assert told["request"]["after"] == openai_request("Falcon")
    assert told["response"]["after"] == openai_response("Falcon")
    (tmp_path / "one.case.json").write_text(fixture)
    case = Case.read(tmp_path / "one.case.json")
    assert case.request_after == openai_request("Falcon")
    source = (
        "import pathlib, pytest\nfrom luthien.testing import Case, play\n"
        "@pytest.mark.parametrize('path', list(pathlib.Path(__file__).parent.glob('*.case.json')))\n"
        "def test_case(path):\n    case = Case.read(path)\n    played = play(case)\n"
        "    assert played.request == case.request_after\n    assert played.response == case.response_after\n"
    )
    status, said = run_pytest(tmp_path, call_id, source, [FALCON])
    assert (status, "1 passed" in said) == (0, True), said
    assert run_pytest(tmp_path, call_id, source, [])[0] == 1


def test_what_policies_asked_of_models_is_answered_as_it_was(
    record_database: str, provider: ScriptedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "sk-judge")
    judge: dict[str, Any] = {
        "policy": "judge",
        "config": {
            "model": "gpt-4o-mini",
            "credential": {"env": "JUDGE_API_KEY"},
            "question": "Does it give medical advice?",
            "threshold": 0.5,
        },
    }
    provider.will(
        answers(openai_response(json.dumps({"explanation": "harmless", "probability": 0.1}))),
        answers(openai_response("Take two.")),
        answers(openai_response(json.dumps({"explanation": "a dose", "probability": 0.9}))),
    )
    with running_gateway(record_database, provider.url, [judge]) as gateway:
        call_id = called(gateway, CHAT, openai_request("What helps?"))
        assert gateway.call(call_id)["outcome"] == "blocked"
        source = exported(gateway, call_id, "pytest")
    provider.will(answers({}, status=500))
    status, said = run_pytest(tmp_path, call_id, source, [judge])
    assert status == 0, said
    judge["config"]["threshold"] = 0.95
    status, said = run_pytest(tmp_path, call_id, source, [judge])
    assert status == 1, said


# NDJSON


def lines_of(gateway: Gateway, query: str = "") -> list[dict[str, Any]]:
    response = gateway.get(f"/debug/calls/export.ndjson{query}")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


def test_the_lines_are_the_calls_newest_first(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response()))
    made = [called(gateway, CHAT, openai_request(str(each))) for each in range(5)]
    gateway.call(made[-1])
    assert [line["call_id"] for line in lines_of(gateway)] == made[::-1]
    assert [line["call_id"] for line in lines_of(gateway, "?limit=2")] == made[:2:-1]
    older = lines_of(gateway, f"?before={made[2]}&payloads=0")
    assert [line["call_id"] for line in older] == [made[1], made[0]]
    assert "stages" not in older[0]
    whole = lines_of(gateway, "?limit=1")[0]
    assert json.loads(whole["stages"]["request_original"]["payload"]) == openai_request("4")


def test_what_is_no_filter_is_said(gateway: Gateway) -> None:
    for query in ("?colour=red", "?outcome=odd", "?since=yesterdayish"):
        response = gateway.get(f"/debug/calls/export.ndjson{query}")
        assert response.status_code == 400
        assert response.json()["parameter"] == query[1:].split("=")[0]
    for query in ("?limit=0", "?limit=1000001", "?before=x"):
        assert gateway.get(f"/debug/calls/export.ndjson{query}").status_code == 422


def test_a_client_that_hangs_up_ends_the_export(gateway: Gateway, provider: ScriptedProvider) -> None:
    """The gateway stops in order at the end of this test, and its connections answer others."""
    provider.will(answers(openai_response("x" * 1_000_000)))
    made = [called(gateway, CHAT, openai_request()) for _ in range(12)]
    gateway.call(made[-1])
    url = f"{gateway.url}/debug/calls/export.ndjson"

    def begins() -> bool:
        """There is room for it once it was seen that one before it hung up."""
        with httpx.stream("GET", url, headers=gateway.headers, timeout=DEADLINE_S) as response:
            return response.status_code == 200 and next(response.iter_bytes(100)) != b""

    for _ in range(6):  # more than there are connections to the database
        assert eventually(begins, bool)
    path = "/debug/calls/export.ndjson?payloads=0"
    response = eventually(lambda: gateway.get(path), lambda response: response.status_code == 200)
    assert len(response.text.splitlines()) == 12


# Who may


def test_nobody_exports_without_signing_in(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response()))
    call_id = called(gateway, CHAT, openai_request("a secret"))
    gateway.call(call_id)
    forms = ["export.json", "export.har", "export.curl", "export.curl-provider", "export.pytest", "export.fixture"]
    for path in (*(f"{call_id}/{form}" for form in forms), f"{call_id}/exports", "export.ndjson"):
        response = gateway.get(f"/debug/calls/{path}", headers={})
        assert response.status_code == 401
        assert "a secret" not in response.text
        assert gateway.get(f"/debug/calls/{path}").status_code == 200
    assert gateway.get(f"/debug/calls/{call_id}/export.pdf").status_code == 404
    assert gateway.get("/debug/calls/01900000-0000-7000-8000-000000000000/export.har").status_code == 404
    assert gateway.get("/debug/calls/nonsense/exports").status_code == 404


def test_the_page_of_exports_shows_what_to_copy(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response()))
    call_id = called(gateway, CHAT, openai_request("</textarea><script>alert(1)</script>"))
    gateway.call(call_id)
    html = gateway.get(f"/debug/calls/{call_id}/exports", gateway.headers | {"accept": "text/html"}).text
    assert "<script>alert" not in html
    assert "&lt;/textarea&gt;&lt;script&gt;" in html
    assert "$OPENAI_API_KEY" in html
    assert TOKEN not in html
    assert f'href="/debug/calls/{call_id}/export.har"' in html
    call_page = gateway.get(f"/debug/calls/{call_id}", gateway.headers | {"accept": "text/html"}).text
    assert 'aria-label="Export"' in call_page
