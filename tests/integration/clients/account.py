"""What a client was told in one call, in words that all clients and the record share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as a client raises it: its class, the HTTP status it knows of and its words."""

    kind: str
    status: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Account:
    """What a client has at the end of a call, or at its failure.

    `tools` are (name, arguments). `final` is the client's own object of the whole response, as JSON, if it makes one.
    """

    text: str = ""
    tools: tuple[tuple[str, Any], ...] = ()
    thinking: str = ""
    stop: str | None = None
    failure: Failure | None = None
    final: Json | None = field(default=None, repr=False)

    @property
    def said(self) -> tuple[str, tuple[tuple[str, Any], ...], str]:
        """What it has of the model's words."""
        return self.text, self.tools, self.thinking


Heard = list[str]
"""The pieces of text that a client has been told."""


def told(ask: Callable[[Heard], Account]) -> Account:
    """What `ask` makes of its call, or how far it came."""
    heard: Heard = []
    try:
        return ask(heard)
    except Exception as error:  # noqa: BLE001 - whatever a client raises is compared
        return Account("".join(heard), failure=failure_of(error))


def told_async(
    ask: Callable[[Heard], Coroutine[Any, Any, Account]],
    run: Callable[[Coroutine[Any, Any, Account]], Account] = asyncio.run,
) -> Account:
    """The same of a client that is asynchronous."""
    heard: Heard = []

    async def asked() -> Account:
        try:
            return await ask(heard)
        except Exception as error:  # noqa: BLE001 - whatever a client raises is compared
            return Account("".join(heard), failure=failure_of(error))

    return run(asked())


def failure_of(error: BaseException) -> Failure:
    return Failure(type(error).__name__, getattr(error, "status_code", None), str(error))


def account_of(payload: Json) -> Account:
    """The same of a recorded response, in any wire format."""
    if "choices" in payload:
        return of_chat(payload)
    return of_responses(payload) if payload.get("object") == "response" else of_messages(payload)


def of_chat(payload: Json) -> Account:
    [choice] = payload["choices"]
    message = choice["message"]
    calls = [each["function"] for each in message.get("tool_calls") or ()]
    return Account(
        text=message.get("content") or "",
        tools=tuple((each["name"], arguments(each["arguments"])) for each in calls),
        stop=choice["finish_reason"],
        final=payload,
    )


def of_responses(payload: Json) -> Account:
    items = payload["output"]
    parts = [part for item in items if item["type"] == "message" for part in item["content"]]
    summaries = [part["text"] for item in items if item["type"] == "reasoning" for part in item["summary"]]
    return Account(
        text="".join(part["text"] for part in parts if part["type"] == "output_text"),
        tools=tuple(
            (item["name"], arguments(item["arguments"])) for item in items if item["type"] == "function_call"
        ),
        thinking="".join(summaries),
        stop=payload["status"],
        final=payload,
    )


def of_messages(payload: Json) -> Account:
    blocks = payload["content"]
    return Account(
        text="".join(block["text"] for block in blocks if block["type"] == "text"),
        tools=tuple((block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"),
        thinking="".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        stop=payload["stop_reason"],
        final=payload,
    )


def arguments(text: str) -> Any:
    return json.loads(text) if text else {}


def without_nulls(value: Any) -> Any:
    """SDKs add them for what a provider does not send."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value
