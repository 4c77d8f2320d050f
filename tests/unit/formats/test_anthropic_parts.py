"""What requests and responses of Anthropic Messages are made of."""

from __future__ import annotations

from typing import Any

from luthien.formats.registry import ANTHROPIC_MESSAGES
from tests.unit.formats.shown_parts import resolved, shown

BASE64 = {"type": "base64", "media_type": "image/png", "data": "AA=="}
REQUEST: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "messages": [
        {"role": "user", "content": "Hello"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Read:", "cache_control": {"type": "ephemeral"}},
                {"type": "image", "source": BASE64},
                {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                {"type": "document", "source": {"type": "file", "file_id": "file_1"}, "title": "A file"},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "prose"}},
                {
                    "type": "document",
                    "title": "Blocks",
                    "context": "old",
                    "source": {"type": "content", "content": [{"type": "text", "text": "one"}]},
                    "citations": {"enabled": True},
                },
                {"type": "document", "source": {"type": "content", "content": "all"}},
                {"type": "document", "source": {"type": "content", "content": []}, "title": "Empty"},
                {
                    "type": "search_result",
                    "source": "kb/1",
                    "title": "Found",
                    "content": [{"type": "text", "text": "two"}],
                },
                {"type": "container_upload", "file_id": "file_2"},
                {"type": "hologram"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                {"type": "thinking", "thinking": "Unsigned.", "signature": ""},
                {"type": "redacted_thinking", "data": "ZW5j"},
                {"type": "compaction", "content": "So far."},
                {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"q": "x"}},
                {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "y"}},
                {
                    "type": "web_search_tool_result",
                    "tool_use_id": "srv_1",
                    "content": [
                        {
                            "type": "web_search_result",
                            "url": "https://e.com",
                            "title": "E",
                            "encrypted_content": "ZQ==",
                        }
                    ],
                },
                {
                    "type": "web_fetch_tool_result",
                    "tool_use_id": "srv_2",
                    "content": {
                        "type": "web_fetch_result",
                        "content": {"type": "document", "source": {"type": "text", "data": "page"}},
                    },
                },
                {
                    "type": "code_execution_tool_result",
                    "tool_use_id": "srv_3",
                    "content": {"type": "code_execution_result", "stdout": "1", "return_code": 0, "content": []},
                },
                {"type": "mcp_tool_use", "id": "mcp_1", "name": "echo", "server_name": "s", "input": {}},
                {
                    "type": "mcp_tool_result",
                    "tool_use_id": "mcp_1",
                    "is_error": False,
                    "content": [{"type": "text", "text": "echoed"}],
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "plain"},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": [
                        {"type": "text", "text": "one"},
                        {"type": "image", "source": BASE64},
                        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
                        {"type": "search_result", "title": "T", "content": [{"type": "text", "text": "hit"}]},
                        {"type": "tool_reference", "tool_name": "later"},
                        {"type": "hologram"},
                    ],
                },
                {"type": "tool_result", "tool_use_id": "toolu_3", "is_error": True},
            ],
        },
        {"role": "system", "content": "Now be brief."},
        {"role": "user", "content": 7, "mood": "good"},
    ],
    "system": [{"type": "text", "text": "Be kind."}],
    "tools": [
        {"name": "find", "input_schema": {"type": "object"}},
        {"type": "web_search_20250305", "name": "web_search"},
        {"type": "mcp_toolset", "mcp_server_name": "s"},
    ],
    "mcp_servers": [{"type": "url", "url": "https://mcp.example.com", "name": "s"}],
}


def test_a_request_with_everything_in_it() -> None:
    parts = ANTHROPIC_MESSAGES.request_parts(REQUEST)
    one, two, three = (f"/messages/{index}/content" for index in (1, 2, 3))
    assert shown(parts) == [
        ("text", "user", "/messages/0/content", "", "Hello"),
        ("text", "user", f"{one}/0", "", "Read:"),
        ("image", "user", f"{one}/1", "", None),
        ("image", "user", f"{one}/2", "", None),
        ("file", "user", f"{one}/3", "", None),
        ("file", "user", f"{one}/4", "", "prose"),
        ("text", "user", f"{one}/5/title", "", "Blocks"),
        ("text", "user", f"{one}/5/context", "", "old"),
        ("text", "user", f"{one}/5/source/content/0", "", "one"),
        ("file", "user", f"{one}/6", "", "all"),
        ("text", "user", f"{one}/7/title", "", "Empty"),
        ("text", "user", f"{one}/8/title", "", "Found"),
        ("text", "user", f"{one}/8/content/0", "", "two"),
        ("file", "user", f"{one}/9", "", None),
        ("other", "user", f"{one}/10", "", None),
        ("reasoning", "assistant", f"{two}/0", "", "Hm."),
        ("reasoning", "assistant", f"{two}/1", "", "Unsigned."),
        ("reasoning", "assistant", f"{two}/2", "", None),
        ("text", "assistant", f"{two}/3", "", "So far."),
        ("tool_call", "assistant", f"{two}/4", "find", '{"q":"x"}'),
        ("tool_call", "assistant", f"{two}/5", "web_search", '{"query":"y"}'),
        ("tool_result", "tool", f"{two}/6/content/0", "web_search", None),
        ("file", "tool", f"{two}/7/content/content", "web_fetch", "page"),
        ("tool_result", "tool", f"{two}/8/content", "code_execution", None),
        ("tool_call", "assistant", f"{two}/9", "echo", "{}"),
        ("tool_result", "tool", f"{two}/10/content/0", "", "echoed"),
        ("tool_result", "tool", f"{three}/0/content", "", "plain"),
        ("tool_result", "tool", f"{three}/1/content/0", "", "one"),
        ("image", "tool", f"{three}/1/content/1", "", None),
        ("file", "tool", f"{three}/1/content/2", "", None),
        ("tool_result", "tool", f"{three}/1/content/3/title", "", "T"),
        ("tool_result", "tool", f"{three}/1/content/3/content/0", "", "hit"),
        ("tool_result", "tool", f"{three}/1/content/4", "later", None),
        ("other", "tool", f"{three}/1/content/5", "", None),
        ("tool_result", "tool", f"{three}/2", "", None),
        ("instruction", "system", "/messages/4/content", "", "Now be brief."),
        ("other", "user", "/messages/5/content", "", None),
        ("other", "user", "/messages/5/mood", "", "good"),
        ("instruction", "system", "/system/0", "", "Be kind."),
        ("tool_definition", "", "/tools/0", "find", None),
        ("tool_definition", "", "/tools/1", "web_search", None),
        ("tool_definition", "", "/tools/2", "mcp_toolset", None),
        ("tool_definition", "", "/mcp_servers/0", "s", None),
    ]
    assert [part.pointer for part in parts if part.is_signed] == [f"{two}/0", f"{two}/2", f"{two}/6/content/0"]
    assert [part.call_id for part in parts if part.pointer.startswith(f"{three}/1")] == ["toolu_2"] * 7
    assert all(resolved(REQUEST, part.pointer) is part.value for part in parts)


def test_a_system_text_of_its_own() -> None:
    body = {"system": "Be brief.", "messages": []}
    [part] = ANTHROPIC_MESSAGES.request_parts(body)
    assert shown([part]) == [("instruction", "system", "/system", "", "Be brief.")]
    part.set("Be kind.")
    assert (body["system"], part.value, part.text) == ("Be kind.", "Be kind.", "Be kind.")


def test_a_response() -> None:
    content = [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "text", "text": "Hello", "citations": [{"type": "char_location", "cited_text": "H"}]},
        {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {}},
    ]
    parts = ANTHROPIC_MESSAGES.response_parts({"role": "assistant", "content": content, "stop_reason": "tool_use"})
    assert shown(parts) == [
        ("reasoning", "assistant", "/content/0", "", "Hm."),
        ("text", "assistant", "/content/1", "", "Hello"),
        ("tool_call", "assistant", "/content/2", "find", "{}"),
    ]
    assert parts[1].value["citations"][0]["cited_text"] == "H"


def test_documents_within_documents_are_not_followed_for_ever() -> None:
    block: dict[str, Any] = {"type": "text", "text": "deep"}
    for _ in range(300):
        block = {"type": "document", "source": {"type": "content", "content": [block]}}
    body = {"messages": [{"role": "user", "content": [block]}]}
    (part,) = ANTHROPIC_MESSAGES.request_parts(body)
    assert shown([part]) == [("other", "user", "/messages/0/content/0/source/content/0", "", None)]
