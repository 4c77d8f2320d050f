"""What a policy says without changing anything: remarks, details, and what the client hears of a block."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.exchange import Side
from luthien.formats.blocks import Block
from luthien.formats.format import WireFormat
from luthien.formats.registry import FORMATS
from luthien.formats.sse import Chunk
from luthien.policies.chain import Block as Blocked
from luthien.policies.chain import Chain, ChainRun
from luthien.policies.details import MAX_CHARS, details_as_json
from luthien.policies.models import ModelFailed
from luthien.policies.policy import Action, CallContext, Needs, Policy, Request, Response, Verdict
from luthien.policies.registry import make_step
from tests.chunks import chunks_of
from tests.wire import (
    anthropic_response,
    anthropic_stream,
    openai_response,
    openai_stream,
    responses_response,
    responses_stream,
)

WIRE = {
    "openai.chat_completions": (openai_response, openai_stream),
    "openai.responses": (responses_response, responses_stream),
    "anthropic.messages": (anthropic_response, anthropic_stream),
}
SEEN = Verdict.annotate("seen").with_details(score=0.5)


class OfChunks(Policy):
    async def on_response(self, response: Response) -> Verdict:
        response.body.clear()
        return SEEN

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        return (chunk,)

    def stream_verdict(self) -> Verdict:
        return SEEN


class OfBlocks(Policy):
    needs = Needs.BLOCKS

    async def on_block(self, block: Block) -> Verdict:
        block.drop("gone")
        return SEEN


class OfTheWhole(Policy):
    needs = Needs.WHOLE

    async def on_response(self, response: Response) -> Verdict:
        response.body.clear()
        return SEEN


def run_of(policy: type[Policy], wire_format: WireFormat) -> ChainRun:
    call = CallContext(UUID(int=0), wire_format, "m", streaming=True)
    return Chain((make_step("p", policy, None),)).open(call)


async def passed(run: ChainRun, chunks: Sequence[Chunk]) -> list[Chunk]:
    stream = run.stream()
    given: list[Chunk] = []
    for chunk in chunks[:-1]:
        given += await stream.feed(chunk)
    given += await stream.finish()
    stream.decide(b"")
    return given


@pytest.mark.parametrize("policy", [OfChunks, OfBlocks, OfTheWhole])
@pytest.mark.parametrize("wire_format", FORMATS, ids=lambda each: each.name)
class TestARemark:
    async def test_on_a_plain_response_changes_nothing(self, policy: type[Policy], wire_format: WireFormat) -> None:
        run = run_of(policy, wire_format)
        body = json.dumps(WIRE[wire_format.name][0](), indent=1).encode()
        assert await run.on_response(body) is body
        (decision,) = run.decisions
        assert (decision.verdict, decision.changed, decision.output) == (SEEN, False, None)

    async def test_on_a_stream_changes_nothing(self, policy: type[Policy], wire_format: WireFormat) -> None:
        run = run_of(policy, wire_format)
        chunks = chunks_of(WIRE[wire_format.name][1]("Hello ", "there"))
        given = await passed(run, chunks)
        assert all(one is other for one, other in zip(given, chunks[:-1], strict=True))
        (decision,) = run.decisions
        assert (decision.verdict, decision.changed, decision.output) == (SEEN, False, None)


class Changing(OfChunks):
    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        return (Chunk.of(chunk.json or {}, chunk.event),)


class TooLate(OfChunks):
    def stream_verdict(self) -> Verdict:
        return Verdict.block("too late")


async def test_a_remark_on_a_stream_that_was_changed_is_a_change() -> None:
    run = run_of(Changing, FORMATS[0])
    await passed(run, chunks_of(openai_stream("Hello")))
    (decision,) = run.decisions
    assert (decision.verdict.action, decision.verdict.reason, decision.verdict.count) == (Action.MODIFY, "seen", 1)
    assert decision.verdict.details == {"score": 0.5}


async def test_a_stream_that_has_passed_is_not_said_to_be_blocked() -> None:
    run = run_of(TooLate, FORMATS[0])
    await passed(run, chunks_of(openai_stream("Hello")))
    (decision,) = run.decisions
    assert decision.verdict.action is Action.ERROR
    assert "can be blocked no more" in decision.verdict.reason


class Teller(Policy):
    async def on_request(self, request: Request) -> Verdict:
        return Verdict.block("the score is 0.9", tell="not permitted")


async def test_the_client_may_be_told_something_else_than_the_record() -> None:
    run = run_of(Teller, FORMATS[0])
    await run.on_request(b"{}")
    assert run.blocked == Blocked("p", "not permitted")
    assert run.decisions[0].verdict.reason == "the score is 0.9"


class Asking(Policy):
    async def on_request(self, request: Request) -> Verdict:
        raise ModelFailed("it is down", UUID(int=7))


async def test_one_that_breaks_over_a_model_says_in_which_call() -> None:
    run = run_of(Asking, FORMATS[0])
    with pytest.raises(Exception, match="failed"):
        await run.on_request(b"{}")
    assert run.decisions[0].verdict.details == {"asked_call_id": str(UUID(int=7))}
    assert run.decisions[0].side is Side.REQUEST


class TestDetails:
    def test_are_kept_as_json(self) -> None:
        text = details_as_json({"score": 0.5, "count": 2, "is_sure": True, "why": 'It says "no" \0\ud800.'})
        assert json.loads(text or "") == {
            "score": 0.5,
            "count": 2,
            "is_sure": True,
            "why": 'It says "no" \ufffd\ufffd.',
        }
        assert details_as_json({}) is None

    @given(
        st.dictionaries(
            st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,31}", fullmatch=True),
            st.one_of(st.text(max_size=3000), st.text('"\\', max_size=2000), st.integers(-(2**63), 2**63 - 1)),
            max_size=12,
        )
    )
    def test_are_cut_to_what_fits_and_stay_json(self, details: dict[str, Any]) -> None:
        text = details_as_json(Verdict.allow().with_details(**details).details)
        assert (text is None) == (not details)
        if text is not None:
            assert len(text) <= MAX_CHARS
            assert {*json.loads(text)} == {*details}

    @pytest.mark.parametrize(
        ("details", "why"),
        [
            ({"a b": 1}, "a detail's name"),
            ({"é": 1}, "a detail's name"),
            ({"x" * 33: 1}, "a detail's name"),
            ({"a": None}, "must be a text"),
            ({"a": [1]}, "must be a text"),
            ({"a": float("nan")}, "must be a text"),
            ({"a": 2**63}, "must be a text"),
            ({f"a{number}": 1 for number in range(13)}, "there are 13 details"),
        ],
    )
    def test_that_cannot_be_kept_are_refused_at_once(self, details: dict[str, Any], why: str) -> None:
        with pytest.raises(ValueError, match=why):
            Verdict.allow().with_details(**details)

    def test_do_not_change_the_verdict_they_are_added_to(self) -> None:
        assert Verdict.allow().with_details(a=1).with_details(b=2).details == {"a": 1, "b": 2}
        assert Verdict.allow().details == {}
