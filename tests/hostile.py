"""Calls in which everything that a client or a provider controls tries to get out of the page it is shown on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from luthien.policies.policy import Needs, Policy, Request, Response, Verdict
from tests.playbook import Gateway, Play, ScriptedProvider, answers, call_id_of, streams
from tests.wire import DONE, sse

MARK = "luthienWasHere"
"""The name of the global variable that a script sets when it gets to run."""
RUNS = f"window.{MARK}=1"

MARKUP = (
    f"<script>{RUNS}</script>",
    f'"><img src=x onerror="{RUNS}">',
    f"'><svg onload='{RUNS}'>",
    f"</textarea></pre></td></details></dialog></title></style></script><script>{RUNS}</script>",
    f"--><script>{RUNS}</script>",
    f"<iframe srcdoc='<script>parent.{MARK}=1</script>'></iframe>",
    f"javascript:{RUNS}",
    f"<a href='javascript:{RUNS}' autofocus onfocus='{RUNS}' tabindex=1>x</a>",
    '<link rel="stylesheet" href="http://evil.example/x.css">',
    '<meta http-equiv="refresh" content="0;url=http://evil.example/">',
    "<base href='http://evil.example/'>",
    "<img src='http://evil.example/beacon'>",
    "{{ 7 * 7 }} {% raw %} ${7*7} #{7*7}",
    f"data: x\n\nevent: call\ndata: {{}}\n\nid: <script>{RUNS}</script>",
)
INVISIBLE = (
    "\u202eevil\u202c",
    "\u2066left\u2069",
    "zero\u200bwidth\u200d\ufeff",
    "\u00ad\u034f\u115f",
    "tag\U000e0041\U000e0042",
    "private\ue000",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "nul\x00byte\x08\x7f\x85\x9b",
    "line\u2028paragraph\u2029",
    "lone\ud800surrogate",
    "Z\u0335\u0322\u0348a\u0336l\u0337g\u0338o",
)
ODD_KEYS = (
    "", " ", '"', "'", "<b>", "&amp;", "a/b", "a~b", "~1", "#", "?", "%", "%22", "%zz", "a.b", "\x00", "\ud800", "é",
    "\u202e", "x" * 300, "__proto__", "constructor",
)  # fmt: skip
POISON = " ".join((*MARKUP, *INVISIBLE))
HEADER = " ".join(MARKUP).replace("\n", " ")
"""What of it a header can carry."""


class Poisonous(Policy):
    """Says what it must not say in each word that it leaves in the record."""

    needs = Needs.WHOLE

    async def on_request(self, request: Request) -> Verdict:
        for slot in request.texts():
            slot.set(slot.text + POISON[::-1] + MARKUP[0])
        return Verdict.modify(POISON).with_details(said=MARKUP[0], asked_call_id=MARKUP[1])

    async def on_response(self, response: Response) -> Verdict:
        for slot in response.texts():
            slot.set(MARKUP[3] + slot.text)
        return Verdict.modify(POISON)


@dataclass(frozen=True, slots=True)
class Hostile:
    """A call: what the provider plays, and how the client asks."""

    name: str
    play: Play
    path: str
    body: Any
    headers: dict[str, str] | None = None


def tool() -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": MARKUP[1],
            "description": POISON,
            "parameters": {"type": "object", "properties": {POISON: {"type": "string", "enum": [POISON]}}},
        },
    }


def chat_request(**fields: Any) -> dict[str, Any]:
    """Poison in every value, key and id of a chat request."""
    arguments = json.dumps({POISON: POISON, "": [POISON]})
    call = {"id": MARKUP[0], "type": "function", "function": {"name": MARKUP[2], "arguments": arguments}}
    return {
        "model": POISON,
        "messages": [
            {"role": "system", "content": POISON, POISON: POISON},
            {"role": "user", "name": MARKUP[0], "content": [{"type": "text", "text": POISON}, {"type": MARKUP[0]}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": MARKUP[0], "content": POISON},
            {"role": MARKUP[1], "content": POISON},
            *({"role": "user", "content": text} for text in MARKUP[:6]),
        ],
        "tools": [tool()],
        "metadata": {POISON: POISON},
        "user": POISON,
        POISON: {POISON: [POISON]},
        **fields,
    }


def chat_response() -> dict[str, Any]:
    """Poison in every value, key and id of a chat response."""
    call = {
        "id": MARKUP[4],
        "type": MARKUP[0],
        "function": {"name": POISON, "arguments": json.dumps({POISON: POISON})},
    }
    message = {"role": MARKUP[0], "content": POISON, "refusal": POISON, "tool_calls": [call], POISON: POISON}
    return {
        "id": MARKUP[0],
        "object": MARKUP[1],
        "model": POISON,
        "choices": [{"index": 0, "message": message, "finish_reason": MARKUP[1]}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, POISON: POISON},
        "system_fingerprint": POISON,
        POISON: POISON,
    }


def chat_stream() -> list[bytes]:
    call = {"index": 0, "id": MARKUP[0], "type": "function", "function": {"name": MARKUP[1], "arguments": "{"}}
    rest = {"index": 0, "function": {"arguments": json.dumps(POISON) + ":1}"}}
    deltas = [
        {"role": MARKUP[0], "content": POISON},
        {"tool_calls": [call]},
        {"tool_calls": [rest]},
        {POISON: POISON},
    ]
    base = {"id": MARKUP[0], "model": POISON, "object": "chat.completion.chunk"}
    frames = [sse({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) for delta in deltas]
    return [*frames, sse({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": MARKUP[1]}]}), DONE]


def odd_keys() -> list[dict[str, Any]]:
    """Messages with keys that mean something in addresses, selectors, pointers or markup, over what is folded."""
    below = {"same": [{"at": number, "text": "word " * 30} for number in range(12)]}
    return [{"role": "user", "content": "Hello", f"odd {key}": {key: below}} for key in ODD_KEYS]


def messages_request() -> dict[str, Any]:
    return {
        "model": MARKUP[0],
        "max_tokens": 10,
        "system": POISON,
        "messages": [
            {"role": "user", "content": POISON},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": MARKUP[0], "name": POISON, "input": {POISON: POISON}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": MARKUP[0], "content": POISON}]},
        ],
        "metadata": {"user_id": MARKUP[1]},
    }


def messages_response() -> dict[str, Any]:
    blocks = [
        {"type": "thinking", "thinking": POISON, "signature": MARKUP[0]},
        {"type": "text", "text": POISON},
        {"type": "tool_use", "id": MARKUP[0], "name": MARKUP[1], "input": {POISON: POISON}},
        {"type": MARKUP[2], POISON: POISON},
    ]
    usage = {"input_tokens": 1, "output_tokens": 1}
    return {
        "id": MARKUP[0], "type": "message", "role": "assistant", "model": POISON, "content": blocks,
        "stop_reason": MARKUP[1], "stop_sequence": POISON, "usage": usage,
    }  # fmt: skip


def corpus() -> Iterator[Hostile]:
    """One call for each way that poison has into the record."""
    chat, messages, responses = "/v1/chat/completions", "/v1/messages", "/v1/responses"
    headers = {"luthien-session-id": HEADER, "user-agent": HEADER, "x-request-id": HEADER}
    answered = {"x-request-id": HEADER, "openai-processing-ms": MARKUP[0], "server": HEADER}
    yield Hostile("chat", answers(chat_response(), headers=answered), chat, chat_request(), headers)
    yield Hostile("stream", streams(*chat_stream(), headers=answered), chat, chat_request(stream=True), headers)
    yield Hostile("messages", answers(messages_response()), messages, messages_request(), headers)
    item = {
        "type": "message",
        "id": MARKUP[0],
        "role": MARKUP[1],
        "content": [{"type": "output_text", "text": POISON}],
    }
    answer = {"id": MARKUP[0], "object": "response", "status": MARKUP[1], "model": POISON, "output": [item]}
    asked = {
        "model": POISON,
        "instructions": POISON,
        "input": [{"role": MARKUP[0], "content": POISON}],
        "store": False,
    }
    yield Hostile("responses", answers(answer), responses, asked)
    error = {"error": {"type": MARKUP[0], "code": MARKUP[1], "message": POISON, "param": POISON}}
    yield Hostile("error", answers(error, status=400), chat, chat_request())
    page = f"<html><body>{POISON}</body></html>".encode("utf-8", "surrogatepass")
    yield Hostile("html", answers(page, status=502, headers={"content-type": "text/html"}), chat, chat_request())
    yield Hostile(
        "not JSON", answers(b"\xff\xfe<script>" + POISON.encode("utf-8", "surrogatepass")), chat, chat_request()
    )
    frames = [
        b"data: <script>" + RUNS.encode() + b"</script>\n\n",
        b"event: " + MARKUP[1].encode() + b"\ndata: {}\n\n",
    ]
    yield Hostile("keys", answers(chat_response()), chat, chat_request(messages=odd_keys()))
    yield Hostile(
        "large", answers({**chat_response(), "more": [POISON] * 30}), chat, chat_request(more=[POISON] * 30)
    )
    yield Hostile("bad frames", streams(*frames, then_cut=True), chat, chat_request(stream=True))


def record(gateway: Gateway, provider: ScriptedProvider, call: Hostile) -> str:
    """Makes a call and waits until it is stored; its id."""
    provider.will(call.play)
    headers = {name: value.encode("latin-1", "replace") for name, value in (call.headers or {}).items()}
    response = gateway.post(call.path, call.body, headers=headers)
    gateway.call(response)
    return call_id_of(response)


def long_line(size: int) -> dict[str, Any]:
    """A request that is one line of so many characters."""
    return {"model": "m", "messages": [{"role": "user", "content": ("<b>word</b> " * (size // 12 + 1))[:size]}]}


def many_frames(count: int) -> Callable[[], Iterator[bytes]]:
    """A stream of so many frames of text."""

    def frames() -> Iterator[bytes]:
        for number in range(count):
            delta = {"content": f"w{number} "}
            yield sse({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        yield sse({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield DONE

    return frames
