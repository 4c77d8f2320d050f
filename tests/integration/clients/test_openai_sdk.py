"""The official OpenAI SDK, directly and through the gateway."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import openai
import pytest
from openai.lib.responses_tool_runner import RegisteredFunction, ResponsesToolRunner
from pydantic import BaseModel

from tests.integration.clients import openai_players as players
from tests.integration.clients.account import Account, Failure, Heard, of_chat, of_responses, told, without_nulls
from tests.integration.clients.adversity import ADVERSITIES, BEGUN, CHAT, PLAIN, RESPONSES, SOME, stalls
from tests.integration.clients.setting import PROMPT, Script, Setting, Side, ended, final
from tests.integration.clients.treatment import DELETE, READ, TREATMENTS, Treatment
from tests.integration.clients.wire import responses_reasoning
from tests.playbook import ScriptedProvider, answers, running_gateway, streams
from tests.wire import (
    Json,
    openai_response,
    openai_stream,
    responses_response,
    responses_stream,
)
from tests.wire_tools import openai_tools, openai_tools_stream, responses_tools, responses_tools_stream

STREAMED = [
    *(pytest.param(CHAT, script, id=f"chat {way}") for way, script in players.CHAT_STREAMS.items()),
    *(pytest.param(RESPONSES, script, id=f"responses {way}") for way, script in players.RESPONSES_STREAMS.items()),
]
PLAINLY = [pytest.param(CHAT, players.chat, id="chat"), pytest.param(RESPONSES, players.responses, id="responses")]
STATUSES = [400, 401, 404, 429, 500, 529]


class Weather(BaseModel):
    city: str
    degrees: int


@pytest.mark.parametrize("name", ADVERSITIES)
@pytest.mark.parametrize(
    ("wire_format", "script"),
    [
        pytest.param(CHAT, players.chat_streamed, id="chat"),
        pytest.param(CHAT, players.chat_helped_async, id="chat async"),
        pytest.param(RESPONSES, players.responses_helped, id="responses"),
    ],
)
def test_adverse_streams(scene: Setting, wire_format: str, script: Script, name: str) -> None:
    adversity = ADVERSITIES[name]
    adversity.check(scene.compare(script, adversity.play(wire_format)))


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize(("wire_format", "script"), STREAMED)
def test_adverse_streams_in_every_way(scene: Setting, wire_format: str, script: Script, name: str) -> None:
    adversity = ADVERSITIES[name]
    adversity.check(scene.compare(script, adversity.play(wire_format)))


@pytest.mark.parametrize("treatment", [pytest.param(each, id=name) for name, each in TREATMENTS.items()])
@pytest.mark.parametrize(("wire_format", "script"), STREAMED)
def test_streams_that_policies_treat(scene: Setting, wire_format: str, script: Script, treatment: Treatment) -> None:
    treatment.check(scene, script, wire_format)


@pytest.mark.parametrize(("wire_format", "script"), PLAINLY)
def test_plain_answers(scene: Setting, wire_format: str, script: Script) -> None:
    """The provider hears the same, the client is told the same, and the record has both."""
    both = scene.compare(script, answers(PLAIN[wire_format]("Hello.")))
    assert both.through == both.direct
    assert both.through.text == "Hello."
    assert ended(both.calls) == [("completed", None)]
    assert final(both.call) == both.through.final
    [straight], [passed] = both.direct_turns, both.through_turns
    assert (passed.method, passed.path, passed.body) == (straight.method, straight.path, straight.body)
    ours = {"host", "connection", "accept-encoding"}
    assert {name: passed.headers[name] for name in passed.headers if name not in ours} == {
        name: straight.headers[name] for name in straight.headers if name not in ours
    }


@pytest.mark.parametrize(("wire_format", "script"), PLAINLY)
def test_plain_answers_that_policies_treat(scene: Setting, wire_format: str, script: Script) -> None:
    account, [call] = scene.recorded(script, answers(PLAIN[wire_format]("the secret")), policies="replace")
    assert account.text == "the [hidden]"
    assert final(call) == account.final
    account, [call] = scene.recorded(script, answers(PLAIN[wire_format]("to [email-1]")), policies="redact")
    assert account.text == "to jane@example.com"
    assert final(call) == account.final


def test_responses_streamed_and_rewritten(record_database: str, provider: ScriptedProvider) -> None:
    """In the deltas, in what is said whole after them, in the response at the end, and in the record."""
    rules = [
        {"find": "secret", "replace": "[hidden]", "in": ["response"]},
        {"find": "Dana", "replace": "[name]", "in": ["request"]},
    ]
    policies = [
        {"policy": "replace_text", "config": {"rules": rules}},
        {"policy": "add_system_message", "config": {"text": "Be brief."}},
    ]
    provider.will(streams(*responses_stream("a se", "cret", " b")))
    with (
        running_gateway(record_database, provider.url, policies) as gateway,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="k", max_retries=0) as client,
    ):
        with client.responses.stream(model="m", input="I am Dana") as stream:
            events = list(stream)
            final_response = stream.get_final_response()
        call_id = gateway.only_call_id()
        call, diff = gateway.call(call_id), gateway.diff(call_id)
    assert "secret" not in "".join(repr(event) for event in events)
    assert final_response.output_text == "a [hidden] b"
    assert provider.turns[0].json["input"] == "I am [name]"
    assert provider.turns[0].json["instructions"] == "Be brief."
    assert call["stages"]["response_original"]["payload"] == responses_response("a secret b")
    assert call["stages"]["response_final"]["payload"] == responses_response("a [hidden] b")
    assert call["changed"] == {"request": True, "response": True}
    assert call["verdict"] == (
        "replace_text changed the input and add_system_message added the instructions;"
        " response: replace_text changed the answer"
    )
    assert [op["before_ptr"] for op in diff["response"]["ops"]] == ["/output/0/content/0/text"]


class TestErrors:
    @pytest.mark.parametrize("status", STATUSES)
    @pytest.mark.parametrize(
        ("wire_format", "script"), [*PLAINLY, pytest.param(CHAT, players.chat_helped, id="streamed")]
    )
    def test_are_the_providers(self, scene: Setting, wire_format: str, script: Script, status: int) -> None:
        error = {"error": {"message": "No.", "type": "some_error", "param": None, "code": "why"}}
        both = scene.compare(script, answers(error, status=status))
        assert both.through == both.direct
        assert both.through.failure is not None
        assert both.through.failure.status == status
        assert ended(both.calls) == [("upstream_error", str(status))]
        assert final(both.call) == error

    @pytest.mark.parametrize(
        "script", [players.chat, players.chat_helped, players.responses, players.responses_async]
    )
    def test_a_block_of_the_request_is_a_permission_denied(
        self, scene: Setting, script: Callable[..., Account]
    ) -> None:
        """And is not retried, although the SDK would like to."""
        side = scene.through("limit")
        side = Side(side.url, f"{side.model}-forbidden")
        account, turns = scene.run(script, side, answers({}))
        [call] = scene.calls(side.model)
        assert account.failure is not None
        assert (account.failure.kind, account.failure.status, turns) == ("PermissionDeniedError", 403, [])
        assert f"blocked by the policy 'limit': the model {side.model!r} is not permitted" in account.failure.message
        assert ended([call]) == [("blocked", "policy_blocked")]

    def test_a_block_is_not_retried(self, scene: Setting) -> None:
        side = scene.through("limit")
        model = f"{side.model}-forbidden"
        with players.client_of(side, max_retries=2) as client, pytest.raises(openai.PermissionDeniedError) as raised:
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": "x"}])
        assert raised.value.code == "policy_blocked"
        assert len(scene.calls(model)) == 1

    def test_a_block_of_the_response(self, scene: Setting) -> None:
        """Before it has begun, the status says so; in a stream that has begun, an error event does."""
        plain, [call] = scene.recorded(players.chat, answers(openai_tools("", DELETE)), policies="block_tools")
        assert plain.failure is not None
        assert (plain.failure.kind, plain.failure.status) == ("PermissionDeniedError", 403)
        assert ended([call]) == [("blocked", "policy_blocked")]
        play = streams(*openai_tools_stream("Let me see.", DELETE))
        streamed, [call] = scene.recorded(players.chat_helped, play, policies="block_tools")
        assert streamed.failure is not None
        assert (streamed.failure.kind, streamed.text) == ("APIError", "Let me see.")
        assert "blocked by the policy 'block_tools'" in streamed.failure.message
        assert ended([call]) == [("blocked", "policy_blocked")]

    @pytest.mark.parametrize("status", [429, 500, 529])
    def test_what_is_worth_another_try_is_tried_again(self, scene: Setting, status: int) -> None:
        """After as long as the provider says; each try is a call of its own in the record."""
        error = {"error": {"message": "Slow down", "type": "rate_limit", "param": None, "code": "slow"}}

        def script(side: Side) -> Account:
            return told(lambda _: of_chat(_asked(side, max_retries=1)))

        both = scene.compare(
            script, answers(error, status=status, headers={"retry-after-ms": "1"}), answers(openai_response("Hi"))
        )
        assert both.through == both.direct
        assert both.through.text == "Hi"
        assert ended(both.calls) == [("upstream_error", str(status)), ("completed", None)]
        assert [turn.headers["x-stainless-retry-count"] for turn in both.through_turns] == ["0", "1"]

    def test_a_rate_limit_keeps_what_it_says(self, scene: Setting) -> None:
        headers = {"retry-after": "7", "x-request-id": "req_1", "x-ratelimit-remaining-tokens": "0"}
        error = {"error": {"message": "Slow down", "type": "rate_limit", "param": None, "code": "slow"}}
        scene.provider.will(answers(error, status=429, headers=headers))
        with players.client_of(scene.through()) as client, pytest.raises(openai.RateLimitError) as raised:
            client.responses.create(model="m", input="x")
        assert (raised.value.code, raised.value.request_id, raised.value.body) == ("slow", "req_1", error["error"])
        assert {name: raised.value.response.headers[name] for name in headers} == headers

    @pytest.mark.parametrize(
        ("wire_format", "script"),
        [
            pytest.param(CHAT, players.chat_helped, id="chat"),
            pytest.param(RESPONSES, players.responses_async, id="r"),
        ],
    )
    def test_a_stall_is_a_timeout(self, scene: Setting, wire_format: str, script: Script) -> None:
        both = scene.compare_impatient(script, stalls(wire_format), BEGUN)
        assert both.through == both.direct
        assert (both.through.failure, both.through.text) == (
            Failure("APITimeoutError", None, "Request timed out."),
            BEGUN,
        )
        assert ended(both.calls) == [("client_disconnected", "client_disconnected")]

    def test_a_provider_that_is_not_there(self, scene: Setting) -> None:
        """A status is all that a client can be told of it, and one that it tries again."""
        gateway = scene.gateway("nobody")
        account = players.chat(Side(gateway.url, "nobody"))
        assert account.failure is not None
        assert (account.failure.kind, account.failure.status) == ("InternalServerError", 502)
        assert ended(scene.calls("nobody")) == [("upstream_error", "upstream_unreachable")]


class TestStructuredOutput:
    def test_of_chat(self, scene: Setting) -> None:
        def script(side: Side) -> Account:
            with players.client_of(side) as client:
                completion = client.chat.completions.parse(
                    model=side.model, messages=[{"role": "user", "content": PROMPT}], response_format=Weather
                )
            return Account(repr(completion.choices[0].message.parsed))

        both = scene.compare(script, answers(openai_response('{"city": "Bern", "degrees": 7}')))
        assert both.through == both.direct == Account(repr(Weather(city="Bern", degrees=7)))
        assert both.through_turns[0].json == both.direct_turns[0].json
        assert ended(both.calls) == [("completed", None)]

    @pytest.mark.parametrize("streaming", [False, True])
    def test_of_responses(self, scene: Setting, streaming: bool) -> None:
        def script(side: Side) -> Account:
            asked: Json = {"model": side.model, "input": PROMPT, "text_format": Weather}
            with players.client_of(side) as client:
                if not streaming:
                    return Account(repr(client.responses.parse(**asked).output_parsed))
                with client.responses.stream(**asked) as stream:
                    return Account(repr(stream.get_final_response().output_parsed))

        pieces = ('{"city": "Be', 'rn", "degrees"', ": 7}")
        both = scene.compare(
            script, streams(*responses_stream(*pieces)) if streaming else answers(responses_response("".join(pieces)))
        )
        assert both.through == both.direct == Account(repr(Weather(city="Bern", degrees=7)))
        assert both.through_turns[0].json == both.direct_turns[0].json
        assert ended(both.calls) == [("completed", None)]


class TestTools:
    @pytest.mark.parametrize("script", [players.chat, *players.CHAT_STREAMS.values()])
    def test_of_chat_in_parallel(self, scene: Setting, script: Script) -> None:
        streaming = script is not players.chat
        frames, plain = openai_tools_stream("Wait.", READ, DELETE), openai_tools("Wait.", READ, DELETE)
        both = scene.compare(script, streams(*frames) if streaming else answers(plain))
        assert both.through == both.direct
        assert (both.through.text, both.through.tools, both.through.stop) == ("Wait.", (READ, DELETE), "tool_calls")
        assert of_chat(final(both.call)).said == both.through.said

    @pytest.mark.parametrize("script", [players.responses, *players.RESPONSES_STREAMS.values()])
    def test_of_responses_in_parallel(self, scene: Setting, script: Script) -> None:
        streaming = script is not players.responses
        frames, plain = responses_tools_stream("", READ, DELETE), responses_tools("", READ, DELETE)
        both = scene.compare(script, streams(*frames) if streaming else answers(plain))
        assert both.through == both.direct
        assert both.through.tools == (READ, DELETE)
        assert of_responses(final(both.call)).said == both.through.said

    @pytest.mark.parametrize("streaming", [False, True])
    def test_a_tool_runner_comes_to_its_end(self, scene: Setting, streaming: bool) -> None:
        """Two calls of one conversation; the second brings the tool's answer along."""
        tool: Any = {
            "type": "function",
            "name": "read_file",
            "parameters": {
                "type": "object",
                "properties": {"path": {"type": "string"}},
                "required": ["path"],
                "additionalProperties": False,
            },
            "strict": True,
        }

        def script(side: Side) -> Account:
            def ask(heard: Heard) -> Account:
                runner = ResponsesToolRunner(
                    functions=[RegisteredFunction(tool, lambda asked: f"read {asked['path']}")]
                )
                with players.client_of(side) as client:
                    response = runner.run(client, {"model": side.model, "input": PROMPT}, stream=streaming)
                return of_responses(players.as_json(response))

            return told(ask)

        plays = (
            [streams(*responses_tools_stream("", READ)), streams(*responses_stream("Do", "ne."))]
            if streaming
            else [answers(responses_tools("", READ)), answers(responses_response("Done."))]
        )
        both = scene.compare(script, *plays)
        assert both.through.failure is None
        assert both.through == both.direct
        assert both.through.text == "Done."
        assert [turn.json for turn in both.through_turns] == [turn.json for turn in both.direct_turns]
        assert "read /etc/hosts" in both.through_turns[1].body.decode()
        assert ended(both.calls) == [("completed", None)] * 2
        assert without_nulls(final(both.calls[1])) == without_nulls(both.through.final)


class TestConversations:
    def test_a_response_goes_on_from_the_one_before(self, scene: Setting) -> None:
        def script(side: Side) -> Account:
            with players.client_of(side) as client:
                first = client.responses.create(model=side.model, input="One.")
                second = client.responses.create(model=side.model, input="Two.", previous_response_id=first.id)
            return of_responses(players.as_json(second))

        both = scene.compare(script, answers(responses_response("1")), answers(responses_response("2")))
        assert both.through == both.direct
        assert both.through_turns[1].json["previous_response_id"] == "resp_1"
        assert [final(call)["output"][0]["content"][0]["text"] for call in both.calls] == ["1", "2"]

    @pytest.mark.parametrize("policies", ["none", "replace"])
    def test_reasoning_is_given_back_as_it_came(self, scene: Setting, policies: str) -> None:
        """Encrypted content belongs to the provider, whatever policies read in it."""

        def script(side: Side) -> Account:
            with players.client_of(side) as client:
                first = client.responses.create(model=side.model, input="One.", store=False)
                said: Any = [item.model_dump(exclude_unset=True) for item in first.output]
                second = client.responses.create(model=side.model, input=said, store=False)
            return of_responses(players.as_json(second))

        both = scene.compare(
            script, answers(responses_reasoning("1")), answers(responses_response("2")), policies=policies
        )
        assert both.through == both.direct
        [sent, original] = [turns[1].json["input"][0] for turns in (both.through_turns, both.direct_turns)]
        if policies == "replace":
            assert sent.pop("summary")[0]["text"] == "The [hidden] is thought of."
            del original["summary"]
        assert sent == original
        assert sent["encrypted_content"] == responses_reasoning("1")["output"][0]["encrypted_content"]

    def test_files_and_images_arrive_as_they_were_sent(self, scene: Setting) -> None:
        data = "iVBORw0KGgo" + "jane@example.com" * 1000
        chat: Any = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}", "detail": "low"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{data}"}},
            {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        ]
        asked = [{"role": "user", "content": chat}]
        both = scene.compare(
            partial(players.chat, messages=asked), answers(openai_response("A picture.")), policies="redact"
        )
        assert both.through == both.direct
        assert both.through_turns[0].body == both.direct_turns[0].body
        assert both.call["changed"]["request"] is False


class TestRaw:
    def test_responses_tell_their_call(self, scene: Setting) -> None:
        scene.provider.will(answers(openai_response("Hi")))
        with players.client_of(scene.through()) as client:
            raw = client.chat.completions.with_raw_response.create(
                model="m", messages=[{"role": "user", "content": "x"}]
            )
        assert raw.parse().choices[0].message.content == "Hi"
        call = scene.gateway().call(raw.headers["luthien-call-id"])
        assert (call["outcome"], call["tokens"]) == ("completed", {"input": 9, "output": 3})
        assert call["model"] == {"requested": "m", "used": "gpt-test-2026"}
        assert scene.provider.turns[-1].headers["authorization"] == "Bearer sk-client"

    def test_a_streaming_response_is_the_providers_very_bytes(self, scene: Setting) -> None:
        frames = openai_stream("Hel", "lo")
        scene.provider.will(streams(*frames))
        with (
            players.client_of(scene.through()) as client,
            client.chat.completions.with_streaming_response.create(
                model="m", messages=[{"role": "user", "content": "x"}], stream=True
            ) as response,
        ):
            assert b"".join(response.iter_bytes()) == b"".join(frames)

    def test_a_client_that_leaves_in_the_middle(self, scene: Setting) -> None:
        """Its call is recorded as that, with what it had been given."""
        side = scene.through()
        scene.provider.will(stalls(CHAT))
        with players.client_of(side) as client:
            stream = client.chat.completions.create(
                model=side.model, messages=[{"role": "user", "content": "x"}], stream=True
            )
            for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
            stream.close()
        [call] = scene.calls(side.model)
        assert ended([call]) == [("client_disconnected", "client_disconnected")]
        assert final(call)["choices"][0]["message"]["content"] in {BEGUN, BEGUN.partition(", ")[0] + ", "}

    def test_models_and_embeddings_are_passed_through(self, scene: Setting) -> None:
        models = {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "x"}]}
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        embeddings = {"object": "list", "model": "m", "data": [vector], "usage": usage}

        def script(side: Side) -> Account:
            with players.client_of(side) as client:
                listed = [model.id for model in client.models.list()]
                made = client.embeddings.create(model="m", input="x", encoding_format="float")
            return Account(f"{listed} {made.data[0].embedding}")

        both = scene.compare(script, answers(models), answers(embeddings), calls=0)
        assert both.through == both.direct == Account("['m'] [0.5, 1.0]")

    def test_what_would_walk_around_the_policies_is_refused(self, scene: Setting) -> None:
        with players.client_of(scene.through()) as client, pytest.raises(openai.PermissionDeniedError) as raised:
            client.responses.retrieve("resp_1")
        assert "/v1/responses/resp_1" in str(raised.value)


def _asked(side: Side, **options: Any) -> Json:
    with players.client_of(side, **options) as client:
        messages: Any = [{"role": "user", "content": PROMPT}]
        return players.as_json(client.chat.completions.create(model=side.model, messages=messages))
