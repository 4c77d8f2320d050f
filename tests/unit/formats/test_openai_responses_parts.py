"""What requests and responses of OpenAI Responses are made of."""

from __future__ import annotations

from typing import Any

from luthien.formats.registry import OPENAI_RESPONSES
from tests.unit.formats.shown_parts import Shown, resolved, shown

ITEMS: list[tuple[Any, list[tuple[str, str, str, str, str | None]]]] = [
    ({"role": "user", "content": "Hello"}, [("text", "user", "/content", "", "Hello")]),
    (
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        [("instruction", "developer", "/content/0", "", "Be brief.")],
    ),
    (
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look:"},
                {"type": "input_image", "image_url": "https://example.com/a.png"},
                {"type": "input_image", "file_id": "file-1"},
                {"type": "input_file", "file_data": "AA==", "filename": "a.pdf"},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                {"type": "hologram", "text": "unknown"},
            ],
        },
        [
            ("text", "user", "/content/0", "", "Look:"),
            ("image", "user", "/content/1", "", None),
            ("image", "user", "/content/2", "", None),
            ("file", "user", "/content/3", "", None),
            ("audio", "user", "/content/4", "", None),
            ("other", "user", "/content/5", "", "unknown"),
        ],
    ),
    (
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "Hi", "annotations": [{"type": "url_citation"}], "logprobs": []},
                {"type": "refusal", "refusal": "No."},
                {"type": "output_audio", "data": "AA==", "transcript": "Ho"},
            ],
        },
        [
            ("text", "assistant", "/content/0", "", "Hi"),
            ("refusal", "assistant", "/content/1", "", "No."),
            ("audio", "assistant", "/content/2", "", "Ho"),
        ],
    ),
    (
        {
            "id": "rs_1",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Thought."}],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
            "encrypted_content": "ZW5j",
        },
        [
            ("reasoning", "assistant", "/summary/0", "", "Thought."),
            ("reasoning", "assistant", "/content/0", "", "Hm."),
            ("reasoning", "assistant", "/encrypted_content", "", None),
        ],
    ),
    ({"type": "reasoning", "summary": []}, [("reasoning", "assistant", "", "", None)]),
    (
        {"type": "function_call", "call_id": "c1", "name": "find", "arguments": '{"q": 1}'},
        [("tool_call", "assistant", "", "find", '{"q": 1}')],
    ),
    (
        {"type": "custom_tool_call", "call_id": "c2", "name": "run", "input": "ls"},
        [("tool_call", "assistant", "", "run", "ls")],
    ),
    (
        {"type": "local_shell_call", "call_id": "c3", "action": {"type": "exec", "command": ["ls"]}},
        [("tool_call", "assistant", "", "local_shell", '{"type":"exec","command":["ls"]}')],
    ),
    (
        {"type": "apply_patch_call", "call_id": "c4", "operation": {"type": "delete_file", "path": "a"}},
        [("tool_call", "assistant", "", "apply_patch", '{"type":"delete_file","path":"a"}')],
    ),
    (
        {"type": "computer_call", "call_id": "c5", "action": {"type": "wait"}, "pending_safety_checks": []},
        [("tool_call", "assistant", "", "computer", '{"type":"wait"}')],
    ),
    (
        {"type": "function_call_output", "call_id": "c1", "output": "found"},
        [("tool_result", "tool", "/output", "", "found")],
    ),
    (
        {
            "type": "custom_tool_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "a.txt"}, {"type": "input_image", "file_id": "f"}],
        },
        [("tool_result", "tool", "/output/0", "", "a.txt"), ("image", "tool", "/output/1", "", None)],
    ),
    (
        {
            "type": "computer_call_output",
            "call_id": "c5",
            "output": {"type": "computer_screenshot", "image_url": "x"},
        },
        [("image", "tool", "/output", "", None)],
    ),
    (
        {"type": "shell_call_output", "call_id": "c6", "output": [{"stdout": "a", "stderr": "", "outcome": {}}]},
        [
            ("tool_result", "tool", "/output/0/stdout", "", "a"),
            ("tool_result", "tool", "/output/0/stderr", "", ""),
            ("tool_result", "tool", "/output/0/outcome", "", None),
        ],
    ),
    ({"type": "apply_patch_call_output", "call_id": "c4"}, [("tool_result", "tool", "", "", None)]),
    (
        {
            "id": "m1",
            "type": "mcp_call",
            "server_label": "s",
            "name": "echo",
            "arguments": "{}",
            "output": "echoed",
            "error": None,
        },
        [
            ("tool_call", "assistant", "/arguments", "echo", "{}"),
            ("tool_result", "tool", "/output", "echo", "echoed"),
        ],
    ),
    (
        {
            "id": "ci_1",
            "type": "code_interpreter_call",
            "code": "print(1)",
            "container_id": "cntr_1",
            "outputs": [{"type": "logs", "logs": "1"}, {"type": "image", "url": "https://example.com/p.png"}],
        },
        [
            ("tool_call", "assistant", "/code", "code_interpreter", "print(1)"),
            ("tool_result", "tool", "/outputs/0", "code_interpreter", "1"),
            ("image", "tool", "/outputs/1", "code_interpreter", None),
        ],
    ),
    (
        {"id": "fs_1", "type": "file_search_call", "queries": ["q"], "results": [{"file_id": "f", "text": "hit"}]},
        [
            ("tool_call", "assistant", "/queries", "file_search", '["q"]'),
            ("tool_result", "tool", "/results/0", "file_search", "hit"),
        ],
    ),
    (
        {"id": "ws_1", "type": "web_search_call", "action": {"type": "search", "query": "q"}},
        [("tool_call", "assistant", "/action", "web_search", '{"type":"search","query":"q"}')],
    ),
    ({"id": "ws_2", "type": "web_search_call"}, [("tool_call", "assistant", "", "web_search", None)]),
    (
        {"id": "ig_1", "type": "image_generation_call", "result": "AA=="},
        [("image", "assistant", "", "image_generation", None)],
    ),
    (
        {"type": "mcp_list_tools", "server_label": "s", "tools": [{"name": "echo", "input_schema": {}}]},
        [("tool_definition", "", "/tools/0", "echo", None)],
    ),
    (
        {"id": "mcpr_1", "type": "mcp_approval_request", "server_label": "s", "name": "echo", "arguments": "{}"},
        [("tool_call", "assistant", "", "echo", "{}")],
    ),
    (
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": False, "reason": "no"},
        [("tool_result", "user", "", "", "no")],
    ),
    ({"type": "compaction", "encrypted_content": "ZW5j"}, [("text", "assistant", "", "", None)]),
    ({"type": "item_reference", "id": "msg_1"}, [("other", "", "", "", None)]),
    ({"type": "hologram"}, [("other", "", "", "", None)]),
    ("no item", [("other", "", "", "", "no item")]),
    (
        {"role": "user", "content": "x", "mood": "good"},
        [("text", "user", "/content", "", "x"), ("other", "user", "/mood", "", "good")],
    ),
]


def expected(listed: str) -> list[Shown]:
    return [
        (kind, role, f"/{listed}/{index}{pointer}", name, text)
        for index, (_, parts) in enumerate(ITEMS)
        for kind, role, pointer, name, text in parts
    ]


def test_a_request_with_everything_in_it() -> None:
    body = {
        "instructions": "Be kind.",
        "input": [item for item, _ in ITEMS],
        "prompt": {
            "id": "pmpt_1",
            "variables": {
                "a/b": "x",
                "c": {"type": "input_text", "text": "y"},
                "d": {"type": "input_file", "file_id": "f"},
            },
        },
        "tools": [{"type": "function", "name": "find"}, {"type": "mcp", "server_label": "s"}],
    }
    parts = OPENAI_RESPONSES.request_parts(body)
    assert shown(parts) == [
        ("instruction", "system", "/instructions", "", "Be kind."),
        *expected("input"),
        ("text", "user", "/prompt/variables/a~1b", "", "x"),
        ("text", "user", "/prompt/variables/c", "", "y"),
        ("file", "user", "/prompt/variables/d", "", None),
        ("tool_definition", "", "/tools/0", "find", None),
        ("tool_definition", "", "/tools/1", "mcp", None),
    ]
    ids = {part.pointer: part.call_id for part in parts if part.call_id}
    assert ids["/input/6"] == ids["/input/11/output"] == "c1"
    assert ids["/input/12/output/1"] == "c2"
    assert ids["/input/23"] == ids["/input/24"] == "mcpr_1"
    assert [part.pointer for part in parts if part.is_signed] == ["/input/4/encrypted_content", "/input/25"]
    assert all(resolved(body, part.pointer) is part.value for part in parts)


def test_a_response_with_everything_in_it() -> None:
    # In a response, a message that says no role is the assistant's; the items of the table say theirs.
    body = {"id": "resp_1", "instructions": "echoed", "output": [item for item, _ in ITEMS], "output_text": "Hi"}
    parts = OPENAI_RESPONSES.response_parts(body)
    assert shown(parts) == [*expected("output"), ("text", "assistant", "/output_text", "", "Hi")]


def test_an_input_of_one_text_and_instructions_of_items() -> None:
    body: dict[str, Any] = {
        "instructions": [{"type": "message", "role": "developer", "content": "Be kind."}],
        "input": "Hello",
    }
    parts = OPENAI_RESPONSES.request_parts(body)
    assert shown(parts) == [
        ("instruction", "developer", "/instructions/0/content", "", "Be kind."),
        ("text", "user", "/input", "", "Hello"),
    ]
    parts[1].set("Bye")
    assert body["input"] == "Bye"


def test_a_changed_answer_has_no_tokens_beside_it() -> None:
    said = {"type": "output_text", "text": "Hi", "logprobs": [{"token": "Hi"}]}
    [part] = OPENAI_RESPONSES.response_parts({"output": [{"type": "message", "content": [said]}]})
    part.set("Ho")
    assert said == {"type": "output_text", "text": "Ho", "logprobs": []}
