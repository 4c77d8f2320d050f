"""What holds of parts in every wire format, whatever clients and providers say."""

from __future__ import annotations

import copy
import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthien.formats.format import Json, WireFormat
from luthien.formats.parts import Part, PartKind
from luthien.formats.registry import ANTHROPIC_MESSAGES, FORMATS, OPENAI_CHAT, OPENAI_RESPONSES
from tests.corpus.cases import Case, cases
from tests.unit.formats.hostile import shaped_like
from tests.unit.formats.shown_parts import resolved
from tests.unit.formats.test_anthropic_parts import REQUEST as ANTHROPIC_REQUEST
from tests.unit.formats.test_openai_chat_parts import REQUEST as OPENAI_REQUEST
from tests.unit.formats.test_openai_responses_parts import ITEMS


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words(
    """
    a/b~c messages content system tools functions mcp_servers choices message output input instructions prompt
    variables prediction role type text refusal reasoning reasoning_content reasoning_details annotations audio
    images
    tool_calls function_call function custom name arguments id call_id tool_call_id tool_use_id source data title
    context thinking signature summary encrypted_content output_text queries results outputs logs code action
    error reason logprobs
    """
)
WORDS = _words(
    """
    system developer user assistant tool function text image image_url input_audio file document search_result
    thinking redacted_thinking compaction tool_use tool_result web_search_tool_result web_fetch_tool_result
    content refusal message reasoning function_call function_call_output mcp_call code_interpreter_call
    file_search_call web_search_call computer_call mcp_list_tools mcp_approval_response image_generation_call
    input_text input_image output_text logs
    """
)
BODIES = shaped_like(NAMES, WORDS)
# What the cases say that no description of the protocol does.
ABOUT_UNKNOWN = ("unknown_block", "unknown_fields", "unknown_item")
KNOWN_REQUESTS: list[tuple[WireFormat, Json]] = [
    (OPENAI_CHAT, OPENAI_REQUEST),
    (ANTHROPIC_MESSAGES, ANTHROPIC_REQUEST),
    (OPENAI_RESPONSES, {"instructions": "Be kind.", "input": [item for item, _ in ITEMS]}),
]


def all_parts(wire_format: WireFormat, body: Json) -> list[list[Part]]:
    return [wire_format.request_parts(body), wire_format.response_parts(body)]


def same(value: Any, other: Any) -> bool:
    """Whether the JSON is the same; NaN is NaN."""
    return json.dumps(value) == json.dumps(other)


@pytest.mark.parametrize("wire_format", FORMATS, ids=lambda wire_format: wire_format.name)
@given(body=st.one_of(BODIES, *(st.fixed_dictionaries({name: st.lists(BODIES)}) for name in NAMES[1:12])))
@settings(max_examples=100)
def test_of_any_json_object(wire_format: WireFormat, body: Json) -> None:
    """Each part stands where it says, no two overlap, they are in order, and asking for them changes nothing."""
    before = copy.deepcopy(body)
    for parts in all_parts(wire_format, body):
        for part in parts:
            assert resolved(body, part.pointer) is part.value
            assert part.text is None or isinstance(part.text, str)
            assert all(isinstance(value, str) for value in (part.role, part.name, part.call_id))
        pointers = [part.pointer for part in parts]
        order = {pointer: number for number, pointer in enumerate(all_pointers(body))}
        assert sorted(pointers, key=order.__getitem__) == pointers
        # In the order of the document, those that overlap stand side by side.
        assert not any(f"{later}/".startswith(f"{pointer}/") for pointer, later in pairwise(pointers))
    assert same(body, before)


@pytest.mark.parametrize("wire_format", FORMATS, ids=lambda wire_format: wire_format.name)
@given(content=st.lists(BODIES | st.sampled_from(WORDS), min_size=1, max_size=3), kind=st.sampled_from(WORDS))
@settings(max_examples=100)
def test_nothing_that_a_message_says_is_passed_over(wire_format: WireFormat, content: list[Any], kind: str) -> None:
    content = [{**part, "type": kind} if isinstance(part, dict) and "type" in part else part for part in content]
    listed = "input" if wire_format is OPENAI_RESPONSES else "messages"
    pointers = [part.pointer for part in wire_format.request_parts({listed: [{"role": "user", "content": content}]})]
    for index in range(len(content)):
        place = f"/{listed}/0/content/{index}"
        assert any(f"{pointer}/".startswith(f"{place}/") for pointer in pointers), place


def all_pointers(value: Any, pointer: str = "") -> list[str]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = ((str(key).replace("~", "~0").replace("/", "~1"), member) for key, member in members)
    return [pointer, *(found for key, member in inner for found in all_pointers(member, f"{pointer}/{key}"))]


@pytest.mark.parametrize("wire_format", FORMATS, ids=lambda wire_format: wire_format.name)
@given(body=st.one_of(BODIES, *(st.fixed_dictionaries({name: st.lists(BODIES)}) for name in NAMES[1:12])))
@settings(max_examples=60)
def test_a_text_that_is_set_is_what_it_then_says(wire_format: WireFormat, body: Json) -> None:
    for parts in all_parts(wire_format, body):
        for part in parts:
            before = copy.deepcopy(body)
            text = '{"x":1}' if part.kind is PartKind.TOOL_CALL else "changed"
            try:
                part.set(text)
            except ValueError:
                assert part.is_signed or part.text is None
                assert same(body, before)
            else:
                assert part.text == text
                assert resolved(body, part.pointer) == part.value


@pytest.mark.parametrize("case", cases(), ids=str)
def test_all_that_providers_say_is_known(case: Case) -> None:
    parts = case.format.response_parts(case.response)
    unknown = [part.pointer for part in parts if part.kind is PartKind.OTHER]
    assert bool(unknown) == (case.name in ABOUT_UNKNOWN), unknown
    assert all(resolved(case.response, part.pointer) is part.value for part in parts)
    agree(case.format, case.response, parts, is_request=False)
    requested = case.format.request_parts(case.request)
    assert not [part for part in requested if part.kind is PartKind.OTHER]
    agree(case.format, case.request, requested, is_request=True)


@pytest.mark.parametrize(("wire_format", "body"), KNOWN_REQUESTS, ids=lambda value: getattr(value, "name", ""))
def test_every_text_is_in_a_part(wire_format: WireFormat, body: Json) -> None:
    agree(wire_format, body, wire_format.request_parts(body), is_request=True)


def agree(wire_format: WireFormat, body: Json, parts: list[Part], *, is_request: bool) -> None:
    """Each text that policies see as such is the text of one part with the same role."""
    slots = wire_format.request_texts(body) if is_request else wire_format.response_texts(body)
    of_parts = Counter((id(part.slot.container), part.slot.key, part.role) for part in parts if part.slot)
    assert not Counter((id(slot.container), slot.key, slot.role) for slot in slots) - of_parts


def test_what_cannot_be_changed_says_why() -> None:
    content: list[Json] = [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
    ]
    thinking, image, call = ANTHROPIC_MESSAGES.response_parts({"content": content})
    with pytest.raises(ValueError, match=r"^/content/0 is signed by the provider and cannot be changed$"):
        thinking.set("x")
    with pytest.raises(ValueError, match=r"^/content/1 \(image\) has no text that could be changed$"):
        image.set("x")
    with pytest.raises(ValueError, match="must be a JSON object"):
        call.set("[]")
    with pytest.raises(ValueError, match="line 1"):
        call.set("{")
    call.set('{"a":2}')
    assert content[2]["input"] == {"a": 2}


def test_arguments_that_are_a_text_stay_one() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{ "a": 1.0 }'}}
    [part] = OPENAI_CHAT.response_parts({"choices": [{"message": {"tool_calls": [call]}}]})
    assert part.text == '{ "a": 1.0 }'
    part.set("not JSON")
    assert call["function"] == {"name": "f", "arguments": "not JSON"}


def test_parts_are_removed_where_that_leaves_something_valid() -> None:
    content = [{"type": "text", "text": "same"}, {"type": "image", "source": {}}, {"type": "text", "text": "same"}]
    body: Json = {"messages": [{"role": "user", "content": content}], "system": "Be brief.", "tools": [{"name": "f"}]}
    first, image, last, system, tool = ANTHROPIC_MESSAGES.request_parts(body)
    image.remove()
    last.remove()
    assert content == [{"type": "text", "text": "same"}]
    assert content[0] is first.value
    with pytest.raises(ValueError, match="/messages/0/content/0 is all that there is in its place"):
        first.remove()
    for part in (image, system, tool):
        with pytest.raises(ValueError, match="cannot be removed alone"):
            part.remove()
