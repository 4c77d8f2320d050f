"""OpenAI Chat Completions: what is read from it, what is put into it, and what its streams add up to."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from functools import cache, partial
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types import ErrorObject
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from luthien.formats.format import ResponseFacts
from luthien.formats.registry import OPENAI_CHAT as FORMAT
from luthien.formats.sse import MAX_DEPTH, Chunk
from luthien.telemetry import conventions as names
from tests.chunks import assembled as assembled_of
from tests.chunks import chunks_of
from tests.unit.formats.hostile import lines_run, shaped_like, use_everything
from tests.wire import DONE, Json, openai_chunk, openai_request, openai_response, openai_stream

NAMES = (
    *("messages", "choices", "message", "delta", "content", "refusal", "reasoning_content", "role", "index", "text"),
    *("tool_calls", "function", "arguments", "id", "type", "finish_reason", "logprobs", "usage", "error", "object"),
    *("model", "max_tokens", "prompt_tokens"),
)


def assembled(frames: Iterable[bytes]) -> Json:
    whole: Json = assembled_of(FORMAT, chunks_of(frames))
    return whole


def message_of(frames: Iterable[bytes]) -> Json:
    message: Json = assembled(frames)["choices"][0]["message"]
    return message


def tool_call(index: int, **function: str) -> Json:
    return {"tool_calls": [{"index": index, "function": function}]}


def began(index: int, call_id: str, name: str) -> Json:
    call = {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def by_the_sdk(frames: Iterable[bytes]) -> Json:
    """What the official SDK makes of a stream."""
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in sdk_stream(b"".join(frames)):
        list(state.handle_chunk(chunk))
    completion: Json = state.current_completion_snapshot.to_dict()
    return completion


@cache
def sdk_client() -> openai.OpenAI:
    return openai.OpenAI(api_key="none")


def sdk_stream(body: bytes) -> openai.Stream[ChatCompletionChunk]:
    response = httpx2.Response(200, content=body, request=httpx2.Request("POST", "http://provider/"))
    return openai.Stream(cast_to=ChatCompletionChunk, response=response, client=sdk_client())


def without_nulls(value: Any) -> Any:
    """What is said; the SDK fills in fields that were not."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


class TestRequests:
    def test_the_texts_are_those_of_all_messages_and_their_parts_in_order(self) -> None:
        body = openai_request()
        body["messages"] = [
            {"role": "system", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {}}]},
            {"role": "assistant", "content": None, "refusal": "c", "tool_calls": [{"function": {"arguments": "no"}}]},
            {"role": "assistant", "content": "d", "reasoning_content": "e", "name": "no"},
            {"role": "tool", "content": "f", "tool_call_id": "no"},
        ]
        assert [(slot.role, slot.text) for slot in FORMAT.request_texts(body)] == [
            ("system", "a"),
            ("user", "b"),
            ("assistant", "c"),
            ("assistant", "d"),
            ("assistant", "e"),
            ("tool", "f"),
        ]

    def test_setting_a_text_changes_that_place_and_no_other(self) -> None:
        body = openai_request()
        body["messages"].append({"role": "user", "content": [{"type": "text", "text": "b", "extra": 1}]})
        expected = copy.deepcopy(body)
        expected["messages"][1]["content"][0]["text"] = "B"
        slot = FORMAT.request_texts(body)[1]
        slot.set("B")
        assert body == expected
        assert slot.text == "B"

    def test_a_system_message_is_put_before_all_others(self) -> None:
        body = openai_request("Hello", temperature=1)
        FORMAT.add_system_message(body, "Be brief.")
        assert body["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ]
        assert body["temperature"] == 1

    @pytest.mark.parametrize("messages", [{}, {"messages": None}, {"messages": "none"}, {"messages": 3}])
    def test_without_messages_it_is_the_only_one(self, messages: Json) -> None:
        body = {"model": "m", **messages}
        FORMAT.add_system_message(body, "Be brief.")
        assert body["messages"] == [{"role": "system", "content": "Be brief."}]

    def test_the_attributes_are_those_a_request_states(self) -> None:
        body = openai_request(max_tokens=5, temperature=0.5, top_p=1, seed=7, n=2)
        stated = {key: value for key, value in FORMAT.request_attributes(body).items() if value is not None}
        assert stated == {
            names.REQUEST_MAX_TOKENS: 5,
            names.REQUEST_TEMPERATURE: 0.5,
            names.REQUEST_TOP_P: 1,
            names.REQUEST_SEED: 7,
            names.REQUEST_CHOICES: 2,
        }

    @pytest.mark.parametrize(
        ("limits", "tokens"),
        [
            ({"max_completion_tokens": 1, "max_tokens": 2}, 1),
            ({"max_completion_tokens": None, "max_tokens": 2}, 2),
            ({"max_completion_tokens": 0}, 0),
            ({}, None),
        ],
    )
    def test_the_newer_name_of_the_token_limit_goes_first(self, limits: Json, tokens: int | None) -> None:
        assert FORMAT.request_attributes(openai_request(**limits))[names.REQUEST_MAX_TOKENS] == tokens

    def test_a_text_where_a_number_belongs_is_no_attribute(self) -> None:
        """What a client writes there must not reach the trace backend."""
        body = openai_request(temperature="secret", seed=["secret"], n=True, max_tokens={"a": "secret"})
        assert set(FORMAT.request_attributes(body).values()) == {None}


class TestResponses:
    def test_the_texts_are_what_the_reader_reads(self) -> None:
        body = openai_response("a")
        body["choices"][0]["message"] |= {"refusal": "b", "reasoning_content": "c", "reasoning": "d"}
        body["choices"].append({"index": 1, "message": {"content": "e", "tool_calls": [{"id": "no"}]}})
        assert [slot.text for slot in FORMAT.response_texts(body)] == ["a", "b", "c", "d", "e"]

    def test_the_facts_are_the_providers_own(self) -> None:
        assert FORMAT.response_facts(openai_response()) == ResponseFacts(
            model="gpt-test-2026",
            response_id="chatcmpl-1",
            finish_reasons=("stop",),
            input_tokens=9,
            output_tokens=3,
        )

    @pytest.mark.parametrize("body", [{}, {"usage": None, "choices": None}, {"usage": 1, "choices": [1], "id": 2}])
    def test_what_it_does_not_say_is_not_made_up(self, body: Json) -> None:
        assert FORMAT.response_facts(body) == ResponseFacts()

    def test_a_truth_value_is_no_token_count(self) -> None:
        assert FORMAT.response_facts({"usage": {"prompt_tokens": True, "completion_tokens": "3"}}) == ResponseFacts()


class TestUsage:
    def test_what_was_cached_and_what_was_thought_is_told_apart(self) -> None:
        usage = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 1}}
        facts = FORMAT.response_facts({"usage": usage})
        assert (facts.cached_tokens, facts.reasoning_tokens) == (4, 1)
        assert FORMAT.response_facts({"usage": {"prompt_tokens_details": [4]}}) == ResponseFacts()


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (403, "permission_error"),
            (413, "invalid_request_error"),
            (500, "api_error"),
            (504, "api_error"),
        ],
    )
    def test_an_error_body_is_the_sdks_own_error_object(self, status: int, kind: str) -> None:
        error = ErrorObject.model_validate(json.loads(FORMAT.error_body(status, "why", "No.\n«x»"))["error"])
        assert (error.type, error.code, error.message, error.param) == (kind, "why", "No.\n«x»", None)

    def test_an_error_frame_ends_the_sdks_stream_with_its_message(self) -> None:
        frames = [*openai_stream("a")[:2], FORMAT.error_frame(502, "upstream_incomplete", "It broke\n\noff.")]
        received: list[ChatCompletionChunk] = []
        with pytest.raises(openai.APIError) as raised:
            received.extend(sdk_stream(b"".join(frames)))
        assert (raised.value.message, raised.value.code) == ("It broke\n\noff.", "upstream_incomplete")

    def test_an_error_frame_is_an_error_and_no_end_marker_to_us_as_well(self) -> None:
        (chunk,) = chunks_of([FORMAT.error_frame(502, "why", "It broke.")])
        assert FORMAT.stream_error(chunk) == "It broke."
        assert not FORMAT.is_terminal(chunk)


class TestChunks:
    def test_only_done_is_the_end_marker(self) -> None:
        ends = [FORMAT.is_terminal(chunk) for chunk in chunks_of([*openai_stream("[DONE]"), b"data:[DONE] \n\n"])]
        assert ends == [False] * 4 + [True, True]
        assert not FORMAT.is_terminal(Chunk(b": [DONE]\n\n", None))

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"error": {"message": "Overloaded", "code": 500}}, "Overloaded"),
            ({"error": "Overloaded"}, "Overloaded"),
            ({"error": {"message": None, "code": 500}}, "unspecified error"),
            ({"error": {"message": ["x"]}}, "unspecified error"),
            ({"error": 500}, "unspecified error"),
            ({"error": None, "choices": []}, None),
            ({"choices": [{"delta": {"content": '"error"'}}]}, None),
        ],
    )
    def test_an_error_in_a_stream_is_recognised(self, body: Json, message: str | None) -> None:
        assert FORMAT.stream_error(Chunk.of(body)) == message

    def test_each_choice_and_field_has_a_text_of_its_own(self) -> None:
        body: Json = {
            "choices": [
                {"index": 0, "delta": {"content": "a", "refusal": "b"}},
                {"index": 1, "delta": {"content": "c", "reasoning_content": "d", "reasoning": "e"}},
                {"index": 1, "delta": {"content": None, "tool_calls": [{"function": {"arguments": "no"}}]}},
                {"delta": {"content": [{"type": "text", "text": "f"}, {"type": "image"}]}},
            ]
        }
        assert FORMAT.chunk_texts(body) == [
            ("0/content", "a"),
            ("0/refusal", "b"),
            ("1/content", "c"),
            ("1/reasoning_content", "d"),
            ("1/reasoning", "e"),
            ("0/content", "f"),
        ]

    def test_other_texts_are_put_where_they_were_and_all_else_stays(self) -> None:
        body: Json = {
            "id": "x",
            "choices": [
                {"index": 0, "delta": {"content": "a", "extra": {"b": [1.0]}}, "logprobs": None},
                {"index": 0, "delta": {"content": "b"}},
            ],
            "obfuscation": "zz",
        }
        chunk = Chunk.of(body, "message")
        changed = FORMAT.with_chunk_texts(chunk, ["A", ""])
        expected = copy.deepcopy(body)
        expected["choices"][0]["delta"]["content"] = "A"
        expected["choices"][1]["delta"]["content"] = ""
        assert (changed.json, changed.event) == (expected, "message")
        assert chunk.json == body

    def test_a_choice_has_ended_with_its_finish_reason(self) -> None:
        open_keys = ["0/content", "0/refusal", "1/content", "10/content"]
        (chunk,) = chunks_of([openai_chunk({"content": "."}, "stop", index=0)])
        assert FORMAT.ended_texts(chunk, open_keys) == ["0/content", "0/refusal"]

    @pytest.mark.parametrize(
        ("delta", "ended"),
        [
            ({"content": "a"}, ["1/reasoning_content"]),
            ({"tool_calls": [{"index": 0}]}, ["1/reasoning_content", "1/content"]),
            ({"reasoning_content": "a", "content": ""}, ["1/content"]),
            ({"reasoning_content": "a", "content": "b"}, []),
            ({"content": ""}, []),
            ({"role": "assistant"}, []),
            ({}, []),
        ],
    )
    def test_a_choice_that_goes_on_with_something_else_has_ended_what_it_said(
        self, delta: Json, ended: list[str]
    ) -> None:
        """Otherwise the last word of its reasoning could hold back its whole answer."""
        (chunk,) = chunks_of([openai_chunk(delta, index=1)])
        assert FORMAT.ended_texts(chunk, ["0/content", "1/reasoning_content", "1/content"]) == ended

    def test_the_end_marker_and_the_usage_end_nothing(self) -> None:
        for chunk in chunks_of([DONE, b'data: {"choices":[],"usage":{}}\n\n', b": ping\n\n"]):
            assert FORMAT.ended_texts(chunk, ["0/content"]) == []


class TestAssembled:
    def test_a_stream_adds_up_to_the_plain_response(self) -> None:
        plain = openai_response("Hello there") | {"usage": {"prompt_tokens": 9, "completion_tokens": 2}}
        frames = openai_stream("Hello", " there")
        result = assembled(frames)
        assert result["choices"] == [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello there"},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ]
        assert result["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
        assert result["object"] == "chat.completion"
        ChatCompletion.model_validate(result)

    def test_nothing_adds_up_to_nothing(self) -> None:
        assembler = FORMAT.assembler()
        for chunk in chunks_of([b": ping\n\n", b"data: [1]\n\n", DONE]):
            assembler.add(chunk)
        assert assembler.result() is None

    def test_the_arguments_of_parallel_tool_calls_are_told_apart_by_their_index(self) -> None:
        message = message_of(
            [
                openai_chunk(began(0, "call_a", "weather")),
                openai_chunk(tool_call(0, arguments='{"city"')),
                openai_chunk(began(1, "call_b", "time")),
                openai_chunk(tool_call(1, arguments='{"zone":')),
                openai_chunk(tool_call(0, arguments=':"Ulm"}')),
                openai_chunk(tool_call(1, arguments='"CET"}')),
                openai_chunk({}, "tool_calls"),
            ]
        )
        assert message["content"] is None
        assert message["tool_calls"] == [
            {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}},
            {"id": "call_b", "type": "function", "function": {"name": "time", "arguments": '{"zone":"CET"}'}},
        ]

    def test_several_tool_calls_may_come_in_one_chunk_and_in_any_order(self) -> None:
        calls = [{"index": 3, "id": "c", "function": {"arguments": "1"}}, {"index": 1, "id": "a"}]
        more = [{"index": 1, "function": {"arguments": "2"}}, {"index": 3, "function": {"arguments": "3"}}]
        message = message_of([openai_chunk({"tool_calls": calls}), openai_chunk({"tool_calls": more})])
        assert message["tool_calls"] == [
            {"id": "c", "function": {"arguments": "13"}},
            {"id": "a", "function": {"arguments": "2"}},
        ]

    def test_an_id_or_type_that_is_repeated_is_not_appended(self) -> None:
        delta = {"role": "assistant", "tool_calls": [{"index": 0, "id": "a", "type": "function"}]}
        message = message_of([openai_chunk(delta), openai_chunk(delta)])
        assert message == {"role": "assistant", "tool_calls": [{"id": "a", "type": "function"}]}

    def test_a_refusal_and_reasoning_are_kept_beside_the_content(self) -> None:
        deltas: list[Json] = [
            {"reasoning_content": "Hm"},
            {"reasoning_content": "m."},
            {"content": "Well"},
            {"refusal": "I "},
            {"refusal": "won't."},
        ]
        assert message_of(map(openai_chunk, deltas)) == {
            "reasoning_content": "Hmm.",
            "content": "Well",
            "refusal": "I won't.",
        }

    def test_log_probabilities_are_collected(self) -> None:
        def frame(token: str, logprob: float) -> bytes:
            entry = {"token": token, "logprob": logprob, "bytes": [1], "top_logprobs": []}
            choice = {"index": 0, "delta": {"content": token}, "logprobs": {"content": [entry], "refusal": None}}
            return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"

        result = assembled([frame("a", -0.5), frame("b", float("-inf")), openai_chunk({}, "stop")])
        logprobs = result["choices"][0]["logprobs"]
        assert [(entry["token"], entry["logprob"]) for entry in logprobs["content"]] == [
            ("a", -0.5),
            ("b", float("-inf")),
        ]
        assert logprobs["refusal"] is None

    def test_choices_that_come_interleaved_are_given_in_their_order(self) -> None:
        frames = [
            openai_chunk({"content": "b"}, index=1),
            openai_chunk({"content": "a"}, index=0),
            openai_chunk({"content": "B"}, "length", index=1),
            openai_chunk({"content": "A"}, "stop", index=0),
        ]
        result = assembled(frames)
        assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in result["choices"]] == [
            (0, "aA", "stop"),
            (1, "bB", "length"),
        ]

    def test_usage_is_that_of_the_chunk_that_has_it(self) -> None:
        frames = [openai_chunk({"content": "a"}, usage=None), *openai_stream("b"), openai_chunk({}, usage=None)]
        assert assembled(frames)["usage"] == {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        assert assembled([openai_chunk({}, usage=None)])["usage"] is None
        assert "usage" not in assembled(openai_stream("a", usage=False))

    def test_unknown_fields_of_every_level_are_kept(self) -> None:
        first: Json = {
            "id": "x",
            "provider": "p",
            "choices": [
                {
                    "index": 0,
                    "native_finish_reason": "eos",
                    "delta": {
                        "annotations": [{"type": "url"}],
                        "audio": {"id": "a", "data": "AA", "expires_at": 1},
                        "tool_calls": [{"index": 0, "extra": {"signature": "s"}, "function": {"strict": True}}],
                    },
                }
            ],
        }
        second: Json = {
            "x_groq": {"id": "g"},
            "choices": [
                {"index": 0, "delta": {"annotations": [{"type": "file"}], "audio": {"data": "BB", "transcript": "t"}}}
            ],
        }
        result = assembled([Chunk.of(first).raw, Chunk.of(second).raw])
        assert result["provider"] == "p"
        assert result["x_groq"] == {"id": "g"}
        choice = result["choices"][0]
        assert choice["native_finish_reason"] == "eos"
        assert choice["message"] == {
            "annotations": [{"type": "url"}, {"type": "file"}],
            "audio": {"id": "a", "data": "AABB", "expires_at": 1, "transcript": "t"},
            "tool_calls": [{"extra": {"signature": "s"}, "function": {"strict": True}}],
        }

    def test_an_error_in_the_stream_is_part_of_what_came(self) -> None:
        frames = [openai_chunk({"content": "a"}), b'data: {"error":{"message":"Overloaded"}}\n\n']
        assert assembled(frames)["error"] == {"message": "Overloaded"}

    def test_a_stream_cut_short_adds_up_to_what_had_come(self) -> None:
        choice = assembled(openai_stream("Hel", "lo")[:2])["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Hel", None)

    def test_asking_for_the_result_on_the_way_changes_nothing(self) -> None:
        frames = [
            openai_chunk(began(0, "call_a", "weather")),
            openai_chunk(tool_call(0, arguments="{")),
            openai_chunk(tool_call(0, arguments="}")),
            *openai_stream("a", "b"),
        ]
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
        chunks = chunks_of([openai_chunk(began(0, "a", "f")), openai_chunk(tool_call(0, arguments="{}"))])
        before = [copy.deepcopy(chunk.json) for chunk in chunks]
        sides = [FORMAT.assembler(), FORMAT.assembler()]
        for chunk in chunks:
            for side in sides:
                side.add(chunk)
        assert sides[0].result() == sides[1].result()
        assert [chunk.json for chunk in chunks] == before

    def test_a_copy_goes_its_own_way(self) -> None:
        first, second, third = chunks_of([openai_chunk(tool_call(0, arguments=text)) for text in ("a", "b", "c")])
        assembler = FORMAT.assembler()
        assembler.add(first)
        twin = copy.deepcopy(assembler)
        assembler.add(second)
        twin.add(third)
        arguments = [
            (side.result() or {})["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
            for side in (assembler, twin)
        ]
        assert arguments == ["ab", "ac"]

    @pytest.mark.parametrize(
        "delta",
        [
            {"content": "word "},
            {"tool_calls": [{"index": 0, "function": {"arguments": "x"}}]},
            {"annotations": [{"type": "url"}]},
        ],
        ids=["text", "arguments", "list"],
    )
    def test_each_chunk_costs_the_same_however_many_came_before(self, delta: Json) -> None:
        logprobs = {"content": [{"token": "word", "logprob": -1.0, "bytes": None, "top_logprobs": []}]}
        chunk = Chunk.of({"choices": [{"index": 0, "delta": delta, "logprobs": logprobs}]})
        assert chunk.json is not None
        assembler = FORMAT.assembler()
        assembler.add(chunk)
        few = lines_run(partial(assembler.add, chunk))
        for _ in range(200):
            assembler.add(chunk)
        assert lines_run(partial(assembler.add, chunk)) == few

    def test_a_call_of_many_tools_costs_the_same_for_each(self) -> None:
        first, *others = chunks_of(openai_chunk(tool_call(index, arguments="{}")) for index in range(200))
        assembler = FORMAT.assembler()
        assembler.add(first)
        assert all(chunk.json for chunk in others)
        assert len({lines_run(partial(assembler.add, chunk)) for chunk in others}) == 1


TEXTS = st.text(max_size=5)
DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, TEXTS),
    st.builds(lambda text: {"refusal": text}, TEXTS),
    st.builds(lambda text: {"reasoning_content": text}, TEXTS.filter(bool)),
    st.builds(lambda index, text: tool_call(index, arguments=text), st.integers(0, 1), TEXTS),
)


class TestAsTheSdk:
    @given(st.lists(DELTAS, max_size=10), st.sampled_from(["stop", "tool_calls", "length"]), st.booleans())
    def test_a_stream_adds_up_to_what_the_official_sdk_makes_of_it(
        self, deltas: list[Json], finish_reason: str, usage: bool
    ) -> None:
        opening: Json = {"role": "assistant", "content": ""}
        calls = [began(index, f"call_{index}", f"tool_{index}")["tool_calls"][0] for index in (0, 1)]
        frames = [
            openai_chunk(opening),
            openai_chunk({"tool_calls": calls}),
            *map(openai_chunk, deltas),
            openai_chunk({}, finish_reason),
            *openai_stream(usage=usage)[2:],
        ]
        ours, theirs = without_nulls(assembled(frames)), without_nulls(by_the_sdk(frames))
        for call in theirs["choices"][0]["message"]["tool_calls"]:
            call.pop("index")  # a position in the stream; the plain response has none
        assert ours == theirs

    def test_so_does_one_with_log_probabilities(self) -> None:
        entry = {"token": "a", "logprob": -1.5, "bytes": [97], "top_logprobs": []}
        frames = [
            Chunk.of(
                {
                    "id": "x",
                    "object": "chat.completion.chunk",
                    "created": 1,
                    "model": "m",
                    "choices": [
                        {
                            "index": 0,
                            "delta": {"content": "a"},
                            "logprobs": {"content": [entry]},
                            "finish_reason": end,
                        }
                    ],
                }
            ).raw
            for end in (None, None, "stop")
        ]
        assert without_nulls(assembled(frames)) == without_nulls(by_the_sdk(frames))


class TestHostile:
    @given(st.lists(shaped_like(NAMES, ["error", "chat.completion.chunk"]), min_size=1, max_size=4))
    def test_json_of_any_shape_raises_nowhere(self, bodies: list[Json]) -> None:
        use_everything(FORMAT, bodies)

    @given(st.lists(shaped_like(NAMES, ["stop"]), min_size=1, max_size=5))
    def test_nor_does_it_as_the_deltas_of_one_choice(self, deltas: list[Json]) -> None:
        use_everything(FORMAT, [{"choices": [{"index": 0, "delta": delta, **delta}]} for delta in deltas])

    def test_a_field_that_changes_its_kind_is_what_it_was_last(self) -> None:
        deltas: list[Any] = [{"content": "a"}, {"content": [{"text": "b"}]}, {"content": {"c": 1}}, {"content": "d"}]
        assert message_of(map(openai_chunk, deltas)) == {"content": "d"}

    def test_nesting_as_deep_as_a_frame_may_be_can_be_put_together_and_copied(self) -> None:
        value: Any = 1
        for _ in range((MAX_DEPTH - 4) // 2):
            value = {"a": [value]}
        chunk = Chunk.of({"choices": [{"index": 0, "delta": {"x": value}}], "y": value})
        assert chunk.json is not None
        assembler = FORMAT.assembler()
        assembler.add(chunk)
        assembler.add(chunk)
        assert copy.deepcopy(assembler).result() == assembler.result()


def test_the_tokens_beside_a_text_go_with_it_when_it_is_changed() -> None:
    """They would tell the client what it was."""
    tokens: Json = {
        "content": [{"token": "secret", "logprob": -0.1, "bytes": None, "top_logprobs": []}],
        "refusal": None,
    }
    plain: Json = {"choices": [{"message": {"content": "secret"}, "logprobs": dict(tokens)}]}
    [slot] = FORMAT.response_texts(plain)
    slot.set("secret")
    assert plain["choices"][0]["logprobs"] == tokens
    slot.set("[hidden]")
    assert plain["choices"][0] == {"message": {"content": "[hidden]"}, "logprobs": {"content": [], "refusal": None}}
    chunk = Chunk.of({"choices": [{"index": 0, "delta": {"content": "secret"}, "logprobs": tokens}]})
    assert b"secret" not in FORMAT.with_chunk_texts(chunk, ["[hidden]"]).raw
    assert b"secret" in chunk.raw
