"""What requests and responses of OpenAI Chat Completions are made of."""

from __future__ import annotations

from typing import Any

from luthien.formats.registry import OPENAI_CHAT
from tests.unit.formats.shown_parts import resolved, shown

REQUEST: dict[str, Any] = {
    "model": "m",
    "functions": [{"name": "old", "parameters": {}}],
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}], "name": "dev"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look:"},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
                {"type": "file", "file": {"file_id": "file-1"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
                {"type": "hologram", "text": "unknown"},
                "no object",
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "refusal": "No.",
            "audio": {"id": "audio_1"},
            "reasoning_content": "Hm.",
            "reasoning_details": [
                {"type": "reasoning.summary", "summary": "Thought."},
                {"type": "reasoning.text", "text": "Hm.", "signature": "c2ln"},
                {"type": "reasoning.encrypted", "data": "ZW5j"},
            ],
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}},
                {"id": "call_2", "type": "custom", "custom": {"name": "run", "input": "ls"}},
            ],
            "mood": "good",
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "Never."}]},
        {"role": "assistant", "function_call": {"name": "old", "arguments": "{}"}},
        {"role": "tool", "tool_call_id": "call_1", "content": "found"},
        {
            "role": "tool",
            "tool_call_id": "call_2",
            "content": [{"type": "text", "text": "a.txt"}, {"type": "image_url", "image_url": {"url": "data:,"}}],
        },
        {"role": "function", "name": "old", "content": "done"},
        "no message",
    ],
    "prediction": {"type": "content", "content": "maybe"},
    "tools": [
        {"type": "function", "function": {"name": "find", "parameters": {}}},
        {"type": "custom", "custom": {"name": "run"}},
        {"type": "web_search"},
    ],
}


def test_a_request_with_everything_in_it() -> None:
    parts = OPENAI_CHAT.request_parts(REQUEST)
    assert shown(parts) == [
        ("tool_definition", "", "/functions/0", "old", None),
        ("instruction", "system", "/messages/0/content", "", "Be brief."),
        ("instruction", "developer", "/messages/1/content/0", "", "Be kind."),
        ("text", "user", "/messages/2/content/0", "", "Look:"),
        ("image", "user", "/messages/2/content/1", "", None),
        ("audio", "user", "/messages/2/content/2", "", None),
        ("file", "user", "/messages/2/content/3", "", None),
        ("file", "user", "/messages/2/content/4", "", None),
        ("other", "user", "/messages/2/content/5", "", "unknown"),
        ("other", "user", "/messages/2/content/6", "", "no object"),
        ("refusal", "assistant", "/messages/3/refusal", "", "No."),
        ("audio", "assistant", "/messages/3/audio", "", None),
        ("reasoning", "assistant", "/messages/3/reasoning_content", "", "Hm."),
        ("reasoning", "assistant", "/messages/3/reasoning_details/0", "", "Thought."),
        ("reasoning", "assistant", "/messages/3/reasoning_details/1", "", "Hm."),
        ("reasoning", "assistant", "/messages/3/reasoning_details/2", "", None),
        ("tool_call", "assistant", "/messages/3/tool_calls/0", "find", '{"q": 1}'),
        ("tool_call", "assistant", "/messages/3/tool_calls/1", "run", "ls"),
        ("other", "assistant", "/messages/3/mood", "", "good"),
        ("refusal", "assistant", "/messages/4/content/0", "", "Never."),
        ("tool_call", "assistant", "/messages/5/function_call", "old", "{}"),
        ("tool_result", "tool", "/messages/6/content", "", "found"),
        ("tool_result", "tool", "/messages/7/content/0", "", "a.txt"),
        ("image", "tool", "/messages/7/content/1", "", None),
        ("tool_result", "function", "/messages/8/content", "old", "done"),
        ("other", "", "/messages/9", "", "no message"),
        ("text", "assistant", "/prediction/content", "", "maybe"),
        ("tool_definition", "", "/tools/0", "find", None),
        ("tool_definition", "", "/tools/1", "run", None),
        ("tool_definition", "", "/tools/2", "web_search", None),
    ]
    assert [part.pointer for part in parts if part.is_signed] == [
        "/messages/3/reasoning_details/1",
        "/messages/3/reasoning_details/2",
    ]
    assert [part.call_id for part in parts if part.call_id] == ["call_1", "call_2", "call_1", "call_2", "call_2"]
    assert all(resolved(REQUEST, part.pointer) is part.value for part in parts)


def test_a_response_with_everything_in_it() -> None:
    message = {
        "role": "assistant",
        "reasoning": "Hm.",
        "content": "Hello",
        "refusal": None,
        "annotations": [{"type": "url_citation", "url_citation": {"url": "https://example.com", "title": "E"}}],
        "audio": {"id": "audio_1", "data": "UklGRg==", "transcript": "Hello"},
        "images": [{"type": "image_url", "image_url": {"url": "data:,"}}],
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "find", "arguments": "{}"}}],
    }
    body = {
        "id": "chatcmpl-1",
        "choices": [
            {"index": 0, "message": message, "finish_reason": "stop"},
            {"index": 1, "message": {"content": "Hi"}},
        ],
        "usage": {"prompt_tokens": 1},
    }
    assert shown(OPENAI_CHAT.response_parts(body)) == [
        ("reasoning", "assistant", "/choices/0/message/reasoning", "", "Hm."),
        ("text", "assistant", "/choices/0/message/content", "", "Hello"),
        ("tool_result", "assistant", "/choices/0/message/annotations/0", "url_citation", None),
        ("audio", "assistant", "/choices/0/message/audio", "", "Hello"),
        ("image", "assistant", "/choices/0/message/images/0", "", None),
        ("tool_call", "assistant", "/choices/0/message/tool_calls/0", "find", "{}"),
        ("text", "assistant", "/choices/1/message/content", "", "Hi"),
    ]


def test_a_changed_answer_has_no_tokens_beside_it() -> None:
    logprobs = {"content": [{"token": "Hello"}], "refusal": [{"token": "No"}]}
    choice: dict[str, Any] = {"message": {"content": "Hello"}, "logprobs": logprobs}
    [part] = OPENAI_CHAT.response_parts({"choices": [choice]})
    part.set("Hello")
    assert choice["logprobs"]["content"]
    part.set("Bye")
    assert choice == {"message": {"content": "Bye"}, "logprobs": {"content": [], "refusal": [{"token": "No"}]}}
