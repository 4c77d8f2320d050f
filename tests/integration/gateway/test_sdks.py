"""The official SDKs work against the gateway unchanged, errors included."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import openai
import pytest

from tests.playbook import Gateway, ScriptedProvider, answers, running_gateway, streams
from tests.wire import (
    anthropic_response,
    anthropic_stream,
    openai_response,
    openai_stream,
    responses_response,
    responses_stream,
)


@pytest.fixture
def openai_client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-client", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="sk-ant-client", max_retries=0) as client:
        yield client


def test_openai_plain(openai_client: openai.OpenAI, provider: ScriptedProvider, gateway: Gateway) -> None:
    provider.will(answers(openai_response("Hi")))
    raw = openai_client.chat.completions.with_raw_response.create(
        model="gpt-test", messages=[{"role": "user", "content": "Hello"}]
    )
    assert raw.parse().choices[0].message.content == "Hi"
    assert provider.turns[0].headers["authorization"] == "Bearer sk-client"
    assert provider.turns[0].path == "/v1/chat/completions"
    call = gateway.call(raw.headers["luthien-call-id"])
    assert call["outcome"] == "completed"
    assert call["tokens"] == {"input": 9, "output": 3}
    assert call["model"] == {"requested": "gpt-test", "used": "gpt-test-2026"}


def test_openai_streamed(openai_client: openai.OpenAI, provider: ScriptedProvider, gateway: Gateway) -> None:
    provider.will(streams(*openai_stream("Hel", "lo")))
    stream = openai_client.chat.completions.create(
        model="gpt-test", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "Hello"
    call = gateway.call(stream.response.headers["luthien-call-id"])
    assert call["outcome"] == "completed"
    assert call["stages"]["response_final"]["payload"]["choices"][0]["message"]["content"] == "Hello"
    assert call["tokens"] == {"input": 9, "output": 2}


def test_responses_plain(openai_client: openai.OpenAI, provider: ScriptedProvider, gateway: Gateway) -> None:
    provider.will(answers(responses_response("Hi")))
    raw = openai_client.responses.with_raw_response.create(model="gpt-test", instructions="Be brief.", input="Hello")
    assert raw.parse().output_text == "Hi"
    assert provider.turns[0].headers["authorization"] == "Bearer sk-client"
    assert provider.turns[0].path == "/v1/responses"
    call = gateway.call(raw.headers["luthien-call-id"])
    assert (call["outcome"], call["wire_format"]) == ("completed", "openai.responses")
    assert call["tokens"] == {"input": 9, "output": 3}
    assert call["model"] == {"requested": "gpt-test", "used": "gpt-test-2026"}


def test_responses_streamed(openai_client: openai.OpenAI, provider: ScriptedProvider, gateway: Gateway) -> None:
    provider.will(streams(*responses_stream("Hel", "lo")))
    with openai_client.responses.create(model="gpt-test", input="Hello", stream=True) as stream:
        events = list(stream)
        call_id = stream.response.headers["luthien-call-id"]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "Hello"
    call = gateway.call(call_id)
    assert call["outcome"] == "completed"
    assert call["stages"]["response_final"]["payload"] == responses_response("Hello")


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
            final = stream.get_final_response()
        call_id = gateway.newest_call_id()
        call, diff = gateway.call(call_id), gateway.diff(call_id)
    assert "secret" not in "".join(repr(event) for event in events)
    assert final.output_text == "a [hidden] b"
    assert provider.turns[0].json["input"] == "I am [name]"
    assert provider.turns[0].json["instructions"] == "Be brief."
    assert call["stages"]["response_original"]["payload"] == responses_response("a secret b")
    assert call["stages"]["response_final"]["payload"] == responses_response("a [hidden] b")
    assert call["changed"] == {"request": True, "response": True}
    assert call["verdict"] == (
        "replace_text and add_system_message changed the input and added the instructions;"
        " response: 1 change by replace_text"
    )
    assert [op["before_ptr"] for op in diff["response"]["ops"]] == ["/output/0/content/0/text"]


def test_anthropic_plain(anthropic_client: anthropic.Anthropic, provider: ScriptedProvider, gateway: Gateway) -> None:
    provider.will(answers(anthropic_response("Hi")))
    raw = anthropic_client.messages.with_raw_response.create(
        model="claude-test", max_tokens=9, messages=[{"role": "user", "content": "Hello"}]
    )
    [block] = raw.parse().content
    assert block.type == "text"
    assert block.text == "Hi"
    assert provider.turns[0].headers["authorization"] == "Bearer sk-ant-client"
    assert gateway.call(raw.headers["luthien-call-id"])["outcome"] == "completed"


def test_anthropic_streamed(
    anthropic_client: anthropic.Anthropic, provider: ScriptedProvider, gateway: Gateway
) -> None:
    provider.will(streams(*anthropic_stream("Hel", "lo")))
    with anthropic_client.messages.stream(
        model="claude-test", max_tokens=9, messages=[{"role": "user", "content": "Hello"}]
    ) as stream:
        assert stream.get_final_text() == "Hello"
        call_id = stream.response.headers["luthien-call-id"]
    call = gateway.call(call_id)
    assert call["outcome"] == "completed"
    assert call["stages"]["response_original"]["payload"]["content"] == [{"type": "text", "text": "Hello"}]


def test_openai_rate_limit_keeps_status_body_and_retry_headers(
    openai_client: openai.OpenAI, provider: ScriptedProvider, gateway: Gateway
) -> None:
    error = {"error": {"message": "Slow down", "type": "rate_limit", "param": None, "code": "rate_limit_exceeded"}}
    provider.will(answers(error, status=429, headers={"retry-after": "7", "x-request-id": "req_1"}))
    with pytest.raises(openai.RateLimitError) as raised:
        openai_client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert raised.value.code == "rate_limit_exceeded"
    assert raised.value.response.headers["retry-after"] == "7"
    assert raised.value.request_id == "req_1"
    call = gateway.call(raised.value.response.headers["luthien-call-id"])
    assert (call["outcome"], call["http_status"]) == ("upstream_error", 429)
    assert call["stages"]["response_final"]["state"] == "recorded"
    assert call["stages"]["response_final"]["payload"] == error


def test_anthropic_overloaded_keeps_status_and_body(
    anthropic_client: anthropic.Anthropic, provider: ScriptedProvider
) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    provider.will(answers(error, status=529, headers={"x-should-retry": "true"}))
    with pytest.raises(anthropic.APIStatusError) as raised:
        anthropic_client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}])
    assert raised.value.status_code == 529
    assert raised.value.body == error
    assert raised.value.response.headers["x-should-retry"] == "true"


def test_sdk_retries_reach_the_provider_again(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers({"error": {"message": "busy"}}, status=503), answers(openai_response("Hi")))
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="k", max_retries=1) as client:
        completion = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert completion.choices[0].message.content == "Hi"
    assert len(provider.turns) == 2


async def test_async_sdks(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(
        streams(*openai_stream("a", "b")),
        streams(*responses_stream("e", "f")),
        answers(responses_response("g")),
        streams(*anthropic_stream("c", "d")),
    )
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="k") as client:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], stream=True
        )
        said = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
        events = await client.responses.create(model="m", input="x", stream=True)
        ended = [event.response.output_text async for event in events if event.type == "response.completed"]
        assert ended == ["ef"]
        assert (await client.responses.create(model="m", input="x")).output_text == "g"
    assert "".join(text or "" for text in said) == "ab"
    async with (
        anthropic.AsyncAnthropic(base_url=gateway.url, api_key="k") as claude,
        claude.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]
        ) as message_stream,
    ):
        assert await message_stream.get_final_text() == "cd"
