"""Calls with LangChain's models of OpenAI and Anthropic."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessageChunk
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.integration.clients.account import Account, Heard, told, told_async
from tests.integration.clients.adversity import MESSAGES, RESPONSES
from tests.integration.clients.setting import PROMPT, Script, Side


@tool
def read_file(path: str) -> str:
    """Reads a file."""
    return f"read {path}"


def model_of(wire_format: str, side: Side, retries: int = 0) -> BaseChatModel:
    if wire_format == MESSAGES:
        return ChatAnthropic(
            model=side.model,
            base_url=side.url,
            api_key=SecretStr("sk-ant-client"),
            timeout=side.timeout_s,
            max_retries=retries,
            stop=None,
            max_tokens=64,
        )
    return ChatOpenAI(
        model=side.model,
        base_url=side.openai_url,
        api_key=SecretStr("sk-client"),
        timeout=side.timeout_s,
        max_retries=retries,
        use_responses_api=wire_format == RESPONSES,
        stream_usage=True,
    )


def account(message: AIMessage) -> Account:
    tools = tuple((call["name"], call["args"]) for call in message.tool_calls)
    stop = message.response_metadata.get("finish_reason") or message.response_metadata.get("stop_reason")
    return Account(message.text, tools, stop=stop)


def invoked(wire_format: str) -> Script:
    return lambda side: told(lambda _: account(model_of(wire_format, side).invoke(PROMPT)))


def streamed(wire_format: str) -> Script:
    def script(side: Side) -> Account:
        def ask(heard: Heard) -> Account:
            whole: BaseMessageChunk | None = None
            for chunk in model_of(wire_format, side).bind_tools([read_file]).stream(PROMPT):
                whole = _added(whole, chunk, heard)
            return _whole(whole)

        return told(ask)

    return script


def streamed_async(wire_format: str, runner: asyncio.Runner) -> Script:
    def script(side: Side) -> Account:
        async def ask(heard: Heard) -> Account:
            whole: BaseMessageChunk | None = None
            async for chunk in model_of(wire_format, side).bind_tools([read_file]).astream(PROMPT):
                whole = _added(whole, chunk, heard)
            return _whole(whole)

        return told_async(ask, runner.run)

    return script


def _added(whole: BaseMessageChunk | None, chunk: Any, heard: Heard) -> BaseMessageChunk:
    heard.append(chunk.text)
    return chunk if whole is None else whole + chunk  # type: ignore[no-any-return]


def _whole(whole: BaseMessageChunk | None) -> Account:
    assert isinstance(whole, AIMessage)
    return account(whole)
