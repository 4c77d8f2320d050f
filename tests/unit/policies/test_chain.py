"""Policies in a row: what each of them was shown, what it decided, and what came of it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict

from luthien.errors import PolicyFailure
from luthien.exchange import Side
from luthien.formats.registry import OPENAI_CHAT
from luthien.formats.sse import Chunk, FrameReader
from luthien.policies.builtin.noop import Noop
from luthien.policies.chain import Block, Chain, ChainRun, Decision, StreamRun
from luthien.policies.policy import Action, CallContext, Policy, Request, Response, Verdict
from luthien.policies.registry import make_step
from tests.wire import Json, openai_chunk, openai_request

CALL = CallContext(UUID(int=0), OPENAI_CHAT, "m", streaming=True)
BODY = json.dumps(openai_request("Hello"), indent=1).encode()


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    text: str = "!"


class Configured(Policy):
    Config = Settings


def chain_of(*policies: type[Policy] | tuple[type[Policy], str]) -> Chain:
    pairs = [entry if isinstance(entry, tuple) else (entry, "!") for entry in policies]
    return Chain(tuple(make_step(policy.__name__, policy, Settings(text=text)) for policy, text in pairs))


def run_of(*policies: type[Policy] | tuple[type[Policy], str]) -> ChainRun:
    return chain_of(*policies).open(CALL)


class Append(Configured):
    """Puts its text behind every text."""

    async def on_request(self, request: Request) -> Verdict:
        for slot in request.texts():
            slot.set(slot.text + self.config.text)
        return Verdict.modify("appended")

    async def on_response(self, response: Response) -> Verdict:
        for slot in response.texts():
            slot.set(slot.text + self.config.text)
        return Verdict.modify("appended")

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        texts = [text + self.config.text for _, text in OPENAI_CHAT.chunk_texts(chunk.json or {})]
        return (OPENAI_CHAT.with_chunk_texts(chunk, texts),) if texts else (chunk,)


class Forgetful(Policy):
    """Changes what it is shown and does not say so."""

    async def on_request(self, request: Request) -> Verdict:
        request.body["messages"].clear()
        request.body["model"] = "changed"
        return Verdict.allow()


class Annotator(Policy):
    async def on_request(self, request: Request) -> Verdict:
        request.body.clear()
        return Verdict.annotate("seen")


class Pretender(Policy):
    """Says it changed something."""

    async def on_request(self, request: Request) -> Verdict:
        return Verdict.modify("nothing, really", 3)


class Blocker(Configured):
    async def on_request(self, request: Request) -> Verdict:
        request.body["model"] = "changed"
        return Verdict.block("not today")


class Broken(Policy):
    async def on_request(self, request: Request) -> Verdict:
        raise LookupError(f"lost {request.texts()[0].text}")


class Unserialisable(Policy):
    async def on_request(self, request: Request) -> Verdict:
        request.body["messages"] = {1, 2}
        return Verdict.modify()


class Speechless(Policy):
    async def on_request(self, request: Request) -> Verdict:
        return None  # type: ignore[return-value]


def actions(decisions: Sequence[Decision]) -> list[tuple[str, Action, bool]]:
    return [(decision.step.name, decision.verdict.action, decision.changed) for decision in decisions]


class TestRequests:
    async def test_an_empty_chain_gives_back_the_very_bytes(self) -> None:
        run = run_of()
        assert await run.on_request(BODY) is BODY
        assert run.decisions == []
        assert run.blocked is None

    async def test_without_a_change_the_very_bytes_go_on(self) -> None:
        run = run_of(Noop, Annotator, Pretender, Forgetful)
        assert await run.on_request(BODY) is BODY

    async def test_each_policy_sees_what_the_one_before_it_left(self) -> None:
        run = run_of((Append, "1"), (Append, "2"))
        result = json.loads(await run.on_request(BODY))
        assert result["messages"][0]["content"] == "Hello12"
        assert actions(run.decisions) == [("Append", Action.MODIFY, True)] * 2

    async def test_a_change_that_is_not_declared_is_forgotten(self) -> None:
        run = run_of(Forgetful, Annotator, (Append, "."))
        result = json.loads(await run.on_request(BODY))
        assert result == openai_request("Hello.")
        assert actions(run.decisions) == [
            ("Forgetful", Action.ALLOW, False),
            ("Annotator", Action.ANNOTATE, False),
            ("Append", Action.MODIFY, True),
        ]

    async def test_a_declared_change_that_is_none_counts_as_none(self) -> None:
        run = run_of(Pretender)
        await run.on_request(BODY)
        (decision,) = run.decisions
        assert (decision.verdict, decision.changed) == (Verdict.modify("nothing, really", 3), False)
        assert (decision.output, decision.output_sha256) == (None, None)

    async def test_what_a_step_gave_on_is_kept_with_its_hash(self) -> None:
        run = run_of((Append, "1"), Noop, (Append, "2"))
        final = await run.on_request(BODY)
        first, untouched, last = run.decisions
        assert json.loads(first.output or b"")["messages"][0]["content"] == "Hello1"
        assert untouched.output is None
        assert last.output == final
        assert last.output_sha256 == hashlib.sha256(final).digest()
        assert [decision.position for decision in run.decisions] == [0, 1, 2]
        assert {decision.side for decision in run.decisions} == {Side.REQUEST}
        assert all(decision.duration_s >= 0 and decision.chunks is None for decision in run.decisions)

    async def test_a_block_stops_the_chain(self) -> None:
        run = run_of((Append, "1"), Blocker, Broken)
        assert json.loads(await run.on_request(BODY)) == openai_request("Hello1")
        assert run.blocked == Block("Blocker", "not today")
        assert actions(run.decisions) == [("Append", Action.MODIFY, True), ("Blocker", Action.BLOCK, False)]

    @pytest.mark.parametrize(
        ("policy", "reason"),
        [
            (Broken, "LookupError: lost Hello!"),
            (Unserialisable, "TypeError: Object of type set is not JSON serializable"),
            (Speechless, "AttributeError: 'NoneType' object has no attribute 'action'"),
        ],
    )
    async def test_a_policy_that_breaks_stops_the_call(
        self, policy: type[Policy], reason: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The record says what was wrong; neither the client nor the log is told of any data."""
        run = run_of(Append, policy, Blocker)
        with pytest.raises(PolicyFailure) as raised, caplog.at_level(logging.ERROR):
            await run.on_request(BODY)
        assert actions(run.decisions)[1:] == [(policy.__name__, Action.ERROR, False)]
        assert run.decisions[1].verdict.reason == reason
        assert str(raised.value) == f"the policy {policy.__name__!r} failed, so the call was stopped"
        assert (raised.value.status, raised.value.code) == (500, "policy_error")
        assert policy.__name__ in caplog.text
        assert "Hello" not in caplog.text
        assert run.blocked is None

    async def test_a_body_that_has_numbers_without_a_json_form_can_be_changed(self) -> None:
        run = run_of((Append, "."))
        result = await run.on_request(b'{"messages":[{"content":"a"}],"logit_bias":-Infinity}')
        assert result == b'{"messages":[{"content":"a."}],"logit_bias":-Infinity}'

    async def test_each_call_has_policies_of_its_own(self) -> None:
        class Counter(Policy):
            async def on_request(self, request: Request) -> Verdict:
                self.seen = getattr(self, "seen", 0) + 1
                return Verdict.annotate(str(self.seen))

        chain = chain_of(Counter)
        runs = [chain.open(CALL), chain.open(CALL)]
        for run in runs:
            await run.on_request(BODY)
        assert [run.decisions[0].verdict.reason for run in runs] == ["1", "1"]

    async def test_policies_without_the_hook_are_not_asked(self) -> None:
        class OnlyChunks(Policy):
            async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
                return (chunk,)

        run = run_of(OnlyChunks)
        assert await run.on_request(BODY) is BODY
        assert not run.reads_responses
        assert run.decisions == []


class TestResponses:
    async def test_responses_go_the_same_way(self) -> None:
        run = run_of((Append, "1"), (Append, "2"))
        assert run.reads_responses
        body = b'{"choices":[{"message":{"content":"Hi"}}]}'
        assert json.loads(await run.on_response(body))["choices"][0]["message"]["content"] == "Hi12"
        assert {decision.side for decision in run.decisions} == {Side.RESPONSE}

    def test_a_policy_that_would_let_streams_pass_it_by_is_refused(self) -> None:
        class Half(Policy):
            async def on_response(self, response: Response) -> Verdict:
                return Verdict.allow()

        with pytest.raises(TypeError, match="Half overrides on_response and must override on_chunk too"):
            make_step("half", Half, None)


def text_chunks(*texts: str) -> list[Chunk]:
    return list(FrameReader(1 << 20).feed(b"".join(openai_chunk({"content": text}) for text in texts)))


def said(chunks: Sequence[Chunk]) -> str:
    return "".join(text for chunk in chunks for _, text in OPENAI_CHAT.chunk_texts(chunk.json or {}))


def content(payload: bytes | None) -> str:
    text: str = json.loads(payload or b"")["choices"][0]["message"]["content"]
    return text


class Hold(Policy):
    """Gives everything on at the end."""

    def __init__(self, config: Any, call: CallContext) -> None:
        super().__init__(config, call)
        self.held: list[Chunk] = []

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        self.held.append(chunk)
        return ()

    async def on_stream_end(self) -> Sequence[Chunk] | Verdict:
        return self.held


class Late(Configured):
    """Gives each chunk on with the one after it."""

    held: Chunk | None = None

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        before, self.held = self.held, chunk
        return [] if before is None else [before]

    async def on_stream_end(self) -> Sequence[Chunk] | Verdict:
        return [] if self.held is None else [self.held]


class Without(Configured):
    """Drops the chunks that say its text."""

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        return () if said([chunk]) == self.config.text else (chunk,)


class Twice(Configured):
    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        return (chunk, chunk)


class BlockAt(Configured):
    """Blocks the chunk that says its text, or the end."""

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        return Verdict.block("enough") if said([chunk]) == self.config.text else (chunk,)

    async def on_stream_end(self) -> Sequence[Chunk] | Verdict:
        return Verdict.block("enough") if self.config.text == "end" else ()


async def streamed(stream: StreamRun, chunks: Sequence[Chunk]) -> list[Chunk]:
    """What the client is given up to a block."""
    given_on: list[Chunk] = []
    for chunk in chunks:
        given_on += await stream.feed(chunk)
    if stream.blocked is None:
        given_on += await stream.finish()
    return given_on


class TestStreams:
    async def test_without_policies_that_read_streams_there_is_nothing_to_do(self) -> None:
        assert run_of(Forgetful, Blocker).stream().is_empty
        assert not run_of(Noop).stream().is_empty

    async def test_chunks_that_are_not_changed_are_the_same_objects(self) -> None:
        run = run_of(Noop, Late, Hold, Noop)
        stream = run.stream()
        chunks = text_chunks("a", "b", "c")
        assert await streamed(stream, chunks) == chunks
        assert not stream.changed
        stream.decide(b"final")
        assert actions(run.decisions) == [(name, Action.ALLOW, False) for name in ("Noop", "Late", "Hold", "Noop")]
        assert [decision.output for decision in run.decisions] == [None] * 4
        assert [decision.chunks for decision in run.decisions] == [3] * 4

    async def test_what_is_held_comes_later_and_in_order(self) -> None:
        stream = run_of(Late).stream()
        first, second = text_chunks("a", "b")
        assert list(await stream.feed(first)) == []
        assert list(await stream.feed(second)) == [first]
        assert await stream.finish() == [second]

    async def test_at_the_end_each_policy_sees_what_those_before_it_had_held(self) -> None:
        run = run_of(Late, (Append, "1"), Hold, (Append, "2"))
        stream = run.stream()
        assert said(await streamed(stream, text_chunks("a", "b", "c"))) == "a12b12c12"

    async def test_a_rewritten_chunk_is_a_change_of_that_step_alone(self) -> None:
        run = run_of(Noop, (Append, "1"), Noop, (Append, "2"), Noop)
        stream = run.stream()
        given_on = await streamed(stream, text_chunks("a", "b"))
        assert said(given_on) == "a12b12"
        stream.decide(b"final")
        assert [decision.changed for decision in run.decisions] == [False, True, False, True, False]
        assert [decision.verdict.action for decision in run.decisions] == [
            *(Action.ALLOW, Action.MODIFY, Action.ALLOW, Action.MODIFY, Action.ALLOW)
        ]
        outputs = [decision.output for decision in run.decisions]
        assert content(outputs[1]) == "a1b1"
        assert content(outputs[3]) == "a12b12"
        assert [outputs[index] for index in (0, 2, 4)] == [None] * 3

    async def test_the_last_step_gave_on_what_the_client_was_given(self) -> None:
        """Which is put together anyway."""
        run = run_of((Append, "1"), (Append, "2"))
        stream = run.stream()
        await streamed(stream, text_chunks("a"))
        stream.decide(b"what the client was given")
        assert content(run.decisions[0].output) == "a1"
        assert run.decisions[1].output == b"what the client was given"

    async def test_only_steps_before_the_last_put_their_output_together(self) -> None:
        links = run_of((Append, "1"), Noop, (Append, "2")).stream()._links
        assert [link.assembler is None for link in links] == [False, False, True]

    @pytest.mark.parametrize(
        ("policy", "text", "result"),
        [(Without, "a", "bc"), (Without, "b", "ac"), (Without, "c", "ab"), (Twice, "", "aabbcc")],
    )
    async def test_a_chunk_dropped_or_given_twice_is_a_change(
        self, policy: type[Policy], text: str, result: str
    ) -> None:
        run = run_of((policy, text), Noop)
        stream = run.stream()
        assert said(await streamed(stream, text_chunks("a", "b", "c"))) == result
        assert stream.changed
        stream.decide(None)
        assert content(run.decisions[0].output) == result
        assert not run.decisions[1].changed

    async def test_everything_dropped_leaves_no_output(self) -> None:
        run = run_of((Without, "a"), Noop)
        stream = run.stream()
        assert await streamed(stream, text_chunks("a")) == []
        stream.decide(b"")
        assert (run.decisions[0].changed, run.decisions[0].output) == (True, None)

    @pytest.mark.parametrize(("text", "result"), [("a", ""), ("b", "a"), ("c", "ab"), ("end", "abc")])
    @pytest.mark.parametrize("before", [(), (Noop,)])
    @pytest.mark.parametrize("after", [(), (Noop,)])
    async def test_after_a_block_nothing_more_comes_out(
        self, text: str, result: str, before: tuple[type[Policy], ...], after: tuple[type[Policy], ...]
    ) -> None:
        run = run_of(*before, (BlockAt, text), *after)
        stream = run.stream()
        chunks = text_chunks("a", "b", "c")
        assert said(await streamed(stream, chunks)) == result
        assert stream.blocked == Block("BlockAt", "enough")
        assert list(await stream.feed(chunks[0])) == []
        assert await stream.finish() == []
        stream.decide(None)
        assert [decision.verdict.action for decision in run.decisions] == [
            *[Action.ALLOW for _ in before],
            Action.BLOCK,
            *[Action.ALLOW for _ in after],
        ]

    @pytest.mark.parametrize("text", ["b", "end"])
    async def test_what_policies_behind_a_block_still_hold_is_never_given(self, text: str) -> None:
        run = run_of((BlockAt, text), Hold)
        stream = run.stream()
        for chunk in text_chunks("a", "b"):
            assert list(await stream.feed(chunk)) == []
        assert await stream.finish() == []
        assert stream.blocked == Block("BlockAt", "enough")

    async def test_chunks_before_the_blocked_one_are_given(self) -> None:
        stream = run_of(Hold, (BlockAt, "b")).stream()
        for chunk in text_chunks("a", "b", "c"):
            await stream.feed(chunk)
        assert said(await stream.finish()) == "a"
        assert stream.blocked is not None

    async def test_decisions_are_made_once(self) -> None:
        run = run_of(Noop, (Append, "1"))
        stream = run.stream()
        await streamed(stream, text_chunks("a"))
        stream.decide(b"first")
        before = list(run.decisions)
        stream.decide(b"second")
        assert run.decisions == before

    async def test_a_policys_own_verdict_over_the_stream_is_kept(self) -> None:
        class Counting(Append):
            def stream_verdict(self) -> Verdict:
                return Verdict.modify("counted", 7)

        run = run_of(Counting)
        await streamed(stream := run.stream(), text_chunks("a"))
        stream.decide(None)
        assert run.decisions[0].verdict == Verdict.modify("counted", 7)


def breaking(result: Any) -> type[Policy]:
    class Breaks(Policy):
        async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
            if said([chunk]) != "b":
                return (chunk,)
            if isinstance(result, Exception):
                raise result
            answer: Sequence[Chunk] = result
            return answer

    return Breaks


class TestBreakingStreams:
    @pytest.mark.parametrize(
        ("result", "reason"),
        [
            (LookupError("lost b"), "LookupError: lost b"),
            (Verdict.allow(), "TypeError: a verdict on a chunk can only block, not allow"),
            (Verdict.modify("x"), "TypeError: a verdict on a chunk can only block, not modify"),
            (None, "TypeError: 'NoneType' object is not iterable"),
            ([b"data: x\n\n"], "TypeError: a policy gives on chunks, not bytes"),
        ],
    )
    @pytest.mark.parametrize("after", [(), (Noop,)])
    async def test_a_policy_that_breaks_stops_the_stream(
        self, result: Any, reason: str, after: tuple[type[Policy], ...]
    ) -> None:
        run = run_of(Noop, breaking(result), *after)
        stream = run.stream()
        first, second = text_chunks("a", "b")
        assert list(await stream.feed(first)) == [first]
        with pytest.raises(PolicyFailure, match="the policy 'Breaks' failed"):
            await stream.feed(second)
        stream.decide(None)
        decisions = {decision.step.name: decision for decision in run.decisions}
        assert (decisions["Breaks"].verdict, decisions["Breaks"].side) == (
            Verdict(Action.ERROR, reason),
            Side.RESPONSE,
        )
        assert sorted(decision.position for decision in run.decisions) == list(range(2 + len(after)))

    async def test_so_does_one_that_breaks_at_the_end(self) -> None:
        class BreaksLate(Late):
            async def on_stream_end(self) -> Sequence[Chunk] | Verdict:
                raise LookupError("lost")

        run = run_of(BreaksLate, Noop)
        stream = run.stream()
        await stream.feed(text_chunks("a")[0])
        with pytest.raises(PolicyFailure):
            await stream.finish()
        stream.decide(None)
        assert [decision.verdict.action for decision in run.decisions] == [Action.ERROR, Action.ALLOW]

    async def test_what_it_changed_before_it_broke_is_recorded_as_its_change(self) -> None:
        """The client was given that, so somebody must have changed it."""

        class ChangesAndBreaks(Append):
            async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
                if said([chunk]) == "b":
                    raise LookupError("lost")
                return await super().on_chunk(chunk)

        run = run_of(Noop, ChangesAndBreaks, Noop)
        stream = run.stream()
        first, second = text_chunks("a", "b")
        assert said(list(await stream.feed(first))) == "a!"
        with pytest.raises(PolicyFailure):
            await stream.feed(second)
        stream.decide(b"what the client was given")
        assert actions(run.decisions) == [
            ("Noop", Action.ALLOW, False),
            ("ChangesAndBreaks", Action.ERROR, True),
            ("Noop", Action.ALLOW, False),
        ]
        broken = run.decisions[1]
        assert broken.chunks == 2
        assert content(broken.output) == "a!"

    @pytest.mark.parametrize("answer", [LookupError("lost"), None])
    async def test_one_that_breaks_when_asked_about_the_whole_stream_is_recorded(self, answer: Any) -> None:
        """By then the client has it all: nothing is left to be stopped, and the others are asked all the same."""

        class BreaksAfter(Append):
            def stream_verdict(self) -> Verdict:
                if answer is not None:
                    raise answer
                return None  # type: ignore[return-value]

        run = run_of(BreaksAfter, Noop)
        await streamed(stream := run.stream(), text_chunks("a"))
        stream.decide(None)
        assert actions(run.decisions) == [("BreaksAfter", Action.ERROR, True), ("Noop", Action.ALLOW, False)]

    async def test_a_request_that_broke_is_another_matter_than_the_response(self) -> None:
        run = run_of(Append)
        await run.on_request(BODY)
        await streamed(stream := run.stream(), text_chunks("a"))
        stream.decide(None)
        assert [decision.side for decision in run.decisions] == [Side.REQUEST, Side.RESPONSE]


class TestRegisteredPolicies:
    async def test_json_of_any_kind_may_be_a_request_to_the_policies_that_do_nothing(self) -> None:
        body: Json = {"messages": 3}
        run = run_of(Noop)
        assert await run.on_request(json.dumps(body).encode()) == json.dumps(body).encode()
