"""What is peculiar to the blocks of OpenAI Responses: items made of parts, sealed reasoning, calls of many kinds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from luthien.errors import PolicyFailure
from luthien.formats.blocks import Block, BlockKind
from luthien.formats.registry import OPENAI_RESPONSES as FORMAT
from luthien.policies.policy import Needs, Policy, Verdict
from tests.chunks import assembled, chunks_of
from tests.unit.policies.test_block_streams import check_valid, events_of, item_of
from tests.unit.policies.test_blocks import Blocky, run_of, streamed
from tests.wire import Json, responses_events, responses_message, responses_response, sse
from tests.wire_tools import responses_call, responses_item

MESSAGE = item_of(0, "message", [("output_text", "a"), ("refusal", "b"), ("output_text", "c")])
THOUGHT = item_of(1, "reasoning", ["d", "e"])
CALL = item_of(2, "function_call", {"x": 1})
SHELL = item_of(3, "local_shell_call", ["rm", "-r"])
SEARCH = item_of(4, "web_search_call", None)


def stream_of(*items: Json) -> list[bytes]:
    body = responses_response() | {"output": [*items]}
    events = [event for index, item in enumerate(items) for event in events_of(item, index)]
    created = {"type": "response.created", "response": body | {"output": []}}
    return responses_events(created, *events, {"type": "response.completed", "response": body})


def policy_of(judge: Callable[[Block], object], *kinds: BlockKind) -> type[Policy]:
    """Gives on what `judge` makes of each block."""

    async def on_block(self: Policy, block: Block) -> Verdict:
        judge(block)
        return Verdict.modify()

    seen = frozenset(kinds or BlockKind)
    return type("Judging", (Policy,), {"needs": Needs.BLOCKS, "kinds": seen, "on_block": on_block})


async def output(policy: type[Policy], *items: Json) -> list[Json]:
    """What is left of the items, the same in the stream and in the plain response."""
    given_on = await streamed(run_of(FORMAT, policy).stream(), chunks_of(stream_of(*items)))
    check_valid(given_on)
    body = json.dumps(responses_response() | {"output": [*items]}).encode()
    left: list[Json] = json.loads(await run_of(FORMAT, policy).on_response(body))["output"]
    assert assembled(FORMAT, given_on)["output"] == left
    return left


async def test_blocks_are_parts_and_items() -> None:
    run = run_of(FORMAT, Blocky)
    await streamed(run.stream(), chunks_of(stream_of(MESSAGE, THOUGHT, CALL, SHELL, SEARCH)))
    policy = run._policies[0][2]
    assert isinstance(policy, Blocky)
    assert [(block.kind.value, block.name, block.text) for block in policy.seen] == [
        *(("text", "", text) for text in "abc"),
        *(("reasoning", "", text) for text in "de"),
        ("tool_call", "read", '{"x": 1}'),
        ("tool_call", "local_shell", '{"type":"exec","command":["rm","-r"],"env":{}}'),
        ("other", "", ""),
    ]
    assert [block.index for block in policy.seen] == [*range(8)]


async def test_what_follows_a_part_or_an_item_that_is_gone_moves_up() -> None:
    gone = policy_of(lambda block: block.drop() if block.text in set("bd") or block.name == "read" else None)
    left = await output(gone, MESSAGE, THOUGHT, CALL, SHELL)
    assert [item["type"] for item in left] == ["message", "reasoning", "local_shell_call"]
    assert [part["text"] for part in left[0]["content"]] == ["a", "c"]
    assert [part["text"] for part in left[1]["summary"]] == ["e"]


async def test_an_item_of_which_no_block_is_left_is_gone() -> None:
    left = await output(policy_of(lambda block: block.drop(), BlockKind.TEXT), MESSAGE, CALL, MESSAGE)
    assert left == [CALL]


async def test_a_changed_text_loses_what_held_for_the_other() -> None:
    def shout(block: Block) -> None:
        block.text = block.text.upper()

    message, thought = await output(policy_of(shout, BlockKind.TEXT, BlockKind.REASONING), MESSAGE, THOUGHT)
    assert message["content"][0] == MESSAGE["content"][0] | {"text": "A", "annotations": []}
    assert thought == {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "D"},
                       {"type": "summary_text", "text": "E"}]}  # fmt: skip
    given_on = await streamed(run_of(FORMAT, policy_of(shout)).stream(), chunks_of(stream_of(MESSAGE, THOUGHT)))
    raw = b"".join(chunk.raw for chunk in given_on)
    assert b"sealed" not in raw
    assert b"url_citation" not in raw


async def test_texts_in_the_place_of_reasoning_are_messages_around_what_is_left_of_it() -> None:
    thought = item_of(1, "reasoning", ["a", "b", "c"])
    left = await output(policy_of(lambda block: block.drop("-") if block.text != "b" else None), thought)
    assert [item["type"] for item in left] == ["message", "reasoning", "message"]
    assert len({item["id"] for item in left}) == 3


async def test_reasoning_without_a_text_is_a_block_too() -> None:
    sealed = item_of(1, "reasoning", [])
    assert await output(policy_of(lambda block: block.drop(), BlockKind.REASONING), sealed, CALL) == [CALL]


async def test_the_arguments_of_a_shell_are_those_of_a_tool() -> None:
    def harmless(block: Block) -> None:
        block.text = '{"command": ["ls"]}'

    [shell] = await output(policy_of(harmless, BlockKind.TOOL_CALL), SHELL)
    assert shell == SHELL | {"action": {"command": ["ls"]}}


async def test_where_items_have_no_index_they_are_told_apart_by_their_ids() -> None:
    bodies = [chunk.json or {} for chunk in chunks_of(stream_of(CALL, MESSAGE))]
    frames = [sse({key: value for key, value in body.items() if key != "output_index"}) for body in bodies]
    drop = policy_of(lambda block: block.drop("gone"), BlockKind.TOOL_CALL)
    given_on = await streamed(run_of(FORMAT, drop).stream(), chunks_of(frames))
    assert not any("output_index" in (chunk.json or {}) for chunk in given_on)
    assert [item["id"] for item in assembled(FORMAT, given_on)["output"]] == ["msg_fc_2", "msg_0"]


async def test_items_that_come_side_by_side() -> None:
    first, second = (responses_item(responses_call(at, name, {}), at) for at, name in enumerate(["run", "read"]))
    events = [event for both in zip(first, second, strict=True) for event in both]
    body = responses_response() | {"output": [first[-1]["item"], second[-1]["item"]]}
    frames = responses_events(*events, {"type": "response.completed", "response": body})
    drop = policy_of(lambda block: block.drop() if block.name == "run" else None)
    given_on = await streamed(run_of(FORMAT, drop).stream(), chunks_of(frames))
    check_valid(given_on)
    assert assembled(FORMAT, given_on)["output"] == [second[-1]["item"]]


async def test_events_of_a_block_that_nobody_knows_go_with_it() -> None:
    frames = stream_of(THOUGHT)
    place = {"item_id": "rs_1", "output_index": 0, "summary_index": 1}
    frames.insert(-2, sse({"type": "response.of_the_future", **place, "text": "d"}))
    drop = policy_of(lambda block: block.drop() if block.text == "e" else None)
    given_on = await streamed(run_of(FORMAT, drop).stream(), chunks_of(frames))
    assert not any("future" in (chunk.json or {})["type"] for chunk in given_on)


async def test_a_call_that_never_ended_is_what_the_end_marker_says() -> None:
    frames = [frame for frame in stream_of(SHELL) if b"output_item.done" not in frame]
    frames[1] = frames[1].replace(b'"rm"', b'"ls"')
    drop = policy_of(lambda block: block.drop() if "rm" in block.text else None)
    assert b"local_shell" in b"".join(frames)
    given_on = await streamed(run_of(FORMAT, drop).stream(), chunks_of(frames))
    assert assembled(FORMAT, given_on)["output"] == []
    assert b"local_shell" not in b"".join(chunk.raw for chunk in given_on)


async def test_a_part_of_another_kind_is_one_that_a_policy_on_texts_does_not_see() -> None:
    audio = {"type": "output_audio", "data": "AAAA", "transcript": "x"}
    place = {"item_id": "msg_0", "output_index": 0, "content_index": 0}
    item = MESSAGE | {"content": [audio]}
    frames = responses_events(
        {"type": "response.output_item.added", "output_index": 0, "item": item | {"content": []}},
        {"type": "response.content_part.added", **place, "part": {"type": "output_audio"}},
        {"type": "response.content_part.done", **place, "part": audio},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": responses_response() | {"output": [item]}},
    )
    drop = policy_of(lambda block: block.drop(), BlockKind.TEXT)
    assert await streamed(run_of(FORMAT, drop).stream(), chunks := chunks_of(frames)) == chunks
    drop = policy_of(lambda block: block.drop(), BlockKind.TEXT, BlockKind.OTHER)
    given_on = await streamed(run_of(FORMAT, drop).stream(), chunks_of(frames))
    assert [(chunk.json or {})["type"] for chunk in given_on] == ["response.completed"]


async def test_one_that_breaks_and_may_lets_the_rest_pass_in_order() -> None:
    def judge(block: Block) -> None:
        if block.name:
            raise LookupError
        block.drop()

    run = run_of(FORMAT, policy_of(judge), fails_open=True)
    given_on = await streamed(run.stream(), chunks_of(stream_of(MESSAGE, CALL, THOUGHT)))
    check_valid(given_on)
    assert assembled(FORMAT, given_on)["output"] == [CALL, THOUGHT]


OPENED = {"type": "response.output_item.added", "output_index": 0, "item": responses_message("") | {"content": []}}
DELTA = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "a"}
PART = {"type": "response.content_part.done", "output_index": 0, "content_index": 0,
        "part": {"type": "output_text", "text": "a"}}  # fmt: skip
CALLED = {"type": "response.output_item.added", "output_index": 0, "item": CALL | {"arguments": ""}}


@pytest.mark.parametrize(
    "events",
    [
        [DELTA],
        [{"type": "response.created", "response": responses_response()}],
        [OPENED | {"item": responses_message("a")}],
        [OPENED | {"item": responses_message("") | {"content": "a"}}],
        [OPENED, DELTA, PART, DELTA],
        [OPENED, PART | {"type": "response.content_part.added", "part": {"type": "output_audio"}}, DELTA],
        [OPENED, {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "a"}],
        [CALLED, {"type": "response.output_item.done", "output_index": 0, "item": SHELL}],
        [CALLED, {"type": "response.output_item.done", "output_index": 0, "item": CALL | {"name": "run"}}],
    ],
)
async def test_a_stream_of_which_nobody_can_say_what_it_means_stops(events: list[Json]) -> None:
    with pytest.raises(PolicyFailure):
        await streamed(run_of(FORMAT, Blocky).stream(), chunks_of(responses_events(*events)))


async def test_a_shell_cannot_be_made_another_tool() -> None:
    def rename(block: Block) -> None:
        block.name = "read"

    with pytest.raises(PolicyFailure):
        await output(policy_of(rename), SHELL)


FUNCTION: Json = {"type": "function", "name": "run", "parameters": {}}
OTHERS: list[Json] = [{"type": "custom", "name": "patch"}, {"type": "web_search"}]


@pytest.mark.parametrize(
    ("unwanted", "tools", "choice", "left"),
    [
        ("run", [FUNCTION, *OTHERS], {"type": "function", "name": "run"}, {"tools": OTHERS}),
        ("run", [FUNCTION, *OTHERS], "auto", {"tools": OTHERS, "tool_choice": "auto"}),
        ("web_search", [FUNCTION, *OTHERS], {"type": "web_search"}, {"tools": [FUNCTION, OTHERS[0]]}),
        ("run", [FUNCTION], "required", None),
        (
            "run",
            [FUNCTION, *OTHERS],
            {"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION, *OTHERS]},
            {"tools": OTHERS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": OTHERS}},
        ),
        (
            "run",
            [FUNCTION, *OTHERS],
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "run"}]},
            {"tools": OTHERS},
        ),
        ("other", [FUNCTION], {"type": "function", "name": "other"},
         {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "other"}}),
    ],
)  # fmt: skip
def test_tools_are_taken_out_of_requests(unwanted: str, tools: Any, choice: Any, left: Json | None) -> None:
    body: Json = {"input": "x", "tools": tools, "tool_choice": choice, "parallel_tool_calls": True}
    removed = FORMAT.blocks.remove_tools(body, lambda name: name == unwanted)
    assert removed == ([unwanted] if unwanted != "other" else [])
    rest = {"input": "x"} | ({} if left is None else {"parallel_tool_calls": True} | left)
    assert body == rest
