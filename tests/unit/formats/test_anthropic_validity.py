"""Each rule of Anthropic's streams: a stream that breaks it and nothing else, and its twin that breaks nothing."""

from __future__ import annotations

import pytest

from luthien.formats import anthropic_validity as rules
from luthien.formats import validity
from luthien.formats.registry import ANTHROPIC_MESSAGES
from luthien.formats.validity import Rule
from tests.validity import violations
from tests.wire import DONE, Json, anthropic_event, anthropic_response, anthropic_stream, sse
from tests.wire_tools import anthropic_tools_stream

START = {"type": "message_start", "message": anthropic_response() | {"content": [], "stop_reason": None}}
STOP = {"type": "message_stop"}
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def begin(index: int, kind: str = "text") -> Json:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind}}


def delta(index: int, kind: str = "text_delta", **fields: str) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **(fields or {"text": "Hi"})}}


def stop(index: int) -> Json:
    return {"type": "content_block_stop", "index": index}


def ends(reason: str | None = "end_turn", **usage: int) -> Json:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage or {"output_tokens": 3}}


def text(index: int) -> list[Json]:
    return [begin(index), delta(index), stop(index)]


def tool(index: int, arguments: str = "{}") -> list[Json]:
    return [begin(index, "tool_use"), delta(index, "input_json_delta", partial_json=arguments), stop(index)]


def message(*bodies: Json, last: Json | None = None) -> list[Json]:
    return [START, *bodies, last or ends(), STOP]


CASES: dict[str, tuple[Rule, list[Json], list[Json]]] = {
    "a delta before the message": (rules.START_FIRST, message(*text(0))[1:], message(*text(0))),
    "two messages": (rules.START_ONCE, [START, *message()], message()),
    "a gap": (rules.BLOCK_INDEX, message(*text(0), *text(2)), message(*text(0), *text(1))),
    "from 1": (rules.BLOCK_INDEX, message(*text(1)), message(*text(0))),
    "two open": (
        rules.BLOCK_OPEN,
        message(begin(0), begin(1), stop(1)),
        message(begin(0), stop(0), begin(1), stop(1)),
    ),
    "open at the end": (rules.BLOCK_OPEN, message(begin(0)), message(begin(0), stop(0))),
    "a delta of another block": (
        rules.OUTSIDE_BLOCK,
        message(*text(0), begin(1), delta(0), stop(1)),
        message(*text(0), begin(1), delta(1), stop(1)),
    ),
    "a stop without a start": (rules.OUTSIDE_BLOCK, message(stop(0)), message(*text(0))),
    "text in thinking": (
        rules.DELTA_TYPE,
        message(begin(0, "thinking"), delta(0), stop(0)),
        message(begin(0, "thinking"), delta(0, "thinking_delta", thinking="Hm"), stop(0)),
    ),
    "JSON in text": (
        rules.DELTA_TYPE,
        message(begin(0), delta(0, "input_json_delta", partial_json="{}"), stop(0)),
        message(begin(0), delta(0), stop(0)),
    ),
    "a block after the end of blocks": (
        rules.BLOCK_AFTER_DELTA,
        [START, ends(), *text(0), STOP],
        [START, *text(0), ends(), STOP],
    ),
    "no message_delta": (rules.STOP_REASON_MISSING, [START, *text(0), STOP], message(*text(0))),
    "no stop reason": (rules.STOP_REASON_MISSING, message(last=ends(None)), message()),
    "tool_use without a tool": (
        rules.NO_TOOL_USE,
        message(*text(0), last=ends("tool_use")),
        message(*tool(0), last=ends("tool_use")),
    ),
    "tool_use with the provider's own tool": (
        rules.NO_TOOL_USE,
        message(begin(0, "server_tool_use"), stop(0), last=ends("tool_use")),
        message(begin(0, "server_tool_use"), stop(0)),
    ),
    "a tool and end_turn": (
        rules.UNTOLD_TOOL_USE,
        message(*tool(0)),
        message(*tool(0), last=ends("max_tokens")),
    ),
    "no usage": (rules.USAGE_MISSING, message(last=ends(input_tokens=1)), message(last=ends(output_tokens=1))),
    "arguments cut short": (
        validity.TOOL_ARGUMENTS,
        message(*tool(0, '{"a": '), last=ends("tool_use")),
        message(*tool(0, '{"a": '), last=ends("max_tokens")),
    ),
    "no end": (validity.END_MISSING, message()[:-1], [*message()[:-1], ERROR]),
    "after the end": (validity.AFTER_END, [*message(), {"type": "ping"}], [{"type": "ping"}, *message()]),
    "after an error": (validity.AFTER_END, [START, ERROR, STOP], [START, ERROR]),
}


def found(*frames: bytes) -> list[tuple[str, bool]]:
    return [(each.rule, each.is_quirk) for each in violations(ANTHROPIC_MESSAGES, *frames)]


@pytest.mark.parametrize(("rule", "broken", "repaired"), CASES.values(), ids=CASES)
def test_a_rule_is_broken_by_one_stream_and_kept_by_its_twin(
    rule: Rule, broken: list[Json], repaired: list[Json]
) -> None:
    assert found(*map(anthropic_event, repaired)) == []
    assert found(*map(anthropic_event, broken)) == [(rule.name, rule.is_quirk)]


def test_each_rule_has_a_case() -> None:
    elsewhere = {validity.NOT_JSON, validity.UNFINISHED_FRAME, validity.DONE_MARKER}
    elsewhere |= {validity.EVENT_NAME, validity.EVENT_NAME_MISSING}
    assert {rule for rule, _, _ in CASES.values()} == {*rules.RULES} - elsewhere


def test_what_is_true_of_the_frames_themselves() -> None:
    frames = anthropic_stream("Hi")
    assert found(*frames) == found(b": waits\n\n", *frames) == []
    assert found(sse("no"), *frames) == [("not_json", False)]
    assert found(*frames, DONE) == [("done_marker", True)]
    assert found(*frames, b"event: pi") == [("unfinished_frame", False)]
    assert found(*frames[:3], sse({"type": "ping"}), *frames[3:]) == [("event_name_missing", True)]
    assert found(*frames[:3], sse({"type": "ping"}, "pong"), *frames[3:]) == [("event_name", False)]


def test_what_is_not_known_breaks_no_rule() -> None:
    unknown = message(
        {"type": "luck", "index": 7},
        begin(0, "hologram"),
        delta(0, "hologram_delta"),
        stop(0),
        begin(1),
        delta(1, "shimmer_delta"),
        stop(1),
        last=ends("because"),
    )
    assert found(*map(anthropic_event, unknown)) == []


def test_what_anthropic_sends_keeps_all_rules() -> None:
    assert found(*anthropic_tools_stream("Let me see", ("get", {"a": [1]}), ("put", {}))) == []
    thinking = [
        begin(0, "thinking"),
        delta(0, "thinking_delta", thinking="Hm"),
        delta(0, "signature_delta", signature="x"),
        stop(0),
        begin(1, "redacted_thinking"),
        stop(1),
        begin(2, "server_tool_use"),
        delta(2, "input_json_delta", partial_json=""),
        delta(2, "input_json_delta", partial_json='{"query": "x"}'),
        stop(2),
        begin(3, "web_search_tool_result"),
        stop(3),
        begin(4),
        delta(4, "citations_delta", citation="x"),
        delta(4),
        stop(4),
    ]
    assert found(*map(anthropic_event, message(*thinking, last=ends("pause_turn")))) == []
    assert found(anthropic_event(ERROR)) == []
