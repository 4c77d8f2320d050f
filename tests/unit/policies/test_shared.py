"""What the calls of a chain share: opened before the first, closed after the last, one for each place in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict

from luthien.exchange import Side
from luthien.formats.registry import OPENAI_CHAT
from luthien.policies.builtin.noop import Noop
from luthien.policies.chain import Chain
from luthien.policies.policy import CallContext, Needs, Policy, RecordedAs, Request, Response, Verdict
from luthien.policies.registry import make_step

CALL = CallContext(UUID(int=0), OPENAI_CHAT, "m", streaming=False)
LOG: list[str] = []


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    sides: tuple[Side, ...] = ()


class Sharing(Policy):
    Config = Settings

    @classmethod
    @asynccontextmanager
    async def sharing(cls, config: Settings) -> AsyncIterator[list[str]]:
        if config.name == "broken":
            raise LookupError("cannot be opened")
        LOG.append(f"{config.name} opened")
        try:
            yield [config.name]
        finally:
            LOG.append(f"{config.name} closed")

    async def on_request(self, request: Request) -> Verdict:
        return Verdict.annotate(f"{self.shared} {self.recorded_as.name}")


@pytest.fixture(autouse=True)
def log() -> None:
    LOG.clear()


def chain_of(*names: str) -> Chain:
    return Chain(tuple(make_step(f"step {name}", Sharing, Settings(name=name)) for name in names))


async def reasons(chain: Chain) -> list[str]:
    run = chain.open(CALL)
    await run.on_request(b"{}")
    return [decision.verdict.reason for decision in run.decisions]


async def test_it_lives_as_long_as_the_chain_runs() -> None:
    chain = chain_of("a", "b")
    assert await reasons(chain) == ["None step a", "None step b"]
    await chain.start()
    assert await reasons(chain) == ["['a'] step a", "['b'] step b"]
    assert LOG == ["a opened", "b opened"]
    await chain.stop()
    assert LOG == ["a opened", "b opened", "b closed", "a closed"]
    assert await reasons(chain) == ["None step a", "None step b"]


async def test_two_chains_of_one_configuration_share_nothing() -> None:
    """As when a configuration is read again: the old one still serves the calls that it has."""
    old, new = chain_of("a"), chain_of("a")
    await old.start()
    await new.start()
    await old.stop()
    assert await reasons(new) == ["['a'] step a"]
    await new.stop()


async def test_what_was_opened_before_one_that_fails_is_closed() -> None:
    chain = chain_of("a", "broken", "b")
    with pytest.raises(LookupError):
        await chain.start()
    assert LOG == ["a opened", "a closed"]
    await chain.stop()


async def test_a_policy_that_shares_nothing() -> None:
    chain = Chain((make_step("noop", Noop, None),))
    await chain.start()
    assert chain.open(CALL).decisions == []
    await chain.stop()
    assert Noop(None, CALL).recorded_as == RecordedAs("", "")


class OneSided(Policy):
    Config = Settings
    needs = Needs.WHOLE

    @classmethod
    def sides(cls, config: Settings) -> Collection[Side]:
        return config.sides

    async def on_request(self, request: Request) -> Verdict:
        return Verdict.annotate("request")

    async def on_response(self, response: Response) -> Verdict:
        return Verdict.annotate("response")


@pytest.mark.parametrize("sides", [(Side.REQUEST,), (Side.RESPONSE,), tuple(Side)], ids=str)
async def test_a_policy_sees_only_the_sides_that_it_asks_for(sides: tuple[Side, ...]) -> None:
    run = Chain((make_step("p", OneSided, Settings(name="p", sides=sides)),)).open(CALL)
    sees_responses = Side.RESPONSE in sides
    assert (run.reads_responses, run.stream().is_empty) == (sees_responses, not sees_responses)
    body: Any = b"{}"
    assert await run.on_response(await run.on_request(body)) is body
    assert [decision.verdict.reason for decision in run.decisions] == [side.value for side in sides]
