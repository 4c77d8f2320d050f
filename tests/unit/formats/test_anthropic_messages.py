"""Anthropic Messages: what is read from it, what is put into it, and what its streams add up to."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from functools import cache, partial
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.lib.streaming import MessageStream
from anthropic.types import ErrorResponse, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st

from luthien.formats.format import ResponseFacts
from luthien.formats.registry import ANTHROPIC_MESSAGES as FORMAT
from luthien.formats.sse import MAX_DEPTH, Chunk
from luthien.telemetry import conventions as names
from tests.chunks import assembled as assembled_of
from tests.chunks import chunks_of
from tests.unit.formats.hostile import lines_run, shaped_like, use_everything
from tests.wire import Json, anthropic_event, anthropic_request, anthropic_response, anthropic_stream

NAMES = (
    *("type", "index", "message", "content", "content_block", "delta", "text", "partial_json", "input", "citations"),
    *("citation", "thinking", "signature", "usage", "stop_reason", "system", "messages", "role", "error", "model"),
    *("input_tokens", "output_tokens", "max_tokens"),
)
EVENT_TYPES = (
    *("message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta"),
    *("message_stop", "ping", "error", "text", "tool_use", "tool_result", "text_delta"),
)


def assembled(frames: Iterable[bytes]) -> Json:
    whole: Json = assembled_of(FORMAT, chunks_of(frames))
    return whole


def start(index: int, **block: Any) -> Json:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **fields: Any) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def stop(index: int) -> Json:
    return {"type": "content_block_stop", "index": index}


def message_delta(**usage: Any) -> Json:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage}


def stream(*bodies: Json, **message: Any) -> list[bytes]:
    """The frames of a message whose events are these."""
    opening = anthropic_response() | {"content": [], "stop_reason": None} | message
    events = [{"type": "message_start", "message": opening}, *bodies, {"type": "message_stop"}]
    return [anthropic_event(body) for body in events]


def content_of(*bodies: Json) -> Any:
    return assembled(stream(*bodies))["content"]


@cache
def sdk_client() -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key="none")


def sdk_stream(body: bytes) -> anthropic.Stream[RawMessageStreamEvent]:
    response = httpx2.Response(200, content=body, request=httpx2.Request("POST", "http://provider/"))
    cast_to: Any = RawMessageStreamEvent
    return anthropic.Stream(cast_to=cast_to, response=response, client=sdk_client())


def by_the_sdk(frames: Iterable[bytes]) -> Json:
    """What the official SDK makes of a stream."""
    read: MessageStream[None] = MessageStream(sdk_stream(b"".join(frames)), output_format=anthropic.NOT_GIVEN)
    return read.get_final_message().to_dict()


def without_nulls(value: Any) -> Any:
    """What is said; the SDK fills in fields that were not."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


class TestRequests:
    def test_the_texts_are_those_of_the_system_the_messages_and_the_tool_results(self) -> None:
        body = anthropic_request(system=[{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}])
        body["messages"] = [
            {"role": "user", "content": "b"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "no", "signature": "no"},
                    {"type": "text", "text": "c"},
                    {"type": "tool_use", "id": "t", "name": "no", "input": {"text": "no"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": "d"},
                    {"type": "tool_result", "content": [{"type": "text", "text": "e"}, {"type": "image"}]},
                    {"type": "image", "source": {"data": "no"}},
                    {"type": "text", "text": "f"},
                ],
            },
        ]
        slots = FORMAT.request_texts(body)
        assert sorted((slot.text, slot.role) for slot in slots) == [
            ("a", "system"),
            ("b", "user"),
            ("c", "assistant"),
            ("d", "tool"),
            ("e", "tool"),
            ("f", "user"),
        ]

    def test_setting_a_text_changes_that_place_and_no_other(self) -> None:
        body = anthropic_request(system="s")
        body["messages"] = [{"role": "user", "content": [{"type": "tool_result", "content": "a", "is_error": True}]}]
        expected = copy.deepcopy(body)
        expected["messages"][0]["content"][0]["content"] = "A"
        FORMAT.request_texts(body)[-1].set("A")
        assert body == expected

    @pytest.mark.parametrize(
        ("system", "expected"),
        [
            ({}, "Be brief."),
            ({"system": None}, "Be brief."),
            ({"system": ""}, "Be brief."),
            ({"system": "You are a cat."}, "Be brief.\n\nYou are a cat."),
            ({"system": []}, [{"type": "text", "text": "Be brief."}]),
            (
                {"system": [{"type": "text", "text": "a", "cache_control": {}}]},
                [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "a", "cache_control": {}}],
            ),
        ],
    )
    def test_a_system_message_is_put_before_what_stands_there(self, system: Json, expected: Any) -> None:
        body = anthropic_request(**system)
        FORMAT.add_system_message(body, "Be brief.")
        assert body == anthropic_request(system=expected)

    def test_the_attributes_are_those_a_request_states(self) -> None:
        body = anthropic_request(temperature=0.5, top_p=1, top_k=4)
        assert FORMAT.request_attributes(body) == {
            names.REQUEST_MAX_TOKENS: 64,
            names.REQUEST_TEMPERATURE: 0.5,
            names.REQUEST_TOP_P: 1,
            names.REQUEST_TOP_K: 4,
        }

    def test_a_text_where_a_number_belongs_is_no_attribute(self) -> None:
        """What a client writes there must not reach the trace backend."""
        body = {"max_tokens": "secret", "temperature": ["secret"], "top_p": {}, "top_k": False}
        assert set(FORMAT.request_attributes(body).values()) == {None}


class TestResponses:
    def test_the_texts_are_what_the_reader_reads(self) -> None:
        body = anthropic_response("a")
        body["content"] += [{"type": "thinking", "thinking": "no"}, {"type": "tool_use", "input": {"text": "no"}}]
        body["content"] += [{"type": "text", "text": "b", "citations": [{"cited_text": "no"}]}]
        assert [(slot.text, slot.role) for slot in FORMAT.response_texts(body)] == [
            ("a", "assistant"),
            ("b", "assistant"),
        ]

    def test_the_facts_are_the_providers_own(self) -> None:
        assert FORMAT.response_facts(anthropic_response()) == ResponseFacts(
            model="claude-test-2026",
            response_id="msg_1",
            finish_reasons=("end_turn",),
            input_tokens=9,
            output_tokens=3,
        )

    def test_tokens_read_from_or_written_to_the_cache_are_input_tokens(self) -> None:
        """As the GenAI semantic conventions define them."""
        usage = {"input_tokens": 1, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 300}
        assert FORMAT.response_facts({"usage": usage}).input_tokens == 321
        assert FORMAT.response_facts({"usage": usage}).cached_tokens == 20
        assert FORMAT.response_facts({"usage": usage | {"cache_read_input_tokens": None}}).input_tokens == 301
        assert FORMAT.response_facts({"usage": {"cache_read_input_tokens": 20}}).input_tokens is None

    @pytest.mark.parametrize("body", [{}, {"usage": None, "stop_reason": None}, {"usage": [1], "id": 2, "model": []}])
    def test_what_it_does_not_say_is_not_made_up(self, body: Json) -> None:
        assert FORMAT.response_facts(body) == ResponseFacts()


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (500, "api_error"),
            (504, "timeout_error"),
        ],
    )
    def test_an_error_body_is_the_sdks_own_error_response(self, status: int, kind: str) -> None:
        parsed = ErrorResponse.model_validate_json(FORMAT.error_body(status, "why", "No.\n«x»"))
        assert (parsed.type, parsed.error.type, parsed.error.message) == ("error", kind, "No.\n«x»")

    def test_a_request_too_large_is_called_so(self) -> None:
        error = json.loads(FORMAT.error_body(413, "request_too_large", "Too much."))
        assert error["error"] == {"type": "request_too_large", "message": "Too much.", "code": "request_too_large"}

    def test_an_error_frame_ends_the_sdks_stream_with_its_body(self) -> None:
        frames = [*anthropic_stream("a")[:3], FORMAT.error_frame(502, "upstream_incomplete", "It broke\n\noff.")]
        received: list[RawMessageStreamEvent] = []
        with pytest.raises(anthropic.APIStatusError) as raised:
            received.extend(sdk_stream(b"".join(frames)))
        body: Any = raised.value.body
        assert body["error"] == {"type": "api_error", "message": "It broke\n\noff.", "code": "upstream_incomplete"}

    def test_an_error_frame_is_an_error_and_no_end_marker_to_us_as_well(self) -> None:
        (chunk,) = chunks_of([FORMAT.error_frame(502, "why", "It broke.")])
        assert chunk.event == "error"
        assert FORMAT.stream_error(chunk) == "It broke."
        assert not FORMAT.is_terminal(chunk)


class TestChunks:
    def test_only_message_stop_is_the_end_marker(self) -> None:
        chunks = chunks_of(anthropic_stream("message_stop"))
        assert [FORMAT.is_terminal(chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert not FORMAT.is_terminal(Chunk(b"event: message_stop\n\n", None, "message_stop"))

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "Overloaded"),
            ({"type": "error", "error": "Overloaded"}, "Overloaded"),
            ({"type": "error", "error": {"message": None}}, "unspecified error"),
            ({"type": "error"}, "unspecified error"),
            ({"type": "ping", "error": {"message": "x"}}, None),
        ],
    )
    def test_an_error_in_a_stream_is_recognised(self, body: Json, message: str | None) -> None:
        assert FORMAT.stream_error(Chunk.of(body)) == message

    @pytest.mark.parametrize(
        ("body", "texts"),
        [
            (delta(2, "text_delta", text="a"), [("2/text", "a")]),
            (start(3, type="text", text="a"), [("3/text", "a")]),
            (start(3, type="text", text=""), []),
            (delta(0, "thinking_delta", thinking="no"), []),
            (delta(0, "signature_delta", signature="no"), []),
            (delta(0, "input_json_delta", partial_json="no"), []),
            (delta(0, "text_delta", text=None), []),
            (stop(0), []),
            ({"type": "ping", "delta": {"text": "no"}}, []),
            ({}, []),
        ],
    )
    def test_the_texts_are_those_of_text_blocks(self, body: Json, texts: list[tuple[str, str]]) -> None:
        assert FORMAT.chunk_texts(body) == texts

    @pytest.mark.parametrize(
        "body", [delta(2, "text_delta", text="a"), start(2, type="text", text="a", citations=[])]
    )
    def test_another_text_is_put_where_it_was_and_all_else_stays(self, body: Json) -> None:
        chunk = Chunk.of({**body, "extra": 1.5}, body["type"])
        changed = FORMAT.with_chunk_texts(chunk, ["A"])
        assert (changed.json, changed.event) == (
            json.loads(json.dumps({**body, "extra": 1.5}).replace('"a"', '"A"')),
            body["type"],
        )
        assert chunk.json == {**body, "extra": 1.5}

    def test_a_text_has_ended_with_its_block(self) -> None:
        open_keys = ["1/text", "11/text"]
        assert FORMAT.ended_texts(Chunk.of(stop(1)), open_keys) == ["1/text"]
        assert FORMAT.ended_texts(Chunk.of(stop(2)), open_keys) == []
        assert FORMAT.ended_texts(Chunk.of(delta(1, "text_delta", text="a")), open_keys) == []
        assert FORMAT.ended_texts(Chunk(b": ping\n\n", None), open_keys) == []

    @pytest.mark.parametrize("kind", ["message_delta", "message_stop"])
    def test_all_have_ended_with_the_message(self, kind: str) -> None:
        assert FORMAT.ended_texts(Chunk.of({"type": kind}), ["1/text", "2/text"]) == ["1/text", "2/text"]


class TestAssembled:
    def test_a_stream_adds_up_to_the_plain_response(self) -> None:
        expected = anthropic_response("Hello there")
        expected["usage"]["output_tokens"] = 2
        assert assembled(anthropic_stream("Hello", " there")) == expected

    def test_nothing_adds_up_to_nothing(self) -> None:
        assembler = FORMAT.assembler()
        for chunk in chunks_of([b": hello\n\n", b"data: 1\n\n", anthropic_event({"type": "ping"})]):
            assembler.add(chunk)
        assert assembler.result() is None

    def test_thinking_and_its_signature_are_kept(self) -> None:
        assert content_of(
            start(0, type="thinking", thinking="", signature=""),
            delta(0, "thinking_delta", thinking="Hm"),
            delta(0, "thinking_delta", thinking="m."),
            delta(0, "signature_delta", signature="c2ln"),
            stop(0),
            start(1, type="redacted_thinking", data="ZGF0YQ"),
            stop(1),
        ) == [
            {"type": "thinking", "thinking": "Hmm.", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "ZGF0YQ"},
        ]

    def test_the_input_of_a_tool_comes_in_fragments(self) -> None:
        assert content_of(
            start(0, type="tool_use", id="t", name="weather", input={}),
            delta(0, "input_json_delta", partial_json=""),
            delta(0, "input_json_delta", partial_json='{"city": "Ul'),
            delta(0, "input_json_delta", partial_json='m", "days": 18446744073709551617}'),
            stop(0),
        ) == [{"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Ulm", "days": 2**64 + 1}}]

    @pytest.mark.parametrize("fragments", [[], [""], ["", ""]])
    def test_a_tool_without_input_keeps_the_empty_one(self, fragments: list[str]) -> None:
        tool = {"type": "tool_use", "id": "t", "name": "now", "input": {}}
        deltas = [delta(0, "input_json_delta", partial_json=text) for text in fragments]
        assert content_of(start(0, **tool), *deltas, stop(0)) == [tool]

    @pytest.mark.parametrize("fragments", ['{"city": "Ul', "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)])
    def test_input_that_cannot_be_read_is_kept_as_it_came(self, fragments: str) -> None:
        """Cut short, or nested beyond reason."""
        assert content_of(
            start(0, type="tool_use", id="t", name="weather", input={}),
            delta(0, "input_json_delta", partial_json=fragments),
        ) == [{"type": "tool_use", "id": "t", "name": "weather", "input": {}, "partial_json": fragments}]

    def test_citations_are_collected(self) -> None:
        citations = [{"type": "char_location", "cited_text": text} for text in ("a", "b", "c")]
        assert content_of(
            start(0, type="text", text="", citations=[citations[0]]),
            delta(0, "text_delta", text="x"),
            delta(0, "citations_delta", citation=citations[1]),
            delta(0, "citations_delta", citation=citations[2]),
            start(1, type="text", text="", citations=None),
            delta(1, "citations_delta", citation=citations[0]),
            start(2, type="text", text=""),
            delta(2, "citations_delta", citation=citations[1]),
        ) == [
            {"type": "text", "text": "x", "citations": citations},
            {"type": "text", "text": "", "citations": citations[:1]},
            {"type": "text", "text": "", "citations": citations[1:2]},
        ]

    def test_the_blocks_of_server_tools_are_kept_as_they_come(self) -> None:
        result = {
            "type": "web_search_tool_result",
            "tool_use_id": "s",
            "content": [{"type": "web_search_result", "url": "https://example.com", "encrypted_content": "ZW5j"}],
        }
        assert content_of(
            start(0, type="server_tool_use", id="s", name="web_search", input={}),
            delta(0, "input_json_delta", partial_json='{"query":"x"}'),
            stop(0),
            start(1, **result),
            stop(1),
        ) == [
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
            result,
        ]

    def test_pings_and_unknown_events_change_nothing(self) -> None:
        frames = anthropic_stream("a")
        unknown = [anthropic_event({"type": "novelty", "index": 0, "text": "x"}), anthropic_event({"type": "ping"})]
        assert assembled([*frames[:3], *unknown, *frames[3:], *unknown]) == assembled(frames)

    def test_a_block_may_begin_with_text(self) -> None:
        content = content_of(start(0, type="text", text="a"), delta(0, "text_delta", text="b"))
        assert content == [{"type": "text", "text": "ab"}]

    def test_blocks_that_the_message_begins_with_are_kept(self) -> None:
        frames = stream(delta(0, "text_delta", text="b"), start(1, type="text", text="c"), content=[
            {"type": "text", "text": "a"}
        ])  # fmt: skip
        assert assembled(frames)["content"] == [{"type": "text", "text": "ab"}, {"type": "text", "text": "c"}]

    def test_unknown_fields_of_every_level_are_kept(self) -> None:
        result = assembled(
            stream(
                start(0, type="text", text="", novelty={"a": [1]}),
                delta(0, "novel_delta", novelty_text="x"),
                delta(0, "novel_delta", novelty_text="y", flag=True),
                message_delta(output_tokens=1, novel_tokens=2)
                | {
                    "context_management": {"applied_edits": []},
                    "delta": {"stop_reason": "x", "container": {"id": 1}},
                },
                container={"id": "c"},
            )
        )
        assert result["content"] == [
            {"type": "text", "text": "", "novelty": {"a": [1]}, "novelty_text": "xy", "flag": True}
        ]
        assert result["usage"]["novel_tokens"] == 2
        assert result["context_management"] == {"applied_edits": []}
        assert (result["stop_reason"], result["container"]) == ("x", {"id": 1})

    def test_usage_at_the_end_replaces_what_it_counts_and_leaves_the_rest(self) -> None:
        usage = {"input_tokens": 9, "cache_read_input_tokens": 5, "output_tokens": 1}
        result = assembled(
            stream(
                message_delta(
                    output_tokens=7, cache_read_input_tokens=None, server_tool_use={"web_search_requests": 1}
                ),
                message_delta(output_tokens=8, input_tokens=10),
                usage=usage,
            )
        )
        assert result["usage"] == {
            "input_tokens": 10,
            "cache_read_input_tokens": 5,
            "output_tokens": 8,
            "server_tool_use": {"web_search_requests": 1},
        }

    def test_an_error_in_the_stream_is_part_of_what_came(self) -> None:
        error = {"type": "overloaded_error", "message": "Overloaded"}
        frames = [*anthropic_stream("a")[:4], anthropic_event({"type": "error", "error": error})]
        result = assembled(frames)
        assert (result["content"], result["error"]) == ([{"type": "text", "text": "a"}], error)
        assert assembled(frames[-1:]) == {"error": error}

    def test_a_stream_cut_short_adds_up_to_what_had_come(self) -> None:
        result = assembled(anthropic_stream("Hel", "lo")[:4])
        assert (result["content"], result["stop_reason"]) == ([{"type": "text", "text": "Hel"}], None)

    def test_asking_for_the_result_on_the_way_changes_nothing(self) -> None:
        frames = stream(
            start(0, type="text", text="", citations=[]),
            delta(0, "text_delta", text="a"),
            delta(0, "citations_delta", citation={"a": 1}),
            start(1, type="tool_use", input={}),
            delta(1, "input_json_delta", partial_json='{"a"'),
            delta(1, "input_json_delta", partial_json=":1}"),
            message_delta(output_tokens=4),
        )
        asked = FORMAT.assembler()
        results = []
        for chunk in chunks_of(frames):
            asked.add(chunk)
            results.append((asked.result(), copy.deepcopy(asked.result())))
        assert asked.result() == assembled(frames)
        for result, as_it_was in results:
            assert result == as_it_was

    def test_chunks_are_only_read(self) -> None:
        """Two sides of a stream put the same chunks together."""
        chunks = chunks_of(
            stream(
                start(0, type="text", text="", citations=[]),
                delta(0, "citations_delta", citation={"a": 1}),
                delta(0, "citations_delta", citations=[]),
                delta(0, "citations_delta", citation={"b": 1}),
                message_delta(output_tokens=4),
                content=[{"type": "text", "text": "", "citations": []}],
            )
        )
        before = [copy.deepcopy(chunk.json) for chunk in chunks]
        sides = [FORMAT.assembler(), FORMAT.assembler()]
        for chunk in chunks:
            for side in sides:
                side.add(chunk)
        assert sides[0].result() == sides[1].result()
        assert [chunk.json for chunk in chunks] == before

    def test_a_result_belongs_to_who_asked(self) -> None:
        assembler = FORMAT.assembler()
        for chunk in chunks_of(stream(start(0, type="tool_use", input={}), novelty={"a": 1})):
            assembler.add(chunk)
        result = assembler.result()
        assert result is not None
        result["novelty"]["a"] = 2
        result["usage"].clear()
        result["content"][0]["input"]["b"] = 1
        again = assembler.result() or {}
        assert (again["novelty"], again["content"][0]["input"]) == ({"a": 1}, {})
        assert again["usage"]

    def test_a_copy_goes_its_own_way(self) -> None:
        _, opening, first, second, third, _ = chunks_of(
            stream(start(0, type="text", text=""), *(delta(0, "text_delta", text=text) for text in "abc"))
        )
        assembler = FORMAT.assembler()
        assembler.add(opening)
        assembler.add(first)
        twin = copy.deepcopy(assembler)
        assembler.add(second)
        twin.add(third)
        assert [(side.result() or {})["content"][0]["text"] for side in (assembler, twin)] == ["ab", "ac"]

    @pytest.mark.parametrize(
        "body",
        [
            delta(0, "text_delta", text="word "),
            delta(0, "input_json_delta", partial_json="x"),
            delta(0, "citations_delta", citation={"a": 1}),
        ],
        ids=["text", "input", "citation"],
    )
    def test_each_chunk_costs_the_same_however_many_came_before(self, body: Json) -> None:
        chunk = Chunk.of(body)
        assert chunk.json is not None
        assembler = FORMAT.assembler()
        assembler.add(chunk)
        few = lines_run(partial(assembler.add, chunk))
        for _ in range(200):
            assembler.add(chunk)
        assert lines_run(partial(assembler.add, chunk)) == few


TEXTS = st.text(max_size=5)
ARGUMENTS = st.dictionaries(TEXTS, st.one_of(st.none(), st.integers(-9, 9), TEXTS, st.lists(TEXTS)), max_size=3)


@st.composite
def blocks(draw: st.DrawFn, index: int) -> list[Json]:
    """The events of one block."""
    kind = draw(st.sampled_from(["text", "thinking", "tool_use", "server_tool_use"]))
    if kind == "text":
        citation = {
            "type": "char_location",
            "cited_text": "c",
            "document_index": 0,
            "document_title": None,
            "start_char_index": 0,
            "end_char_index": 1,
        }
        deltas = draw(
            st.lists(
                st.one_of(
                    st.builds(lambda text: delta(index, "text_delta", text=text), TEXTS),
                    st.just(delta(index, "citations_delta", citation=citation)),
                ),
                max_size=5,
            )
        )
        return [start(index, type="text", text=draw(st.sampled_from(["", "a"]))), *deltas, stop(index)]
    if kind == "thinking":
        deltas = [delta(index, "thinking_delta", thinking=text) for text in draw(st.lists(TEXTS, max_size=4))]
        signature = delta(index, "signature_delta", signature="c2ln")
        return [start(index, type="thinking", thinking="", signature=""), *deltas, signature, stop(index)]
    text = json.dumps(draw(ARGUMENTS))
    at = draw(st.integers(0, len(text)))
    deltas = [delta(index, "input_json_delta", partial_json=part) for part in (text[:at], text[at:])]
    tool = {"type": kind, "id": f"toolu_{index}", "name": "web_search", "input": {}}
    return [start(index, **tool), *deltas, stop(index)]


@st.composite
def messages(draw: st.DrawFn) -> list[bytes]:
    count = draw(st.integers(0, 4))
    events = [event for index in range(count) for event in draw(blocks(index))]
    usage = draw(st.sampled_from([{}, {"input_tokens": 4}, {"cache_read_input_tokens": 2}]))
    return stream(*events, {"type": "ping"}, message_delta(output_tokens=7, **usage))


class TestAsTheSdk:
    @given(messages())
    def test_a_stream_adds_up_to_what_the_official_sdk_makes_of_it(self, frames: list[bytes]) -> None:
        assert without_nulls(assembled(frames)) == without_nulls(by_the_sdk(frames))


class TestHostile:
    @given(st.lists(shaped_like(NAMES, EVENT_TYPES), min_size=1, max_size=4))
    def test_json_of_any_shape_raises_nowhere(self, bodies: list[Json]) -> None:
        use_everything(FORMAT, bodies)

    @given(st.lists(st.tuples(st.sampled_from(EVENT_TYPES), shaped_like(NAMES, EVENT_TYPES)), max_size=6))
    def test_nor_does_it_in_events_of_known_types(self, events: list[tuple[str, Json]]) -> None:
        use_everything(FORMAT, [{**body, "type": kind} for kind, body in events])

    @given(st.lists(shaped_like(NAMES, ["text_delta"]), max_size=5))
    def test_nor_does_it_in_the_deltas_of_one_block(self, deltas: list[Json]) -> None:
        bodies = [{"type": "content_block_delta", "index": 0, "delta": item} for item in deltas]
        use_everything(FORMAT, [start(0, type="text", text="a"), *bodies])

    @pytest.mark.parametrize("index", [None, "0", [0], {}, 0.5, True])
    def test_a_block_that_does_not_say_which_it_is_is_the_first(self, index: Any) -> None:
        opening = start(0, type="text", text="a")
        more = delta(0, "text_delta", text="b") | {"index": index}
        assert content_of(opening, more) == [{"type": "text", "text": "ab"}]
        assert FORMAT.chunk_texts(more) == [("0/text", "b")]
        assert FORMAT.ended_texts(Chunk.of(stop(0) | {"index": index}), ["0/text"]) == ["0/text"]
