"""Each rule of Responses: a stream that breaks it and nothing else, and its twin that breaks nothing."""

from __future__ import annotations

import pytest

from luthien.formats import openai_responses_rules as rules
from luthien.formats import validity
from luthien.formats.registry import OPENAI_RESPONSES
from luthien.formats.validity import Rule
from tests.validity import violations
from tests.wire import (
    DONE,
    Json,
    responses_events,
    responses_message,
    responses_response,
    responses_stream,
    responses_text,
    sse,
)

OPENED = responses_response() | {"status": "in_progress", "output": [], "usage": None}
CREATED = {"type": "response.created", "response": OPENED}
IN_PROGRESS = {"type": "response.in_progress", "response": OPENED}
ERROR = {"type": "error", "code": "server_error", "message": "overloaded", "param": None}
FAILED = {"type": "response.failed", "response": OPENED | {"status": "failed"}}
TEXT = responses_text("Hello ", "there")
ADDED, PART_ADDED, _, _, TEXT_DONE, PART_DONE, ITEM_DONE = TEXT


def completed(*output: Json, status: str = "completed", event: str = "completed") -> Json:
    response = responses_response() | {"status": status, "output": [*output]}
    return {"type": f"response.{event}", "response": response}


MESSAGE = responses_message("Hello there")
END = completed(MESSAGE)


def call(index: int, arguments: str = "{}", status: str = "completed") -> list[Json]:
    place = {"item_id": f"fc_{index}", "output_index": index}
    item = {"id": f"fc_{index}", "type": "function_call", "call_id": "call_1", "name": "get", "arguments": arguments}
    return [
        {"type": "response.output_item.added", "output_index": index, "item": item | {"arguments": ""}},
        {"type": "response.function_call_arguments.delta", **place, "delta": arguments},
        {"type": "response.function_call_arguments.done", **place, "arguments": arguments},
        {"type": "response.output_item.done", "output_index": index, "item": item | {"status": status}},
    ]


def without(body: Json, *names: str) -> Json:
    return {key: value for key, value in body.items() if key not in names}


WHOLE = [CREATED, *TEXT, END]
CUT = completed(call(0, '{"a', "incomplete")[-1]["item"], status="incomplete", event="incomplete")

CASES: dict[str, tuple[Rule, list[Json], list[Json]]] = {
    "nothing created": (rules.CREATED_FIRST, [IN_PROGRESS, *TEXT, END], [CREATED, IN_PROGRESS, *TEXT, END]),
    "created twice": (rules.CREATED_ONCE, [CREATED, CREATED, *TEXT, END], WHOLE),
    "items from 1": (
        rules.ITEM_INDEX,
        [CREATED, *responses_text("Hello ", "there", output_index=1), completed(MESSAGE)],
        WHOLE,
    ),
    "no index": (
        rules.ITEM_INDEX_MISSING,
        [CREATED, *(without(each, "output_index") for each in TEXT), END],
        WHOLE,
    ),
    "done and not added": (
        rules.ITEM_NOT_ADDED,
        [CREATED, call(0)[-1], completed(call(0)[-1]["item"])],
        [CREATED, call(0)[0], call(0)[-1], completed(call(0)[-1]["item"])],
    ),
    "added and not done": (rules.ITEM_NOT_DONE, [CREATED, *TEXT[:-1], END], WHOLE),
    "added twice": (rules.ITEM_ADDED_TWICE, [CREATED, ADDED, *TEXT, END], WHOLE),
    "done twice": (rules.ITEM_ADDED_TWICE, [CREATED, *TEXT, ITEM_DONE, END], WHOLE),
    "a text outside its item": (
        rules.OUTSIDE_ITEM,
        [CREATED, *TEXT, TEXT_DONE, END],
        WHOLE,
    ),
    "a part added twice": (rules.PART_INDEX, [CREATED, ADDED, PART_ADDED, *TEXT[1:], END], WHOLE),
    "a text outside its part": (
        rules.OUTSIDE_PART,
        [CREATED, *TEXT[:4], PART_DONE, TEXT_DONE, ITEM_DONE, END],
        WHOLE,
    ),
    "a part that is not done": (rules.PART_NOT_DONE, [CREATED, *TEXT[:5], ITEM_DONE, END], WHOLE),
    "another text when it is done": (
        rules.TEXT_DIFFERS,
        [CREATED, *TEXT[:4], TEXT_DONE | {"text": "Hello you"}, *TEXT[5:], END],
        WHOLE,
    ),
    "another text in its part": (
        rules.TEXT_DIFFERS,
        [CREATED, *TEXT[:5], PART_DONE | {"part": {"type": "output_text", "text": "no"}}, ITEM_DONE, END],
        WHOLE,
    ),
    "other arguments when they are done": (
        rules.TEXT_DIFFERS,
        [CREATED, *call(0)[:2], call(0, "[]")[2], call(0)[3], completed(call(0)[3]["item"])],
        [CREATED, *call(0), completed(call(0)[3]["item"])],
    ),
    "a text that came whole": (rules.TEXT_WITHOUT_DELTA, [CREATED, *TEXT[:2], *TEXT[4:], END], WHOLE),
    "another item at the end": (rules.OUTPUT_DIFFERS, [CREATED, *TEXT, completed(call(0)[3]["item"])], WHOLE),
    "one item more at the end": (
        rules.OUTPUT_DIFFERS,
        [CREATED, *TEXT, completed(MESSAGE, {"type": "reasoning", "summary": []})],
        WHOLE,
    ),
    "everything at the end": (rules.OUTPUT_UNTOLD, [CREATED, END], WHOLE),
    "nothing at the end": (rules.OUTPUT_EMPTY, [CREATED, *TEXT, completed()], WHOLE),
    "completed, it says, and is not": (
        rules.STATUS,
        [CREATED, *TEXT, completed(MESSAGE, status="incomplete")],
        [CREATED, *TEXT, completed(MESSAGE, status="incomplete", event="incomplete")],
    ),
    "arguments that are not whole": (
        validity.TOOL_ARGUMENTS,
        [CREATED, *call(0, '{"a'), completed(call(0, '{"a')[-1]["item"])],
        [CREATED, *call(0, '{"a', "incomplete"), CUT],
    ),
    "no end": (validity.END_MISSING, WHOLE[:-1], [*WHOLE[:-1], ERROR]),
    "after the end": (validity.AFTER_END, [*WHOLE, IN_PROGRESS], WHOLE),
    "after an error": (validity.AFTER_END, [CREATED, ERROR, END], [CREATED, ERROR, FAILED]),
}


def found(*frames: bytes) -> list[tuple[str, bool]]:
    return [(each.rule, each.is_quirk) for each in violations(OPENAI_RESPONSES, *frames)]


@pytest.mark.parametrize(("rule", "broken", "repaired"), CASES.values(), ids=CASES)
def test_a_rule_is_broken_by_one_stream_and_kept_by_its_twin(
    rule: Rule, broken: list[Json], repaired: list[Json]
) -> None:
    assert found(*responses_events(*repaired)) == []
    assert {*found(*responses_events(*broken))} == {(rule.name, rule.is_quirk)}


def test_sequence_numbers_count_up_by_one() -> None:
    def numbered(*numbers: int | None) -> list[bytes]:
        bodies: list[Json] = [CREATED, IN_PROGRESS, FAILED]
        return [
            sse(body if number is None else {**body, "sequence_number": number}, str(body["type"]))
            for number, body in zip(numbers, bodies, strict=True)
        ]

    assert found(*numbered(0, 1, 2)) == found(*numbered(5, 6, 7)) == []
    assert found(*numbered(0, 2, 3)) == [("sequence_number_gap", True)]
    assert found(*numbered(1, 0, 1)) == [("sequence_number", True)]
    assert found(*numbered(0, 0, 1)) == [("sequence_number", True)]
    assert found(*numbered(0, None, 1)) == [("sequence_number_missing", True)]


def test_each_rule_has_a_case() -> None:
    elsewhere = {validity.NOT_JSON, validity.UNFINISHED_FRAME, validity.DONE_MARKER}
    elsewhere |= {validity.EVENT_NAME, validity.EVENT_NAME_MISSING}
    elsewhere |= {rules.SEQUENCE, rules.SEQUENCE_GAP, rules.SEQUENCE_MISSING}
    assert {rule for rule, _, _ in CASES.values()} == {*rules.RULES} - elsewhere


def test_what_is_true_of_the_frames_themselves() -> None:
    frames = responses_stream("Hi")
    assert found(*frames) == []
    assert found(sse("no"), *frames) == [("not_json", False)]
    assert found(*frames, DONE) == [("done_marker", True)]
    assert found(frames[0].removeprefix(b"event: response.created\n"), *frames[1:]) == [("event_name_missing", True)]
    assert found(frames[0].replace(b".created", b".queued", 1), *frames[1:]) == [("event_name", False)]


def test_what_openai_sends_keeps_all_rules() -> None:
    """A summary of reasoning, a text with an annotation, a search of its own and a call."""
    thought = {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]}
    place = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
    summary: list[Json] = [
        {"type": "response.output_item.added", "output_index": 0, "item": thought | {"summary": []}},
        {
            "type": "response.reasoning_summary_part.added",
            **place,
            "part": {"type": "summary_text", "text": ""},
        },
        {"type": "response.reasoning_summary_text.delta", **place, "delta": "Hm"},
        {"type": "response.reasoning_summary_text.done", **place, "text": "Hm"},
        {"type": "response.reasoning_summary_part.done", **place, "part": thought["summary"][0]},
        {"type": "response.output_item.done", "output_index": 0, "item": thought},
    ]
    search = {"id": "ws_1", "type": "web_search_call", "status": "completed"}
    searched: list[Json] = [
        {"type": "response.output_item.added", "output_index": 1, "item": search | {"status": "in_progress"}},
        {"type": "response.web_search_call.searching", "item_id": "ws_1", "output_index": 1},
        {"type": "response.output_item.done", "output_index": 1, "item": search},
    ]
    text = responses_text("Hello ", "there", output_index=2)
    text.insert(3, {"type": "response.output_text.annotation.added", "output_index": 2, "annotation": {}})
    called = call(3)
    whole = [thought, search, MESSAGE, called[-1]["item"]]
    bodies = [CREATED, IN_PROGRESS, *summary, *searched, *text, *called, completed(*whole)]
    assert found(*responses_events(*bodies)) == []
    assert found(*responses_events(ERROR)) == []


def test_a_character_may_be_cut_between_two_deltas() -> None:
    halves, whole = responses_text("\ud83d", "\ude00"), responses_text("\U0001f600")
    bodies = [CREATED, *halves[:4], *whole[3:], completed(responses_message("\U0001f600"))]
    assert found(*responses_events(*bodies)) == []
    assert found(*responses_events(CREATED, *halves[:3], *whole[3:], bodies[-1])) == [("text_differs", False)] * 3


def test_other_ids_for_the_same_item_and_an_empty_output_are_quirks_of_others() -> None:
    renamed = [each | {"item_id": f"{number}"} if "item_id" in each else each for number, each in enumerate(TEXT)]
    told = violations(OPENAI_RESPONSES, *responses_events(CREATED, *renamed, completed()))
    assert [(each.rule, each.is_quirk) for each in told] == [("output_empty", True)]
