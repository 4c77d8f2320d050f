"""`replace_text`: the same in a stream as in a plain response, and nothing touched that did not match."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from luthien.exchange import Side
from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT
from luthien.formats.sse import Chunk
from luthien.policies.builtin.replace_text import ReplaceText, ReplaceTextConfig
from luthien.policies.builtin.substitution import MatchTimeout
from luthien.policies.policy import Action, CallContext, Request, Response, Verdict
from tests.chunks import assembled, chunks_of
from tests.wire import (
    Json,
    anthropic_event,
    anthropic_request,
    anthropic_response,
    anthropic_stream,
    openai_chunk,
    openai_request,
    openai_response,
    openai_stream,
)

SECRET = {"find": "secret", "replace": "[hidden]"}
CUT = (rb"Look: \ud83d", rb"\ude00 and \ud83d", rb"", rb"\ude00!")
NUMBER = {"find": r"\b\d{3}-\d{4}\b", "replace": "[number]", "regex": True}


def policy(*rules: Json, wire_format: WireFormat = OPENAI_CHAT, **config: Any) -> ReplaceText:
    call = CallContext(UUID(int=0), wire_format, "m", streaming=True)
    unhurried = {"rules": rules, "match_timeout_ms": 10_000}
    return ReplaceText(ReplaceTextConfig.model_validate(unhurried | config), call)


async def through(replacing: ReplaceText, chunks: Sequence[Chunk]) -> list[Chunk]:
    """What the client is given, without what marks the end."""
    given_on: list[Chunk] = []
    for chunk in chunks:
        if not replacing.call.format.is_terminal(chunk):
            given_on += await replacing.on_chunk(chunk)
    return [*given_on, *await replacing.on_stream_end()]


def texts(wire_format: WireFormat, chunks: Iterable[Chunk]) -> list[str]:
    return [slot.text for slot in wire_format.response_texts(assembled(wire_format, chunks))]


def text_delta(index: int, text: str) -> bytes:
    return anthropic_event(
        {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}
    )


def text_block(index: int, *parts: str) -> list[bytes]:
    start = {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}
    stop = {"type": "content_block_stop", "index": index}
    return [anthropic_event(start), *(text_delta(index, part) for part in parts), anthropic_event(stop)]


class TestPlain:
    async def test_a_request_is_changed_wherever_people_read(self) -> None:
        body = openai_request("a secret")
        body["messages"].append({"role": "tool", "content": [{"type": "text", "text": "secrets, secret"}]})
        request = Request(policy(SECRET).call, body)
        assert await policy(SECRET).on_request(request) == Verdict.modify("replaced 3 matches", 3)
        assert [slot.text for slot in request.texts()] == ["a [hidden]", "[hidden]s, [hidden]"]

    async def test_without_a_match_nothing_is_changed(self) -> None:
        body = openai_request("a secre")
        before = copy.deepcopy(body)
        assert await policy(SECRET).on_request(Request(policy(SECRET).call, body)) == Verdict.allow()
        assert body == before

    async def test_one_match_is_spoken_of_in_the_singular(self) -> None:
        response = Response(policy(SECRET).call, openai_response("secret"))
        assert (await policy(SECRET).on_response(response)).reason == "replaced 1 match"

    async def test_tool_arguments_and_signed_thinking_are_left_alone(self) -> None:
        body = anthropic_response("secret")
        body["content"] += [
            {"type": "thinking", "thinking": "secret", "signature": "s"},
            {"type": "tool_use", "id": "t", "name": "n", "input": {"text": "secret"}},
        ]
        expected = copy.deepcopy(body)
        expected["content"][0]["text"] = "[hidden]"
        replacing = policy(SECRET, wire_format=ANTHROPIC_MESSAGES)
        await replacing.on_response(Response(replacing.call, body))
        assert body == expected

    async def test_transcripts_and_reasoning_in_detail_say_the_same_again(self) -> None:
        """What is signed or encrypted is left alone."""
        signed = {"type": "reasoning.text", "text": "secret", "signature": "c2ln"}
        encrypted = {"type": "reasoning.encrypted", "data": "secret"}
        details = [
            {"type": "reasoning.text", "text": "a secret", "format": "unknown", "index": 0},
            {"type": "reasoning.summary", "summary": "secrets", "index": 1},
        ]
        message: Json = {
            "role": "assistant",
            "content": None,
            "reasoning": "a secret",
            "reasoning_details": [*details, signed, encrypted],
            "audio": {"id": "audio_1", "transcript": "Its secret.", "data": "AAEC"},
        }
        before = copy.deepcopy(message)
        replacing = policy(SECRET)
        for shown in (Request(replacing.call, {"messages": [message]}), None):
            message = copy.deepcopy(before) if shown is None else message
            if shown is not None:
                assert (await replacing.on_request(shown)).count == 4
            else:
                body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
                assert (await replacing.on_response(Response(replacing.call, body))).count == 4
            assert message["reasoning"] == message["reasoning_details"][0]["text"] == "a [hidden]"
            assert message["reasoning_details"][1]["summary"] == "[hidden]s"
            assert message["reasoning_details"][2:] == [signed, encrypted]
            assert message["audio"] == before["audio"] | {"transcript": "Its [hidden]."}

    async def test_rules_are_applied_in_order_each_to_what_the_one_before_it_left(self) -> None:
        rules = ({"find": "a", "replace": "bb"}, {"find": "bbb", "replace": "c"}, {"find": "c", "replace": "a"})
        response = Response(policy(*rules).call, openai_response("ab a"))
        verdict = await policy(*rules).on_response(response)
        assert ([slot.text for slot in response.texts()], verdict.count) == (["a bb"], 4)

    @pytest.mark.parametrize("side", Side)
    async def test_a_rule_may_look_at_one_side_only(self, side: Side) -> None:
        replacing = policy(SECRET | {"in": [side.value]})
        verdicts = {
            Side.REQUEST: await replacing.on_request(Request(replacing.call, openai_request("secret"))),
            Side.RESPONSE: await replacing.on_response(Response(replacing.call, openai_response("secret"))),
        }
        assert {key: verdict.action is Action.MODIFY for key, verdict in verdicts.items()} == {
            key: key is side for key in Side
        }
        streamed = await through(replacing, chunks_of(openai_stream("secret")))
        assert texts(OPENAI_CHAT, streamed) == ["[hidden]" if side is Side.RESPONSE else "secret"]

    async def test_a_pattern_that_backtracks_without_end_stops_the_call(self) -> None:
        rule = {"find": "(?:a|aa)+b", "replace": "", "regex": True}
        replacing = policy(rule, match_timeout_ms=50)
        for _ in range(2):
            with pytest.raises(MatchTimeout):
                await replacing.on_response(Response(replacing.call, openai_response("a" * 60 + "c")))
        with pytest.raises(MatchTimeout):
            await replacing.on_chunk(chunks_of(openai_stream("a" * 60 + "c"))[1])


class TestStreams:
    async def test_chunks_that_no_match_touches_leave_as_the_same_objects(self) -> None:
        chunks = chunks_of([b": ping\n\n", *openai_stream("Hello", " there, ", "s", "e", "crate", "!")])
        replacing = policy(SECRET, NUMBER)
        given_on = await through(replacing, chunks)
        assert len(given_on) == len(chunks) - 1
        assert all(left is came for left, came in zip(given_on, chunks, strict=False))
        assert replacing.stream_verdict() == Verdict.allow()

    async def test_only_the_chunks_of_a_match_are_made_anew(self) -> None:
        chunks = chunks_of(openai_stream("Hello ", "a sec", "", "ret", " there"))
        replacing = policy(SECRET)
        given_on = await through(replacing, chunks)
        same = [left is came for left, came in zip(given_on, chunks, strict=False)]
        assert same == [True, True, False, True, False, True, True, True]
        assert texts(OPENAI_CHAT, given_on) == ["Hello a [hidden] there"]
        assert replacing.stream_verdict() == Verdict.modify("replaced 1 match", 1)

    async def test_a_match_replaced_by_itself_changes_no_chunk(self) -> None:
        chunks = chunks_of(openai_stream("a secret"))
        given_on = await through(policy({"find": "secret", "replace": "secret"}), chunks)
        assert all(left is came for left, came in zip(given_on, chunks, strict=False))

    async def test_a_match_may_straddle_many_chunks_and_stands_where_it_began(self) -> None:
        chunks = chunks_of(openai_stream("<", *"secret", ">"))
        given_on = await through(policy(SECRET), chunks)
        contents = [OPENAI_CHAT.chunk_texts(chunk.json or {}) for chunk in given_on]
        assert [text for part in contents for _, text in part] == ["", "<", "[hidden]", "", "", "", "", "", ">"]

    async def test_text_is_held_only_while_it_may_become_a_match(self) -> None:
        replacing = policy(SECRET)
        opening, hello, begin, on, no = chunks_of(openai_stream("Hello", " se", "cr", "ate"))[:5]
        assert list(await replacing.on_chunk(opening)) == [opening]
        assert list(await replacing.on_chunk(hello)) == [hello]
        assert list(await replacing.on_chunk(begin)) == []
        assert list(await replacing.on_chunk(on)) == []
        assert list(await replacing.on_chunk(no)) == [begin, on, no]

    async def test_what_comes_behind_a_held_chunk_waits_for_it(self) -> None:
        """The order of the frames is the provider's."""
        chunks = chunks_of([openai_chunk({"content": "se"}), b": ping\n\n", openai_chunk({"content": "ed"}, index=1)])
        replacing = policy(SECRET)
        held = [await replacing.on_chunk(chunk) for chunk in chunks]
        assert held == [[], [], []]
        (end,) = chunks_of([openai_chunk({}, "stop")])
        assert list(await replacing.on_chunk(end)) == [*chunks, end]

    async def test_the_finish_reason_settles_its_choice(self) -> None:
        chunks = chunks_of([openai_chunk({"content": "sec"}), openai_chunk({"content": "r"}, "length")])
        replacing = policy(SECRET)
        assert list(await replacing.on_chunk(chunks[0])) == []
        assert list(await replacing.on_chunk(chunks[1])) == chunks

    async def test_what_is_still_held_at_the_end_is_given_then(self) -> None:
        chunks = chunks_of([openai_chunk({"content": "sec"})])
        replacing = policy(SECRET)
        assert list(await replacing.on_chunk(chunks[0])) == []
        assert list(await replacing.on_stream_end()) == chunks

    async def test_text_after_the_finish_reason_is_looked_at_by_itself(self) -> None:
        frames = [
            openai_chunk({"content": "sec"}),
            openai_chunk({}, "stop"),
            openai_chunk({"content": "ret secret"}),
        ]
        given_on = await through(policy(SECRET), chunks_of(frames))
        assert texts(OPENAI_CHAT, given_on) == ["secret [hidden]"]

    async def test_the_answer_does_not_wait_for_the_last_word_of_the_reasoning(self) -> None:
        chunks = chunks_of([openai_chunk({"reasoning_content": "s"}), openai_chunk({"content": "Hello"})])
        replacing = policy(SECRET)
        assert list(await replacing.on_chunk(chunks[0])) == []
        assert list(await replacing.on_chunk(chunks[1])) == chunks

    async def test_transcripts_and_reasoning_in_detail(self) -> None:
        """Their pieces belong together as well; a format that signs what it said is left alone."""

        def detail(text: str, index: int, said_by: str) -> Json:
            return {"type": "reasoning.text", "text": text, "format": said_by, "index": index}

        def thought(text: str) -> bytes:
            details = [detail(text, 0, "xai-responses-v1"), detail(text, 1, "anthropic-claude-v1")]
            return openai_chunk({"reasoning": text, "reasoning_details": details})

        frames = [
            *(thought(text) for text in ("a se", "cret.")),
            openai_chunk({"reasoning_details": [{"index": 1, "signature": "c2ln"}]}),
            *(openai_chunk({"audio": {"id": "audio_1", "transcript": text}}) for text in ("my sec", "ret", " one")),
            openai_chunk({"audio": {"id": "audio_1", "data": "AAEC"}}),
            openai_chunk({}, "stop"),
        ]
        given_on = await through(policy(SECRET), chunks_of(frames))
        message = assembled(OPENAI_CHAT, given_on)["choices"][0]["message"]
        own, signed = message["reasoning_details"]
        assert message["reasoning"] == own["text"] == "a [hidden]."
        assert (signed["text"], signed["signature"]) == ("a secret.", "c2ln")
        assert message["audio"] == {"id": "audio_1", "transcript": "my [hidden] one", "data": "AAEC"}

    async def test_a_character_that_was_cut_in_two(self) -> None:
        frames = [b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % each for each in CUT]
        chunks = chunks_of([*frames, openai_chunk({}, "stop")])
        given_on = await through(policy({"find": "😀", "replace": ":-)"}), chunks)
        assert "".join(texts(OPENAI_CHAT, given_on)) == "Look: :-) and :-)!"
        untouched = await through(policy(SECRET), chunks)
        assert [chunk.raw for chunk in untouched] == [chunk.raw for chunk in chunks]

    async def test_choices_are_told_apart(self) -> None:
        parts = [(0, "sec"), (1, "sec"), (1, "ret"), (0, "und"), (1, "se"), (0, " secret"), (1, "t")]
        frames = [openai_chunk({"content": text}, index=index) for index, text in parts]
        frames += [openai_chunk({}, "stop", index=index) for index in (0, 1)]
        given_on = await through(policy(SECRET), chunks_of(frames))
        assert texts(OPENAI_CHAT, given_on) == ["secund [hidden]", "[hidden]set"]

    async def test_two_pieces_of_one_text_may_stand_in_one_chunk(self) -> None:
        choices = [{"index": 0, "delta": {"content": text}} for text in ("a sec", "ret b", "c secret")]
        given_on = await through(policy(SECRET), [Chunk.of({"choices": choices})])
        assert texts(OPENAI_CHAT, given_on) == ["a [hidden] bc [hidden]"]

    async def test_content_blocks_are_told_apart(self) -> None:
        frames = anthropic_stream()
        frames[1:4] = [*text_block(0, "sec"), *text_block(1, "ret", " sec", "ret"), anthropic_event({"type": "ping"})]
        chunks = chunks_of(frames)
        given_on = await through(policy(SECRET, wire_format=ANTHROPIC_MESSAGES), chunks)
        assert texts(ANTHROPIC_MESSAGES, given_on) == ["sec", "ret [hidden]"]
        assert [(chunk.json or {})["type"] for chunk in given_on] == [
            (chunk.json or {})["type"] for chunk in chunks[:-1]
        ]

    async def test_a_block_has_left_before_the_next_one_begins(self) -> None:
        replacing = policy(SECRET, wire_format=ANTHROPIC_MESSAGES)
        chunks = chunks_of(text_block(0, "sec"))
        given_on = [await replacing.on_chunk(chunk) for chunk in chunks]
        assert given_on == [[chunks[0]], [], [chunks[1], chunks[2]]]

    async def test_empty_deltas_pass(self) -> None:
        chunks = chunks_of([openai_chunk({"content": text}) for text in ("", "sec", "", "", "ret", "")])
        given_on = await through(policy(SECRET), chunks)
        assert [left is came for left, came in zip(given_on, chunks, strict=True)] == [
            *(True, False, True, True, False, True)
        ]

    async def test_a_changed_frame_keeps_its_event_and_all_that_is_no_text(self) -> None:
        frame = (
            b'event: custom\ndata: {"choices":[{"delta":{"content":"secret","a":[1e3]},"b":null}],"c":"\\u00e9"}\n\n'
        )
        (chunk,) = await through(policy(SECRET), chunks_of([frame]))
        assert chunk.event == "custom"
        assert chunk.json == {
            "choices": [{"delta": {"content": "[hidden]", "a": [1000.0]}, "b": None}],
            "c": "é",
        }
        assert [again.json for again in chunks_of([chunk.raw])] == [chunk.json]

    @pytest.mark.parametrize(
        "data", [b"[1]", b"secret", b'{"a":', b'{"choices":[{"delta":{"content":"secret\xff"}}]}']
    )
    async def test_a_frame_that_cannot_be_looked_at_goes_no_further(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="not a JSON object"):
            await policy(SECRET).on_chunk(Chunk(b"data: " + data + b"\n\n", data))

    async def test_no_more_is_held_than_allowed(self) -> None:
        replacing = policy({"find": "a.*b", "replace": "-", "regex": True}, max_held_chars=10)
        chunks = chunks_of([openai_chunk({"content": "a"})] * 30)
        held = 0
        for chunk in chunks:
            held += 1 - len(await replacing.on_chunk(chunk))
            assert held <= 10
        assert held > 0

    async def test_nor_behind_a_text_that_stays_undecided(self) -> None:
        replacing = policy(SECRET, max_held_chars=10)
        chunks = chunks_of([openai_chunk({"content": "sec"}), *[openai_chunk({"role": "assistant"})] * 30])
        given_on = [chunk for came in chunks for chunk in await replacing.on_chunk(came)]
        assert given_on == chunks
        assert texts(OPENAI_CHAT, given_on) == ["sec"]

    async def test_many_matches_decided_at_once_find_their_chunks(self) -> None:
        replacing = policy({"find": "a|b.*c", "replace": "<x>", "regex": True})
        frames = openai_stream("b", *"a-" * 200, usage=False)
        given_on = await through(replacing, chunks_of(frames))
        assert texts(OPENAI_CHAT, given_on) == ["b" + "<x>-" * 200]
        assert len(given_on) == len(frames) - 1


RULES = [
    SECRET,
    NUMBER,
    {"find": "a", "replace": "bb"},
    {"find": "bb", "replace": ""},
    {"find": "(b+)a", "replace": r"a\1", "regex": True},
    {"find": r"(?m)^b|b$", "replace": "^", "regex": True},
    {"find": r"\ba+\b", "replace": "1-2", "regex": True},
    {"find": "[ab]{2,3}(?=c)", "replace": "abc", "regex": True},
]
PARTS = st.lists(
    st.one_of(st.text("abc \n", max_size=4), st.sampled_from(["sec", "ret", "secret", "555", "-12", "34", ""])),
    max_size=8,
)


class TestAgree:
    """The record of a plain response and that of a streamed one must not tell two stories."""

    @given(
        st.lists(st.sampled_from(RULES), min_size=1, max_size=3), st.lists(PARTS, min_size=1, max_size=3), st.data()
    )
    async def test_a_stream_of_choices_adds_up_to_the_plain_result(
        self, rules: list[Json], choices: list[list[str]], data: st.DataObject
    ) -> None:
        turns = [index for index, parts in enumerate(choices) for _ in parts]
        order = data.draw(st.permutations(turns))
        left = [iter(parts) for parts in choices]
        frames = [openai_chunk({"content": next(left[index])}, index=index) for index in order]
        frames += [openai_chunk({"content": ""}, "stop", index=index) for index in range(len(choices))]
        plain = assembled(OPENAI_CHAT, chunks_of(frames))
        await self.check(policy(*rules), plain, chunks_of(frames))

    @given(st.lists(st.sampled_from(RULES), min_size=1, max_size=3), st.lists(PARTS, max_size=3))
    async def test_a_stream_of_content_blocks_adds_up_to_the_plain_result(
        self, rules: list[Json], blocks: list[list[str]]
    ) -> None:
        frames = anthropic_stream()
        frames[1:4] = [frame for index, parts in enumerate(blocks) for frame in text_block(index, *parts)]
        plain = assembled(ANTHROPIC_MESSAGES, chunks_of(frames))
        await self.check(policy(*rules, wire_format=ANTHROPIC_MESSAGES), plain, chunks_of(frames))

    async def check(self, replacing: ReplaceText, plain: Json, chunks: list[Chunk]) -> None:
        given_on = await through(replacing, chunks)
        response = Response(replacing.call, plain)
        verdict = await replacing.on_response(response)
        assert assembled(replacing.call.format, given_on) == response.body
        assert replacing.stream_verdict() == verdict
        assert len(given_on) == sum(not replacing.call.format.is_terminal(chunk) for chunk in chunks)
        assert [chunk.json for chunk in chunks_of(chunk.raw for chunk in given_on)] == [
            chunk.json for chunk in given_on
        ]


class TestRequestsOfBothFormats:
    @pytest.mark.parametrize(
        ("wire_format", "body"),
        [(OPENAI_CHAT, openai_request("secret")), (ANTHROPIC_MESSAGES, anthropic_request("secret", system="secret"))],
    )
    async def test_no_match_is_left(self, wire_format: WireFormat, body: Json) -> None:
        replacing = policy(SECRET, wire_format=wire_format)
        await replacing.on_request(Request(replacing.call, body))
        assert "secret" not in str(body)


class TestConfig:
    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"rules": []}, "at least 1"),
            ({"rules": [{"find": "", "replace": ""}]}, "at least 1 character"),
            ({"rules": [{"find": "(", "replace": "", "regex": True}]}, "not a regular expression"),
            ({"rules": [{"find": "a*", "replace": "", "regex": True}]}, "matches the empty text"),
            ({"rules": [{"find": r"\X", "replace": "", "regex": True}]}, "not supported"),
            ({"rules": [{"find": "a", "replace": r"\1", "regex": True}]}, "not a replacement"),
            ({"rules": [SECRET | {"in": []}]}, "at least 1"),
            ({"rules": [SECRET | {"in": ["both"]}]}, "'request' or 'response'"),
            ({"rules": [SECRET], "max_held_chars": 0}, "greater than 0"),
            ({"rules": [SECRET], "match_timeout_ms": 0}, "greater than 0"),
            ({"rules": [SECRET], "match_timeout_ms": float("inf")}, "finite"),
            ({"rules": [SECRET | {"where": "x"}]}, "Extra inputs"),
        ],
    )
    def test_a_mistake_is_refused_before_anything_starts(self, config: Json, message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            ReplaceTextConfig.model_validate(config)
