"""The official Anthropic SDK, directly and through the gateway."""

from __future__ import annotations

import pytest

from tests.integration.clients import anthropic_players as players
from tests.integration.clients.adversity import ADVERSITIES, MESSAGES, Adversity
from tests.integration.clients.setting import Script, Setting, ended

@pytest.mark.parametrize("adversity", [pytest.param(each, id=name) for name, each in ADVERSITIES.items()])
@pytest.mark.parametrize("script", players.STREAMS.values(), ids=players.STREAMS)
def test_adverse_streams(scene: Setting, script: Script, adversity: Adversity) -> None:
    adversity.check(scene.compare(script, adversity.play(MESSAGES)))
