"""The official Anthropic SDK, directly and through the gateway."""

from __future__ import annotations

from functools import partial
from typing import Any

import anthropic
import pytest
from anthropic import beta_tool
from anthropic.types.beta import BetaMessageParam
from pydantic import BaseModel

from tests.integration.clients import anthropic_players as players
from tests.integration.clients.account import Account, Heard, of_messages, told, without_nulls
from tests.integration.clients.adversity import ADVERSITIES, BEGUN, MESSAGES, SOME, TEXTS, stalls
from tests.integration.clients.setting import PROMPT, Script, Setting, Side, ended, final
from tests.integration.clients.treatment import DELETE, READ, TREATMENTS, Treatment
from tests.integration.clients.wire import anthropic_thinking, anthropic_thinking_stream
from tests.playbook import answers, streams
from tests.wire import anthropic_response, anthropic_stream
from tests.wire_tools import anthropic_tools, anthropic_tools_stream

STREAMED = [pytest.param(script, id=way) for way, script in players.STREAMS.items()]
PLAINLY = [pytest.param(players.messages, id="sync"), pytest.param(players.messages_async, id="async")]
STATUSES = [400, 401, 413, 429, 500, 529]


class Weather(BaseModel):
    city: str
    degrees: int


@beta_tool
def read_file(path: str) -> str:
    """Reads a file.

    Args:
        path: where it is
    """
    return f"read {path}"


@pytest.mark.parametrize("name", ADVERSITIES)
@pytest.mark.parametrize("script", [players.helped, players.helped_async])
def test_adverse_streams(scene: Setting, script: Script, name: str) -> None:
    adversity = ADVERSITIES[name]
    adversity.check(scene.compare(script, adversity.play(MESSAGES)))


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("script", [players.streamed, players.helped_beta])
def test_adverse_streams_in_every_way(scene: Setting, script: Script, name: str) -> None:
    adversity = ADVERSITIES[name]
    adversity.check(scene.compare(script, adversity.play(MESSAGES)))


@pytest.mark.parametrize("treatment", [pytest.param(each, id=name) for name, each in TREATMENTS.items()])
@pytest.mark.parametrize("script", STREAMED)
def test_streams_that_policies_treat(scene: Setting, script: Script, treatment: Treatment) -> None:
    treatment.check(scene, script, MESSAGES)


@pytest.mark.parametrize("script", PLAINLY)
def test_plain_answers(scene: Setting, script: Script) -> None:
    """The provider hears the same, the client is told the same, and the record has both."""
    both = scene.compare(script, answers(anthropic_response("Hello.")))
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


@pytest.mark.parametrize("script", PLAINLY)
def test_plain_answers_that_policies_treat(scene: Setting, script: Script) -> None:
    account, [call] = scene.recorded(script, answers(anthropic_response("the secret")), policies="replace")
    assert account.text == "the [hidden]"
    assert final(call) == account.final
    account, [call] = scene.recorded(script, answers(anthropic_response("to [email-1]")), policies="redact")
    assert account.text == "to jane@example.com"
    assert final(call) == account.final
    play = answers(anthropic_tools("Wait.", DELETE, READ))
    account, [call] = scene.recorded(script, play, policies="drop_tools")
    assert account.tools == (READ,)
    assert final(call) == account.final


class TestErrors:
    @pytest.mark.parametrize("status", STATUSES)
    @pytest.mark.parametrize("script", [players.messages, players.helped])
    def test_are_the_providers(self, scene: Setting, script: Script, status: int) -> None:
        error = {"type": "error", "error": {"type": "some_error", "message": "No."}, "request_id": "req_1"}
        both = scene.compare(script, answers(error, status=status, headers={"request-id": "req_1"}))
        assert both.through == both.direct
        assert both.through.failure is not None
        assert both.through.failure.status == status
        assert ended(both.calls) == [("upstream_error", str(status))]
        assert final(both.call) == error

    @pytest.mark.parametrize("script", [players.messages, players.messages_async, players.helped])
    def test_a_block_of_the_request_is_a_permission_denied(self, scene: Setting, script: Script) -> None:
        side = scene.through("limit")
        side = Side(side.url, f"{side.model}-forbidden")
        account, turns = scene.run(script, side, answers({}))
        [call] = scene.calls(side.model)
        assert account.failure is not None
        assert (account.failure.kind, account.failure.status, turns) == ("PermissionDeniedError", 403, [])
        assert f"the model '{side.model}' is not permitted" in account.failure.message.replace("\\'", "'")
        assert ended([call]) == [("blocked", "policy_blocked")]

    def test_a_block_is_not_retried(self, scene: Setting) -> None:
        side = scene.through("limit")
        model = f"{side.model}-forbidden"
        with (
            players.client_of(side, max_retries=2) as client,
            pytest.raises(anthropic.PermissionDeniedError) as raised,
        ):
            client.messages.create(model=model, max_tokens=1, messages=[{"role": "user", "content": "x"}])
        body: Any = raised.value.body
        assert body["error"]["type"] == "permission_error"
        assert len(scene.calls(model)) == 1

    def test_a_block_of_the_response(self, scene: Setting) -> None:
        """Before it has begun, the status says so; in a stream that has begun, an error event does."""
        plain, [call] = scene.recorded(players.messages, answers(anthropic_tools("", DELETE)), policies="block_tools")
        assert plain.failure is not None
        assert (plain.failure.kind, plain.failure.status) == ("PermissionDeniedError", 403)
        assert ended([call]) == [("blocked", "policy_blocked")]
        play = streams(*anthropic_tools_stream("Let me see.", DELETE))
        streamed, [call] = scene.recorded(players.helped, play, policies="block_tools")
        assert streamed.failure is not None
        assert (streamed.failure.kind, streamed.text) == ("APIStatusError", "Let me see.")
        assert "blocked by the policy" in streamed.failure.message
        assert ended([call]) == [("blocked", "policy_blocked")]

    @pytest.mark.parametrize("status", [429, 500, 529])
    def test_what_is_worth_another_try_is_tried_again(self, scene: Setting, status: int) -> None:
        """After as long as the provider says; each try is a call of its own in the record."""
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}

        def script(side: Side) -> Account:
            with players.client_of(side, max_retries=1) as client:
                return of_messages(players.as_json(client.messages.create(model=side.model, **players.ASKED)))

        both = scene.compare(
            script, answers(error, status=status, headers={"retry-after-ms": "1"}), answers(anthropic_response("Hi"))
        )
        assert both.through == both.direct
        assert both.through.text == "Hi"
        assert ended(both.calls) == [("upstream_error", str(status)), ("completed", None)]
        assert [turn.headers["x-stainless-retry-count"] for turn in both.through_turns] == ["0", "1"]

    def test_an_overload_keeps_what_it_says(self, scene: Setting) -> None:
        headers = {"x-should-retry": "false", "request-id": "req_1", "anthropic-ratelimit-tokens-remaining": "0"}
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        scene.provider.will(answers(error, status=529, headers=headers))
        with players.client_of(scene.through()) as client, pytest.raises(anthropic.APIStatusError) as raised:
            client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}])
        assert (raised.value.status_code, raised.value.body, raised.value.request_id) == (529, error, "req_1")
        assert {name: raised.value.response.headers[name] for name in headers} == headers

    def test_a_stall_is_a_timeout(self, scene: Setting) -> None:
        both = scene.compare_impatient(players.helped, stalls(MESSAGES), BEGUN)
        assert both.through == both.direct
        assert both.through.failure is not None
        assert (both.through.failure.kind, both.through.text) == ("ReadTimeout", BEGUN)
        assert ended(both.calls) == [("client_disconnected", "client_disconnected")]


class TestTools:
    @pytest.mark.parametrize("script", [players.messages, *players.STREAMS.values()])
    def test_in_parallel(self, scene: Setting, script: Script) -> None:
        streaming = script is not players.messages
        frames, plain = anthropic_tools_stream("Wait.", READ, DELETE), anthropic_tools("Wait.", READ, DELETE)
        both = scene.compare(script, streams(*frames) if streaming else answers(plain))
        assert both.through == both.direct
        assert (both.through.text, both.through.tools, both.through.stop) == ("Wait.", (READ, DELETE), "tool_use")
        assert of_messages(final(both.call)).said == both.through.said

    @pytest.mark.parametrize("policies", ["none", "redact"])
    @pytest.mark.parametrize("streaming", [False, True])
    def test_a_tool_runner_comes_to_its_end(self, scene: Setting, streaming: bool, policies: str) -> None:
        """Two calls of one conversation; the second brings the tool's answer along."""

        def script(side: Side) -> Account:
            def ask(heard: Heard) -> Account:
                asked: list[BetaMessageParam] = [{"role": "user", "content": PROMPT}]
                with players.client_of(side) as client:
                    runner: Any = client.beta.messages.tool_runner(
                        model=side.model, max_tokens=64, tools=[read_file], messages=asked, stream=streaming
                    )
                    return of_messages(players.as_json(runner.until_done()))

            return told(ask)

        plays = (
            [streams(*anthropic_tools_stream("", READ)), streams(*anthropic_stream("Do", "ne."))]
            if streaming
            else [answers(anthropic_tools("", READ)), answers(anthropic_response("Done."))]
        )
        both = scene.compare(script, *plays, policies=policies)
        assert both.through.failure is None
        assert both.through == both.direct
        assert both.through.text == "Done."
        assert "read /etc/hosts" in both.through_turns[1].body.decode()
        assert [turn.path for turn in both.through_turns] == ["/v1/messages"] * 2
        if policies == "none":
            assert [turn.body for turn in both.through_turns] == [turn.body for turn in both.direct_turns]
        assert ended(both.calls) == [("completed", None)] * 2
        assert without_nulls(final(both.calls[1])) == without_nulls(both.through.final)


class TestConversations:
    @pytest.mark.parametrize("policies", ["none", "replace"])
    @pytest.mark.parametrize("streaming", [False, True])
    def test_thinking_is_given_back_as_it_came(self, scene: Setting, streaming: bool, policies: str) -> None:
        """A signature signs its text, so policies leave both alone."""

        def script(side: Side) -> Account:
            asked: Any = {"model": side.model, "max_tokens": 64}
            with players.client_of(side) as client:
                messages: Any = [{"role": "user", "content": "One."}]
                if streaming:
                    with client.messages.stream(**asked, messages=messages) as stream:
                        first: Any = stream.get_final_message()
                else:
                    first = client.messages.create(**asked, messages=messages)
                said = [block.model_dump(exclude_none=True, exclude={"parsed_output"}) for block in first.content]
                messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "Two."}]
                return of_messages(players.as_json(client.messages.create(**asked, messages=messages)))

        frames, plain = anthropic_thinking_stream("1"), anthropic_thinking("1")
        both = scene.compare(
            script,
            streams(*frames) if streaming else answers(plain),
            answers(anthropic_response("2")),
            policies=policies,
        )
        assert both.through == both.direct
        assert both.through_turns[1].body == both.direct_turns[1].body
        assert both.through_turns[1].json["messages"][1]["content"] == plain["content"]
        assert final(both.calls[0])["content"] == plain["content"]

    def test_files_and_images_arrive_as_they_were_sent(self, scene: Setting) -> None:
        data = "iVBORw0KGgo" + "jane@example.com" * 1000
        content: Any = [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": data},
                "cache_control": {"type": "ephemeral"},
            },
            {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        ]
        script = partial(players.messages, messages=[{"role": "user", "content": content}])
        both = scene.compare(script, answers(anthropic_response("A picture.")), policies="redact")
        assert both.through == both.direct
        assert both.through_turns[0].body == both.direct_turns[0].body
        assert both.call["changed"]["request"] is False

    def test_structured_output(self, scene: Setting) -> None:
        def script(side: Side) -> Account:
            with players.client_of(side) as client:
                parsed = client.messages.parse(model=side.model, output_format=Weather, **players.ASKED)
                return Account(repr(parsed.parsed_output))

        both = scene.compare(script, answers(anthropic_response('{"city": "Bern", "degrees": 7}')))
        assert both.through == both.direct == Account(repr(Weather(city="Bern", degrees=7)))
        assert both.through_turns[0].body == both.direct_turns[0].body


class TestRaw:
    def test_responses_tell_their_call(self, scene: Setting) -> None:
        scene.provider.will(answers(anthropic_response("Hi")))
        with players.client_of(scene.through()) as client:
            raw = client.messages.with_raw_response.create(model="m", **players.ASKED)
        [block] = raw.parse().content
        assert (block.type, block.text if block.type == "text" else None) == ("text", "Hi")
        assert scene.gateway().call(raw.headers["luthien-call-id"])["outcome"] == "completed"
        assert scene.provider.turns[-1].headers["authorization"] == "Bearer sk-ant-client"

    def test_a_streaming_response_is_the_providers_very_bytes(self, scene: Setting) -> None:
        frames = anthropic_stream("Hel", "lo")
        scene.provider.will(streams(*frames))
        with (
            players.client_of(scene.through()) as client,
            client.messages.with_streaming_response.create(model="m", stream=True, **players.ASKED) as response,
        ):
            assert b"".join(response.iter_bytes()) == b"".join(frames)

    def test_a_client_that_leaves_in_the_middle(self, scene: Setting) -> None:
        """Its call is recorded as that, with what it had been given."""
        side = scene.through()
        scene.provider.will(stalls(MESSAGES))
        with (
            players.client_of(side) as client,
            client.messages.stream(model=side.model, **players.ASKED) as stream,
        ):
            assert next(iter(stream.text_stream)) == TEXTS[0]
        [call] = scene.calls(side.model)
        assert ended([call]) == [("client_disconnected", "client_disconnected")]
        assert BEGUN.startswith(final(call)["content"][0]["text"])

    def test_tokens_are_counted_by_the_provider(self, scene: Setting) -> None:
        def script(side: Side) -> Account:
            with players.client_of(side) as client:
                counted = client.messages.count_tokens(
                    model=side.model, messages=[{"role": "user", "content": PROMPT}]
                )
            return Account(str(counted.input_tokens))

        both = scene.compare(script, answers({"input_tokens": 11}), calls=0)
        assert both.through == both.direct == Account("11")
        assert both.through_turns[0].body == both.direct_turns[0].body


def test_a_timeout_before_anything_was_said(scene: Setting) -> None:
    """The SDK's own name for it."""

    async def silent(turn: Any) -> None:
        await turn.reader.read(1)

    both = scene.compare_impatient(players.messages, silent, "")
    assert both.through == both.direct
    assert both.through.failure is not None
    assert both.through.failure.kind == "APITimeoutError"
    assert ended(both.calls) == [("client_disconnected", "client_disconnected")]
