"""What policies give on keeps to the protocol as far as what they were given did, also where that was quirky."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_RESPONSES
from luthien.formats.sse import Chunk, FrameReader
from luthien.pipeline.sides import StreamSides
from luthien.policies.chain import Chain
from luthien.policies.policy import Block, BlockKind, CallContext, Needs, Policy, Response, Verdict
from luthien.policies.registry import BUILTIN, make_step
from luthien.policies.step import Step
from tests.wire import (
    DONE,
    Json,
    anthropic_event,
    anthropic_response,
    anthropic_stream,
    openai_chunk,
    openai_stream,
    responses_stream,
    sse,
)
from tests.wire_tools import anthropic_tools_stream, openai_tools_stream

EMAIL = "jane@example.com"
TEXTS = ("Hel", "lo there", f", {EMAIL[:6]}", EMAIL[6:])
CALLS = [("shell", {"command": f"mail {EMAIL}"}), ("read", {"to": EMAIL}), ("shell", {"a": 1})]


class _Each(Policy):
    needs = Needs.BLOCKS

    async def on_block(self, block: Block) -> Verdict:
        if block.kind is BlockKind.OTHER:
            return Verdict.allow()
        self.change(block)
        return Verdict.modify("changed")

    def change(self, block: Block) -> None:
        raise NotImplementedError


class DropText(_Each):
    def change(self, block: Block) -> None:
        if block.kind is not BlockKind.TOOL_CALL:
            block.drop()


class SayInstead(_Each):
    def change(self, block: Block) -> None:
        block.drop("(gone)")


class DropAll(_Each):
    def change(self, block: Block) -> None:
        block.drop()


class Rewrite(_Each):
    def change(self, block: Block) -> None:
        block.text = '{"z": 1}' if block.kind is BlockKind.TOOL_CALL else "Bye"


class Whole(Policy):
    needs = Needs.WHOLE

    async def on_response(self, response: Response) -> Verdict:
        for slot in response.texts():
            slot.set(slot.text.upper())
        return Verdict.modify("changed")


def step(policy: str | type[Policy], **config: Any) -> Step:
    kind = BUILTIN[policy] if isinstance(policy, str) else policy
    return make_step(kind.__name__, kind, kind.Config.model_validate(config))


REPLACE = step("replace_text", rules=[{"find": "Hello", "replace": ""}])
REDACT = step("redact", rules=[{"kinds": ["email"], "in": ["request", "response"]}])
NO_SHELL = step("block_tools", rules=[{"tool": "shell"}])
POLICIES: dict[str, list[Step]] = {
    "replace_text": [REPLACE],
    "redact": [REDACT],
    "block_tools": [NO_SHELL],
    "block_tools, silent": [step("block_tools", rules=[{"tool": "shell"}], text="")],
    "block_tools, all": [step("block_tools", rules=[{"tool": "*"}], text="")],
    **{kind.__name__: [step(kind)] for kind in (DropText, SayInstead, DropAll, Rewrite, Whole)},
    "several": [REDACT, NO_SHELL, step(Whole), REPLACE],
}


def messages(*blocks: tuple[Json, list[Json]], reason: str = "end_turn") -> list[bytes]:
    bodies: list[Json] = [{"type": "message_start", "message": anthropic_response() | {"content": []}}]
    for index, (block, deltas) in enumerate(blocks):
        bodies.append({"type": "content_block_start", "index": index, "content_block": block})
        bodies += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        bodies.append({"type": "content_block_stop", "index": index})
    bodies.append({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 3}})
    return [anthropic_event(body) for body in [*bodies, {"type": "message_stop"}]]


def text(*pieces: str) -> tuple[Json, list[Json]]:
    return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]


def tool(kind: str, name: str, *pieces: str) -> tuple[Json, list[Json]]:
    block = {"type": kind, "id": f"{kind}_{name}", "name": name, "input": {}}
    return block, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]


def called(*calls: Json, finish_reason: str | None = None, **fields: Any) -> bytes:
    return openai_chunk({**fields, "tool_calls": [*calls]}, finish_reason)


def call(name: str, at: int | None = None, call_id: str | None = None, said: str = f'{{"to": "{EMAIL}"}}') -> Json:
    whole: Json = {"index": at, "id": call_id, "function": {"name": name, "arguments": said}}
    return {key: value for key, value in whole.items() if value is not None}


THINKING: tuple[Json, list[Json]] = (
    {"type": "thinking", "thinking": "", "signature": ""},
    [{"type": "thinking_delta", "thinking": "Hello"}, {"type": "signature_delta", "signature": "x"}],
)
FOUND: tuple[Json, list[Json]] = ({"type": "web_search_tool_result", "tool_use_id": "x", "content": []}, [])
SEARCH = tool("server_tool_use", "web_search", '{"query": "x"}')
ROLE = openai_chunk({"role": "assistant", "content": ""})
CALLED = openai_chunk({}, "tool_calls")
TWO_CHOICES = [
    openai_chunk(delta, index=index)
    for delta in ({"role": "assistant"}, {"content": "Hel"}, {"content": "lo"})
    for index in (0, 1)
]
PROMPT_FILTER = sse({"id": "", "object": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]})

STREAMS: dict[str, tuple[WireFormat, list[bytes]]] = {
    "a text": (OPENAI_CHAT, openai_stream(*TEXTS)),
    "calls": (OPENAI_CHAT, openai_tools_stream("Hello see", *CALLS)),
    "one call": (OPENAI_CHAT, openai_tools_stream("", CALLS[0])),
    "a finish reason with the call": (
        OPENAI_CHAT,
        [called(call("shell", 0, "a"), role="assistant", finish_reason="tool_calls"), DONE],
    ),
    "reasoning": (
        OPENAI_CHAT,
        [
            openai_chunk({"role": "assistant", "reasoning_content": "Hel"}),
            openai_chunk({"reasoning_content": "lo"}),
            *openai_stream(*TEXTS)[1:],
        ],
    ),
    "two choices": (
        OPENAI_CHAT,
        [*TWO_CHOICES, openai_chunk({}, "stop"), openai_chunk({}, "stop", index=1), DONE],
    ),
    "an error": (OPENAI_CHAT, [*openai_stream("Hello")[:2], sse({"error": {"message": "overloaded"}}), DONE]),
    "Azure": (OPENAI_CHAT, [PROMPT_FILTER, *openai_stream(*TEXTS)]),
    "empty finish reasons": (
        OPENAI_CHAT,
        [
            openai_chunk({"role": "assistant", "content": "Hel"}, ""),
            openai_chunk({"content": "lo"}, ""),
            called(call("shell", 0, "a", ""), finish_reason=""),
            called({"index": 0, "function": {"arguments": f'{{"to": "{EMAIL[:3]}'}}, finish_reason=""),
            called({"index": 0, "function": {"arguments": f'{EMAIL[3:]}"}}'}}, finish_reason=""),
            CALLED,
            DONE,
        ],
    ),
    "whole calls with one index": (
        OPENAI_CHAT,
        [ROLE, called(call("shell", 0, "a")), called(call("read", 0, "b")), CALLED, DONE],
    ),
    "whole calls with neither index nor id": (
        OPENAI_CHAT,
        [ROLE, called(call("shell")), called(call("read")), CALLED, DONE],
    ),
    "such calls in one chunk": (OPENAI_CHAT, [ROLE, called(call("shell"), call("read")), CALLED, DONE]),
    "Anthropic's text": (ANTHROPIC_MESSAGES, anthropic_stream(*TEXTS)),
    "Anthropic's calls": (ANTHROPIC_MESSAGES, anthropic_tools_stream("Hello see", *CALLS)),
    "Anthropic's one call": (ANTHROPIC_MESSAGES, anthropic_tools_stream("", CALLS[0])),
    "all kinds of blocks": (
        ANTHROPIC_MESSAGES,
        messages(
            THINKING,
            text("Hel", "lo"),
            SEARCH,
            FOUND,
            text("Hello"),
            tool("tool_use", "shell", "", f'{{"to": "{EMAIL}', '"}'),
            tool("tool_use", "read"),
            reason="tool_use",
        ),
    ),
    "a call cut short": (
        ANTHROPIC_MESSAGES,
        messages(text("Hello"), tool("tool_use", "shell", '{"to":'), reason="max_tokens"),
    ),
    "Anthropic's error": (
        ANTHROPIC_MESSAGES,
        [*anthropic_stream(*TEXTS)[:4], anthropic_event({"type": "error", "error": {"type": "overloaded_error"}})],
    ),
    "OpenAI's response": (OPENAI_RESPONSES, responses_stream(*TEXTS)),
}


async def sides_of(wire_format: WireFormat, frames: list[bytes], steps: list[Step]) -> tuple[StreamSides, bytes]:
    """Both sides of a stream, and what the client was given."""
    sides = StreamSides(wire_format, may_change=True)
    stream = Chain(tuple(steps)).open(CallContext(UUID(int=0), wire_format, "m", streaming=True)).stream()
    given: list[Chunk] = []

    def give(*chunks: Chunk) -> None:
        given.extend(chunks)
        sides.released(b"".join(chunk.raw for chunk in chunks), chunks)

    terminal: Chunk | None = None
    for chunk in FrameReader(1 << 20).feed(b"".join(frames)):
        sides.arrived(chunk.raw, (chunk,))
        if wire_format.is_terminal(chunk):
            terminal = chunk
            give(*await stream.feed_unsaid(chunk))
        else:
            give(*await stream.feed(chunk))
    sides.ended()
    give(*await stream.finish())
    if terminal is not None:
        give(stream.agreed(terminal))
    sides.closed()
    return sides, b"".join(chunk.raw for chunk in given)


@pytest.mark.parametrize("steps", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize(("wire_format", "frames"), STREAMS.values(), ids=STREAMS)
async def test_what_is_given_on_violates_nothing_more(
    wire_format: WireFormat, frames: list[bytes], steps: list[Step]
) -> None:
    sides, _ = await sides_of(wire_format, frames, steps)
    assert not sides.upstream_violations
    assert not sides.gateway_violations


QUIRKY = ["empty finish reasons", "whole calls with one index", "such calls in one chunk"]
QUIRKY += ["whole calls with neither index nor id", "all kinds of blocks"]


@pytest.mark.parametrize("name", QUIRKY)
async def test_calls_are_found_however_they_are_numbered(name: str) -> None:
    wire_format, frames = STREAMS[name]
    _, unshelled = await sides_of(wire_format, frames, [NO_SHELL])
    assert b'"name":"shell"' not in unshelled.replace(b": ", b":")
    assert b"of the tool shell was blocked" in unshelled
    _, redacted = await sides_of(wire_format, frames, [REDACT])
    assert EMAIL.encode() not in redacted
    assert redacted.count(rb"\"[email]\"") == (1 if name in {"empty finish reasons", "all kinds of blocks"} else 2)


async def test_an_empty_finish_reason_ends_no_text() -> None:
    wire_format, frames = STREAMS["empty finish reasons"]
    _, replaced = await sides_of(wire_format, frames, [REPLACE])
    assert b"Hel" in b"".join(frames)
    assert b"Hel" not in replaced
