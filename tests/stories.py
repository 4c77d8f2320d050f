"""Made-up calls for the pictures of the documents: a support assistant and a coding agent, through real policies."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from opentelemetry.propagate import inject

from tests.playbook import Gateway, Play, ScriptedProvider, Turn, answers
from tests.wire import Json, anthropic_response, openai_response, openai_stream
from tests.wire_tools import anthropic_tools, openai_tools

Story = dict[str, str]
"""The ids of calls by name."""

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
SUPPORT, AGENT = "gpt-4o", "claude-sonnet-4-5"
SESSION, AGENT_SESSION = "support-4127", "fix-refund-rounding"
JUDGE_KEY = "PICTURES_JUDGE_KEY"

CONFIGURATION: dict[str, Any] = {
    "policies": [
        {
            "policy": "redact",
            "config": {
                "rules": [
                    {"kinds": ["email", "iban"], "action": "reversible"},
                    {"kinds": ["api_key"], "action": "block"},
                ]
            },
        },
        {
            "policy": "replace_text",
            "config": {
                "rules": [
                    {"find": "Project Nightingale", "replace": "Project Falcon", "in": ["request"]},
                    {"find": "Project Falcon", "replace": "Project Nightingale", "in": ["response"]},
                ]
            },
        },
        {"policy": "add_system_message", "config": {"text": "Never promise a refund. Answer in three sentences."}},
    ],
    "more": {
        "groups": [
            {
                "name": "agents",
                "match": {"routes": [MESSAGES]},
                "policies": [
                    {
                        "policy": "redact",
                        "config": {"rules": [{"kinds": ["api_key"], "action": "mask"}]},
                    },
                    {
                        "policy": "judge",
                        "config": {
                            "model": "gpt-4o-mini",
                            "question": "Does the agent do more than it was asked to?",
                            "sides": ["response"],
                            "threshold": 0.8,
                            "annotate_above": 0.4,
                            "credential": {"env": JUDGE_KEY},
                        },
                    },
                    {
                        "policy": "block_tools",
                        "mode": "shadow",
                        "config": {
                            "rules": [{"tool": "shell", "when": [{"pointer": "/command", "matches": r"\brm\b"}]}]
                        },
                    },
                ],
            }
        ]
    },
}

_SYSTEM = "You are the support assistant of a company that sells train tickets. Look bookings up before you answer."
_ASKED = (
    "My trip with Project Nightingale was cancelled, the booking is under dana@example.com here."
    " Please send the money to the account DE89 3704 0044 0532 0130 00 soon."
)
_BOOKING = {"booking": "TR-20931", "traveller": "dana@example.com", "state": "cancelled", "paid": "84.00 EUR"}
_ANSWER = (
    "I found your booking TR-20931, which was cancelled by the operator. The 84.00 EUR go to the account [iban-1]"
    " within 5 working days, and a confirmation goes to [email-1] today. Project Falcon runs again from Monday on."
)
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_booking",
            "description": "Finds the bookings of a customer",
            "parameters": {
                "type": "object",
                "properties": {"customer": {"type": "string"}, "state": {"type": "string"}},
                "required": ["customer"],
            },
        },
    }
]
_CODER = "You are an agent that works in a repository. Use your tools, and be brief."
_AGENT_TOOLS = [
    {"name": name, "description": does, "input_schema": {"type": "object"}}
    for name, does in (("read_file", "Reads a file"), ("shell", "Runs a command"))
]
_KEY = "sk-proj-" + "4fT9xLq2Vb7Nw1Zs8Rk3Yd6Hc5Mj0Pg"
_FILE = f'API_KEY = "{_KEY}"\n\n\ndef refund(cents: int) -> float:\n    return round(cents / 100)\n'


@contextmanager
def told(gateway: Gateway, provider: ScriptedProvider) -> Iterator[Story]:
    """Makes all calls, of which the last one runs for as long as the block does.

    All others are below the span that is current.
    """
    story: Story = {}
    _others(gateway, provider, story)
    _agent(gateway, provider, story)
    _support(gateway, provider, story)
    gate = provider.gate()

    async def begins(turn: Turn) -> None:
        frames = openai_stream("The next train ", "leaves at 14:32.")
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for frame in frames[:2]:
            await turn.chunk(frame)
        await gate.wait()
        for frame in frames[2:]:
            await turn.chunk(frame)
        await turn.send(b"0\r\n\r\n")

    provider.will(begins)
    body = _chat([{"role": "user", "content": "When does the next train to Ghent leave?"}]) | {"stream": True}
    headers = {"luthien-session-id": "support-4129"}
    options: dict[str, Any] = {"json": body, "headers": headers, "timeout": None}
    running = threading.Thread(target=httpx.post, args=(gateway.url + CHAT,), kwargs=options, daemon=True)
    running.start()
    try:
        yield story
    finally:
        gate.open()
        running.join(10)


def _support(gateway: Gateway, provider: ScriptedProvider, story: Story) -> None:
    """Three turns: the assistant looks a booking up, answers in a stream, and is thanked."""
    said: list[Json] = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _ASKED}]
    call = ("find_booking", {"customer": "[email-1]", "state": "cancelled"})
    story["lookup"] = _made(gateway, provider, CHAT, _chat(said), _usual(openai_tools("", call), 214, 31))
    own = [("find_booking", {"customer": "dana@example.com", "state": "cancelled"})]
    said.append(openai_tools("", *own)["choices"][0]["message"])
    said.append({"role": "tool", "tool_call_id": "call_0", "content": json.dumps(_BOOKING)})
    frames = [_counted(frame) for frame in openai_stream(*_words(_ANSWER))]
    story["answer"] = _made(gateway, provider, CHAT, _chat(said) | {"stream": True}, _typed(frames))
    answer = _ANSWER.replace("[iban-1]", "DE89 3704 0044 0532 0130 00").replace("[email-1]", "dana@example.com")
    said.append({"role": "assistant", "content": answer.replace("Falcon", "Nightingale")})
    said.append({"role": "user", "content": "Thank you. Can I keep my seat for Monday?"})
    kept = "Yes: seat 41 in coach 7 of Project Falcon stays yours until Sunday evening."
    story["thanked"] = _made(gateway, provider, CHAT, _chat(said), _usual(openai_response(kept), 402, 22))


def _agent(gateway: Gateway, provider: ScriptedProvider, story: Story) -> None:
    """Four calls of an agent; the judge remarks on the last, and a policy in shadow would have stopped its tool."""
    said: list[Json] = [{"role": "user", "content": "refund() loses cents. Mend it, and run the tests."}]
    steps: list[tuple[str, str, Json, str, float]] = [
        ("read", "I read the function first.", {"path": "src/refund.py"}, _FILE, 0.02),
        (
            "ran",
            "I divide without rounding, and run the tests.",
            {"command": "pytest -q tests/refund"},
            "4 passed",
            0.05,
        ),
        ("cleaned", "I clean the work tree up.", {"command": "rm -rf build .cache"}, "", 0.62),
    ]
    for name, text, arguments, result, probability in steps:
        tool = "read_file" if "path" in arguments else "shell"
        answer = anthropic_tools(text, (tool, arguments)) | {"model": f"{AGENT}-20250929"}
        answer["content"][1]["id"] = f"toolu_{name}"
        answer["usage"] = {"input_tokens": 380 + 90 * len(said), "output_tokens": 48}
        story[name] = _made(
            gateway, provider, MESSAGES, _agents(said), _judged(answer, probability), session=AGENT_SESSION
        )
        said.append({"role": "assistant", "content": answer["content"]})
        said.append(
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"toolu_{name}", "content": result}]}
        )
    done = anthropic_response("refund() keeps its cents now; four tests pass.") | {"model": f"{AGENT}-20250929"}
    done["usage"] = {"input_tokens": 920, "output_tokens": 14}
    story["done"] = _made(gateway, provider, MESSAGES, _agents(said), _judged(done, 0.01), session=AGENT_SESSION)


def _others(gateway: Gateway, provider: ScriptedProvider, story: Story) -> None:
    """Calls that end otherwise: blocked, and refused by the provider."""
    asks = [{"role": "user", "content": f"Why does {_KEY} get a 401?"}]
    story["blocked"] = _made(gateway, provider, CHAT, _chat(asks), answers(openai_response("-")), session="dev-88")
    busy = {
        "error": {"message": "Rate limit reached", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    }
    asks = [{"role": "user", "content": "Is there a train to Bruges tonight?"}]
    story["busy"] = _made(gateway, provider, CHAT, _chat(asks), answers(busy, status=429), session="support-4128")
    last = _usual(openai_response("Yes, at 21:04 from platform 3, with one change in Ghent."), 61, 17)
    story["bruges"] = _made(gateway, provider, CHAT, _chat(asks), last, session="support-4128")


def _made(
    gateway: Gateway, provider: ScriptedProvider, path: str, body: Json, play: Play, session: str = SESSION
) -> str:
    provider.will(play)
    headers = {"luthien-session-id": session}
    inject(headers)
    response: httpx.Response = gateway.post(path, body, headers=headers)
    return str(gateway.call(response)["call_id"])


def _chat(messages: list[Json]) -> Json:
    return {"model": SUPPORT, "messages": messages, "tools": _TOOLS, "temperature": 0.2}


def _agents(messages: list[Json]) -> Json:
    return {"model": AGENT, "max_tokens": 1024, "system": _CODER, "tools": _AGENT_TOOLS, "messages": messages}


def _usual(body: Json, tokens_in: int, tokens_out: int) -> Play:
    usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
    return _after(0.3, answers(body | {"model": f"{SUPPORT}-2024-08-06", "usage": usage}))


def _counted(frame: bytes) -> bytes:
    return frame.replace(b"gpt-test-2026", f"{SUPPORT}-2024-08-06".encode()).replace(
        b'"prompt_tokens": 9', b'"prompt_tokens": 297'
    )


def _words(text: str) -> list[str]:
    """As models write: a word or so at a time, and placeholders in pieces."""
    return re.findall(r"\[\w+|-\d\]\S*\s*|\S+\s*", text)


def _typed(frames: list[bytes]) -> Play:
    """A stream in the uneven time of a model."""

    async def play(turn: Turn) -> None:
        await asyncio.sleep(0.25)
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for number, frame in enumerate(frames):
            await turn.chunk(frame)
            await asyncio.sleep(0.012 + 0.03 * (number * 7 % 5 == 0) + 0.11 * (number % 13 == 12))
        await turn.send(b"0\r\n\r\n")

    return play


def _judged(body: Json, probability: float) -> Play:
    """Answers the agent with `body`, and the judge of it with a probability."""
    explanation = (
        "The agent deletes folders, which nobody asked it to do." if probability > 0.4 else "It does what was asked."
    )
    verdict = openai_response(json.dumps({"explanation": explanation, "probability": probability}))
    verdict |= {"model": "gpt-4o-mini-2024-07-18", "usage": {"prompt_tokens": 655, "completion_tokens": 24}}

    async def play(turn: Turn) -> None:
        is_judge = "chat/completions" in turn.path
        await _after(0.12 if is_judge else 0.4, answers(verdict if is_judge else body))(turn)

    return play


def _after(seconds: float, play: Play) -> Play:
    async def later(turn: Turn) -> None:
        await asyncio.sleep(seconds)
        await play(turn)

    return later
