"""What a response says, whatever its wire format: its texts and its tool calls, in order.

Read here without the product's own code, which these tests are about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

CHAT_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")
SIGNED = "thinking"
"""The kind of text that no policy may change without taking its signature away."""

Json = dict[str, Any]


@dataclass
class Content:
    """Texts as (kind, text), without empty ones; client tools' calls as (name, arguments as JSON text).

    `ends` says why it ended: for each choice, where there are several.
    """

    texts: list[tuple[str, str]] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    def say(self, kind: str, text: Any) -> None:
        if isinstance(text, str) and text:
            self.texts.append((kind, joined(text)))

    def call(self, name: Any, arguments: Any) -> None:
        self.calls.append((name, joined(arguments or "")))

    def end(self, reason: Any) -> None:
        if isinstance(reason, str) and reason:
            self.ends.append(reason)


def joined(text: str) -> str:
    """Halves of a surrogate pair that stand side by side are one character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def content_of(folder: str, response: Json | None) -> Content:
    """What an assembled response says."""
    content = Content()
    {"openai_chat": _chat, "anthropic_messages": _anthropic, "openai_responses": _responses}[folder](
        response or {}, content
    )
    return content


def frame_of(folder: str, response: Json) -> Json:
    """All of a response around what it says: usage, ids and whatever else stands there."""
    said = {
        "openai_chat": {"choices"},
        "anthropic_messages": {"content", "stop_reason"},
        "openai_responses": {"output", "output_text"},
    }[folder]
    return {key: value for key, value in response.items() if key not in said}


def _chat(response: Json, content: Content) -> None:
    for choice in response.get("choices") or ():
        message = choice["message"]
        content.end(choice["finish_reason"])
        for name in CHAT_TEXTS:
            content.say(f"{choice['index']}/{name}", message.get(name))
        for call in message.get("tool_calls") or ():
            part = call.get("function") or call.get("custom") or {}
            content.call(part.get("name"), part.get("arguments", part.get("input")))
        if message.get("function_call"):
            content.call(message["function_call"]["name"], message["function_call"]["arguments"])


def _anthropic(response: Json, content: Content) -> None:
    content.end(response.get("stop_reason"))
    content.end(response.get("stop_sequence"))
    content.end((response.get("stop_details") or {}).get("explanation"))
    content.end((response.get("container") or {}).get("id"))
    for block in response.get("content") or ():
        if block["type"] in {"text", SIGNED}:
            content.say(block["type"], block.get(block["type"]))
        elif block["type"] == "tool_use":
            content.call(block["name"], block.get("partial_json") or json.dumps(block["input"]))


def _responses(response: Json, content: Content) -> None:
    content.end(response.get("status"))
    for item in response.get("output") or ():
        for kind, text in item_texts(item):
            content.say(kind, text)
        if item["type"] in {"function_call", "custom_tool_call"}:
            content.call(item["name"], item.get("arguments", item.get("input")))


def item_texts(item: Json) -> Iterator[tuple[str, Any]]:
    for part in (*(item.get("summary") or ()), *(item.get("content") or ())):
        yield part["type"], part.get("refusal") if part["type"] == "refusal" else part.get("text")
