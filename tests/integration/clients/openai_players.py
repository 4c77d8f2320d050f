"""Calls with the official OpenAI SDK, in each of the ways in which it can be asked."""

from __future__ import annotations

from typing import Any

import openai
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel

from tests.integration.clients.account import (
    Account,
    Heard,
    Json,
    arguments,
    of_chat,
    of_responses,
    told,
    told_async,
)
from tests.integration.clients.setting import PROMPT, Side

CHAT: Json = {"messages": [{"role": "user", "content": PROMPT}]}
RESPONSE: Json = {"instructions": "Be brief.", "input": [{"role": "user", "content": PROMPT}]}


def options_of(side: Side) -> Json:
    return {"base_url": side.openai_url, "api_key": "sk-client", "timeout": side.timeout_s, "max_retries": 0}


def client_of(side: Side, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(**(options_of(side) | options))


def async_client_of(side: Side, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(**(options_of(side) | options))


def as_json(final: BaseModel) -> Json:
    """The SDK's object as it was on the wire, without what its parser adds."""
    return final.model_dump(mode="json", exclude_unset=True)


def chat_as_json(final: BaseModel) -> Json:
    """The same, without the numbers that only a stream's tool calls have."""
    dumped = as_json(final)
    for call in dumped["choices"][0]["message"].get("tool_calls") or ():
        call.pop("index", None)
    return dumped


def chat(side: Side, **asked: Any) -> Account:
    def ask(heard: Heard) -> Account:
        with client_of(side) as client:
            return of_chat(chat_as_json(client.chat.completions.create(model=side.model, **(CHAT | asked))))

    return told(ask)


def chat_streamed(side: Side, **asked: Any) -> Account:
    """Put together by hand, as many programs do."""

    def ask(heard: Heard) -> Account:
        with client_of(side) as client:
            chunks: list[ChatCompletionChunk] = []
            for chunk in client.chat.completions.create(model=side.model, stream=True, **(CHAT | asked)):
                _hear(chunk, heard, chunks)
            return _of_chunks(chunks)

    return told(ask)


def chat_helped(side: Side, **asked: Any) -> Account:
    """Put together by the SDK."""

    def ask(heard: Heard) -> Account:
        with (
            client_of(side) as client,
            client.chat.completions.stream(model=side.model, **(CHAT | asked)) as stream,
        ):
            heard.extend(event.delta for event in stream if event.type == "content.delta")
            return of_chat(chat_as_json(stream.get_final_completion()))

    return told(ask)


def chat_async(side: Side, **asked: Any) -> Account:
    async def ask(heard: Heard) -> Account:
        async with async_client_of(side) as client:
            chunks: list[ChatCompletionChunk] = []
            async for chunk in await client.chat.completions.create(model=side.model, stream=True, **(CHAT | asked)):
                _hear(chunk, heard, chunks)
            return _of_chunks(chunks)

    return told_async(ask)


def chat_helped_async(side: Side, **asked: Any) -> Account:
    async def ask(heard: Heard) -> Account:
        async with (
            async_client_of(side) as client,
            client.chat.completions.stream(model=side.model, **(CHAT | asked)) as stream,
        ):
            async for event in stream:
                if event.type == "content.delta":
                    heard.append(event.delta)
            return of_chat(chat_as_json(await stream.get_final_completion()))

    return told_async(ask)


def responses(side: Side, **asked: Any) -> Account:
    def ask(heard: Heard) -> Account:
        with client_of(side) as client:
            return of_responses(as_json(client.responses.create(model=side.model, **(RESPONSE | asked))))

    return told(ask)


def responses_streamed(side: Side, **asked: Any) -> Account:
    """The deltas, and the last event: what it holds is not put together by the SDK."""

    def ask(heard: Heard) -> Account:
        with client_of(side) as client:
            last: ResponseStreamEvent | None = None
            for event in client.responses.create(model=side.model, stream=True, **(RESPONSE | asked)):
                last = event
                if event.type == "response.output_text.delta":
                    heard.append(event.delta)
            if last is None or last.type != "response.completed":
                return Account("".join(heard))
            return of_responses(as_json(last.response))

    return told(ask)


def responses_helped(side: Side, **asked: Any) -> Account:
    def ask(heard: Heard) -> Account:
        with client_of(side) as client, client.responses.stream(model=side.model, **(RESPONSE | asked)) as stream:
            heard.extend(event.delta for event in stream if event.type == "response.output_text.delta")
            return of_responses(as_json(stream.get_final_response()))

    return told(ask)


def responses_async(side: Side, **asked: Any) -> Account:
    async def ask(heard: Heard) -> Account:
        async with (
            async_client_of(side) as client,
            client.responses.stream(model=side.model, **(RESPONSE | asked)) as stream,
        ):
            async for event in stream:
                if event.type == "response.output_text.delta":
                    heard.append(event.delta)
            return of_responses(as_json(await stream.get_final_response()))

    return told_async(ask)


CHAT_STREAMS = {
    "by hand": chat_streamed,
    "helped": chat_helped,
    "async by hand": chat_async,
    "async helped": chat_helped_async,
}
RESPONSES_STREAMS = {"by hand": responses_streamed, "helped": responses_helped, "async helped": responses_async}


def _hear(chunk: ChatCompletionChunk, heard: Heard, chunks: list[ChatCompletionChunk]) -> None:
    chunks.append(chunk)
    heard.extend(choice.delta.content or "" for choice in chunk.choices)


def _of_chunks(chunks: list[ChatCompletionChunk]) -> Account:
    """Of a stream with one choice."""
    choices = [choice for chunk in chunks for choice in chunk.choices]
    names: dict[int, str] = {}
    pieces: dict[int, str] = {}
    for call in (call for choice in choices for call in choice.delta.tool_calls or ()):
        if call.function is not None:
            names[call.index] = names.get(call.index, "") + (call.function.name or "")
            pieces[call.index] = pieces.get(call.index, "") + (call.function.arguments or "")
    return Account(
        text="".join(choice.delta.content or "" for choice in choices),
        tools=tuple((names[index], arguments(pieces[index])) for index in sorted(names)),
        stop=next((choice.finish_reason for choice in reversed(choices) if choice.finish_reason), None),
    )
