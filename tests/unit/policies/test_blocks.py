"""Policies on whole blocks and whole responses: what is held, what is given on, and that it is valid."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar
from uuid import UUID

import pytest

from luthien.errors import PolicyFailure
from luthien.formats.blocks import Block, BlockKind
from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_RESPONSES
from luthien.formats.sse import Chunk
from luthien.policies.chain import Chain, ChainRun, StreamRun
from luthien.policies.policy import Action, CallContext, Needs, Policy, Response, Verdict
from luthien.policies.registry import make_step
from tests.chunks import assembled, chunks_of
from tests.wire import openai_chunk, openai_response, sse
from tests.wire_tools import (
    anthropic_tools,
    anthropic_tools_stream,
    openai_tools,
    openai_tools_stream,
    responses_tools,
    responses_tools_stream,
)

FORMATS = [
    pytest.param(OPENAI_CHAT, openai_tools_stream, openai_tools, id="openai"),
    pytest.param(ANTHROPIC_MESSAGES, anthropic_tools_stream, anthropic_tools, id="anthropic"),
    pytest.param(OPENAI_RESPONSES, responses_tools_stream, responses_tools, id="responses"),
]
CALLS = [("read", {"path": "a.txt"}), ("run", {"command": "rm -rf /"}), ("write", {"path": "b.txt", "text": "b"})]
Play = Callable[..., list[bytes]]
Plain = Callable[..., Any]


def run_of(wire_format: WireFormat, policy: type[Policy], max_held_bytes: int = 1 << 20, **options: Any) -> ChainRun:
    step = replace(make_step(policy.__name__, policy, None), **options)
    return Chain((step,), max_held_bytes).open(CallContext(UUID(int=0), wire_format, "m", streaming=True))


async def streamed(stream: StreamRun, chunks: Sequence[Chunk]) -> list[Chunk]:
    """What the client is given up to a block, the end marker included, if it came."""
    given: list[Chunk] = []
    for chunk in chunks:
        if any(each.is_terminal(chunk) for each in (OPENAI_CHAT, ANTHROPIC_MESSAGES, OPENAI_RESPONSES)):
            given += await stream.feed_unsaid(chunk)
            given += await stream.finish()
            return given if stream.blocked else [*given, stream.agreed(chunk)]
        given += await stream.feed(chunk)
        if stream.blocked:
            return given
    return [*given, *await stream.finish()]


def contents(body: Any) -> list[Any]:
    """The texts and calls of a plain response, in any format."""
    if "output" in body:
        return [
            "".join(part["text"] for part in item["content"])
            if item["type"] == "message"
            else (item["name"], json.loads(item["arguments"]))
            for item in body["output"]
        ]
    if "content" in body:
        return [each["text"] if each["type"] == "text" else (each["name"], each["input"]) for each in body["content"]]
    message = body["choices"][0]["message"]
    calls = [call["function"] for call in message.get("tool_calls", ())]
    said = [message["content"]] if message.get("content") else []
    return [*said, *((call["name"], json.loads(call["arguments"])) for call in calls)]


def reason(body: Any) -> str:
    if "output" in body:  # says no more than that it is complete
        assert body["status"] == "completed"
        return "tool_calls" if any(item["type"] == "function_call" for item in body["output"]) else "stop"
    found: str = body["stop_reason"] if "stop_reason" in body else body["choices"][0]["finish_reason"]
    return found


def indices(wire_format: WireFormat, chunks: Sequence[Chunk]) -> list[int]:
    """The numbers of blocks (of calls or items, with OpenAI), in the order in which they first come."""
    found: list[int] = []
    for chunk in chunks:
        body = chunk.json or {}
        if body.get("type", "").startswith("content_block"):
            found.append(body["index"])
        found += [body["output_index"]] if "output_index" in body else []
        for choice in body.get("choices", ()):
            found += [call["index"] for call in choice["delta"].get("tool_calls", ())]
    return list(dict.fromkeys(found))


class Blocky(Policy):
    needs = Needs.BLOCKS

    def __init__(self, config: Any, call: CallContext) -> None:
        super().__init__(config, call)
        self.seen: list[Block] = []

    async def on_block(self, block: Block) -> Verdict:
        self.seen.append(replace(block))
        return self.judge(block)

    def judge(self, block: Block) -> Verdict:
        block.drop("forgotten, as the verdict does not say that anything was changed")
        return Verdict.allow()


class DropRun(Blocky):
    def judge(self, block: Block) -> Verdict:
        if block.name != "run":
            return Verdict.allow()
        block.drop()
        return Verdict.modify("dropped")


class SayRun(Blocky):
    def judge(self, block: Block) -> Verdict:
        if block.name != "run":
            return Verdict.allow()
        block.drop(f"not {block.name}")
        return Verdict.modify("dropped")


class SayAll(Blocky):
    kinds = frozenset({BlockKind.TOOL_CALL})

    def judge(self, block: Block) -> Verdict:
        block.drop(f"not {block.name}")
        return Verdict.modify("dropped")


class Rewrite(Blocky):
    def judge(self, block: Block) -> Verdict:
        if block.kind is BlockKind.TEXT:
            block.text = block.text.upper()
        elif block.name == "run":
            block.name, block.text = "say", '{"text": "no"}'
        return Verdict.modify("rewritten")


class BlockRun(Blocky):
    def judge(self, block: Block) -> Verdict:
        return Verdict.block("no shell") if block.name == "run" else Verdict.allow()


class BreakAtRun(DropRun):
    """Drops the first call, and breaks at the second."""

    def judge(self, block: Block) -> Verdict:
        if block.name == "read":
            block.drop()
            return Verdict.modify("dropped")
        if block.name == "run":
            raise LookupError("lost")
        return Verdict.allow()


@pytest.mark.parametrize(("wire_format", "play", "plain"), FORMATS)
class TestBlocks:
    async def test_unchanged_chunks_are_the_same_objects(
        self, wire_format: WireFormat, play: Play, plain: Plain
    ) -> None:
        run = run_of(wire_format, Blocky)
        chunks = chunks_of(play("Let me see.", *CALLS))
        stream = run.stream()
        assert await streamed(stream, chunks) == chunks
        assert not stream.changed
        policy = run._policies[0][2]
        assert isinstance(policy, Blocky)
        assert [(block.kind.value, block.index, block.name) for block in policy.seen] == [
            ("text", 0, ""),
            *(("tool_call", at, name) for at, (name, _) in enumerate(CALLS, 1)),
        ]
        assert policy.seen[0].text == "Let me see."
        assert [json.loads(block.text) for block in policy.seen[1:]] == [arguments for _, arguments in CALLS]
        before = list(policy.seen)
        policy.seen.clear()
        body = json.dumps(plain("Let me see.", *CALLS)).encode()
        assert await run.on_response(body) is body
        assert [(block.kind, block.index, block.name) for block in policy.seen] == [
            (block.kind, block.index, block.name) for block in before
        ]

    @pytest.mark.parametrize(
        ("policy", "calls", "left", "ends_with_calls"),
        [
            (DropRun, CALLS, ["Let me see.", CALLS[0], CALLS[2]], True),
            (DropRun, CALLS[1:2], ["Let me see."], False),
            (Rewrite, CALLS, ["LET ME SEE.", CALLS[0], ("say", {"text": "no"}), CALLS[2]], True),
        ],
    )
    async def test_what_is_left_is_valid(
        self,
        wire_format: WireFormat,
        play: Play,
        plain: Plain,
        policy: type[Policy],
        calls: list[Any],
        left: list[Any],
        ends_with_calls: bool,
    ) -> None:
        run = run_of(wire_format, policy)
        stream = run.stream()
        given = await streamed(stream, chunks_of(play("Let me see.", *calls)))
        body = assembled(wire_format, given)
        whole = json.loads(await run.on_response(json.dumps(plain("Let me see.", *calls)).encode()))
        for found in (body, whole):
            assert contents(found) == left
            assert (reason(found) in {"tool_calls", "tool_use"}) == ends_with_calls
            assert reason(found) in {"tool_calls", "tool_use", "stop", "end_turn"}
            assert found["usage"] == plain("")["usage"]
        assert indices(wire_format, given) == list(range(len(indices(wire_format, given))))
        stream.decide(b"final")
        assert {decision.verdict.action for decision in run.decisions} == {Action.MODIFY}

    async def test_a_text_may_say_that_a_call_is_gone(
        self, wire_format: WireFormat, play: Play, plain: Plain
    ) -> None:
        run = run_of(wire_format, SayAll)
        given = await streamed(run.stream(), chunks_of(play("Hm.", *CALLS[:2])))
        whole = json.loads(await run.on_response(json.dumps(plain("Hm.", *CALLS[:2])).encode()))
        for found in (assembled(wire_format, given), whole):
            assert "".join(contents(found)).replace("\n\n", "") == "Hm.not readnot run"
            assert reason(found) in {"stop", "end_turn"}

    async def test_a_text_among_calls_that_stay(self, wire_format: WireFormat, play: Play, plain: Plain) -> None:
        run = run_of(wire_format, SayRun)
        given = await streamed(run.stream(), chunks_of(play("", *CALLS)))
        found = assembled(wire_format, given)
        assert sorted(map(str, contents(found))) == sorted(map(str, [CALLS[0], "not run", CALLS[2]]))
        assert reason(found) in {"tool_calls", "tool_use"}
        assert indices(wire_format, given) == list(range(len(indices(wire_format, given))))

    async def test_what_it_does_not_want_to_see_is_not_held(
        self, wire_format: WireFormat, play: Play, plain: Plain
    ) -> None:
        run = run_of(wire_format, SayAll)
        stream = run.stream()
        for chunk in chunks_of(play("Let me see.")):
            if not wire_format.is_terminal(chunk):
                assert list(await stream.feed(chunk)) == [chunk]

    async def test_a_block_is_held_until_it_is_whole_and_no_longer(
        self, wire_format: WireFormat, play: Play, plain: Plain
    ) -> None:
        stream = run_of(wire_format, SayAll).stream()
        chunks = chunks_of(play("Hm.", CALLS[0], CALLS[1]))
        given = [len(await stream.feed(chunk)) > 0 for chunk in chunks[:-1]]
        begins = next(at for at, is_given in enumerate(given) if not is_given)
        assert all(given[:begins])
        assert "not read" in json.dumps(assembled(wire_format, await streamed_until_released(wire_format, chunks)))

    async def test_a_block_ends_the_response(self, wire_format: WireFormat, play: Play, plain: Plain) -> None:
        run = run_of(wire_format, BlockRun)
        stream = run.stream()
        given = await streamed(stream, chunks_of(play("Hm.", *CALLS)))
        assert stream.blocked is not None
        assert stream.blocked.reason == "no shell"
        assert contents(assembled(wire_format, given)) == ["Hm.", CALLS[0]]
        await run.on_response(json.dumps(plain("Hm.", *CALLS)).encode())
        assert run.blocked is not None

    async def test_one_that_breaks_stops_the_stream(self, wire_format: WireFormat, play: Play, plain: Plain) -> None:
        with pytest.raises(PolicyFailure):
            await streamed(run_of(wire_format, BreakAtRun).stream(), chunks_of(play("Hm.", *CALLS)))

    async def test_one_that_breaks_and_may_lets_the_rest_pass(
        self, wire_format: WireFormat, play: Play, plain: Plain
    ) -> None:
        run = run_of(wire_format, BreakAtRun, fails_open=True)
        stream = run.stream()
        given = await streamed(stream, chunks_of(play("Hm.", *CALLS)))
        body = assembled(wire_format, given)
        assert contents(body) == ["Hm.", *CALLS[1:]]
        assert indices(wire_format, given) == list(range(len(indices(wire_format, given))))
        stream.decide(None)
        assert run.decisions[0].verdict == Verdict(Action.ERROR, "LookupError: lost")

    async def test_in_shadow_nothing_is_held(self, wire_format: WireFormat, play: Play, plain: Plain) -> None:
        run = run_of(wire_format, SayAll, is_shadow=True)
        stream = run.stream()
        *chunks, terminal = chunks_of(play("Hm.", *CALLS))
        for chunk in chunks:
            assert list(await stream.feed(chunk)) == [chunk]
        assert await streamed(stream, [terminal]) == [terminal]
        stream.decide(None)
        (decision,) = run.decisions
        assert (decision.verdict.action, decision.changed) == (Action.MODIFY, True)
        assert reason(json.loads(decision.output or b"")) in {"stop", "end_turn"}

    async def test_what_is_held_is_bounded(self, wire_format: WireFormat, play: Play, plain: Plain) -> None:
        long = ("write", {"text": "x" * 4000})
        with pytest.raises(PolicyFailure):
            await streamed(run_of(wire_format, SayAll, 2000).stream(), chunks_of(play("Hm.", long)))

    async def test_a_frame_that_is_no_object_stops_the_stream(
        self, wire_format: WireFormat, play: Play, plain: Plain
    ) -> None:
        stream = run_of(wire_format, SayAll).stream()
        with pytest.raises(PolicyFailure):
            await stream.feed(chunks_of([b"data: [1]\n\n"])[0])

    async def test_and_passes_as_it_came_if_it_may(self, wire_format: WireFormat, play: Play, plain: Plain) -> None:
        stream = run_of(wire_format, SayAll, fails_open=True).stream()
        frames = play("Hm.", *CALLS)
        chunks = chunks_of([*frames[:5], b"data: [1]\n\n", *frames[5:]])
        assert await streamed(stream, chunks) == chunks


def side_by_side() -> list[bytes]:
    """Two calls in one choice, whose pieces alternate."""

    def piece(at: int, text: str, **begun: str) -> bytes:
        return openai_chunk({"tool_calls": [{"index": at, "function": {**begun, "arguments": text}}]})

    pieces = [piece(0, "", name="read"), piece(1, '{"a', name="run"), piece(0, '{"b'), piece(1, '": 1}')]
    return [*pieces, piece(0, '": 2}'), openai_chunk({}, "tool_calls")]


async def streamed_until_released(wire_format: WireFormat, chunks: Sequence[Chunk]) -> list[Chunk]:
    stream: StreamRun = run_of(wire_format, SayAll).stream()
    given: list[Chunk] = []
    for chunk in chunks[:-1]:
        given += await stream.feed(chunk)
    return given


class Whole(Policy):
    needs = Needs.WHOLE

    async def on_response(self, response: Response) -> Verdict:
        texts = response.texts()
        if any("block" in slot.text for slot in texts):
            return Verdict.block("no")
        if not any("change" in slot.text for slot in texts):
            response.body.clear()
            return Verdict.allow()
        for slot in texts:
            slot.set(slot.text.upper())
        return Verdict.modify("louder", 2)


@pytest.mark.parametrize(("wire_format", "play", "plain"), FORMATS)
class TestWhole:
    async def test_unchanged_chunks_are_the_same_objects_and_come_at_the_end(
        self, wire_format: WireFormat, play: Play, plain: Plain
    ) -> None:
        stream = run_of(wire_format, Whole).stream()
        chunks = chunks_of(play("Hm.", *CALLS))
        for chunk in chunks[:-1]:
            assert list(await stream.feed(chunk)) == []
        assert await stream.finish() == chunks[:-1]

    async def test_a_change_is_streamed_as_the_plain_response_would_be(
        self, wire_format: WireFormat, play: Play, plain: Plain
    ) -> None:
        run = run_of(wire_format, Whole)
        stream = run.stream()
        chunks = chunks_of(play("change", *CALLS))
        before = assembled(wire_format, chunks)
        after = assembled(wire_format, await streamed(stream, chunks))
        assert contents(after) == ["CHANGE", *CALLS]
        changed = {"choices": 0, "content": 0, "output": 0}
        assert after | changed == before | changed
        assert reason(after) == reason(before)
        stream.decide(None)
        assert run.decisions[0].verdict == Verdict.modify("louder", 2)

    async def test_a_block(self, wire_format: WireFormat, play: Play, plain: Plain) -> None:
        stream = run_of(wire_format, Whole).stream()
        assert await streamed(stream, chunks_of(play("block"))) == []
        assert stream.blocked is not None

    async def test_what_is_held_is_bounded(self, wire_format: WireFormat, play: Play, plain: Plain) -> None:
        with pytest.raises(PolicyFailure):
            await streamed(run_of(wire_format, Whole, 500).stream(), chunks_of(play("x" * 600)))


class TestOddStreams:
    async def test_calls_that_come_side_by_side_are_held_until_they_are_whole(self) -> None:
        chunks = chunks_of(side_by_side())
        assert await streamed(run_of(OPENAI_CHAT, Blocky).stream(), chunks) == chunks
        stream = run_of(OPENAI_CHAT, DropRun).stream()
        for chunk in chunks[:-1]:
            assert list(await stream.feed(chunk)) == []
        assert contents(assembled(OPENAI_CHAT, await streamed(stream, chunks[-1:]))) == [("read", {"b": 2})]

    async def test_what_may_go_on_before_a_block_goes_on_though_one_chunk_decides_both(self) -> None:
        *chunks, last = chunks_of(side_by_side())
        stream = run_of(OPENAI_CHAT, BlockRun).stream()
        for chunk in chunks:
            assert list(await stream.feed(chunk)) == []
        assert await stream.feed(last) == chunks[:1]
        assert stream.blocked is not None

    async def test_so_it_does_at_the_end_of_a_stream_that_breaks_off(self) -> None:
        chunks = chunks_of(side_by_side()[:-1])
        stream = run_of(OPENAI_CHAT, BlockRun).stream()
        assert await streamed(stream, chunks) == chunks[:1]
        assert stream.blocked is not None

    async def test_a_call_whose_arguments_are_complete_is_whole_when_the_next_one_begins(self) -> None:
        frames = openai_tools_stream("", *CALLS[::2])
        stream = run_of(OPENAI_CHAT, Blocky).stream()
        begins = next(at for at, frame in enumerate(frames) if b'"call_1"' in frame)
        given = [len(await stream.feed(chunk)) for chunk in chunks_of(frames[: begins + 1])]
        assert given[0] == 1
        assert given[-1] == len(frames[1:begins])

    async def test_one_that_goes_on_after_that_stops_the_stream(self) -> None:
        frames = [
            openai_chunk({"tool_calls": [{"index": at, "function": {"name": "n", "arguments": "{}"}}]})
            for at in (0, 1, 0)
        ]
        with pytest.raises(PolicyFailure):
            await streamed(run_of(OPENAI_CHAT, SayAll).stream(), chunks_of(frames))

    async def test_calls_that_share_an_index_are_whole_when_the_next_one_begins(self) -> None:
        """Also where their arguments do not say so."""
        calls = [{"index": at, "id": f"c{n}", "function": {"name": "n", "arguments": "x"}} for n, at in
                 enumerate([0, 1, 0])]  # fmt: skip
        chunks = chunks_of(
            [*(openai_chunk({"tool_calls": [call]}) for call in calls), openai_chunk({}, "tool_calls")]
        )
        assert await streamed(run_of(OPENAI_CHAT, Blocky).stream(), chunks) == chunks

    async def test_something_added_to_a_block_that_has_ended_stops_the_stream(self) -> None:
        frames = anthropic_tools_stream("", CALLS[0])
        with pytest.raises(PolicyFailure):
            await streamed(run_of(ANTHROPIC_MESSAGES, SayAll).stream(), chunks_of([*frames[:-2], frames[2]]))

    async def test_calls_that_share_an_index_are_told_apart_by_their_ids(self) -> None:
        calls = [
            {"index": 0, "id": f"c{at}", "function": {"name": name, "arguments": "{}"}}
            for at, name in enumerate(["read", "run", "write"])
        ]
        frames = [openai_chunk({"tool_calls": calls}, "tool_calls")]
        given = await streamed(run_of(OPENAI_CHAT, DropRun).stream(), chunks_of(frames))
        (choice,) = (given[0].json or {})["choices"]
        found = [(call["index"], call["function"]["name"]) for call in choice["delta"]["tool_calls"]]
        assert [name for _, name in found] == ["read", "write"]

    async def test_choices_are_kept_apart(self) -> None:
        def call(choice: int, name: str) -> bytes:
            made = {"index": 0, "id": name, "function": {"name": name, "arguments": "{}"}}
            return openai_chunk({"tool_calls": [made]}, index=choice)

        frames = [call(0, "run"), call(1, "read"), openai_chunk({}, "tool_calls"),
                  openai_chunk({}, "tool_calls", index=1)]  # fmt: skip
        given = await streamed(run_of(OPENAI_CHAT, DropRun).stream(), chunks_of(frames))
        body = assembled(OPENAI_CHAT, given)
        assert [choice["finish_reason"] for choice in body["choices"]] == ["stop", "tool_calls"]

    async def test_a_stream_that_breaks_off_is_decided_as_it_stands(self) -> None:
        frames = openai_tools_stream("Hm.", CALLS[1])[:-5]
        body = assembled(OPENAI_CHAT, await streamed(run_of(OPENAI_CHAT, SayAll).stream(), chunks_of(frames)))
        assert body["choices"][0]["message"]["content"] == "Hm.\n\nnot run"

    async def test_the_old_form_of_a_call(self) -> None:
        frames = [openai_chunk({"function_call": {"name": "run", "arguments": "{"}}),
                  openai_chunk({"function_call": {"arguments": "}"}}), openai_chunk({}, "function_call")]  # fmt: skip
        body = assembled(OPENAI_CHAT, await streamed(run_of(OPENAI_CHAT, DropRun).stream(), chunks_of(frames)))
        assert body["choices"][0]["message"] == {}
        assert body["choices"][0]["finish_reason"] == "stop"

    async def test_usage_in_a_chunk_of_a_dropped_call_is_kept(self) -> None:
        made = {"index": 0, "id": "x", "function": {"name": "run", "arguments": "{}"}}
        frames = [openai_chunk({"tool_calls": [made]}, usage={"total_tokens": 3}), openai_chunk({}, "tool_calls")]
        body = assembled(OPENAI_CHAT, await streamed(run_of(OPENAI_CHAT, DropRun).stream(), chunks_of(frames)))
        assert body["usage"] == {"total_tokens": 3}

    async def test_signed_reasoning_passes_as_it_came(self) -> None:
        start = {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}
        deltas = [{"type": "thinking_delta", "thinking": "hm"}, {"type": "signature_delta", "signature": "s"}]
        bodies = [start, *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
                  {"type": "content_block_stop", "index": 0}]  # fmt: skip
        chunks = chunks_of([sse(body, str(body["type"])) for body in bodies])
        run = run_of(ANTHROPIC_MESSAGES, Blocky)
        assert await streamed(run.stream(), chunks) == chunks
        policy = run._policies[0][2]
        assert isinstance(policy, Blocky)
        assert [(block.kind, block.text) for block in policy.seen] == [(BlockKind.REASONING, "hm")]


@pytest.mark.parametrize(
    ("needs", "hooks", "message"),
    [
        (Needs.BLOCKS, [], "Odd needs blocks and must override on_block"),
        (Needs.WHOLE, [], "Odd needs whole and must override on_response"),
        (Needs.BLOCKS, ["on_block", "on_response"], "Odd overrides on_response, which is never called when"),
        (Needs.WHOLE, ["on_response", "on_chunk"], "Odd overrides on_chunk, which is never called when"),
        (Needs.CHUNKS, ["on_block"], "Odd overrides on_block, which is never called when it needs chunks"),
        ("blocks ", ["on_block"], "Odd.needs must be one of"),
    ],
)
def test_a_policy_whose_hooks_do_not_fit_what_it_needs_is_refused(needs: Any, hooks: list[str], message: str) -> None:
    odd = type("Odd", (Policy,), {"needs": needs, **{hook: lambda self, given: None for hook in hooks}})
    with pytest.raises(TypeError, match=message):
        make_step("odd", odd, None)


class TestReasoningInDetail:
    """It says the same as the reasoning, and goes with it."""

    MESSAGE: ClassVar[Any] = {
        "role": "assistant",
        "reasoning": "Secret thoughts.",
        "reasoning_details": [
            {"type": "reasoning.text", "text": "Secret thoughts.", "index": 0, "signature": "c2ln"}
        ],
        "content": "Yes.",
    }

    class Discreet(Blocky):
        kinds = frozenset({BlockKind.REASONING})
        said: str | None = None

        def judge(self, block: Block) -> Verdict:
            if self.said is None:
                block.drop()
            else:
                block.text = self.said
            return Verdict.modify("discreet")

    @pytest.mark.parametrize("said", [None, "Thoughts."])
    async def test_plain_and_streamed(self, monkeypatch: pytest.MonkeyPatch, said: str | None) -> None:
        monkeypatch.setattr(self.Discreet, "said", said)
        body = openai_response() | {"choices": [{"index": 0, "message": self.MESSAGE, "finish_reason": "stop"}]}
        plain = json.loads(await run_of(OPENAI_CHAT, self.Discreet).on_response(json.dumps(body).encode()))
        frames = [
            openai_chunk(
                {"reasoning": text, "reasoning_details": [{"type": "reasoning.text", "text": text, "index": 0}]}
            )
            for text in ("Secret ", "thoughts.")
        ]
        frames.append(openai_chunk({"reasoning_details": [{"signature": "c2ln", "index": 0}]}))
        frames += [openai_chunk({"content": "Yes."}), openai_chunk({}, "stop"), sse("[DONE]")]
        given = await streamed(run_of(OPENAI_CHAT, self.Discreet).stream(), chunks_of(frames))
        for message in (plain["choices"][0]["message"], assembled(OPENAI_CHAT, given)["choices"][0]["message"]):
            assert "reasoning_details" not in message
            assert (message.get("reasoning"), message["content"]) == (said, "Yes.")

    async def test_what_is_not_changed_keeps_it(self) -> None:
        body = openai_response() | {"choices": [{"index": 0, "message": self.MESSAGE, "finish_reason": "stop"}]}
        given = await run_of(OPENAI_CHAT, Blocky).on_response(json.dumps(body).encode())
        assert json.loads(given) == body
