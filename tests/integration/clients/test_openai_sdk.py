"""The official OpenAI SDK, directly and through the gateway."""

from __future__ import annotations

from functools import partial

import pytest

from tests.integration.clients import openai_players as players
from tests.integration.clients.account import account_of
from tests.integration.clients.adversity import ADVERSITIES, CHAT, RESPONSES, Adversity
from tests.integration.clients.setting import Comparison, Script, Setting, ended, final

STREAMS = [
    *(pytest.param(CHAT, script, id=f"chat {way}") for way, script in players.CHAT_STREAMS.items()),
    *(pytest.param(RESPONSES, script, id=f"responses {way}") for way, script in players.RESPONSES_STREAMS.items()),
]


@pytest.mark.parametrize("adversity", [pytest.param(each, id=name) for name, each in ADVERSITIES.items()])
@pytest.mark.parametrize(("wire_format", "script"), STREAMS)
def test_adverse_streams(scene: Setting, wire_format: str, script: Script, adversity: Adversity) -> None:
    adversity.check(scene.compare(script, adversity.play(wire_format)))
