"""The official SDKs, reading the bytes of a stream as if a server sent them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import anthropic
import httpx2 as httpx
import openai

from tests.corpus.content import CHAT_TEXTS, SIGNED, Content, content_of, item_texts

Read = Callable[[bytes], Content]
Json = dict[str, Any]


class Told(Exception):
    """The SDK told its caller that the stream has failed; with what it had read before."""

    def __init__(self, content: Content) -> None:
        super().__init__("the stream has failed")
        self.content = content


def events_of(folder: str) -> Read:
    """Reads with `create(stream=True)`, and puts together by hand."""
    return {"openai_chat": _chat_events, "anthropic_messages": _anthropic_events, "openai_responses": _output_events}[
        folder
    ]


def accumulated_by(folder: str) -> Read:
    """Reads with `.stream()`, which puts together itself."""
    return {"openai_chat": _chat_whole, "anthropic_messages": _anthropic_whole, "openai_responses": _output_whole}[
        folder
    ]


@contextmanager
def _openai(raw: bytes) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url="http://sdk.test/v1", api_key="sk", max_retries=0, http_client=_replay(raw)
    ) as client:
        yield client


@contextmanager
def _anthropic(raw: bytes) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url="http://sdk.test", api_key="sk", max_retries=0, http_client=_replay(raw)
    ) as client:
        yield client


def _replay(raw: bytes) -> Any:
    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=raw)

    return httpx.Client(transport=httpx.MockTransport(answer))


ASKS: Any = {
    "openai_chat": {"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
    "anthropic_messages": {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]},
    "openai_responses": {"model": "m", "input": "Hi"},
}


def _chat_events(raw: bytes) -> Content:
    texts: dict[tuple[int, int], str] = {}
    calls: dict[tuple[int, int], list[str]] = {}
    ends: dict[int, str] = {}

    def add(choice: Any) -> None:
        delta: Any = getattr(choice, "delta", None)
        index = getattr(choice, "index", None) or 0
        if getattr(choice, "finish_reason", None):
            ends[index] = choice.finish_reason
        for place, name in enumerate(CHAT_TEXTS):
            text = getattr(delta, name, None)
            if text:
                texts[index, place] = texts.get((index, place), "") + text
        for call in getattr(delta, "tool_calls", None) or ():
            part = call.function.to_dict() if call.function else getattr(call, "custom", None) or {}
            _grow(calls, (index, call.index), part)
        if getattr(delta, "function_call", None):
            _grow(calls, (index, -1), delta.function_call.to_dict())

    def content() -> Content:
        read = Content(ends=[reason for _, reason in sorted(ends.items())])
        for (index, place), text in sorted(texts.items()):
            read.say(f"{index}/{CHAT_TEXTS[place]}", text)
        read.calls = [(name, arguments) for _, (name, arguments) in sorted(calls.items())]
        return read

    with _openai(raw) as client, _told(content, openai.APIError):
        for chunk in client.chat.completions.create(stream=True, **ASKS["openai_chat"]):
            for choice in chunk.choices:
                add(choice)
    return content()


def _grow(calls: dict[tuple[int, int], list[str]], key: tuple[int, int], part: Json) -> None:
    known = calls.setdefault(key, ["", ""])
    known[0] += part.get("name") or ""
    known[1] += part.get("arguments") or part.get("input") or ""


def _chat_whole(raw: bytes) -> Content:
    snapshots: list[Any] = []

    def content() -> Content:
        return content_of("openai_chat", _plain(snapshots[-1]) if snapshots else None)

    with (
        _openai(raw) as client,
        _told(content, openai.APIError),
        client.chat.completions.stream(**ASKS["openai_chat"]) as stream,
    ):
        # Not `get_final_completion()`, which raises when the finish reason is `length` or `content_filter`.
        snapshots += (event.snapshot for event in stream if event.type == "chunk")
    return content()


def _anthropic_events(raw: bytes) -> Content:
    blocks: dict[int, Json] = {}
    end: Json = {}

    def content() -> Content:
        for block in blocks.values():
            if pieces := block.pop("pieces", ""):
                block |= _parsed(pieces)
        return content_of("anthropic_messages", {"content": [*blocks.values()], **end})

    with _anthropic(raw) as client, _told(content, anthropic.APIError):
        for event in client.messages.create(stream=True, **ASKS["anthropic_messages"]):
            if event.type == "content_block_start":
                blocks[event.index] = _plain(event.content_block)
            elif event.type == "message_delta":
                end |= _plain(event.delta)
            elif event.type == "content_block_delta":
                delta = _plain(event.delta)
                name, kind = delta["type"], {"text_delta": "text", "thinking_delta": SIGNED}.get(delta["type"], "")
                if kind:
                    blocks[event.index][kind] += delta[kind]
                elif name == "input_json_delta":
                    block = blocks[event.index]
                    block["pieces"] = block.get("pieces", "") + delta["partial_json"]
    return content()


def _parsed(pieces: str) -> Json:
    try:
        return {"input": json.loads(pieces)}
    except ValueError:
        return {"partial_json": pieces}


def _anthropic_whole(raw: bytes) -> Content:
    snapshots: list[Any] = []

    def content() -> Content:
        return content_of("anthropic_messages", _plain(snapshots[-1]) if snapshots else None)

    with (
        _anthropic(raw) as client,
        _told(content, anthropic.APIError),
        client.messages.stream(**ASKS["anthropic_messages"]) as stream,
    ):
        snapshots.append(stream.get_final_message())
    return content()


_WHOLE = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text", "reasoning_summary_text": "text"}
_CALLS = {"function_call_arguments": "arguments", "custom_tool_call_input": "input"}


def _output_events(raw: bytes) -> Content:
    texts: dict[tuple[Any, ...], str] = {}
    calls: dict[Any, list[str]] = {}
    last: Json = {}

    def add_item(index: Any, item: Json, *, is_done: bool) -> None:
        if item["type"] in {"function_call", "custom_tool_call"}:
            calls[index] = [item["name"], item["arguments"] if "arguments" in item else item["input"]]
        elif is_done and not any(key[0] == index for key in texts):
            texts.update({(index, place, kind): text for place, (kind, text) in enumerate(item_texts(item))})

    def add(event: Json) -> None:
        name, _, how = event["type"].removeprefix("response.").rpartition(".")
        item = event.get("output_index", event.get("item_id"))
        if name in _WHOLE and how in {"delta", "done"}:
            kind = "summary_text" if name == "reasoning_summary_text" else name
            key = item, event.get("summary_index", event.get("content_index")), kind
            texts[key] = texts.get(key, "") + event["delta"] if how == "delta" else event[_WHOLE[name]]
        elif "response" in event:
            last.update(event["response"])
        elif name == "output_item":
            add_item(item, event["item"], is_done=how == "done")
        elif name in _CALLS:
            known = calls[item]
            known[1] = known[1] + event["delta"] if how == "delta" else event[_CALLS[name]]

    def content() -> Content:
        if not texts and not calls:
            return content_of("openai_responses", last)
        read = Content(calls=[(name, arguments) for name, arguments in calls.values()], ends=[last["status"]])
        for (_, _, kind), text in texts.items():
            read.say(kind, text)
        return read

    with _openai(raw) as client, _told(content, openai.APIError):
        for event in client.responses.create(stream=True, **ASKS["openai_responses"]):
            add(_plain(event))
    return content()


def _output_whole(raw: bytes) -> Content:
    last: list[Any] = []

    def content() -> Content:
        return content_of("openai_responses", _plain(last[-1]) if last else None)

    with (
        _openai(raw) as client,
        _told(content, openai.APIError),
        client.responses.stream(**ASKS["openai_responses"]) as stream,
    ):
        for event in cast("Iterable[Any]", stream):
            if event.type in {"error", "response.failed"}:
                raise Told(content())
            if event.type in {"response.completed", "response.incomplete"}:
                last.append(event.response)
    return content()


@contextmanager
def _told(content: Callable[[], Content], error: type[Exception]) -> Iterator[None]:
    with warnings.catch_warnings():
        # The SDKs' models warn of what they do not know yet.
        warnings.filterwarnings("ignore", "Pydantic serializer", UserWarning)
        try:
            yield
        except error as raised:
            raise Told(content()) from raised


def _plain(model: Any) -> Any:
    """What the SDK's object holds, as JSON values."""
    return model.model_dump(warnings=False, by_alias=True) if hasattr(model, "model_dump") else model
