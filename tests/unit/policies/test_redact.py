"""`redact`: what is masked, what stops the call, and what comes back to the client exactly as it was."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.config_file import ConfigFile
from luthien.errors import ConfigError
from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_RESPONSES
from luthien.formats.sse import Chunk
from luthien.policies.builtin.redact import Redact, RedactConfig
from luthien.policies.builtin.redaction.streams import WholeText
from luthien.policies.policy import CallContext, Request, Response, Verdict
from luthien.policies.registry import load_chain
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

EMAIL, CARD, IBAN = "jane@example.com", "4111 1111 1111 1111", "DE89370400440532013000"
KEY = "sk-" + "proj-" + "aB3dE5gH7jK9mN1pQ3sT5vX7"
PEM = "-----BEGIN PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA\n" * 4 + "-----END PRIVATE KEY-----"
REVERSIBLE = {"kinds": ["email", "card", "iban", "private_key"], "action": "reversible"}
ALL_KINDS = ["private_key", "jwt", "api_key", "email", "iban", "card", "national_id", "phone", "secret"]
MASK_ANSWERS = {"kinds": ALL_KINDS, "in": ["response"]}


def policy(*rules: Json, wire_format: WireFormat = OPENAI_CHAT, **config: Any) -> Redact:
    call = CallContext(UUID(int=0), wire_format, "m", streaming=True)
    return Redact(RedactConfig.model_validate({"rules": rules, **config}), call)


async def requested(redact: Redact, body: Json) -> Verdict:
    return await redact.on_request(Request(redact.call, body))


async def responded(redact: Redact, body: Json) -> Verdict:
    return await redact.on_response(Response(redact.call, body))


async def through(redact: Redact, frames: Iterable[bytes]) -> list[Chunk]:
    """What the client is given, without what marks the end."""
    given_on: list[Chunk] = []
    for chunk in chunks_of(frames):
        if not redact.call.format.is_terminal(chunk):
            given_on += passed(await redact.on_chunk(chunk))
    return [*given_on, *passed(await redact.on_stream_end())]


def passed(given_on: Sequence[Chunk] | Verdict) -> Sequence[Chunk]:
    assert not isinstance(given_on, Verdict), given_on
    return given_on


def text_of(redact: Redact, chunks: Iterable[Chunk]) -> str:
    slots = redact.call.format.response_texts(assembled(redact.call.format, chunks))
    return "".join(slot.text for slot in slots)


def cut(text: str, places: Iterable[int]) -> list[str]:
    edges = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def openai_call(arguments: str, *pieces: str) -> list[bytes]:
    """A streamed tool call, with some text before it."""
    function = {"name": "send", "arguments": ""}
    start = {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}
    deltas = [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces or [arguments]]
    return [
        openai_chunk({"role": "assistant", "content": "Well."}),
        openai_chunk(start),
        *(openai_chunk(delta) for delta in deltas),
        openai_chunk({}, "tool_calls"),
    ]


def anthropic_call(arguments: str, *pieces: str) -> list[bytes]:
    [start, *_] = anthropic_stream()
    block = {"type": "tool_use", "id": "toolu_1", "name": "send", "input": {}}
    return [
        start,
        anthropic_event({"type": "content_block_start", "index": 0, "content_block": block}),
        *(
            anthropic_event(
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "input_json_delta", "partial_json": piece},
                }
            )
            for piece in pieces or [arguments]
        ),
        anthropic_event({"type": "content_block_stop", "index": 0}),
        anthropic_event({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}}),
    ]


def arguments_in(wire_format: WireFormat, chunks: Iterable[Chunk]) -> Any:
    message = assembled(wire_format, chunks)
    if wire_format is ANTHROPIC_MESSAGES:
        return message["content"][0]["input"]
    return json.loads(message["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])


class TestRequests:
    async def test_every_text_of_openai(self) -> None:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"to": [EMAIL]})}}
        body = openai_request(
            messages=[
                {"role": "system", "content": f"You serve {EMAIL}"},
                {"role": "user", "content": [{"type": "text", "text": f"Pay {CARD}"}]},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "1", "content": f"sent to {EMAIL}"},
            ]
        )
        redact = policy({"kinds": ["email", "card"]})
        verdict = await requested(redact, body)
        system, user, assistant, tool = body["messages"]
        assert system["content"] == "You serve [email]"
        assert user["content"][0]["text"] == "Pay [card]"
        assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"to": ["[email]"]}
        assert tool["content"] == "sent to [email]"
        assert verdict == Verdict.modify("redacted 1 card, 3 email", 4)

    async def test_every_text_of_anthropic(self) -> None:
        body = anthropic_request(
            system=[{"type": "text", "text": f"You serve {EMAIL}"}],
            messages=[
                {"role": "user", "content": f"Pay {CARD}"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_use", "id": "1", "name": "f", "input": {"to": {EMAIL: 4111111111111111}}}
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": EMAIL}]},
            ],
        )
        redact = policy({"kinds": ["email", "card"]}, wire_format=ANTHROPIC_MESSAGES)
        assert (await requested(redact, body)).reason == "redacted 2 card, 3 email"
        assert body["system"][0]["text"] == "You serve [email]"
        assert [message["content"] for message in body["messages"][:1]] == ["Pay [card]"]
        assert body["messages"][1]["content"][0]["input"] == {"to": {"[email]": "[card]"}}
        assert body["messages"][2]["content"][0]["content"] == "[email]"

    async def test_arguments_without_findings_keep_their_very_text(self) -> None:
        arguments = '{ "n" : 1.10, "x": "\\u00e9" }'
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        body = openai_request(messages=[{"role": "assistant", "tool_calls": [call]}])
        assert await requested(policy({"kinds": ALL_KINDS}), body) == Verdict.allow()
        assert call["function"] == {"name": "f", "arguments": arguments}

    async def test_escapes_in_arguments_are_understood(self) -> None:
        arguments = json.dumps({"text": f"to\n{EMAIL}", "key": PEM})
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        body = openai_request(messages=[{"role": "assistant", "tool_calls": [call]}])
        await requested(policy(REVERSIBLE), body)
        assert json.loads(body["messages"][0]["tool_calls"][0]["function"]["arguments"]) == {
            "text": "to\n[email-1]",
            "key": "[private_key-1]",
        }

    async def test_a_secret_is_known_by_the_name_of_its_field(self) -> None:
        given = {"api_key": "wJalrXUtnFEMI/K7MDENG", "note": "wJalrXUtnFEMI/K7MDENG", "password": ["a"]}
        block = {"type": "tool_use", "id": "1", "name": "f", "input": given}
        body = anthropic_request(messages=[{"role": "assistant", "content": [block]}])
        await requested(policy({"kinds": ["secret"]}, wire_format=ANTHROPIC_MESSAGES), body)
        assert block["input"] == given | {"api_key": "[secret]"}

    async def test_what_shells_and_computers_are_told_and_give_back(self) -> None:
        items: list[Json] = [
            {"type": "shell_call", "action": {"commands": [f"mail {EMAIL}"], "timeout_ms": 1000}},
            {"type": "shell_call_output", "output": [{"stdout": f"to {EMAIL}", "stderr": EMAIL, "outcome": {}}]},
            {"type": "computer_call", "actions": [{"type": "type", "text": EMAIL}]},
            {"type": "apply_patch_call", "operation": {"type": "create_file", "path": "a", "diff": f"+{EMAIL}"}},
        ]
        redact = policy(REVERSIBLE, wire_format=OPENAI_RESPONSES)
        verdict = await requested(redact, {"input": items})
        assert (verdict.count, EMAIL in json.dumps(items)) == (5, False)
        assert items[0]["action"] == {"commands": ["mail [email-1]"], "timeout_ms": 1000}
        await responded(redact, {"output": items})
        assert items[0]["action"] == {"commands": [f"mail {EMAIL}"], "timeout_ms": 1000}

    async def test_names_that_become_the_same_lose_no_value(self) -> None:
        block = {"type": "tool_use", "id": "1", "name": "f", "input": {EMAIL: 1, "b@x.example": 2, "c@x.example": 3}}
        body = anthropic_request(messages=[{"role": "assistant", "content": [block]}])
        await requested(policy({"kinds": ["email"]}, wire_format=ANTHROPIC_MESSAGES), body)
        assert block["input"] == {"[email]": 1, "[email] 2": 2, "[email] 3": 3}

    async def test_a_block_says_kinds_and_never_values(self) -> None:
        redact = policy({"kinds": ["api_key"], "action": "block"}, {"kinds": ["email"]})
        verdict = await requested(redact, openai_request(f"{KEY} {KEY} {EMAIL}"))
        assert verdict == Verdict.block("the request contains 2 api_key")

    async def test_a_rule_for_responses_leaves_requests_alone(self) -> None:
        body = openai_request(EMAIL)
        assert await requested(policy(MASK_ANSWERS), body) == Verdict.allow()
        assert body == openai_request(EMAIL)

    async def test_one_value_has_one_placeholder(self) -> None:
        body = openai_request(f"{EMAIL} a@b.example {EMAIL}")
        await requested(policy(REVERSIBLE), body)
        assert body["messages"][0]["content"] == "[email-1] [email-2] [email-1]"

    async def test_a_placeholder_that_the_client_wrote_stays_its_own(self) -> None:
        redact = policy(REVERSIBLE)
        body = openai_request(f"What does [email-1] mean, {EMAIL}?")
        await requested(redact, body)
        assert body["messages"][0]["content"] == "What does [email-1] mean, [email-2]?"
        answer = openai_response("[email-1] is not [email-2]")
        await responded(redact, answer)
        assert answer["choices"][0]["message"]["content"] == f"[email-1] is not {EMAIL}"

    async def test_a_long_text_is_looked_at_in_another_thread(self) -> None:
        body = openai_request("word " * 20_000 + EMAIL)
        await requested(policy(REVERSIBLE), body)
        assert body["messages"][0]["content"].endswith("word [email-1]")

    async def test_looking_too_long_stops_the_call(self) -> None:
        with pytest.raises(Exception, match="longer than"):
            await requested(policy({"kinds": ALL_KINDS}, timeout_ms=0.001), openai_request("word " * 20_000))


class TestResponses:
    @pytest.mark.parametrize("wire_format", [OPENAI_CHAT, ANTHROPIC_MESSAGES])
    async def test_the_client_gets_its_own_values_back(self, wire_format: WireFormat) -> None:
        redact = policy(REVERSIBLE, wire_format=wire_format)
        is_openai = wire_format is OPENAI_CHAT
        await requested(redact, (openai_request if is_openai else anthropic_request)(f"{EMAIL}, {CARD}"))
        body = (openai_response if is_openai else anthropic_response)("Write to [email-1], not [email-7] or [card].")
        verdict = await responded(redact, body)
        assert wire_format.response_texts(body)[0].text == f"Write to {EMAIL}, not [email-7] or [card]."
        assert verdict == Verdict.modify("gave back 1 email", 1)

    async def test_values_come_back_into_arguments(self) -> None:
        redact = policy(REVERSIBLE)
        await requested(redact, openai_request(f"{EMAIL} {PEM}"))
        body = openai_response("")
        arguments = json.dumps({"to": "[email-1]", "key": "[private_key-1]"})
        body["choices"][0]["message"]["tool_calls"] = [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        ]
        await responded(redact, body)
        [call] = body["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"to": EMAIL, "key": PEM}

    async def test_what_the_provider_says_is_masked_and_what_the_client_said_comes_back(self) -> None:
        redact = policy(REVERSIBLE, MASK_ANSWERS)
        await requested(redact, openai_request(EMAIL))
        body = openai_response(f"[email-1] and other@example.com, {CARD}")
        verdict = await responded(redact, body)
        assert body["choices"][0]["message"]["content"] == f"{EMAIL} and [email], [card]"
        assert verdict == Verdict.modify("redacted 1 card, 1 email; gave back 1 email", 3)

    async def test_without_placeholders_nothing_is_looked_for(self) -> None:
        redact = policy(REVERSIBLE)
        await requested(redact, openai_request("Hello"))
        assert await responded(redact, openai_response("[email-1]")) == Verdict.allow()
        frames = openai_stream("[ema", "il-1]")[:-1]
        assert [chunk.raw for chunk in await through(redact, frames)] == frames

    async def test_values_do_not_leak_into_another_call(self) -> None:
        first, second = policy(REVERSIBLE), policy(REVERSIBLE)
        await requested(first, openai_request(EMAIL))
        await requested(second, openai_request(f"{IBAN} b@example.com"))
        body = openai_response("[email-1] [iban-1]")
        await responded(first, body)
        assert body["choices"][0]["message"]["content"] == f"{EMAIL} [iban-1]"

    async def test_a_block(self) -> None:
        verdict = await responded(
            policy({"kinds": ["card"], "action": "block", "in": ["response"]}), openai_response(f"{CARD} {EMAIL}")
        )
        assert verdict == Verdict.block("the response contains 1 card")


VALUES = st.lists(
    st.sampled_from([EMAIL, CARD, IBAN, PEM, "b@x.example", "5500000000000004"]), min_size=1, max_size=4
)
PLAIN = st.text(st.sampled_from('ab [](){}\\"-1 \n\té.,:'), max_size=12)
PLACES = st.lists(st.integers(0, 10_000), max_size=12)


class TestStreams:
    @given(values=VALUES, texts=st.lists(PLAIN, min_size=4, max_size=4), places=PLACES, is_openai=st.booleans())
    async def test_what_was_masked_comes_back_exactly_however_it_is_cut(
        self, values: list[str], texts: list[str], places: list[int], is_openai: bool
    ) -> None:
        redact = policy(REVERSIBLE, wire_format=OPENAI_CHAT if is_openai else ANTHROPIC_MESSAGES)
        original = "".join(f"{text} {value} " for text, value in zip(texts, values, strict=False))
        body = (openai_request if is_openai else anthropic_request)(original)
        await requested(redact, body)
        sent = body["messages"][0]["content"]
        assert not any(value in sent for value in values)
        pieces = cut(sent, places)
        stream = (openai_stream if is_openai else anthropic_stream)(*pieces)
        assert text_of(redact, await through(redact, stream)) == original

    @given(values=VALUES, text=PLAIN, places=PLACES, is_openai=st.booleans())
    async def test_arguments_come_back_exactly_however_they_are_cut(
        self, values: list[str], text: str, places: list[int], is_openai: bool
    ) -> None:
        wire_format = OPENAI_CHAT if is_openai else ANTHROPIC_MESSAGES
        redact = policy(REVERSIBLE, wire_format=wire_format)
        original = {"text": f"{text} {' '.join(values)}", "list": [values[0]], "n": 1}
        messages = [{"role": "user", "content": value} for value in [original["text"], values[0]]]
        body = (openai_request if is_openai else anthropic_request)(messages=messages)
        await requested(redact, body)
        said, one = (message["content"] for message in body["messages"])
        arguments = json.dumps({"text": said, "list": [one], "n": 1})
        frames = (openai_call if is_openai else anthropic_call)(arguments, *cut(arguments, places))
        assert arguments_in(wire_format, await through(redact, frames)) == original

    @given(
        texts=st.lists(
            st.sampled_from(
                [
                    EMAIL,
                    CARD,
                    IBAN,
                    PEM,
                    KEY,
                    "+1 415-555-2671",
                    "536-90-4399",
                    "token: ",
                    "aB3dE5gH7jK9",
                    " ",
                    ".",
                    "\\n",
                ]
                + ["4", "-", "a", "@", "\n", "e", ":", "sk-", "eyJ", '"', "-----", "1 "]
            ),
            max_size=12,
        ),
        places=PLACES,
    )
    async def test_masking_a_stream_is_masking_the_whole_text(self, texts: list[str], places: list[int]) -> None:
        text = "".join(texts)
        plain, redact = openai_response(text), policy(MASK_ANSWERS)
        verdict = await responded(policy(MASK_ANSWERS), plain)
        streamed = text_of(redact, await through(redact, openai_stream(*cut(text, places))))
        assert streamed == plain["choices"][0]["message"]["content"]
        assert redact.stream_verdict() == verdict

    @pytest.mark.parametrize("is_openai", [True, False])
    async def test_arguments_are_masked(self, is_openai: bool) -> None:
        wire_format = OPENAI_CHAT if is_openai else ANTHROPIC_MESSAGES
        redact = policy(MASK_ANSWERS, wire_format=wire_format)
        arguments = json.dumps(
            {"a": f"x\n{EMAIL}", "b": {"n": 4111111111111111}, "password": "wJalrXUtnFEMI/K7MDENG"}
        )
        frames = (openai_call if is_openai else anthropic_call)(arguments, *arguments)
        assert arguments_in(wire_format, await through(redact, frames)) == {
            "a": "x\n[email]",
            "b": {"n": "[card]"},
            "password": "[secret]",
        }

    @pytest.mark.parametrize("is_openai", [True, False])
    async def test_what_no_finding_touches_leaves_as_the_very_bytes_that_came(self, is_openai: bool) -> None:
        redact = policy(MASK_ANSWERS, wire_format=OPENAI_CHAT if is_openai else ANTHROPIC_MESSAGES)
        frames = (openai_call if is_openai else anthropic_call)('{"n" : 1.10}', '{"n" ', ": 1.1", "0}")
        assert [chunk.raw for chunk in await through(redact, frames)] == frames

    async def test_text_goes_on_while_it_is_no_placeholder(self) -> None:
        redact = policy(REVERSIBLE)
        await requested(redact, openai_request(EMAIL))
        first, second, third = chunks_of([openai_chunk({"content": text}) for text in ("Hello", " [em", "ail-1]!")])
        assert await redact.on_chunk(first) == [first]
        assert await redact.on_chunk(second) == []
        given_on = [chunk.json for chunk in passed(await redact.on_chunk(third))]
        assert [body and body["choices"][0]["delta"]["content"] for body in given_on] == [f" {EMAIL}", "!"]
        assert redact.stream_verdict() == Verdict.modify("gave back 1 email", 1)

    async def test_two_calls_at_once_are_kept_apart(self) -> None:
        redact = policy(REVERSIBLE)
        await requested(redact, openai_request(EMAIL))

        def fragment(index: int, text: str) -> bytes:
            return openai_chunk({"tool_calls": [{"index": index, "function": {"arguments": text}}]})

        frames = [
            fragment(0, '{"a": "[em'),
            fragment(0, 'ail-1]"}'),
            fragment(1, '{"b": "[email-1'),
            fragment(1, ']"}'),
            openai_chunk({}, "tool_calls"),
        ]
        message = assembled(OPENAI_CHAT, await through(redact, frames))["choices"][0]["message"]
        assert [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]] == [
            {"a": EMAIL},
            {"b": EMAIL},
        ]

    @pytest.mark.parametrize("is_openai", [True, False])
    async def test_arguments_go_on_as_soon_as_they_have_ended(self, is_openai: bool) -> None:
        redact = policy(MASK_ANSWERS, wire_format=OPENAI_CHAT if is_openai else ANTHROPIC_MESSAGES)
        frames = (openai_call if is_openai else anthropic_call)("", '{"to": "', EMAIL, '"}')
        chunks = chunks_of(frames if is_openai else frames[:-1])
        given_on = [len(passed(await redact.on_chunk(chunk))) for chunk in chunks]
        assert sum(given_on[:2]) == 2
        assert given_on[2:] == [*[0] * (len(chunks) - 3), len(chunks) - 2]

    async def test_arguments_that_a_block_has_from_its_start(self) -> None:
        redact = policy(REVERSIBLE, wire_format=ANTHROPIC_MESSAGES)
        await requested(redact, anthropic_request(f"{EMAIL} {PEM}"))
        block = {
            "type": "tool_use",
            "id": "1",
            "name": "f",
            "input": {"a": "[email-1]", "b": ["[private_key-1]", 1.5]},
        }
        start, _, *rest = anthropic_call("")
        frames = [start, anthropic_event({"type": "content_block_start", "index": 0, "content_block": block}), *rest]
        given_on = assembled(ANTHROPIC_MESSAGES, await through(redact, frames))
        assert given_on["content"][0]["input"] == {"a": EMAIL, "b": [PEM, 1.5]}

    async def test_arguments_in_which_a_character_was_cut_in_two(self) -> None:
        """Here a letter of mathematicians, which an address may begin with."""
        frames = openai_call("", '{"to": "\ud835', f'\udc23{EMAIL}"}}')
        assert arguments_in(OPENAI_CHAT, await through(policy(MASK_ANSWERS), frames)) == {"to": "[email]"}

    async def test_arguments_cut_short_are_looked_at_as_text(self) -> None:
        redact = policy(MASK_ANSWERS)
        frames = openai_call("", '{"a": "to ', EMAIL)
        message = assembled(OPENAI_CHAT, await through(redact, frames))["choices"][0]["message"]
        assert message["tool_calls"][0]["function"]["arguments"] == '{"a": "to [email]'

    async def test_a_block_ends_the_stream_before_the_value(self) -> None:
        redact = policy({"kinds": ["card"], "action": "block", "in": ["response"]})
        *before, last, _ = chunks_of(openai_stream("It is 4111 1111", " 1111 1111", " .", usage=False))[:-1]
        released = [released for chunk in before for released in passed(await redact.on_chunk(chunk))]
        assert CARD[:4] not in text_of(redact, released)
        assert await redact.on_chunk(last) == Verdict.block("the response contains 1 card")

    def test_arguments_that_are_too_long_stop_the_call(self) -> None:
        whole = WholeText(lambda text: text, max_chars=10)
        whole.add("12345")
        with pytest.raises(ValueError, match="longer than 10"):
            whole.add("678901")


async def test_calls_that_have_ended_are_not_looked_at_again() -> None:
    """Of 12,000 calls, each piece would be compared with all: minutes of it."""
    frames: list[bytes] = []
    for number in range(12_000):
        function = {"name": "f", "arguments": json.dumps({"to": EMAIL if number % 1000 == 0 else "you"})}
        frames.append(openai_chunk({"tool_calls": [{"index": number, "id": f"c{number}", "function": function}]}))
    chunks = await through(
        policy({"kinds": ["email"], "in": ["response"]}), [*frames, openai_chunk({}, "tool_calls")]
    )
    assert len(chunks) == 12_001
    assert sum(b"[email]" in chunk.raw for chunk in chunks) == 12
    assert not any(EMAIL.encode() in chunk.raw for chunk in chunks)


@pytest.mark.parametrize(
    ("config", "mistake"),
    [
        ("{rules: []}", "4: policies[0].config.rules: must not be empty"),
        ("{rules: [{kinds: [mail]}]}", "4: policies[0].config.rules[0].kinds"),
        ("{rules: [{kinds: []}]}", "4: policies[0].config.rules[0].kinds: must not be empty"),
        ("{rules: [{kinds: [email], action: hide}]}", "4: policies[0].config.rules[0].action: "),
        ("{rules: [{kinds: [email], on: [request]}]}", "4: policies[0].config.rules[0]"),
        ("{rules: [{kinds: [email], where: x}]}", "4: policies[0].config.rules[0].where: no such key"),
        (
            "{rules: [{kinds: [email], action: reversible, in: [response]}]}",
            "4: policies[0].config.rules[0]: reversible is for requests only: the client gets its own values back",
        ),
        (
            "{rules: [{kinds: [email]}, {kinds: [email, card]}]}",
            "4: policies[0].config: two rules are about email in the request",
        ),
        (
            "{rules: [{kinds: [email]}], phone_regions: [Germany]}",
            "4: policies[0].config.phone_regions: no such country",
        ),
    ],
)
def test_mistakes_are_named_with_line_and_key(config: str, mistake: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_chain(ConfigFile("luthien.yaml", f"\npolicies:\n  - policy: redact\n    config: {config}\n"))
    assert f"luthien.yaml:{mistake}" in str(raised.value)
