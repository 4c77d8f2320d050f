"""What the documents say of `judge`, `webhook` and of writing policies, as it stands there."""

from __future__ import annotations

import base64
import copy
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.playbook import ScriptedProvider, answers, eventually, running_gateway, streams
from tests.ports import reserved_port
from tests.unit.formats.shown_parts import resolved
from tests.wire import (
    anthropic_request,
    anthropic_response,
    anthropic_stream,
    openai_request,
    openai_response,
    openai_stream,
    responses_request,
    responses_response,
    responses_stream,
)

DOCUMENTS = Path(__file__).parents[3] / "docs"
DOCUMENT = "".join((DOCUMENTS / name).read_text(encoding="utf-8") for name in ("policies.md", "writing-policies.md"))
OPENAI = "/v1/chat/completions"


def section(title: str) -> str:
    return re.split(r"\n##+ ", DOCUMENT.partition(f"# {title}\n")[2])[0]


def example(title: str, language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", section(title), re.DOTALL)
    return str(found)


def policies_of(title: str) -> Any:
    return yaml.safe_load(example(title, "yaml"))["policies"]


def test_the_judge(record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "sk-judge")
    judged = {"explanation": "It names a dose.", "probability": 0.85}
    provider.will(answers(openai_response("Take two.")), answers(openai_response(json.dumps(judged))))
    with running_gateway(record_database, provider.url, policies_of("`judge`")) as gateway:
        response = gateway.post(OPENAI, openai_request())
        assert response.status_code == 403
        call = gateway.call(response)
        assert call["decisions"][1]["details"]["explanation"] == "It names a dose."
    assert provider.turns[1].json["model"] == "gpt-4o-mini"
    assert "medical treatment" in provider.turns[1].json["messages"][0]["content"]


def test_the_webhook_and_its_service(
    record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_" + base64.b64encode(b"a secret of the test").decode())
    provider.will(answers(openai_response()))
    with reserved_port() as port, decision_service(tmp_path / "service.py", port):
        policies = policies_of("`webhook`")
        policies[0]["config"] |= {"url": policies[0]["config"]["url"].replace("8700", str(port)), "timeout_s": 20}
        with running_gateway(record_database, provider.url, policies) as gateway:
            assert gateway.post(OPENAI, openai_request("Hello")).json() == openai_response()
            response = gateway.post(OPENAI, openai_request("What is Project Falcon?"))
            assert response.status_code == 403
            assert response.json()["error"]["message"].endswith("Project Falcon is secret")
            (decision,) = gateway.call(response)["decisions"]
            assert decision["details"] == {"rule": "falcon"}


@contextmanager
def decision_service(program: Path, port: int) -> Iterator[None]:
    """The document's service for decisions, once it listens."""
    program.write_text(example("`webhook`", "python").replace("8700", str(port)), encoding="utf-8")
    service = subprocess.Popen([sys.executable, str(program)], stderr=subprocess.DEVNULL)
    try:
        assert eventually(lambda: listens(port), bool)
        yield
    finally:
        service.terminate()
        service.wait()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionError:
        return False
    return True


@pytest.mark.parametrize(("said", "action"), [("Yes.", "allow"), ("No.", "annotate")])
def test_a_policy_that_asks_a_model(
    record_database: str,
    provider: ScriptedProvider,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    said: str,
    action: str,
) -> None:
    monkeypatch.setenv("POLITE_API_KEY", "sk-polite")
    title = "Calling a model from a policy"
    (tmp_path / "polite.py").write_text(example(title, "python"), encoding="utf-8")
    policies = policies_of(title)
    policies[0]["policy"] = policies[0]["policy"].replace("./", f"{tmp_path}/")
    provider.will(answers(openai_response(said)), answers(openai_response()))
    with running_gateway(record_database, provider.url, policies) as gateway:
        response: httpx.Response = gateway.post(OPENAI, openai_request("Please?"))
        assert response.json() == openai_response()
        call = gateway.call(response)
        assert [each["action"] for each in call["decisions"]] == [action]
        assert call["decisions"][0]["details"] == {"asked_call_id": call["children"][0]["call_id"]}
    assert provider.turns[0].headers["authorization"] == "Bearer sk-polite"


RESULTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    OPENAI: (
        openai_request(),
        {"messages": [{"role": "tool", "tool_call_id": "1", "content": "found"}]},
        "/messages/0/content",
    ),
    "/v1/messages": (
        anthropic_request(),
        {
            "messages": [
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "found"}]},
            ]
        },
        "/messages/0/content/0/content",
    ),
    "/v1/responses": (
        responses_request(),
        {"input": [{"type": "function_call_output", "call_id": "1", "output": "found"}]},
        "/input/0/output",
    ),
}
IMAGES: dict[str, dict[str, Any]] = {
    OPENAI: {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    "/v1/messages": {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
    "/v1/responses": {"type": "input_image", "file_id": "file-1"},
}
ANSWERS = {OPENAI: openai_response(), "/v1/messages": anthropic_response(), "/v1/responses": responses_response()}


@pytest.mark.parametrize("path", [*RESULTS])
def test_the_policy_on_parts(path: str, record_database: str, provider: ScriptedProvider, tmp_path: Path) -> None:
    source = tmp_path / "guarded.py"
    source.write_text(example("All that a request is made of", "python"), encoding="utf-8")
    base, request, pointer = RESULTS[path]
    provider.will(answers(ANSWERS[path]))
    with running_gateway(record_database, provider.url, [{"policy": f"{source}:Guarded"}]) as gateway:
        assert gateway.post(path, {**base, **request}).json() == ANSWERS[path]
        (name,) = request
        pictured = gateway.post(path, {**base, name: [{"role": "user", "content": [IMAGES[path]]}]})
        assert pictured.status_code == 403
        assert f"no image may be sent: /{name}/0/content/0" in pictured.json()["error"]["message"]
    (turn,) = provider.turns
    marked = {**base, **copy.deepcopy(request)}
    parent, _, last = pointer.rpartition("/")
    resolved(marked, parent)[last] = "<data>found</data>"
    assert turn.json == marked


@pytest.mark.parametrize(
    ("path", "ask", "whole", "stream"),
    [
        pytest.param(OPENAI, openai_request, openai_response, openai_stream, id="chat"),
        pytest.param("/v1/responses", responses_request, responses_response, responses_stream, id="responses"),
        pytest.param("/v1/messages", anthropic_request, anthropic_response, anthropic_stream, id="messages"),
    ],
)
def test_policies_on_the_whole_and_on_chunks_with_a_configuration(
    record_database: str, provider: ScriptedProvider, tmp_path: Path, path: str, ask: Any, whole: Any, stream: Any
) -> None:
    names = {"Its configuration": "Short", "The whole": "NeverEmpty", "Chunks": "Counted"}
    for title, name in names.items():
        (tmp_path / f"{name.lower()}.py").write_text(example(title, "python"), encoding="utf-8")
    policies = [{"policy": f"{tmp_path}/{name.lower()}.py:{name}"} for name in names.values()]
    policies[0] |= {"config": policies_of("Its configuration")[0]["config"]}
    with running_gateway(record_database, provider.url, policies) as gateway:
        for play, fields in ((answers(whole("  \n ")), {}), (streams(*stream("  ", "\n", " ")), {"stream": True})):
            provider.will(play)
            response = gateway.post(path, ask("Hello", **fields))
            made = {each["policy"]: each for each in gateway.call(response)["decisions"]}
            assert {name: each["action"] for name, each in made.items()} == {
                "Counted": "annotate",
                "NeverEmpty": "annotate",
                "Short": "allow",
            }
            assert made["Counted"]["details"] == {"chars": 4}
        response = gateway.post(path, ask("Hello" * 50))
        assert response.status_code == 403
        assert "250 characters, and at most 200 are permitted" in response.text
