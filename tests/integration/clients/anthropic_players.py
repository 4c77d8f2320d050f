"""Calls with the official Anthropic SDK, in each of the ways in which it can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anthropic
from anthropic.types import RawMessageStreamEvent
from pydantic import BaseModel

from tests.integration.clients.account import (
    Account,
    Heard,
    Json,
    arguments,
    of_messages,
    told,
    told_async,
)
from tests.integration.clients.setting import PROMPT, Side

ASKED: Json = {"max_tokens": 64, "messages": [{"role": "user", "content": PROMPT}]}


def options_of(side: Side) -> Json:
    return {"base_url": side.url, "api_key": "sk-ant-client", "timeout": side.timeout_s, "max_retries": 0}


def client_of(side: Side, **options: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(**(options_of(side) | options))


def async_client_of(side: Side, **options: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(**(options_of(side) | options))


def as_json(final: BaseModel) -> Json:
    """The SDK's object as it was on the wire."""
    return final.model_dump(mode="json", exclude_unset=True)


def messages(side: Side, **asked: Any) -> Account:
    def ask(heard: Heard) -> Account:
        with client_of(side) as client:
            return of_messages(as_json(client.messages.create(model=side.model, **(ASKED | asked))))

    return told(ask)


def messages_async(side: Side, **asked: Any) -> Account:
    async def ask(heard: Heard) -> Account:
        async with async_client_of(side) as client:
            return of_messages(as_json(await client.messages.create(model=side.model, **(ASKED | asked))))

    return told_async(ask)


def streamed(side: Side, **asked: Any) -> Account:
    """Put together by hand, as many programs do."""

    def ask(heard: Heard) -> Account:
        with client_of(side) as client:
            events: list[RawMessageStreamEvent] = []
            for event in client.messages.create(model=side.model, stream=True, **(ASKED | asked)):
                events.append(event)
                if event.type == "content_block_delta" and event.delta.type == "text_delta":
                    heard.append(event.delta.text)
            return _of_events("".join(heard), events)

    return told(ask)


def helped(side: Side, **asked: Any) -> Account:
    """Put together by the SDK."""

    def ask(heard: Heard) -> Account:
        with client_of(side) as client, client.messages.stream(model=side.model, **(ASKED | asked)) as stream:
            heard.extend(stream.text_stream)
            return of_messages(as_json(stream.get_final_message()))

    return told(ask)


def helped_beta(side: Side, **asked: Any) -> Account:
    def ask(heard: Heard) -> Account:
        with client_of(side) as client, client.beta.messages.stream(model=side.model, **(ASKED | asked)) as stream:
            heard.extend(stream.text_stream)
            return of_messages(as_json(stream.get_final_message()))

    return told(ask)


def helped_async(side: Side, **asked: Any) -> Account:
    async def ask(heard: Heard) -> Account:
        async with (
            async_client_of(side) as client,
            client.messages.stream(model=side.model, **(ASKED | asked)) as stream,
        ):
            async for text in stream.text_stream:
                heard.append(text)
            return of_messages(as_json(await stream.get_final_message()))

    return told_async(ask)


STREAMS = {"by hand": streamed, "helped": helped, "helped beta": helped_beta, "async helped": helped_async}


def _of_events(text: str, events: Sequence[RawMessageStreamEvent]) -> Account:
    names: dict[int, str] = {}
    pieces: dict[int, str] = {}
    thinking, stop = "", None
    for event in events:
        if event.type == "content_block_start" and event.content_block.type == "tool_use":
            names[event.index] = event.content_block.name
        elif event.type == "content_block_delta" and event.delta.type == "input_json_delta":
            pieces[event.index] = pieces.get(event.index, "") + event.delta.partial_json
        elif event.type == "content_block_delta" and event.delta.type == "thinking_delta":
            thinking += event.delta.thinking
        elif event.type == "message_delta":
            stop = event.delta.stop_reason
    tools = tuple((names[index], arguments(pieces.get(index, ""))) for index in sorted(names))
    return Account(text, tools, thinking, stop)
