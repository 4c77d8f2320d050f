"""What a stream says again must be what the policies made of it, in every place and up to its end marker."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.exchange import Side
from luthien.formats.registry import OPENAI_RESPONSES as FORMAT
from luthien.formats.sse import Chunk
from luthien.policies.builtin.block_tools import BlockTools
from luthien.policies.builtin.redact import Redact, RedactConfig
from luthien.policies.builtin.replace_text import ReplaceText, ReplaceTextConfig
from luthien.policies.chain import Chain, ChainRun
from luthien.policies.policy import CallContext, Policy
from luthien.policies.registry import make_step
from tests.chunks import chunks_of
from tests.validity import assert_valid
from tests.wire import Json, responses_events, responses_response, responses_stream, responses_text, sse
from tests.wire_tools import responses_tools_stream

CALL = CallContext(UUID(int=0), FORMAT, "m", streaming=True)
SECRET = {"find": "secret", "replace": "[hidden]"}


class Watching(Policy):
    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
        return (chunk,)


class NoTools(Policy):
    """Lets no tool call through."""

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
        return () if (chunk.json or {}).get("output_index") == 1 else (chunk,)


def replacing(*rules: Json) -> Any:
    return make_step("replace_text", ReplaceText, ReplaceTextConfig.model_validate({"rules": rules}))


def plain(policy: type[Policy]) -> Any:
    return make_step(policy.__name__, policy, policy.Config())


async def through(frames: Iterable[bytes], *steps: Any) -> tuple[list[Chunk], ChainRun]:
    """All that the client is given, the end marker included."""
    run = Chain(steps).open(CALL)
    stream = run.stream()
    given_on: list[Chunk] = []
    for chunk in chunks_of(frames):
        if not FORMAT.is_terminal(chunk):
            given_on += await stream.feed(chunk)
            continue
        given_on += await stream.feed_unsaid(chunk)
        given_on += await stream.finish()
        given_on.append(stream.agreed(chunk))
    final = added_up(given_on)
    stream.decide(json.dumps(final).encode())
    return given_on, run


def added_up(chunks: Iterable[Chunk]) -> Json:
    assembler = FORMAT.assembler()
    for chunk in chunks:
        assembler.add(chunk)
    return assembler.result() or {}


def every_whole(chunks: Iterable[Chunk], field: str = "text") -> set[str]:
    """Each text that is said whole anywhere in these frames."""
    wholes = [chunk.json for chunk in chunks if ".delta" not in (chunk.json or {}).get("type", "")]
    found = re.findall(rf'"{field}": "((?:[^"\\]|\\.)*)"', json.dumps(wholes))
    return {json.loads(f'"{text}"') for text in found if text}


def deltas(chunks: Iterable[Chunk]) -> str:
    return "".join((chunk.json or {}).get("delta", "") for chunk in chunks)


@pytest.mark.parametrize(
    "pieces", [["a secret"], ["a sec", "ret"], ["a s", "e", "cr", "et"], ["a ", "s", "ecret"], list("a secret")]
)
async def test_what_was_replaced_in_the_pieces_is_nowhere_in_what_comes_after(pieces: list[str]) -> None:
    given_on, run = await through(responses_stream(*pieces, " b"), replacing(SECRET))
    assert b"secret" not in b"".join(chunk.raw for chunk in given_on)
    assert deltas(given_on) == "a [hidden] b"
    assert every_whole(given_on) == {"a [hidden] b"}
    assert added_up(given_on) == responses_response("a [hidden] b")
    [decision] = run.decisions
    assert (decision.side, decision.changed, decision.verdict.count) == (Side.RESPONSE, True, 1)
    assert [chunk.event for chunk in given_on] == [
        chunk.event for chunk in chunks_of(responses_stream(*pieces, " b"))
    ]


async def test_what_no_policy_touches_leaves_as_the_very_bytes_that_came() -> None:
    frames = [b": ping\n\n", *responses_stream("Hel", "lo"), b""]
    frames.insert(
        3, b'event: response.from_the_future\r\ndata: {"type":"response.from_the_future", "text": 1.0}\r\n\r\n'
    )
    given_on, run = await through(frames, plain(Watching), replacing(SECRET))
    assert b"".join(chunk.raw for chunk in given_on) == b"".join(frames)
    assert [decision.changed for decision in run.decisions] == [False, False]


async def test_policies_in_shadow_are_shown_what_was_said_whole_only_and_the_client_is_not() -> None:
    frames = [frame for frame in responses_stream("a secret") if b".delta" not in frame]
    end_alone = sse({"type": "response.completed", "response": responses_response("a secret")})
    for stream in (frames, [end_alone]):
        shadow = replace(replacing(SECRET), is_shadow=True)
        given_on, run = await through(stream, shadow, shadow)
        assert b"".join(chunk.raw for chunk in given_on) == b"".join(stream)
        assert [(decision.changed, decision.verdict.count) for decision in run.decisions] == [(True, 1)] * 2


async def test_each_step_is_shown_a_stream_that_agrees_with_itself() -> None:
    """The second rule matches what the first one made; the output of the first step is whole, too."""
    steps = (replacing({"find": "ab", "replace": "c"}), replacing({"find": "cd", "replace": "e"}))
    given_on, run = await through(responses_stream("a", "b", "d"), *steps)
    assert every_whole(given_on) == {"e"}
    first, second = run.decisions
    assert first.output is not None
    assert json.loads(first.output) == responses_response("cd")
    assert json.loads(second.output or b"") == responses_response("e")


async def test_reasoning_and_refusals_agree_too() -> None:
    part = {"type": "summary_text", "text": "a secret"}
    at = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
    place = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
    refusal = {"type": "refusal", "refusal": "no secret"}
    thought = {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [part],
        "content": [{"type": "reasoning_text", "text": "secret!"}],
    }
    message = {"id": "msg_1", "type": "message", "content": [refusal]}
    frames = responses_events(
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {"id": "rs_1", "type": "reasoning", "summary": []},
        },
        {"type": "response.reasoning_summary_part.added", **at, "part": part | {"text": ""}},
        {"type": "response.reasoning_summary_text.delta", **at, "delta": "a se"},
        {"type": "response.reasoning_summary_text.delta", **at, "delta": "cret"},
        {"type": "response.reasoning_summary_text.done", **at, "text": "a secret"},
        {"type": "response.reasoning_summary_part.done", **at, "part": part},
        {
            "type": "response.reasoning_text.delta",
            "item_id": "rs_1",
            "output_index": 0,
            "content_index": 0,
            "delta": "secret!",
        },
        {
            "type": "response.reasoning_text.done",
            "item_id": "rs_1",
            "output_index": 0,
            "content_index": 0,
            "text": "secret!",
        },
        {"type": "response.output_item.done", "output_index": 0, "item": thought},
        {"type": "response.output_item.added", "output_index": 1, "item": message | {"content": []}},
        {"type": "response.content_part.added", **place, "part": refusal | {"refusal": ""}},
        {"type": "response.refusal.delta", **place, "delta": "no sec"},
        {"type": "response.refusal.delta", **place, "delta": "ret"},
        {"type": "response.refusal.done", **place, "refusal": "no secret"},
        {"type": "response.content_part.done", **place, "part": refusal},
        {"type": "response.output_item.done", "output_index": 1, "item": message},
        {"type": "response.completed", "response": responses_response() | {"output": [thought, message]}},
    )
    given_on, _ = await through(frames, replacing(SECRET))
    assert b"secret" not in b"".join(chunk.raw for chunk in given_on)
    assert every_whole(given_on) == {"a [hidden]", "[hidden]!"}
    assert every_whole(given_on, "refusal") == {"no [hidden]"}


async def test_without_any_index_or_done_event_the_end_marker_agrees() -> None:
    """As llama.cpp names its items: by their ids only."""
    text = {"type": "response.output_text.delta", "item_id": "msg_1"}
    frames = [sse({**text, "delta": "a sec"}), sse({**text, "delta": "ret"})]
    frames.append(sse({"type": "response.completed", "response": responses_response("a secret")}))
    given_on, _ = await through(frames, replacing(SECRET))
    assert added_up(given_on) == responses_response("a [hidden]")


async def test_tokens_beside_a_replaced_text_do_not_tell_what_it_was() -> None:
    tokens = b'"logprobs": [{"token": "secret", "logprob": -0.5}]'
    frames = [
        frame if b".added" in frame else frame.replace(b'"logprobs": []', tokens)
        for frame in responses_stream("secret")
    ]
    assert sum(tokens in frame for frame in frames) == 5
    given_on, _ = await through(frames, replacing(SECRET))
    assert b"secret" not in b"".join(chunk.raw for chunk in given_on)


@pytest.mark.parametrize("left", [1, 2, 3, 4])
async def test_text_that_never_came_in_pieces_is_shown_to_the_policies_all_the_same(left: int) -> None:
    """A provider that says it whole at once: the more frames are left, the earlier it does."""
    frames = [frame for frame in responses_stream("a secret") if b"output_text.delta" not in frame]
    kept = [*frames[: len(frames) - 4], *frames[len(frames) - left :]]
    given_on, _ = await through(kept, replacing(SECRET))
    assert b"secret" not in b"".join(chunk.raw for chunk in given_on)
    assert deltas(given_on) == "a [hidden]"
    assert added_up(given_on) == responses_response("a [hidden]")


async def test_what_is_said_whole_and_differs_from_its_pieces_is_not_passed_on() -> None:
    frames = [
        frame.replace(b"Hello", b"a secret") if b".done" in frame or b".completed" in frame else frame
        for frame in responses_stream("Hello")
    ]
    given_on, _ = await through(frames, plain(Watching))
    assert b"secret" not in b"".join(chunk.raw for chunk in given_on)
    assert every_whole(given_on) == {"Hello"}


async def test_an_item_that_a_policy_withheld_is_not_in_the_end_marker_either() -> None:
    call = {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"}
    ending = responses_response("a")
    ending["output"].append(call)
    frames = responses_events(
        *responses_text("a"),
        {"type": "response.output_item.added", "output_index": 1, "item": call | {"arguments": ""}},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "item_id": "fc_1", "delta": "{}"},
        {"type": "response.output_item.done", "output_index": 1, "item": call},
        {"type": "response.completed", "response": ending},
    )
    given_on, _ = await through(frames, plain(NoTools), plain(Watching))
    assert added_up(given_on) == responses_response("a")
    given_on, _ = await through(frames, plain(Watching))
    assert added_up(given_on) == ending


async def test_the_text_that_some_say_once_more_beside_the_output_agrees() -> None:
    frames = responses_stream("a secret")[:-1]
    frames += [
        sse({"type": "response.completed", "response": responses_response("a secret") | {"output_text": "a secret"}})
    ]
    given_on, _ = await through(frames, replacing(SECRET))
    assert added_up(given_on)["output_text"] == "a [hidden]"


@given(
    st.lists(st.lists(st.sampled_from(["sec", "ret", "secret", "a", "", "b\n"]), max_size=6), max_size=3),
    st.lists(
        st.sampled_from([SECRET, {"find": "a", "replace": ""}, {"find": "(?i)RET", "replace": "x", "regex": True}]),
        min_size=1,
        max_size=3,
    ),
)
async def test_a_stream_adds_up_to_what_is_made_of_the_plain_response(
    messages: list[list[str]], rules: list[Json]
) -> None:
    events = [event for index, texts in enumerate(messages) for event in responses_text(*texts, output_index=index)]
    ending = responses_response()
    ending["output"] = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    frames = responses_events(*events, {"type": "response.completed", "response": ending})
    given_on, _ = await through(frames, replacing(*rules))
    body = await Chain((replacing(*rules),)).open(CALL).on_response(json.dumps(copy.deepcopy(ending)).encode())
    assert added_up(given_on) == json.loads(body)
    assert added_up(given_on[:-1]).get("output", []) == json.loads(body)["output"]


def calling(arguments: str, *pieces: str) -> list[bytes]:
    """The frames of a stream that calls one tool."""
    call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "send", "status": "completed"}
    place = {"item_id": "fc_1", "output_index": 0}
    done = {**call, "arguments": arguments}
    return responses_events(
        {"type": "response.created", "response": responses_response() | {"output": [], "usage": None}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**call, "arguments": ""}},
        *({"type": "response.function_call_arguments.delta", **place, "delta": piece} for piece in pieces),
        {"type": "response.function_call_arguments.done", **place, "arguments": arguments},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        {"type": "response.completed", "response": responses_response() | {"output": [done]}},
    )


@pytest.mark.parametrize(
    "pieces", [['{"to": "[email-1]"}'], ['{"to": "[em', 'ail-1]"}'], list('{"to": "[email-1]"}')]
)
async def test_arguments_in_a_stream_get_their_values_back_wherever_they_are_said(pieces: list[str]) -> None:
    config = RedactConfig.model_validate({"rules": [{"kinds": ["email"], "action": "reversible"}]})
    run = Chain((make_step("redact", Redact, config),)).open(CALL)
    sent = await run.on_request(b'{"model":"m","input":"Write to \\"jane\\"@x or jane@example.com"}')
    assert b"[email-1]" in sent
    stream = run.stream()
    given_on: list[Chunk] = []
    for chunk in chunks_of(calling('{"to": "[email-1]"}', *pieces)):
        if FORMAT.is_terminal(chunk):
            given_on += [*await stream.feed_unsaid(chunk), *await stream.finish(), stream.agreed(chunk)]
        else:
            given_on += await stream.feed(chunk)
    assert json.loads(deltas(given_on)) == {"to": "jane@example.com"}
    assert {json.loads(text)["to"] for text in every_whole(given_on, "arguments")} == {"jane@example.com"}
    assert added_up(given_on)["output"][0]["arguments"] == deltas(given_on)


def numbers(chunks: Iterable[Chunk]) -> list[Any]:
    return [(chunk.json or {}).get("sequence_number") for chunk in chunks if chunk.json]


async def test_what_the_client_is_given_is_numbered_without_gaps() -> None:
    frames = [frame.replace(b'"sequence_number": ', b'"sequence_number": 4') for frame in responses_stream("a", "b")]
    first = int(chunks_of(frames)[0].json["sequence_number"])  # type: ignore[index]

    class Odd(Policy):
        """Drops one frame, says another twice, and one without a number."""

        async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
            body = chunk.json or {}
            match body.get("type"):
                case "response.in_progress":
                    return ()
                case "response.output_text.delta":
                    unnumbered = {key: value for key, value in body.items() if key != "sequence_number"}
                    return (chunk, chunk, Chunk.of(unnumbered, chunk.event))
            return (chunk,)

    given_on, _ = await through(frames, plain(Odd), plain(Watching))
    assert len(given_on) == len(frames) - 1 + 4
    assert numbers(given_on) == [*range(first, first + len(given_on))]
    assert deltas(given_on) == "aaabbb"


async def test_the_numbers_of_a_provider_that_leaves_gaps_are_its_own() -> None:
    frames = [frame.replace(b'"sequence_number": ', b'"sequence_number": 1') for frame in responses_stream("a")]
    given_on, _ = await through(frames, plain(Watching))
    assert b"".join(chunk.raw for chunk in given_on) == b"".join(frames)


async def test_where_a_provider_gives_no_numbers_nobody_does() -> None:
    bodies = [chunk.json or {} for chunk in chunks_of(responses_stream("a secret"))]
    frames = [sse({key: value for key, value in body.items() if key != "sequence_number"}) for body in bodies]
    given_on, _ = await through(frames, replacing(SECRET))
    assert set(numbers(given_on)) == {None}


async def test_an_item_of_a_policy_s_own_is_in_the_end_marker() -> None:
    class Adds(Watching):
        async def on_stream_end(self) -> Sequence[Chunk]:
            return chunks_of(responses_events(*responses_text("and ", "more", output_index=1)))

    given_on, _ = await through(responses_stream("a"), plain(Adds), plain(Watching))
    more = responses_response("and more")["output"]
    assert added_up(given_on) == responses_response("a") | {"output": responses_response("a")["output"] + more}
    assert numbers(given_on) == [*range(len(given_on))]


@pytest.mark.parametrize(
    "missing",
    [(), ("arguments.done",), ("arguments.done", "item.done"), ("arguments.done", "item.done", "item.added")],
)
async def test_a_call_that_is_said_whole_only_is_shown_to_the_policies_all_the_same(missing: Sequence[str]) -> None:
    frames = [frame for frame in calling('{"to": "a"}') if not any(name.encode() in frame for name in missing)]
    config = BlockTools.Config.model_validate({"rules": [{"when": [{"pointer": "/to", "matches": "a"}]}]})
    given_on, _ = await through(frames, make_step("block_tools", BlockTools, config))
    assert b"arguments" not in b"".join(chunk.raw for chunk in given_on)
    assert [item["type"] for item in added_up(given_on)["output"]] == ["message"]
    given_on, _ = await through(frames, plain(Watching))
    assert deltas(given_on) == '{"to": "a"}'


@pytest.mark.parametrize("at_the_end_only", [False, True])
async def test_what_a_shell_is_told_agrees_up_to_the_end_marker(at_the_end_only: bool) -> None:
    item = {
        "id": "sh_1",
        "type": "shell_call",
        "call_id": "call_1",
        "action": {"commands": ["mail jane@example.com"], "timeout_ms": 1000},
    }
    frames = responses_events(
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": responses_response() | {"output": [item]}},
    )
    config = RedactConfig.model_validate({"rules": [{"kinds": ["email"], "in": ["response"]}]})
    given_on, _ = await through(frames[2:] if at_the_end_only else frames, make_step("redact", Redact, config))
    assert b"jane@example.com" not in b"".join(chunk.raw for chunk in given_on)
    [masked] = added_up(given_on)["output"]
    assert masked == item | {"action": {"commands": ["mail [email]"], "timeout_ms": 1000}}


class Withholding(Policy):
    """Withholds the second item, or gives it on behind the third."""

    late = False

    def __init__(self, config: Any, call: CallContext) -> None:
        super().__init__(config, call)
        self._held: list[Chunk] = []

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
        body = chunk.json or {}
        if body.get("output_index") == 1:
            self._held.append(chunk)
            return ()
        is_end = body.get("type") == "response.output_item.done" and body["output_index"] == 2
        return (chunk, *self._held) if is_end and self.late else (chunk,)


@pytest.mark.parametrize("late", [False, True])
async def test_what_follows_a_withheld_item_moves_up(monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    monkeypatch.setattr(Withholding, "late", late)
    frames = responses_tools_stream("Well.", ("a", {}), ("b", {}), ("c", {}))
    given_on, _ = await through(frames, plain(Withholding))
    added = [chunk.json or {} for chunk in given_on if chunk.event == "response.output_item.added"]
    assert [each["output_index"] for each in added] == [*range(4 if late else 3)]
    assert [each["item"].get("name") for each in added] == [None, "b", *(["a"] if late else []), "c"]
    if not late:
        assert_valid(FORMAT, b"".join(chunk.raw for chunk in given_on))
        assert [item.get("name") for item in added_up(given_on)["output"]] == [None, "b", "c"]


async def test_how_the_provider_numbers_items_is_its_own() -> None:
    """Nothing was withheld: gaps, and an order of its own, stay."""
    frames = [
        frame.replace(b'"output_index": 1', b'"output_index": 7')
        for frame in responses_tools_stream("a", ("b", {}), ("c", {}))
    ]
    frames.pop()  # the end marker, in whose list nothing has a number of its own
    given_on, _ = await through(frames, plain(Watching))
    assert b"".join(chunk.raw for chunk in given_on) == b"".join(frames)
