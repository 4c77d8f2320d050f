"""Whatever a policy makes of the blocks of a stream, it adds up to what it makes of the plain response."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthien.formats.blocks import Block, BlockKind
from luthien.formats.format import WireFormat
from luthien.formats.registry import OPENAI_RESPONSES
from luthien.formats.sse import Chunk
from luthien.policies.policy import Needs, Policy, Response, Verdict
from tests.chunks import assembled, chunks_of
from tests.unit.policies.test_blocks import FORMATS, run_of, streamed
from tests.wire import Json, responses_events, responses_message, responses_response
from tests.wire_tools import responses_call, responses_item

DEEDS = ["keep", "keep", "drop", "say", "change"]
TEXTS = st.text('ab \n\\"é', max_size=20)
CALLS = st.lists(
    st.tuples(st.sampled_from(["read", "run"]), st.dictionaries(TEXTS, TEXTS, max_size=2)), min_size=1, max_size=4
)


def deeds(kinds: frozenset[BlockKind]) -> st.SearchStrategy[type[Policy]]:
    """Policies that do one thing after the other to the blocks of these kinds."""

    def make(todo: list[str]) -> type[Policy]:
        async def on_block(self: Policy, block: Block) -> Verdict:
            deed = todo[block.index % len(todo)]
            match deed:
                case "keep":
                    return Verdict.allow()
                case "drop":
                    block.drop()
                case "say":
                    block.drop(f"no {block.index}")
                case "change" if block.kind is BlockKind.TOOL_CALL:
                    block.name = "say" if block.name in {"read", "run"} else block.name
                    block.text = '{"x": ["\\""]}'
                case "change":
                    block.text = block.text.upper() + "!"
            return Verdict.modify(deed)

        return type("Deeds", (Policy,), {"needs": Needs.BLOCKS, "kinds": kinds, "on_block": on_block})

    return st.builds(make, st.lists(st.sampled_from(DEEDS), min_size=1, max_size=5))


ANY_POLICY = st.sampled_from(
    [frozenset(BlockKind), frozenset({BlockKind.TEXT}), frozenset({BlockKind.TOOL_CALL}),
     frozenset({BlockKind.TOOL_CALL, BlockKind.REASONING})]
).flatmap(deeds)  # fmt: skip


async def both(wire_format: WireFormat, policy: type[Policy], frames: Sequence[bytes], body: Json) -> list[Any]:
    """What is made of the stream, added up, and of the plain response."""
    given_on = await streamed(run_of(wire_format, policy).stream(), chunks_of(frames))
    if wire_format is OPENAI_RESPONSES:
        check_valid(given_on)
    plain = await run_of(wire_format, policy).on_response(json.dumps(body).encode())
    return [assembled(wire_format, given_on), json.loads(plain)]


@pytest.mark.parametrize(("wire_format", "play", "plain"), FORMATS)
@settings(deadline=None)
@given(TEXTS, CALLS, ANY_POLICY)
async def test_a_stream_adds_up_to_what_is_made_of_the_plain_response(
    wire_format: WireFormat,
    play: Callable[..., list[bytes]],
    plain: Callable[..., Json],
    text: str,
    calls: list[Any],
    policy: type[Policy],
) -> None:
    streamed_, plain_ = await both(
        wire_format, policy, play(text, *calls), assembled(wire_format, chunks_of(play(text, *calls)))
    )
    assert normal(streamed_) == normal(plain_)


def normal(body: Json) -> Json:
    """In Chat Completions a field that is null says as much as one that is not there."""
    for choice in body.get("choices", ()):
        choice["message"] = {key: value for key, value in choice["message"].items() if value not in (None, "")}
    return body


@pytest.mark.parametrize(("wire_format", "play", "plain"), FORMATS)
@settings(deadline=None)
@given(TEXTS, CALLS)
async def test_what_no_policy_changes_leaves_as_the_very_bytes_that_came(
    wire_format: WireFormat, play: Callable[..., list[bytes]], plain: Callable[..., Json], text: str, calls: list[Any]
) -> None:
    class Allows(Policy):
        needs = Needs.BLOCKS

        async def on_block(self, block: Block) -> Verdict:
            block.drop("forgotten")
            return Verdict.allow()

    frames = play(text, *calls)
    given_on = await streamed(run_of(wire_format, Allows).stream(), chunks_of(frames))
    assert b"".join(chunk.raw for chunk in given_on) == b"".join(frames)


class Shouts(Policy):
    needs = Needs.WHOLE

    async def on_response(self, response: Response) -> Verdict:
        for slot in response.texts():
            slot.set(slot.text.upper())
        if "output" in response.body:
            response.body["output"].reverse()
            response.body["metadata"] = {"seen": "yes"}
        return Verdict.modify("shouted")


@pytest.mark.parametrize(("wire_format", "play", "plain"), FORMATS)
@settings(deadline=None)
@given(TEXTS, CALLS)
async def test_so_does_one_that_a_policy_changed_as_a_whole(
    wire_format: WireFormat, play: Callable[..., list[bytes]], plain: Callable[..., Json], text: str, calls: list[Any]
) -> None:
    frames = play(text, *calls)
    streamed_, plain_ = await both(wire_format, Shouts, frames, assembled(wire_format, chunks_of(frames)))
    assert normal(streamed_) == normal(plain_)


def check_valid(chunks: Sequence[Chunk]) -> None:
    """That a stream of Responses is in order, without gaps and in agreement with itself."""
    bodies = [chunk.json or {} for chunk in chunks]
    assert [body["sequence_number"] for body in bodies] == [*range(len(bodies))]
    assert [chunk.event for chunk in chunks] == [body["type"] for body in bodies]
    begun = [body["output_index"] for body in bodies if body["type"] == "response.output_item.added"]
    assert begun == [*range(len(begun))]
    items = [part_of_item(bodies, index) for index in begun]
    assert len({item["id"] for item in items}) == len(items)
    assert bodies[-1]["type"] == "response.completed"
    assert bodies[-1]["response"]["output"] == items


def part_of_item(bodies: list[Json], index: int) -> Json:
    """The item at that index, as it ended, all of whose events agree."""
    first, *events, last = [body for body in bodies if body.get("output_index") == index]
    assert (first["type"], last["type"]) == ("response.output_item.added", "response.output_item.done")
    item: Json = last["item"]
    assert (first["item"]["id"], first["item"]["type"]) == (item["id"], item["type"])
    assert {event["item_id"] for event in events} <= {item["id"]}
    if "arguments" in item:
        assert first["item"]["name"] == item["name"]
        assert first["item"]["arguments"] + said(events) == item["arguments"]
        assert [event["arguments"] for event in events if "arguments" in event] == [item["arguments"]]
    for listed in ("content", "summary"):
        check_parts([event for event in events if f"{listed}_index" in event], item.get(listed) or [], listed)
    return item


def check_parts(events: list[Json], parts: list[Json], listed: str) -> None:
    assert list(dict.fromkeys(event[f"{listed}_index"] for event in events)) == [*range(len(parts))]
    for index, part in enumerate(parts):
        first, *within, done, last = [event for event in events if event[f"{listed}_index"] == index]
        assert first["type"].endswith("part.added")
        assert last["type"].endswith("part.done")
        assert last["part"] == part
        key = "refusal" if "refusal" in part else "text"
        assert first["part"][key] == ""
        assert said(within) == done[key] == part[key]


def said(events: list[Json]) -> str:
    return "".join(event.get("delta", "") for event in events)


PARTS = st.lists(st.tuples(st.sampled_from(["output_text", "refusal"]), st.text("abc ", min_size=1)), max_size=3)
ITEMS = st.lists(
    st.one_of(
        st.tuples(st.just("message"), PARTS),
        st.tuples(st.just("reasoning"), st.lists(st.text("abc ", min_size=1), max_size=3)),
        st.tuples(st.just("function_call"), st.dictionaries(TEXTS, TEXTS, max_size=2)),
        st.tuples(st.just("web_search_call"), st.none()),
        st.tuples(st.just("local_shell_call"), st.lists(TEXTS, max_size=2)),
    ),
    max_size=5,
)


def item_of(at: int, kind: str, value: Any) -> Json:
    match kind:
        case "message":
            parts = [
                {"type": kind, "refusal": text}
                if kind == "refusal"
                else responses_message(text)["content"][0] | {"annotations": [{"type": "url_citation", "url": text}]}
                for kind, text in value
            ]
            return responses_message("") | {"id": f"msg_{at}", "content": parts}
        case "reasoning":
            summary = [{"type": "summary_text", "text": text} for text in value]
            return {"id": f"rs_{at}", "type": kind, "summary": summary, "encrypted_content": "sealed"}
        case "function_call":
            return responses_call(at, "read", value)
        case "local_shell_call":
            action = {"type": "exec", "command": value, "env": {}}
            return {"id": f"lsh_{at}", "type": kind, "call_id": f"c{at}", "action": action, "status": "completed"}
    return {"id": f"ws_{at}", "type": kind, "status": "completed", "action": {"type": "search", "query": "q"}}


def events_of(item: Json, index: int) -> list[Json]:
    place = {"item_id": item["id"], "output_index": index}
    if item["type"] == "web_search_call":
        begun, ended = responses_item(item, index)
        return [begun, {"type": "response.web_search_call.searching", **place}, ended]
    if item["type"] != "message":
        return responses_item(item, index)
    events: list[Json] = []
    for at, part in enumerate(item["content"]):
        of, key = {**place, "content_index": at}, "refusal" if "refusal" in part else "text"
        kind = "response.refusal" if key == "refusal" else "response.output_text"
        events.append(
            {
                "type": "response.content_part.added",
                **of,
                "part": {**part, key: "", **({"annotations": []} if key == "text" else {})},
            }
        )
        events += [{"type": f"{kind}.delta", **of, "delta": letter} for letter in part[key]]
        if key == "text":
            events.append(
                {
                    "type": "response.output_text.annotation.added",
                    **of,
                    "annotation_index": 0,
                    "annotation": part["annotations"][0],
                }
            )
        events += [
            {"type": f"{kind}.done", **of, key: part[key]},
            {"type": "response.content_part.done", **of, "part": part},
        ]
    return [
        {
            "type": "response.output_item.added",
            "output_index": index,
            "item": item | {"content": [], "status": "in_progress"},
        },
        *events,
        {"type": "response.output_item.done", "output_index": index, "item": item},
    ]


@settings(deadline=None)
@given(ITEMS, st.sampled_from([frozenset({kind}) for kind in BlockKind] + [frozenset(BlockKind)]).flatmap(deeds))
async def test_whatever_is_in_a_response_its_stream_stays_valid(items: list[Any], policy: type[Policy]) -> None:
    output = [item_of(at, *each) for at, each in enumerate(items)]
    body = responses_response() | {"output": output}
    events = [event for at, item in enumerate(output) for event in events_of(item, at)]
    created = {"type": "response.created", "response": body | {"output": [], "status": "in_progress"}}
    frames = responses_events(created, *events, {"type": "response.completed", "response": body})
    check_valid(chunks_of(frames))
    streamed_, plain_ = await both(OPENAI_RESPONSES, policy, frames, body)
    assert streamed_ == plain_
