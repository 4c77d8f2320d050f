"""Each rule of Chat Completions: a stream that breaks it and nothing else, and its twin that breaks nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luthien.formats import openai_chat_validity as rules
from luthien.formats import validity
from luthien.formats.registry import OPENAI_CHAT
from luthien.formats.validity import Rule
from tests.validity import violations
from tests.wire import DONE, Json, openai_chunk, openai_stream, sse
from tests.wire_tools import openai_tools_stream

ROLE = openai_chunk({"role": "assistant", "content": ""})
STOP = openai_chunk({}, "stop")
CALLED = openai_chunk({}, "tool_calls")
USAGE = openai_stream()[-2]


def says(text: str = "Hi", index: int = 0) -> bytes:
    return openai_chunk({"content": text}, index=index)


def role(index: int) -> bytes:
    return openai_chunk({"role": "assistant", "content": ""}, index=index)


def call(at: int | None = 0, call_id: str | None = "call_0", name: str | None = "get", said: str = "{}") -> bytes:
    whole: Json = {"index": at, "id": call_id, "type": "function", "function": {"name": name, "arguments": said}}
    return openai_chunk({"tool_calls": [{key: value for key, value in whole.items() if value is not None}]})


def more(at: int, said: str) -> bytes:
    return openai_chunk({"tool_calls": [{"index": at, "function": {"arguments": said}}]})


def without(chunk: bytes, *names: str) -> bytes:
    body = json.loads(chunk.removeprefix(b"data: "))
    return sse({key: value for key, value in body.items() if key not in names})


def with_choice(**fields: Any) -> bytes:
    """A chunk of one choice of which everything is said here."""
    body = json.loads(ROLE.removeprefix(b"data: "))
    return sse(body | {"choices": [fields]})


OTHER_ID = sse({"id": "chatcmpl-2", "object": "chat.completion.chunk", "choices": []})
OTHER_OBJECT = sse({"id": "chatcmpl-1", "object": "chat.completion", "choices": []})
SAME = sse({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": []})
ERROR = sse({"error": {"message": "overloaded"}})
UNNUMBERED = with_choice(delta={"role": "assistant", "content": "Hi"}, finish_reason=None)
NUMBERED = with_choice(index=0, delta={"role": "assistant", "content": "Hi"}, finish_reason=None)

CASES: dict[str, tuple[Rule, list[bytes], list[bytes]]] = {
    "a plain response": (rules.OBJECT, [ROLE, OTHER_OBJECT, STOP, DONE], [ROLE, SAME, STOP, DONE]),
    "no object": (rules.OBJECT_MISSING, [without(ROLE, "object"), STOP, DONE], [ROLE, STOP, DONE]),
    "no id": (rules.ID_MISSING, [without(ROLE, "id"), STOP, DONE], [ROLE, STOP, DONE]),
    "another id": (rules.ID_CHANGED, [ROLE, OTHER_ID, STOP, DONE], [ROLE, SAME, STOP, DONE]),
    "no choices": (rules.CHOICES_MISSING, [ROLE, without(USAGE, "choices"), STOP, DONE], [ROLE, SAME, STOP, DONE]),
    "a gap between choices": (
        rules.CHOICE_INDEX,
        [role(0), role(2), STOP, openai_chunk({}, "stop", index=2), DONE],
        [role(1), role(0), STOP, openai_chunk({}, "stop", index=1), DONE],
    ),
    "a choice without index": (rules.CHOICE_INDEX_MISSING, [UNNUMBERED, STOP, DONE], [NUMBERED, STOP, DONE]),
    "no role": (rules.ROLE_MISSING, [says(), says(), STOP, DONE], [ROLE, says(), STOP, DONE]),
    "the role again": (rules.ROLE_REPEATED, [ROLE, says(), ROLE, STOP, DONE], [ROLE, says(), says(), STOP, DONE]),
    "a gap between calls": (
        rules.CALL_INDEX,
        [ROLE, call(), call(2, "call_1"), CALLED, DONE],
        [ROLE, call(), call(1, "call_1"), CALLED, DONE],
    ),
    "calls from 1": (rules.CALL_INDEX, [ROLE, call(1), CALLED, DONE], [ROLE, call(0), CALLED, DONE]),
    "a call without index": (
        rules.CALL_INDEX_MISSING,
        [ROLE, call(None), CALLED, DONE],
        [ROLE, call(), CALLED, DONE],
    ),
    "calls with one index": (
        rules.CALL_INDEX_REUSED,
        [ROLE, call(), call(0, "call_1"), CALLED, DONE],
        [ROLE, call(), call(1, "call_1"), CALLED, DONE],
    ),
    "a call without id": (
        rules.CALL_ID_MISSING,
        [ROLE, call(call_id=None), CALLED, DONE],
        [ROLE, call(), CALLED, DONE],
    ),
    "a call without name": (
        rules.CALL_NAME_MISSING,
        [ROLE, call(name=None), CALLED, DONE],
        [ROLE, call(), CALLED, DONE],
    ),
    "arguments that are not whole": (
        validity.TOOL_ARGUMENTS,
        [ROLE, call(said='{"a"'), more(0, ": "), CALLED, DONE],
        [ROLE, call(said='{"a"'), more(0, ": 1}"), CALLED, DONE],
    ),
    "an empty finish reason": (
        rules.FINISH_EMPTY,
        [ROLE, openai_chunk({"content": "Hi"}, ""), STOP, DONE],
        [ROLE, says(), STOP, DONE],
    ),
    "no finish reason": (rules.FINISH_MISSING, [ROLE, says(), DONE], [ROLE, says(), STOP, DONE]),
    "two finish reasons": (rules.FINISH_REPEATED, [ROLE, STOP, STOP, DONE], [ROLE, STOP, DONE]),
    "text after the finish reason": (rules.AFTER_FINISH, [ROLE, STOP, says(), DONE], [ROLE, says(), STOP, DONE]),
    "tool_calls without a call": (rules.NO_CALLS, [ROLE, CALLED, DONE], [ROLE, STOP, DONE]),
    "function_call without a call": (
        rules.NO_CALLS,
        [ROLE, openai_chunk({}, "function_call"), DONE],
        [ROLE, openai_chunk({"function_call": {"name": "get"}}), openai_chunk({}, "function_call"), DONE],
    ),
    "a call and stop": (rules.UNTOLD_CALLS, [ROLE, call(), STOP, DONE], [ROLE, call(), CALLED, DONE]),
    "usage before the finish reason": (
        rules.USAGE_EARLY,
        [ROLE, USAGE, STOP, DONE],
        [ROLE, STOP, USAGE, DONE],
    ),
    "no end": (validity.END_MISSING, [ROLE, STOP], [ROLE, STOP, DONE]),
    "after the end": (validity.AFTER_END, [ROLE, STOP, DONE, USAGE], [ROLE, STOP, USAGE, DONE]),
    "not JSON": (validity.NOT_JSON, [ROLE, sse("no"), STOP, DONE], [ROLE, b": no\n\n", STOP, DONE]),
    "a list": (validity.NOT_JSON, [ROLE, sse("[]"), STOP, DONE], [ROLE, STOP, DONE]),
    "a frame cut short": (validity.UNFINISHED_FRAME, [ROLE, STOP, DONE, b"data: "], [ROLE, STOP, DONE, b"\n"]),
}


def found(*frames: bytes) -> list[tuple[str, bool]]:
    return [(each.rule, each.is_quirk) for each in violations(OPENAI_CHAT, *frames)]


@pytest.mark.parametrize(("rule", "broken", "repaired"), CASES.values(), ids=CASES)
def test_a_rule_is_broken_by_one_stream_and_kept_by_its_twin(
    rule: Rule, broken: list[bytes], repaired: list[bytes]
) -> None:
    assert found(*repaired) == []
    assert found(*broken) == [(rule.name, rule.is_quirk)]


def test_each_rule_has_a_case() -> None:
    assert {rule for rule, _, _ in CASES.values()} == {*rules.RULES}


def test_what_openai_sends_keeps_all_rules() -> None:
    assert found(*openai_stream("a", "b")) == []
    assert found(*openai_tools_stream("Let me see", ("get", {"a": [1]}), ("put", {}))) == []
    assert found(ROLE, says(), openai_chunk({}, "length"), DONE) == []
    assert found(ROLE, call(said='{"a'), openai_chunk({}, "length"), DONE) == []
    assert found(ROLE, ERROR) == found(ROLE, ERROR, DONE) == found(ERROR) == []


def quirks_only(*frames: bytes) -> set[str]:
    told = violations(OPENAI_CHAT, *frames)
    assert all(each.is_quirk for each in told), told
    return {each.rule for each in told}


def test_azure_annotates_the_prompt_and_the_finished_text() -> None:
    head = {"id": "", "object": "", "created": 0, "model": ""}
    prompt = sse({**head, "choices": [], "prompt_filter_results": [{"prompt_index": 0}]})
    text = sse({**head, "choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {}}]})
    assert quirks_only(prompt, ROLE, says(), STOP, text, DONE) == {"chunk_id_missing", "chunk_object_missing"}


def test_gemini_gives_whole_calls_without_ids_or_indices() -> None:
    first = openai_chunk({"role": "assistant", "tool_calls": [{"function": {"name": "get", "arguments": "{}"}}]})
    second = openai_chunk({"role": "assistant", "tool_calls": [{"function": {"name": "put", "arguments": "{}"}}]})
    told = quirks_only(first, second, STOP, DONE)
    assert told == {
        "tool_call_index_missing",
        "tool_call_id_missing",
        "role_repeated",
        "calls_without_finish_reason",
    }


def test_ollama_and_others_say_the_role_and_an_empty_finish_reason_in_each_chunk() -> None:
    chunks = [openai_chunk({"role": "assistant", "content": text}, "") for text in "abc"]
    assert quirks_only(*chunks, STOP, DONE) == {"role_repeated", "finish_reason_empty"}


def test_openrouter_waits_in_comments_and_sends_its_usage_with_an_empty_choice() -> None:
    usage = openai_chunk({"role": "assistant", "content": ""}, usage={"completion_tokens": 3})
    assert quirks_only(b": OPENROUTER PROCESSING\n\n", ROLE, says(), STOP, usage, DONE) == {"role_repeated"}


def test_vllm_may_say_the_usage_in_each_chunk() -> None:
    usage = {"completion_tokens": 3}
    chunks = [openai_chunk({"content": text}, usage=usage) for text in "abc"]
    assert quirks_only(ROLE, *chunks, openai_chunk({"content": "d"}, "stop", usage=usage), USAGE, DONE) == set()
