"""What becomes of a call when a policy breaks and may, or when what it decides is recorded only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from luthien.errors import ConfigError, PolicyFailure
from luthien.formats.sse import Chunk
from luthien.policies.chain import Chain, ChainRun, StreamRun
from luthien.policies.policy import Action, CallContext, Policy, Response, Verdict
from luthien.policies.registry import make_step
from tests.unit.policies.test_chain import (
    BODY,
    CALL,
    Append,
    BlockAt,
    Blocker,
    Broken,
    Late,
    Settings,
    Twice,
    Without,
    actions,
    content,
    said,
    streamed,
    text_chunks,
)
from tests.unit.policies.test_reference import chain_of as configured
from tests.wire import openai_request

Entry = type[Policy] | tuple[type[Policy], str]


def step_of(entry: Entry, **options: Any) -> Any:
    policy, text = entry if isinstance(entry, tuple) else (entry, "!")
    return replace(make_step(policy.__name__, policy, Settings(text=text)), **options)


def lenient(entry: Entry) -> Any:
    return step_of(entry, fails_open=True)


def shadow(entry: Entry) -> Any:
    return step_of(entry, is_shadow=True)


def run_of(*steps: Any, max_held_bytes: int = 1 << 20) -> ChainRun:
    return Chain(steps, max_held_bytes).open(CALL)


class BreakAt(Late):
    """Holds one chunk, and breaks at the one that says its text, or at the end."""

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        if said([chunk]) == self.config.text:
            raise LookupError("lost")
        return await super().on_chunk(chunk)

    async def on_stream_end(self) -> Sequence[Chunk] | Verdict:
        if self.config.text == "end":
            raise LookupError("lost")
        return await super().on_stream_end()


class AppendUntil(Append):
    """Appends to every chunk, with one chunk's delay, and breaks at "c"."""

    held: Chunk | None = None

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        if said([chunk]) == "c":
            raise LookupError("lost")
        before, self.held = self.held, chunk
        return () if before is None else await super().on_chunk(before)


class Unmakeable(Append):
    def __init__(self, config: Any, call: CallContext) -> None:
        raise LookupError("never made")


def test_modes_are_configured_by_name(tmp_path: Any) -> None:
    chain = configured(tmp_path, "noop", "{}\n    on_error: allow\n  - policy: noop\n    mode: shadow")
    assert [(step.fails_open, step.is_shadow) for step in chain.steps] == [(True, False), (False, True)]
    with pytest.raises(ConfigError, match=r"policies\[0\].mode: input should be 'enforce' or 'shadow'"):
        configured(tmp_path, "noop", "{}\n    mode: dry")


class TestFailingOpen:
    @pytest.mark.parametrize("broken", [Broken, Unmakeable])
    async def test_the_request_goes_on_as_the_policy_was_given_it(self, broken: type[Policy]) -> None:
        run = run_of(step_of((Append, "1")), lenient(broken), step_of((Append, "2")))
        assert json.loads(await run.on_request(BODY)) == openai_request("Hello12")
        name = broken.__name__
        assert actions(run.decisions) == [
            ("Append", Action.MODIFY, True),
            (name, Action.ERROR, False),
            ("Append", Action.MODIFY, True),
        ]

    async def test_a_policy_that_cannot_be_made_stops_the_call_by_default(self) -> None:
        with pytest.raises(PolicyFailure):
            await run_of(step_of(Unmakeable)).on_request(BODY)

    async def test_nor_does_it_matter_what_it_would_have_looked_at(self) -> None:
        class Idle(Policy):
            def __init__(self, config: Any, call: CallContext) -> None:
                raise LookupError("never made")

        with pytest.raises(PolicyFailure):
            await run_of(step_of(Idle)).on_request(BODY)
        run = run_of(lenient(Idle))
        assert await run.on_request(BODY) is BODY
        assert actions(run.decisions) == [("Idle", Action.ERROR, False)]

    async def test_a_block_is_no_failure(self) -> None:
        run = run_of(lenient(Blocker))
        await run.on_request(BODY)
        assert run.blocked is not None

    @pytest.mark.parametrize("text", ["a", "b", "c", "end"])
    async def test_in_a_stream_what_it_held_and_all_later_chunks_pass_as_they_came(self, text: str) -> None:
        run = run_of(lenient((BreakAt, text)), step_of((Append, "1")))
        stream = run.stream()
        assert said(await streamed(stream, text_chunks("a", "b", "c", "d"))) == "a1b1c1d1"
        stream.decide(None)
        assert actions(run.decisions) == [("BreakAt", Action.ERROR, False), ("Append", Action.MODIFY, True)]
        assert run.decisions[0].verdict.reason == "LookupError: lost"

    async def test_what_it_gave_on_before_is_neither_lost_nor_given_twice(self) -> None:
        run = run_of(lenient(AppendUntil))
        stream = run.stream()
        assert said(await streamed(stream, text_chunks("a", "b", "c", "d"))) == "a!bcd"
        stream.decide(b"final")
        assert actions(run.decisions) == [("AppendUntil", Action.ERROR, True)]
        assert run.decisions[0].output == b"final"

    async def test_a_stream_that_cannot_be_held_any_longer_passes(self) -> None:
        first, *others = text_chunks("a", "b", "c")
        run = run_of(lenient(HoldAll), max_held_bytes=2 * len(first.raw))
        stream = run.stream()
        assert [*await stream.feed(first), *await stream.feed(others[0])] == []
        assert list(await stream.feed(others[1])) == [first, *others]
        stream.decide(None)
        assert run.decisions[0].verdict.reason.startswith("HeldTooMuch: more than ")

    async def test_and_what_it_gave_on_with_its_last_answer_is_not_lost(self) -> None:
        chunks = text_chunks("a", "b", "c" * 500)
        stream = run_of(lenient(Late), max_held_bytes=500).stream()
        assert await streamed(stream, chunks) == chunks

    async def test_and_ends_by_default(self) -> None:
        first, *others = text_chunks("a", "b", "c")
        stream = run_of(step_of(HoldAll), max_held_bytes=2 * len(first.raw)).stream()
        await stream.feed(first)
        await stream.feed(others[0])
        with pytest.raises(PolicyFailure):
            await stream.feed(others[1])


class HoldAll(Policy):
    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        return ()


class TestShadow:
    async def test_the_original_request_is_forwarded(self) -> None:
        run = run_of(shadow((Append, "1")), shadow(Blocker), shadow(Broken), step_of((Append, "2")))
        assert json.loads(await run.on_request(BODY)) == openai_request("Hello2")
        assert run.blocked is None
        assert actions(run.decisions) == [
            ("Append", Action.MODIFY, True),
            ("Blocker", Action.BLOCK, False),
            ("Broken", Action.ERROR, False),
            ("Append", Action.MODIFY, True),
        ]
        assert json.loads(run.decisions[0].output or b"") == openai_request("Hello1")

    async def test_a_block_in_shadow_at_the_end_is_none(self) -> None:
        run = run_of(shadow(Blocker))
        assert await run.on_request(BODY) is BODY
        assert run.blocked is None

    async def test_so_is_a_plain_response(self) -> None:
        class Judge(Append):
            async def on_response(self, response: Response) -> Verdict:
                return Verdict.block("no")

        run = run_of(shadow(Judge), shadow(Append))
        body = b'{"choices":[{"message":{"content":"Hi"}}]}'
        assert await run.on_response(body) is body
        assert run.blocked is None
        assert content(run.decisions[1].output) == "Hi!"

    @pytest.mark.parametrize("after", [(), (Append, "2")])
    async def test_in_a_stream_every_chunk_passes_at_once(self, after: tuple[Any, ...]) -> None:
        others = [step_of(after)] if after else []
        run = run_of(shadow((Append, "1")), shadow(Late), shadow(Twice), *others)
        stream = run.stream()
        for chunk in text_chunks("a", "b"):
            given = await stream.feed(chunk)
            assert said(given) == said([chunk]) + ("2" if after else "")
            assert after or given[0] is chunk
        assert await stream.finish() == []
        assert stream.changed == bool(after)
        stream.decide(b"final")
        assert [decision.changed for decision in run.decisions] == [True, False, True, *[True for _ in others]]
        assert content(run.decisions[0].output) == "a1b1"
        assert content(run.decisions[2].output) == "aabb"
        assert not after or run.decisions[3].output == b"final"

    @pytest.mark.parametrize("text", ["b", "end"])
    async def test_a_block_or_a_failure_ends_nothing(self, text: str) -> None:
        run = run_of(shadow((BlockAt, text)), shadow((BreakAt, text)), shadow((Without, "a")))
        stream = run.stream()
        chunks = text_chunks("a", "b", "c")
        assert await streamed(stream, chunks) == chunks
        assert stream.blocked is None
        stream.decide(None)
        assert [decision.verdict.action for decision in run.decisions] == [Action.BLOCK, Action.ERROR, Action.MODIFY]
        assert content(run.decisions[2].output) == "bc"

    async def test_a_policy_in_shadow_behind_the_last_one_that_acts_is_shown_what_that_gave_on(self) -> None:
        run = run_of(step_of((Append, "1")), shadow((Append, "2")))
        stream: StreamRun = run.stream()
        assert said(await streamed(stream, text_chunks("a"))) == "a1"
        stream.decide(b"final")
        assert run.decisions[0].output == b"final"
        assert content(run.decisions[1].output) == "a12"
