"""The Vercel AI SDK, directly and through the gateway. One Node process makes all calls."""

from __future__ import annotations

from functools import partial

import pytest

from tests.integration.clients.account import Failure, account_of
from tests.integration.clients.adversity import (
    ADVERSITIES,
    BEGUN,
    CHAT,
    MESSAGES,
    PLAIN,
    RESPONSES,
    STREAMS,
    TEXTS,
    Adversity,
    stalls,
)
from tests.integration.clients.setting import Setting, Side, ended, final
from tests.integration.clients.treatment import DELETE, READ, TOOLS, TREATMENTS, Treatment
from tests.integration.clients.vercel_players import Play
from tests.integration.clients.wire import TOOL_ANSWERS, TOOL_STREAMS, anthropic_thinking_stream
from tests.playbook import answers, streams

FORMATS = [CHAT, RESPONSES, MESSAGES]


@pytest.mark.parametrize("adversity", [pytest.param(each, id=name) for name, each in ADVERSITIES.items()])
@pytest.mark.parametrize("wire_format", FORMATS)
def test_adverse_streams(scene: Setting, play: Play, wire_format: str, adversity: Adversity) -> None:
    script = play(format=wire_format, streaming=True)
    compare = partial(scene.compare_impatient, said=BEGUN) if adversity.stays_open else scene.compare
    adversity.check(compare(script, adversity.play(wire_format)))


@pytest.mark.parametrize("treatment", [pytest.param(each, id=name) for name, each in TREATMENTS.items()])
@pytest.mark.parametrize("wire_format", FORMATS)
def test_streams_that_policies_treat(scene: Setting, play: Play, wire_format: str, treatment: Treatment) -> None:
    treatment.check(scene, play(format=wire_format, streaming=True, wants="tools"), wire_format)


@pytest.mark.parametrize("wire_format", FORMATS)
def test_plain_answers(scene: Setting, play: Play, wire_format: str) -> None:
    both = scene.compare(play(format=wire_format), answers(PLAIN[wire_format]("Hello.")))
    assert both.through == both.direct
    assert both.through.text == account_of(final(both.call)).text == "Hello."
    assert ended(both.calls) == [("completed", None)]
    [straight], [passed] = both.direct_turns, both.through_turns
    assert (passed.method, passed.path, passed.body) == (straight.method, straight.path, straight.body)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("wire_format", FORMATS)
def test_tools_in_several_steps(scene: Setting, play: Play, wire_format: str, streaming: bool) -> None:
    """The SDK runs the tool and asks again, until there is an answer."""
    steps = (
        [streams(*TOOL_STREAMS[wire_format](READ)), streams(*STREAMS[wire_format]("Do", "ne."))]
        if streaming
        else [answers(TOOL_ANSWERS[wire_format](READ)), answers(PLAIN[wire_format]("Done."))]
    )
    both = scene.compare(play(format=wire_format, streaming=streaming, wants="steps"), *steps)
    assert both.through == both.direct
    assert (both.through.text, both.through.failure) == ("Done.", None)
    assert [turn.json for turn in both.through_turns] == [turn.json for turn in both.direct_turns]
    assert "read /etc/hosts" in both.through_turns[1].body.decode()
    assert ended(both.calls) == [("completed", None)] * 2
    assert account_of(final(both.calls[0])).tools == (READ,)


@pytest.mark.parametrize("wire_format", FORMATS)
def test_tools_in_parallel(scene: Setting, play: Play, wire_format: str) -> None:
    script = play(format=wire_format, streaming=True, wants="tools")
    both = scene.compare(script, streams(*TOOL_STREAMS[wire_format](READ, DELETE)))
    assert both.through == both.direct
    assert both.through.tools == account_of(final(both.call)).tools == (READ, DELETE)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("wire_format", FORMATS)
def test_objects(scene: Setting, play: Play, wire_format: str, streaming: bool) -> None:
    pieces = ('{"city": "Be', 'rn", "degrees"', ": 7}")
    both = scene.compare(
        play(format=wire_format, streaming=streaming, wants="object"),
        streams(*STREAMS[wire_format](*pieces)) if streaming else answers(PLAIN[wire_format]("".join(pieces))),
    )
    assert both.through == both.direct
    assert both.through.final == {"object": {"city": "Bern", "degrees": 7}}
    assert both.through_turns[0].json == both.direct_turns[0].json


@pytest.mark.parametrize("wire_format", FORMATS)
def test_an_abort_is_recorded(scene: Setting, play: Play, wire_format: str) -> None:
    both = scene.compare(play(format=wire_format, streaming=True, leaves=True), stalls(wire_format))
    assert both.through.failure is not None
    assert both.through.failure.kind == "abort"
    assert both.through.text.startswith(TEXTS[0])
    assert ended(both.calls) == [("client_disconnected", "client_disconnected")]
    assert BEGUN.startswith(account_of(final(both.call) | {"stop_reason": None}).text)


@pytest.mark.parametrize("wire_format", FORMATS)
def test_a_block_is_an_error_that_is_not_retried(scene: Setting, play: Play, wire_format: str) -> None:
    """In the words of the policy, streamed or not."""
    for streaming in (False, True):
        side = scene.through("limit")
        side = Side(side.url, f"{side.model}-forbidden")
        came, turns = scene.run(play(format=wire_format, streaming=streaming, retries=2), side, answers({}))
        assert came.failure is not None
        assert (came.failure.kind, came.failure.status, turns) == ("AI_APICallError", 403, [])
        assert f"the model {side.model!r} is not permitted" in came.failure.message
        assert ended(scene.calls(side.model)) == [("blocked", "policy_blocked")]


@pytest.mark.parametrize("wire_format", TOOLS)
def test_a_block_in_a_stream_that_has_begun_is_an_error(scene: Setting, play: Play, wire_format: str) -> None:
    script = play(format=wire_format, streaming=True, wants="tools")
    came, [call] = scene.recorded(script, streams(*TOOLS[wire_format]("Wait.", DELETE)), policies="block_tools")
    assert came.failure is not None
    assert (came.text, came.tools) == ("Wait.", ())
    assert "blocked by the policy 'block_tools'" in came.failure.message
    assert ended([call]) == [("blocked", "policy_blocked")]


@pytest.mark.parametrize("wire_format", FORMATS)
def test_what_is_worth_another_try_is_tried_again(scene: Setting, play: Play, wire_format: str) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    both = scene.compare(
        play(format=wire_format, retries=1),
        answers(error, status=529, headers={"retry-after-ms": "1"}),
        answers(PLAIN[wire_format]("Hi")),
    )
    assert both.through == both.direct
    assert both.through.text == "Hi"
    assert ended(both.calls) == [("upstream_error", "529"), ("completed", None)]


@pytest.mark.parametrize("status", [401, 429, 500])
@pytest.mark.parametrize("wire_format", FORMATS)
def test_errors_are_the_providers(scene: Setting, play: Play, wire_format: str, status: int) -> None:
    error = {"type": "error", "error": {"type": "some_error", "message": "No.", "code": "why", "param": None}}
    both = scene.compare(play(format=wire_format, streaming=True), answers(error, status=status))
    assert both.through == both.direct
    assert both.through.failure == Failure("AI_APICallError", status, "No.")
    assert ended(both.calls) == [("upstream_error", str(status))]


def test_thinking(scene: Setting, play: Play) -> None:
    """A text that a policy would replace is left alone where it is signed."""
    script = play(format=MESSAGES, streaming=True)
    both = scene.compare(script, streams(*anthropic_thinking_stream("a secret")), policies="replace")
    assert both.direct.text == "a secret"
    assert both.through.text == "a [hidden]"
    assert both.through.thinking == both.direct.thinking == "The secret is thought of."
    assert account_of(final(both.call)).said == both.through.said
