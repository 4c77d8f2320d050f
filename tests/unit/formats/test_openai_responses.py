"""OpenAI Responses: what is read from it, what is put into it, and what its streams add up to."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.formats.format import ResponseFacts
from luthien.formats.registry import OPENAI_RESPONSES as FORMAT
from luthien.formats.sse import Chunk
from luthien.telemetry import conventions as names
from tests.chunks import assembled as assembled_of
from tests.chunks import chunks_of
from tests.unit.formats.hostile import lines_run, shaped_like, use_everything
from tests.wire import (
    Json,
    responses_events,
    responses_message,
    responses_request,
    responses_response,
    responses_stream,
    responses_text,
    sse,
)

NAMES = (
    *("type", "output_index", "content_index", "summary_index", "item_id", "item", "part", "response", "output"),
    *("delta", "text", "refusal", "arguments", "input", "code", "content", "summary", "annotation", "annotations"),
    *("logprobs", "usage", "status", "error", "message", "instructions", "id", "role", "output_text", "prompt"),
    *("variables", "input_tokens", "output_tokens", "incomplete_details", "reason", "model"),
)
EVENT_TYPES = (
    *("response.created", "response.output_item.added", "response.output_item.done", "response.completed", "error"),
    *("response.content_part.added", "response.content_part.done", "response.output_text.delta"),
    *("response.output_text.done", "response.refusal.delta", "response.refusal.done", "response.failed"),
    *("response.reasoning_summary_part.added", "response.reasoning_summary_text.delta", "message", "reasoning"),
    *("response.function_call_arguments.delta", "response.function_call_arguments.done", "output_text", "refusal"),
    *(
        "response.output_text.annotation.added",
        "response.reasoning_text.delta",
        "response.custom_tool_call_input.delta",
    ),
)
EVENTS = st.builds(
    lambda body, kind: body | ({"type": kind} if kind else {}),
    shaped_like(NAMES, EVENT_TYPES),
    st.sampled_from((*EVENT_TYPES, None)),
)


def assembled(frames: Iterable[bytes]) -> Json:
    whole: Json = assembled_of(FORMAT, chunks_of(frames))
    return whole


def output_of(*bodies: Json) -> Any:
    return assembled(responses_events(*bodies))["output"]


class TestRequests:
    def test_the_texts_are_those_of_instructions_messages_tool_results_and_reasoning(self) -> None:
        body = {
            "instructions": "a",
            "prompt": {"id": "no", "variables": {"x": "b", "y": {"type": "input_text", "text": "c"}, "z": 1}},
            "input": [
                {"role": "user", "content": "d"},
                {
                    "role": "user",
                    "content": [{"type": "input_text", "text": "e"}, {"type": "input_image", "image_url": "no"}],
                },
                {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "f"}]},
                {"type": "function_call", "call_id": "c", "name": "no", "arguments": '{"text": "no"}'},
                {"type": "function_call_output", "call_id": "c", "output": "g"},
                {"type": "function_call_output", "output": [{"type": "input_text", "text": "h"}]},
                {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": "no"}},
                {"type": "custom_tool_call", "input": "no"},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "i"}], "encrypted_content": "no"},
                {"type": "item_reference", "id": "no"},
                {"type": "from_the_future", "value": {"text": "no"}},
            ],
        }
        assert sorted((slot.text, slot.role) for slot in FORMAT.request_texts(body)) == [
            ("a", "system"),
            ("b", "user"),
            ("c", "user"),
            ("d", "user"),
            ("e", "user"),
            ("f", "assistant"),
            ("g", "tool"),
            ("h", "tool"),
            ("i", "assistant"),
        ]

    def test_the_input_may_be_a_text(self) -> None:
        body: Json = {"input": "a"}
        FORMAT.request_texts(body)[0].set("A")
        assert body == {"input": "A"}

    def test_setting_a_text_changes_that_place_and_no_other(self) -> None:
        body = responses_request("a", tools=[{"type": "function", "name": "n"}], x_new={"text": "no"})
        expected = copy.deepcopy(body)
        expected["input"][0]["content"] = "A"
        FORMAT.request_texts(body)[-1].set("A")
        assert body == expected

    @pytest.mark.parametrize(
        ("known", "expected"),
        [
            ({}, "Be brief."),
            ({"instructions": None}, "Be brief."),
            ({"instructions": ""}, "Be brief."),
            ({"instructions": "You are a cat."}, "Be brief.\n\nYou are a cat."),
            (
                {"instructions": [{"role": "system", "content": "a"}]},
                [{"role": "developer", "content": "Be brief."}, {"role": "system", "content": "a"}],
            ),
        ],
    )
    def test_a_system_message_is_put_before_the_instructions(self, known: Json, expected: Any) -> None:
        body = responses_request(**known)
        FORMAT.add_system_message(body, "Be brief.")
        assert body == responses_request(instructions=expected)

    def test_the_attributes_are_those_a_request_states(self) -> None:
        body = responses_request(max_output_tokens=7, temperature=0.5, top_p="secret")
        assert FORMAT.request_attributes(body) == {
            names.REQUEST_MAX_TOKENS: 7,
            names.REQUEST_TEMPERATURE: 0.5,
            names.REQUEST_TOP_P: None,
        }


class TestResponses:
    def test_the_texts_are_what_the_reader_reads(self) -> None:
        body = responses_response("a")
        body["output"] += [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "b"}], "encrypted_content": "no"},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "c"}]},
            {"type": "message", "content": [{"type": "refusal", "refusal": "d"}]},
            {"type": "function_call", "arguments": "no"},
            {"type": "custom_tool_call", "input": "no"},
            {"type": "image_generation_call", "result": "no"},
        ]
        body["output_text"] = "e"
        assert [slot.text for slot in FORMAT.response_texts(body)] == ["a", "b", "c", "d", "e"]

    def test_a_text_that_is_set_takes_its_tokens_with_it(self) -> None:
        """They would tell what it was."""
        body = responses_response("secret")
        body["output"][0]["content"][0]["logprobs"] = [{"token": "secret", "logprob": -0.1}]
        FORMAT.response_texts(body)[0].set("[hidden]")
        assert "secret" not in json.dumps(body)

    def test_the_facts_are_the_providers_own(self) -> None:
        assert FORMAT.response_facts(responses_response()) == ResponseFacts(
            model="gpt-test-2026",
            response_id="resp_1",
            finish_reasons=("completed",),
            input_tokens=9,
            output_tokens=3,
            cached_tokens=4,
            reasoning_tokens=1,
        )

    def test_what_was_cut_short_says_why(self) -> None:
        cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        assert FORMAT.response_facts(cut).finish_reasons == ("max_output_tokens",)

    @pytest.mark.parametrize("body", [{}, {"usage": None, "status": None}, {"usage": [1], "id": 2, "model": []}])
    def test_what_it_does_not_say_is_not_made_up(self, body: Json) -> None:
        assert FORMAT.response_facts(body) == ResponseFacts()


class TestErrors:
    def test_an_error_body_is_openais(self) -> None:
        assert json.loads(FORMAT.error_body(403, "policy_blocked", "No.")) == {
            "error": {"message": "No.", "type": "permission_error", "param": None, "code": "policy_blocked"}
        }

    def test_an_error_frame_is_an_event_of_the_stream_and_no_end_marker(self) -> None:
        (chunk,) = chunks_of([FORMAT.error_frame(502, "why", "It broke\n\noff.", 7)])
        assert (chunk.event, FORMAT.stream_error(chunk)) == ("error", "It broke\n\noff.")
        assert chunk.json == {
            "type": "error",
            "sequence_number": 7,
            "code": "why",
            "message": "It broke\n\noff.",
            "param": None,
            "error": {"message": "It broke\n\noff.", "type": "api_error", "param": None, "code": "why"},
        }
        assert not FORMAT.is_terminal(chunk)


class TestChunks:
    @pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
    def test_the_end_markers(self, kind: str) -> None:
        assert FORMAT.is_terminal(Chunk.of({"type": kind, "response": {}}))
        assert not FORMAT.is_terminal(Chunk(f"event: {kind}\n\n".encode(), None, kind))
        assert not FORMAT.is_terminal(Chunk.of({"type": "response.output_text.delta", "delta": kind}))

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"type": "error", "code": "c", "message": "Overloaded"}, "Overloaded"),
            ({"type": "error", "error": {"message": "Overloaded"}}, "Overloaded"),
            ({"type": "error"}, "unspecified error"),
            (
                {"type": "response.failed", "response": {"error": {"code": "c", "message": "Overloaded"}}},
                "Overloaded",
            ),
            ({"type": "response.failed"}, "unspecified error"),
            ({"error": {"message": "Overloaded"}}, "Overloaded"),
            ({"type": "response.completed", "response": {"error": None}}, None),
            ({"type": "response.output_text.delta", "error": {"message": "x"}}, None),
        ],
    )
    def test_an_error_in_a_stream_is_recognised(self, body: Json, message: str | None) -> None:
        assert FORMAT.stream_error(Chunk.of(body)) == message

    @pytest.mark.parametrize(
        ("body", "texts"),
        [
            (
                {"type": "response.output_text.delta", "output_index": 1, "content_index": 2, "delta": "a"},
                [("1/text/2", "a")],
            ),
            ({"type": "response.output_text.delta", "item_id": "msg/1", "delta": "a"}, [("#msg/1/text/0", "a")]),
            ({"type": "response.refusal.delta", "output_index": 0, "delta": "a"}, [("0/refusal/0", "a")]),
            ({"type": "response.reasoning_text.delta", "output_index": 0, "delta": "a"}, [("0/text/0", "a")]),
            (
                {
                    "type": "response.reasoning_summary_text.delta",
                    "output_index": 0,
                    "summary_index": 3,
                    "delta": "a",
                },
                [("0/summary/3", "a")],
            ),
            (
                {
                    "type": "response.content_part.added",
                    "output_index": 0,
                    "part": {"type": "output_text", "text": "a"},
                },
                [("0/text/0", "a")],
            ),
            (
                {
                    "type": "response.content_part.added",
                    "output_index": 0,
                    "part": {"type": "output_text", "text": ""},
                },
                [],
            ),
            (
                {"type": "response.output_item.added", "output_index": 0, "item": responses_message("a")},
                [("0/text/0", "a")],
            ),
            ({"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "no"}, []),
            ({"type": "response.output_text.done", "output_index": 0, "text": "no"}, []),
            ({"type": "response.from_the_future.delta", "delta": "no"}, []),
            ({"type": "response.output_text.delta", "delta": None}, []),
            ({}, []),
        ],
    )
    def test_the_texts_are_the_pieces_of_what_the_reader_reads(
        self, body: Json, texts: list[tuple[str, str]]
    ) -> None:
        assert FORMAT.chunk_texts(body) == texts

    def test_another_text_is_put_where_it_was_without_its_tokens(self) -> None:
        body = {"type": "response.output_text.delta", "delta": "a", "logprobs": [{"token": "a"}], "extra": 1.5}
        chunk = Chunk.of(body, "response.output_text.delta")
        changed = FORMAT.with_chunk_texts(chunk, ["A"])
        assert (changed.json, changed.event) == (body | {"delta": "A", "logprobs": []}, chunk.event)
        assert chunk.json == body

    @pytest.mark.parametrize(
        ("body", "ends"),
        [
            ({"type": "response.output_text.done", "output_index": 1, "content_index": 0}, ["1/text/0"]),
            (
                {"type": "response.content_part.done", "output_index": 1, "content_index": 0},
                ["1/text/0", "1/refusal/0"],
            ),
            (
                {"type": "response.reasoning_summary_part.done", "output_index": 1, "summary_index": 0},
                ["1/summary/0"],
            ),
            (
                {"type": "response.output_item.done", "output_index": 1},
                ["1/text/0", "1/refusal/0", "1/summary/0", "1/text/1"],
            ),
            ({"type": "response.output_item.added", "output_index": 2}, []),
            ({"type": "response.output_text.delta", "output_index": 1}, []),
        ],
    )
    def test_a_text_has_ended_when_it_is_said_whole(self, body: Json, ends: list[str]) -> None:
        open_keys = ["1/text/0", "1/refusal/0", "1/summary/0", "1/text/1", "11/text/0"]
        assert FORMAT.ended_texts(Chunk.of(body), open_keys) == ends


class TestAssembled:
    def test_a_stream_adds_up_to_the_plain_response(self) -> None:
        assert assembled(responses_stream("Hello", " there")) == responses_response("Hello there")

    def test_without_its_end_it_adds_up_to_what_came(self) -> None:
        cut = assembled(responses_stream("Hel", "lo", "!")[:6])
        assert (cut["status"], cut["id"]) == ("in_progress", "resp_1")
        assert cut["output"] == [responses_message("Hello", "in_progress")]

    def test_items_of_which_the_end_says_nothing_are_kept(self) -> None:
        ending = responses_response() | {"output": []}
        events = [*responses_text("a"), {"type": "response.completed", "response": ending}]
        assert assembled(responses_events(*events)) == responses_response("a")

    def test_nothing_adds_up_to_nothing(self) -> None:
        assembler = FORMAT.assembler()
        for chunk in chunks_of([b": hello\n\n", b"data: 1\n\n", sse({"type": "keepalive"}, "keepalive")]):
            assembler.add(chunk)
        assert assembler.result() is None

    def test_tool_calls_reasoning_refusals_and_annotations_are_kept(self) -> None:
        call = {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "n", "arguments": ""}
        thought = {"id": "rs_1", "type": "reasoning", "summary": []}
        assert output_of(
            {"type": "response.output_item.added", "output_index": 0, "item": thought},
            {
                "type": "response.reasoning_summary_part.added",
                "output_index": 0,
                "summary_index": 0,
                "part": {"type": "summary_text", "text": ""},
            },
            {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "Hm"},
            {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "m"},
            {"type": "response.output_item.added", "output_index": 1, "item": call},
            {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": '{"a"'},
            {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": ": 1}"},
            {
                "type": "response.refusal.delta",
                "output_index": 2,
                "content_index": 0,
                "item_id": "msg_2",
                "delta": "No",
            },
            *responses_text("x", output_index=3)[:3],
            {
                "type": "response.output_text.annotation.added",
                "output_index": 3,
                "content_index": 0,
                "annotation": {"type": "url_citation"},
            },
        ) == [
            thought | {"summary": [{"type": "summary_text", "text": "Hmm"}]},
            call | {"arguments": '{"a": 1}'},
            {"type": "message", "id": "msg_2", "content": [{"type": "refusal", "refusal": "No"}]},
            {
                **responses_message("", "in_progress"),
                "content": [
                    {"type": "output_text", "annotations": [{"type": "url_citation"}], "logprobs": [], "text": "x"}
                ],
            },
        ]

    def test_adding_changes_no_chunk(self) -> None:
        chunks = chunks_of(responses_stream("a", "b"))
        before = copy.deepcopy([chunk.json for chunk in chunks])
        assembler = FORMAT.assembler()
        for chunk in chunks:
            assembler.add(chunk)
        assert [chunk.json for chunk in chunks] == before

    def test_an_error_is_kept(self) -> None:
        assert assembled([FORMAT.error_frame(502, "why", "It broke.")])["error"] == {
            "message": "It broke.",
            "type": "api_error",
            "param": None,
            "code": "why",
        }

    def test_an_error_that_is_not_nested_is_kept_too(self) -> None:
        flat = {"type": "error", "sequence_number": 1, "code": "why", "message": "It broke.", "param": None}
        assert assembled([sse(flat)])["error"] == {"code": "why", "message": "It broke.", "param": None}

    def test_what_llama_cpp_sends_without_any_index_adds_up(self) -> None:
        frames = responses_stream("Hel", "lo")
        bare = [frame.replace(b'"output_index": 0, ', b"").replace(b'"content_index": 0, ', b"") for frame in frames]
        assert b"_index" not in b"".join(bare)
        assert assembled(bare) == responses_response("Hello")
        assert assembled(bare[:6])["output"] == [responses_message("Hello", "in_progress")]

    def test_a_stream_twice_as_long_is_twice_the_work(self) -> None:
        def work(count: int) -> int:
            chunks = chunks_of(responses_stream(*["x"] * count))
            assembler, repeats = FORMAT.assembler(), FORMAT.repeats()
            assert repeats is not None

            def run() -> None:
                for chunk in chunks:
                    repeats.unsaid(chunk)
                    assembler.add(repeats.agreed(chunk))

            return lines_run(run)

        assert work(400) < 2.2 * work(200)


class TestHostile:
    @given(st.lists(EVENTS, max_size=6))
    def test_whatever_is_sent_nothing_breaks(self, bodies: list[Json]) -> None:
        use_everything(FORMAT, bodies)

    @given(st.lists(EVENTS, max_size=6))
    def test_whatever_is_sent_it_is_brought_into_agreement(self, bodies: list[Json]) -> None:
        """And once it agrees, nothing more is to be done."""
        first, second = FORMAT.repeats(), FORMAT.repeats()
        head = FORMAT.repeats()
        assert first is not None
        assert second is not None
        assert head is not None
        for body in bodies:
            chunk = Chunk.of(body)
            for each in (*head.unsaid(chunk), chunk):
                first.offered(each)
                agreed = first.agreed(each)
                second.offered(agreed)
                assert second.agreed(agreed) is agreed
