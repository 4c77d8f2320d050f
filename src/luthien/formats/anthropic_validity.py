"""What holds of a stream of Anthropic Messages.

https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from __future__ import annotations

from collections.abc import Sequence

from luthien.formats import jsontext
from luthien.formats.format import Json, count_or_none, text_or_none
from luthien.formats.sse import Chunk
from luthien.formats.validity import (
    AFTER_END,
    DONE_MARKER,
    END_MISSING,
    EVENT_RULES,
    NOT_JSON,
    TOOL_ARGUMENTS,
    Findings,
    Growing,
    Rule,
    Violation,
    check_event_name,
    is_done,
)

START_FIRST = Rule("message_start_first", "`message_start` comes first")
START_ONCE = Rule("message_start_once", "`message_start` comes once")
BLOCK_INDEX = Rule("block_index", "blocks are numbered from 0 without gaps")
BLOCK_OPEN = Rule("block_open", "a block ends before the next one, or the message, does")
OUTSIDE_BLOCK = Rule("outside_block", "deltas and stops belong to the block that is open")
DELTA_TYPE = Rule("delta_type", "a delta is of the kind of its block")
BLOCK_AFTER_DELTA = Rule("block_after_message_delta", "no block comes after `message_delta`")
STOP_REASON_MISSING = Rule("stop_reason_missing", "a `message_delta` with a stop reason comes before `message_stop`")
NO_TOOL_USE = Rule("stop_reason_without_tool_use", "the stop reason `tool_use` comes with a block of that type")
UNTOLD_TOOL_USE = Rule("tool_use_without_stop_reason", "the stop reason of a call is not `end_turn`", is_quirk=True)
USAGE_MISSING = Rule("usage_missing", "`message_delta` says how many tokens were written", is_quirk=True)

RULES = (
    *EVENT_RULES,
    START_FIRST,
    START_ONCE,
    BLOCK_INDEX,
    BLOCK_OPEN,
    OUTSIDE_BLOCK,
    DELTA_TYPE,
    BLOCK_AFTER_DELTA,
    STOP_REASON_MISSING,
    NO_TOOL_USE,
    UNTOLD_TOOL_USE,
    USAGE_MISSING,
)

_TOOLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_FITTING = {
    "text_delta": frozenset({"text"}),
    "citations_delta": frozenset({"text"}),
    "thinking_delta": frozenset({"thinking"}),
    "signature_delta": frozenset({"thinking"}),
    "input_json_delta": _TOOLS,
}
_KNOWN_BLOCKS = _TOOLS | {"text", "thinking", "redacted_thinking"}
# After these, the arguments of a call may be cut short.
_FINISHED = frozenset({"tool_use", "end_turn"})


class AnthropicValidator:
    def __init__(self) -> None:
        self._findings = Findings()
        self._has_started = False
        self._has_ended = False
        self._block: int | None = None
        """The index of the open block."""
        self._block_type = ""
        self._input = Growing()
        self._bad_inputs = 0
        self._next = 0
        self._has_tool_use = False
        self._has_delta = False
        self._stop_reason: str | None = None
        self._has_usage = False

    def check(self, chunk: Chunk) -> Sequence[Violation]:
        if chunk.data:
            body = chunk.json
            if body is None:
                self._findings.add(DONE_MARKER if is_done(chunk) else NOT_JSON)
            else:
                self._check(chunk, body)
        return self._findings.told() if self._findings.found else ()

    def end(self) -> Sequence[Violation]:
        if not self._has_ended:
            self._findings.add(END_MISSING)
        return self._findings.told()

    def _check(self, chunk: Chunk, body: Json) -> None:
        said = body.get("type")
        kind = said if isinstance(said, str) else ""
        if chunk.event != kind:
            check_event_name(chunk, kind, self._findings)
        if self._has_ended:
            self._findings.add(AFTER_END)
            return
        match kind:
            case "content_block_delta":
                if not self._has_started:
                    self._started()
                self._delta(body)
            case "content_block_start":
                self._started()
                self._begin(body)
            case "content_block_stop":
                self._started()
                self._stop(body)
            case "message_start":
                self._start()
            case "message_delta":
                self._started()
                self._message_delta(body)
            case "message_stop":
                self._started()
                self._message_stop()
            case "error":
                self._has_ended = True

    def _started(self) -> None:
        if not self._has_started:
            self._has_started = True
            self._findings.add(START_FIRST)

    def _start(self) -> None:
        if self._has_started:
            self._findings.add(START_ONCE)
        self._has_started = True

    def _begin(self, body: Json) -> None:
        index = count_or_none(body.get("index"))
        if self._block is not None:
            self._findings.add(BLOCK_OPEN, f"block {self._block}")
            self._close()
        if index != self._next:
            self._findings.add(BLOCK_INDEX, f"{index} for {self._next}")
        if self._has_delta:
            self._findings.add(BLOCK_AFTER_DELTA)
        block = body.get("content_block")
        self._block = self._next if index is None else index
        self._next = self._block + 1
        self._block_type = (text_or_none(block.get("type")) or "") if isinstance(block, dict) else ""
        self._has_tool_use = self._has_tool_use or self._block_type == "tool_use"

    def _delta(self, body: Json) -> None:
        delta = body.get("delta")
        if self._block is None or body.get("index") != self._block:
            self._findings.add(OUTSIDE_BLOCK, "a delta")
            return
        if not isinstance(delta, dict):
            return
        kind = delta.get("type")
        fitting = _FITTING.get(kind) if isinstance(kind, str) else None
        if fitting is None or self._block_type not in _KNOWN_BLOCKS:
            return
        if self._block_type not in fitting:
            self._findings.add(DELTA_TYPE, f"{kind} in {self._block_type}")
        elif fitting is _TOOLS and isinstance(delta.get("partial_json"), str):
            self._input.pieces.append(delta["partial_json"])

    def _stop(self, body: Json) -> None:
        if self._block is None or body.get("index") != self._block:
            self._findings.add(OUTSIDE_BLOCK, "a stop")
        else:
            self._close()

    def _close(self) -> None:
        text, self._input = self._input.whole(), Growing()
        self._block = None
        if text and not jsontext.is_valid(text):
            self._bad_inputs += 1

    def _message_delta(self, body: Json) -> None:
        self._all_closed()
        self._has_delta = True
        delta, usage = body.get("delta"), body.get("usage")
        if isinstance(delta, dict):
            self._stop_reason = text_or_none(delta.get("stop_reason")) or self._stop_reason
        if isinstance(usage, dict) and count_or_none(usage.get("output_tokens")) is not None:
            self._has_usage = True

    def _all_closed(self) -> None:
        if self._block is not None:
            self._findings.add(BLOCK_OPEN, f"block {self._block} at the end")
            self._close()

    def _message_stop(self) -> None:
        self._has_ended = True
        self._all_closed()
        if self._stop_reason is None:
            self._findings.add(STOP_REASON_MISSING)
        elif self._stop_reason == "tool_use" and not self._has_tool_use:
            self._findings.add(NO_TOOL_USE)
        elif self._stop_reason == "end_turn" and self._has_tool_use:
            self._findings.add(UNTOLD_TOOL_USE)
        if self._has_delta and not self._has_usage:
            self._findings.add(USAGE_MISSING)
        if self._bad_inputs and self._stop_reason in _FINISHED:
            self._findings.add(TOOL_ARGUMENTS, f"{self._bad_inputs} calls")
