"""One provider, the gateways before it, and a script that is run against both ways to it."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tests.integration.clients.account import Account, Json
from tests.playbook import DEADLINE_S, Gateway, Play, ScriptedProvider, Turn, eventually, running_gateway

PATIENCE_S = DEADLINE_S
PROMPT = "I am jane@example.com. Hello!"
"""What every client says to the model, unless it has something else to say."""

NOBODY = "http://127.0.0.1:9"
"""Where nobody listens."""

POLICIES: dict[str, list[Json]] = {
    "none": [],
    "noop": [{"policy": "noop"}],
    "replace": [
        {
            "policy": "replace_text",
            "config": {"rules": [{"find": "secret", "replace": "[hidden]", "in": ["response"]}]},
        }
    ],
    "redact": [{"policy": "redact", "config": {"rules": [{"kinds": ["email"], "action": "reversible"}]}}],
    "drop_tools": [{"policy": "block_tools", "config": {"rules": [{"tool": "delete_*"}]}}],
    "block_tools": [{"policy": "block_tools", "config": {"rules": [{"tool": "delete_*"}], "action": "block"}}],
    "nobody": [],
    "limit": [{"policy": "limit", "config": {"models": {"deny": ["*-forbidden"]}}}],
}
"""By the name under which tests ask for them."""


@dataclass(frozen=True, slots=True)
class Side:
    """Where a client is pointed: straight at the provider, or at the gateway before it."""

    url: str
    model: str
    timeout_s: float = PATIENCE_S

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"


Script = Callable[[Side], Account]
"""One call, or a conversation, with one client; what it raises is in the account that it gives."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of one script on both ways."""

    direct: Account
    through: Account
    direct_turns: list[Turn]
    through_turns: list[Turn]
    calls: list[Json]
    """The record of the second, oldest first."""

    @property
    def call(self) -> Json:
        [call] = self.calls
        return call


class Setting:
    """The provider and its gateways, one for each set of policies, started when first asked for."""

    def __init__(self, dsn: str, provider: ScriptedProvider, stack: ExitStack) -> None:
        self.provider = provider
        self._dsn = dsn
        self._stack = stack
        self._gateways: dict[str, Gateway] = {}
        # Others may have recorded in the same database before.
        run = secrets.token_hex(4)
        self._models = (f"test-{run}-{number}" for number in itertools.count())

    def gateway(self, policies: str = "none") -> Gateway:
        if policies not in self._gateways:
            provider = NOBODY if policies == "nobody" else self.provider.url
            running = running_gateway(self._dsn, provider, POLICIES[policies])
            self._gateways[policies] = self._stack.enter_context(running)
        return self._gateways[policies]

    def direct(self) -> Side:
        """Straight to the provider, with a model's name that no other call has."""
        return Side(self.provider.url, next(self._models))

    def through(self, policies: str = "none") -> Side:
        return replace(self.direct(), url=self.gateway(policies).url)

    def calls(self, model: str, count: int = 1) -> list[Json]:
        """The record of the calls that asked for this model, oldest first, once all of it is stored."""
        gateway = self.gateway()

        def listed() -> list[str]:
            calls = gateway.get("/debug/calls.json?limit=200").json()["calls"]
            return [call["call_id"] for call in calls if call["model"]["requested"] == model]

        ids = eventually(listed, lambda found: len(found) >= count)
        assert len(ids) == count, f"{len(ids)} calls instead of {count} with the model {model}"
        return [gateway.call(each) for each in reversed(ids)]

    def compare(
        self,
        script: Script,
        *plays: Play,
        policies: str = "none",
        calls: int | None = None,
    ) -> Comparison:
        """The script's accounts of the same plays, directly and through the gateway.

        Args:
            calls: how many the gateway is expected to record; as many as the provider saw, if not said.
        """
        straight = self.direct()
        direct, direct_turns = self.run(script, straight, *plays)
        side = replace(straight, url=self.gateway(policies).url)
        through, through_turns = self.run(script, side, *plays)
        recorded = self.calls(side.model, len(through_turns) if calls is None else calls)
        return Comparison(direct, through, direct_turns, through_turns, recorded)

    def compare_impatient(self, script: Script, play: Play, said: str) -> Comparison:
        """The same of a client that gives up on a provider which says this much, and then nothing for ever.

        A second is enough for it to be told that on a quiet machine. Where it was not, the comparison would be of
        the machine: it is made again, with more patience.
        """
        for timeout_s in (1.0, 5.0, PATIENCE_S / 2):
            straight = replace(self.direct(), timeout_s=timeout_s)
            side = replace(straight, url=self.gateway().url)
            (direct, direct_turns), (through, through_turns) = (
                self.run(script, each, play) for each in (straight, side)
            )
            # Of an attempt before, one may come late.
            direct_turns = [turn for turn in direct_turns if turn.json["model"] == side.model]
            through_turns = [turn for turn in through_turns if turn.json["model"] == side.model]
            told = (direct.text, through.text, len(direct_turns), len(through_turns))
            if told == (said, said, 1, 1):
                break
        return Comparison(direct, through, direct_turns, through_turns, self.calls(side.model))

    def run(self, script: Script, side: Side, *plays: Play) -> tuple[Account, list[Turn]]:
        """The script's account, and what the provider was asked meanwhile."""
        self.provider.will(*plays)
        before = len(self.provider.turns)
        account = script(side)
        return account, self.provider.turns[before:]

    def recorded(
        self, script: Script, *plays: Play, policies: str = "none", calls: int = 1
    ) -> tuple[Account, list[Json]]:
        """The script's account through the gateway, and the record of its calls."""
        side = self.through(policies)
        account, _ = self.run(script, side, *plays)
        return account, self.calls(side.model, calls)


@contextmanager
def setting(dsn: str) -> Iterator[Setting]:
    provider = ScriptedProvider()
    try:
        with ExitStack() as stack:
            yield Setting(dsn, provider, stack)
    finally:
        provider.close()


def final(call: Json) -> Any:
    """What the client was given, as recorded."""
    return call["stages"]["response_final"]["payload"]


def ended(calls: Sequence[Json]) -> list[tuple[str, str | None]]:
    """How each call ended: its outcome and the type of its error."""
    return [(call["outcome"], call["error"] and call["error"]["type"]) for call in calls]
