"""Every client against a real model, through the gateway: what it was told is what the record has."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from luthien.demo.model import local_model
from tests.integration.clients import anthropic_players, langchain_players, openai_players
from tests.integration.clients.account import Account, account_of
from tests.integration.clients.adversity import CHAT, MESSAGES, RESPONSES
from tests.integration.clients.setting import POLICIES, Script, Setting, Side, ended, final
from tests.integration.clients.test_llm import said_by
from tests.integration.clients.vercel_players import Play
from tests.playbook import Gateway, running_gateway

FORMATS = [CHAT, RESPONSES, MESSAGES]
SDKS: dict[str, Script] = {
    "openai chat": partial(openai_players.chat, max_tokens=24),
    # The helper raises when the answer is cut short, so it must come to an end of its own.
    "openai chat streamed": partial(
        openai_players.chat_helped,
        max_tokens=400,
        temperature=0,
        stop=[".", "!", "?"],
        stream_options={"include_usage": True},
    ),
    "openai responses": partial(openai_players.responses, max_output_tokens=24),
    "openai responses streamed": partial(openai_players.responses_streamed, max_output_tokens=24),
    "anthropic": anthropic_players.messages,
    # Not with the SDK's helper: it breaks on the server's stream of an answer that begins with an emoji.
    "anthropic streamed": partial(anthropic_players.streamed, extra_body={"temperature": 0}),
    **{f"langchain {each}": langchain_players.invoked(each) for each in FORMATS},
    **{f"langchain {each} streamed": langchain_players.streamed(each) for each in FORMATS},
}


@pytest.fixture(scope="module")
def real(shared_record_database: str) -> Iterator[Gateway]:
    """A gateway before the model. The policy keeps an address from it."""
    with (
        local_model(progress=lambda _: None) as url,
        running_gateway(shared_record_database, url, POLICIES["redact"]) as gateway,
    ):
        yield gateway


def check(scene: Setting, real: Gateway, script: Script, name: str) -> None:
    side = Side(real.url, f"real {name}", timeout_s=60)
    account: Account = script(side)
    assert account.failure is None
    assert account.text
    [call] = scene.calls(side.model)
    assert ended([call]) == [("completed", None)]
    assert account_of(final(call)).text == account.text
    assert call["tokens"]["output"] > 0
    assert "[email-1]" in str(call["stages"]["request_final"]["payload"])


@pytest.mark.parametrize("name", SDKS)
def test_a_call(scene: Setting, real: Gateway, name: str) -> None:
    check(scene, real, SDKS[name], name)


# The SDK refuses the stream of Responses that llama.cpp makes, with the gateway and without: it lacks an index.
@pytest.mark.parametrize(
    ("wire_format", "streaming"),
    [(CHAT, False), (CHAT, True), (RESPONSES, False), (MESSAGES, False), (MESSAGES, True)],
)
def test_a_call_of_vercels(scene: Setting, real: Gateway, play: Play, wire_format: str, streaming: bool) -> None:
    script = play(format=wire_format, streaming=streaming)
    check(scene, real, script, f"vercel {wire_format} {streaming}")


def test_a_call_of_llm(scene: Setting, real: Gateway, tmp_path: Path) -> None:
    check(scene, real, said_by(tmp_path), "llm")
