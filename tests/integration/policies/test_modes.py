"""`on_error: allow` and `mode: shadow` in a running gateway, and what the record says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from luthien.formats.sse import Chunk
from luthien.policies.policy import Policy, Request, Response, Verdict
from luthien.policies.registry import BUILTIN
from tests.dialects import CHAT, MESSAGES, Dialect, in_dialects
from tests.playbook import Gateway, Play, ScriptedProvider, answers, running_gateway, streams

OPENAI, ANTHROPIC = "/v1/chat/completions", "/v1/messages"
RULES = {"rules": [{"find": "Hello", "replace": "Bye"}]}


class Stern(Policy):
    """Blocks what says "block", and breaks on what says "break"."""

    async def on_request(self, request: Request) -> Verdict:
        return self._judge(" ".join(slot.text for slot in request.texts()))

    async def on_response(self, response: Response) -> Verdict:
        return self._judge(" ".join(slot.text for slot in response.texts()))

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        texts = self.call.format.chunk_texts(chunk.json or {})
        verdict = self._judge(" ".join(text for _, text in texts))
        return (chunk,) if verdict == Verdict.allow() else verdict

    @staticmethod
    def _judge(text: str) -> Verdict:
        if "break" in text:
            raise RuntimeError("the secret of the policy")
        return Verdict.block("not here") if "block" in text else Verdict.allow()


@pytest.fixture(autouse=True)
def stern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILTIN, "stern", Stern)


def play_of(dialect: Dialect, streamed: bool, text: str) -> Play:
    return streams(*dialect.stream(text, " there")) if streamed else answers(dialect.response(text))


def told(gateway: Gateway, response: Any) -> list[tuple[str, str, bool]]:
    decisions = gateway.call(response)["decisions"]
    return [(decision["side"], decision["action"], decision["shadow"]) for decision in decisions]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@in_dialects(CHAT, MESSAGES)
def test_shadow(record_database: str, provider: ScriptedProvider, dialect: Dialect, streamed: bool) -> None:
    """The provider and the client get what the other said, byte for byte; the record has what would have been."""
    provider.will(play_of(dialect, streamed, "Hello block"))
    policies: list[dict[str, Any]] = [
        {"policy": "replace_text", "config": RULES, "mode": "shadow"},
        {"policy": "stern", "mode": "shadow"},
    ]
    with running_gateway(record_database, provider.url, policies) as gateway:
        response = gateway.post(dialect.path, dialect.request("Hello", stream=streamed))
        assert provider.turns[0].json == dialect.request("Hello", stream=streamed)
        if streamed:
            assert response.content == b"".join(dialect.stream("Hello block", " there"))
        else:
            assert response.json() == dialect.response("Hello block")
        call = gateway.call(response)
        assert call["outcome"] == "completed"
        assert call["changed"] == {"request": False, "response": False}
        assert told(gateway, response) == [
            *(("request", "modify", True), ("request", "allow", True)),
            *(("response", "modify", True), ("response", "block", True)),
        ]
        assert call["verdict"] == (
            "no policy changed this call; in shadow, replace_text would have changed the request and the response; "
            "in shadow, stern would have blocked the response"
        )
        page = gateway.get(f"/debug/calls/{response.headers['luthien-call-id']}").text
        assert "would have blocked" in page
        assert "would have changed" in page


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@in_dialects(CHAT, MESSAGES)
def test_a_policy_that_breaks_and_may(
    record_database: str, provider: ScriptedProvider, dialect: Dialect, streamed: bool
) -> None:
    provider.will(play_of(dialect, streamed, "break"))
    with running_gateway(record_database, provider.url, [{"policy": "stern", "on_error": "allow"}]) as gateway:
        response = gateway.post(dialect.path, dialect.request("break", stream=streamed))
        assert provider.turns[0].json == dialect.request("break", stream=streamed)
        if streamed:
            assert response.content == b"".join(dialect.stream("break", " there"))
        else:
            assert response.json() == dialect.response("break")
        assert told(gateway, response) == [("request", "error", False), ("response", "error", False)]
        verdict = gateway.call(response)["verdict"]
        assert verdict == (
            "no policy changed this call; stern broke on the request, and the call went on without it; "
            "stern broke on the response, and the call went on without it"
        )
