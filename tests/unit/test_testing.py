"""`luthien.testing`: policies on calls without a gateway."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from luthien.errors import ConfigError, PolicyFailure
from luthien.exchange import new_call_id
from luthien.policies.models import ModelAnswer
from luthien.testing import Case, Played, lines, play, play_async
from tests.wire import (
    anthropic_request,
    anthropic_response,
    openai_request,
    openai_response,
    responses_request,
    responses_response,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "writing-policies.md"
CALLS: dict[str, tuple[Any, Any]] = {
    "openai.chat_completions": (openai_request("a"), openai_response("a")),
    "openai.responses": (responses_request("a"), responses_response("a")),
    "anthropic.messages": (anthropic_request("a"), anthropic_response("a")),
}
POLICY = """
from luthien.policies.policy import {imports}Needs, Policy, Verdict


class Mine(Policy):
{body}
"""


def configured(folder: Path, body: str, imports: str = "") -> Path:
    text = POLICY.format(body=body, imports=imports)
    (folder / "mine.py").write_text(text)
    path = folder / "luthien.yaml"
    path.write_text("policies: [{policy: './mine.py:Mine'}]")
    return path


def replacing(folder: Path) -> Path:
    rules = [{"find": "a", "replace": "b", "in": ["request", "response"]}]
    path = folder / "luthien.yaml"
    path.write_text(json.dumps({"policies": [{"policy": "replace_text", "config": {"rules": rules}}]}))
    return path


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("wire_format", [*CALLS])
def test_what_goes_on_is_what_the_policies_make_of_it(tmp_path: Path, wire_format: str, streamed: bool) -> None:
    request, response = CALLS[wire_format]
    played = play(Case.of(wire_format, request, response, streamed=streamed), config=replacing(tmp_path))
    assert played.request != request
    assert '"b"' in json.dumps(played.request)
    assert '"b"' in json.dumps(played.response)
    assert [each.split(":")[0] for each in played.reasons] == ["replace_text, request", "replace_text, response"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("wire_format", [*CALLS])
def test_without_a_policy_nothing_changes(tmp_path: Path, wire_format: str, streamed: bool) -> None:
    request, response = CALLS[wire_format]
    (tmp_path / "luthien.yaml").write_text("policies: []")
    played = play(Case.of(wire_format, request, response, streamed=streamed), config=tmp_path / "luthien.yaml")
    assert played == Played(request, response)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("needs", ["WHOLE", "BLOCKS"])
def test_a_block_ends_it(tmp_path: Path, needs: str, streamed: bool) -> None:
    hook = "on_response" if needs == "WHOLE" else "on_block"
    body = f"    needs = Needs.{needs}\n    async def {hook}(self, shown):\n        return Verdict.block('no')"
    case = Case.of("openai.chat_completions", openai_request(), openai_response(), streamed=streamed)
    played = play(case, config=configured(tmp_path, body))
    assert (played.request, played.response, played.blocked_by) == (openai_request(), None, "Mine")


def test_a_policy_that_breaks_is_named_with_what_it_broke_on(tmp_path: Path) -> None:
    body = "    async def on_request(self, request):\n        raise LookupError('x')"
    played = play(Case.of("openai.chat_completions", openai_request()), config=configured(tmp_path, body))
    assert (played.request, played.broken_by) == (None, "Mine")
    assert isinstance(played.error, PolicyFailure)
    assert isinstance(played.error.__cause__, LookupError)


def test_models_are_answered_by_who_is_given(tmp_path: Path) -> None:
    class Yes:
        async def ask(self, format_name: str, body: Any, **_: Any) -> ModelAnswer:
            return ModelAnswer(new_call_id(), {"said": "yes", "asked": body["model"]})

    body = (
        "    async def on_request(self, request):\n"
        "        answer = await self.call.models.ask('openai.chat_completions', {'model': 'm'})\n"
        "        return Verdict.block('no') if answer.body['said'] == 'yes' else Verdict.allow()"
    )
    case = Case.of("openai.chat_completions", openai_request())
    path = configured(tmp_path, body)
    assert play(case, config=path, models=Yes()).blocked_by == "Mine"
    assert play(case, config=path).broken_by == "Mine"


async def test_it_works_in_a_loop(tmp_path: Path) -> None:
    played = await play_async(Case.of("openai.chat_completions", openai_request("a")), config=replacing(tmp_path))
    assert played.request == openai_request("b")


def test_the_environment_names_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case.of("openai.chat_completions", openai_request("a"))
    monkeypatch.setenv("LUTHIEN_CONFIG", str(replacing(tmp_path)))
    assert play(case).request == openai_request("b")
    monkeypatch.setenv("LUTHIEN_CONFIG", str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match=r"there is no .*none\.yaml"):
        play(case)


def test_a_group_has_its_own_policies(tmp_path: Path) -> None:
    path = replacing(tmp_path)
    told = json.loads(path.read_text())
    told["groups"] = [{"name": "plain", "match": {"models": ["*"]}, "policies": []}]
    path.write_text(json.dumps(told))
    fixture = {"luthien_case": 1, "format": "openai.chat_completions", "request": {"before": openai_request("a")}}
    for group, text in ((None, "b"), ("plain", "a")):
        case = Case.from_json(json.dumps(fixture | {"group": group}))
        assert play(case, config=path).request == openai_request(text)
    with pytest.raises(ConfigError, match="has no group 'other'"):
        play(Case.from_json(json.dumps(fixture | {"group": "other"})), config=path)


def test_what_is_no_case_is_said() -> None:
    for text in ("[]", "{}", '{"luthien_case": 2}'):
        with pytest.raises(ValueError, match="this is no case"):
            Case.from_json(text)
    with pytest.raises(ValueError, match="there is no format 'x'; there are "):
        Case.of("x", {})


def test_lines_are_equal_only_if_types_are() -> None:
    assert lines({"a": 1}) != lines({"a": True})
    assert lines({"a": 1}) != lines({"a": 1.0})
    assert lines({"a": 1, "b": 2}) == lines({"b": 2, "a": 1})


def test_the_documents_example_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    shout, configuration = (
        re.search(rf"## In a file\n.*?```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "yaml")
    )
    example = re.search(r"## Trying it on calls\n.*?```python\n(.*?)```", text, re.DOTALL)
    assert shout is not None
    assert configuration is not None
    assert example is not None
    (tmp_path / "my_policy.py").write_text(shout[1])
    (tmp_path / "luthien.yaml").write_text(configuration[1])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example[1], "writing-policies.md", "exec"), names)  # noqa: S102 - our own document
    names["test_it_shouts"]()
