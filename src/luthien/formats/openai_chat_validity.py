"""What holds of a stream of OpenAI Chat Completions.

https://platform.openai.com/docs/api-reference/chat-streaming

Others that speak it do much differently, and clients bear with it: Azure's annotations have neither id nor object,
Gemini's calls come whole and without index, Ollama says the role in each chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

from luthien.formats import jsontext
from luthien.formats.blocks import object_of
from luthien.formats.format import Json, count_or_none, objects, text_or_none
from luthien.formats.sse import Chunk
from luthien.formats.validity import (
    AFTER_END,
    COMMON_RULES,
    END_MISSING,
    NOT_JSON,
    TOOL_ARGUMENTS,
    Findings,
    Growing,
    Rule,
    Violation,
    is_done,
)

OBJECT = Rule("chunk_object", "a chunk is a `chat.completion.chunk`")
OBJECT_MISSING = Rule("chunk_object_missing", "a chunk says what object it is", is_quirk=True)
ID_MISSING = Rule("chunk_id_missing", "a chunk has an id", is_quirk=True)
ID_CHANGED = Rule("chunk_id_changed", "all chunks have one id", is_quirk=True)
CHOICES_MISSING = Rule("choices_missing", "a chunk has a list of choices", is_quirk=True)
CHOICE_INDEX = Rule("choice_index", "choices are numbered from 0 without gaps")
CHOICE_INDEX_MISSING = Rule("choice_index_missing", "a choice has an index", is_quirk=True)
ROLE_MISSING = Rule("role_missing", "a choice begins with its role", is_quirk=True)
ROLE_REPEATED = Rule("role_repeated", "a choice says its role once", is_quirk=True)
CALL_INDEX = Rule("tool_call_index", "the tool calls of a choice are numbered from 0 without gaps")
CALL_INDEX_MISSING = Rule("tool_call_index_missing", "a tool call has an index", is_quirk=True)
CALL_INDEX_REUSED = Rule(
    "tool_call_index_reused", "calls with ids of their own have an index of their own", is_quirk=True
)
CALL_ID_MISSING = Rule("tool_call_id_missing", "the first piece of a tool call has its id", is_quirk=True)
CALL_NAME_MISSING = Rule("tool_call_name_missing", "the first piece of a tool call has its name")
FINISH_EMPTY = Rule("finish_reason_empty", "a choice that goes on has null for a finish reason", is_quirk=True)
FINISH_MISSING = Rule("finish_reason_missing", "each choice has a finish reason", is_quirk=True)
FINISH_REPEATED = Rule("finish_reason_repeated", "a choice has one finish reason, once", is_quirk=True)
AFTER_FINISH = Rule("choice_after_finish", "a choice says nothing after its finish reason")
NO_CALLS = Rule("finish_reason_without_calls", "the finish reason `tool_calls` comes with tool calls")
UNTOLD_CALLS = Rule("calls_without_finish_reason", "the finish reason of tool calls is not `stop`", is_quirk=True)
USAGE_EARLY = Rule("usage_early", "the chunk with the usage comes after the finish reasons", is_quirk=True)

RULES = (
    *COMMON_RULES,
    TOOL_ARGUMENTS,
    OBJECT,
    OBJECT_MISSING,
    ID_MISSING,
    ID_CHANGED,
    CHOICES_MISSING,
    CHOICE_INDEX,
    CHOICE_INDEX_MISSING,
    ROLE_MISSING,
    ROLE_REPEATED,
    CALL_INDEX,
    CALL_INDEX_MISSING,
    CALL_INDEX_REUSED,
    CALL_ID_MISSING,
    CALL_NAME_MISSING,
    FINISH_EMPTY,
    FINISH_MISSING,
    FINISH_REPEATED,
    AFTER_FINISH,
    NO_CALLS,
    UNTOLD_CALLS,
    USAGE_EARLY,
)

_OBJECT = "chat.completion.chunk"
_OTHER_TEXTS = ("reasoning_content", "reasoning", "refusal")


class _Call:
    __slots__ = ("_whole", "arguments", "call_id")

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.arguments = Growing()
        """Its arguments, if they are to be JSON."""
        self._whole = jsontext.Whole()

    def is_before(self, call_id: str, name: str) -> bool:
        """Whether a piece with this id and name is of another call: some give all calls one index."""
        if call_id and self.call_id:
            return call_id != self.call_id
        return bool(name) and self._whole.of(self.arguments.pieces)


class _Choice:
    """What one choice has said so far."""

    __slots__ = ("_calls", "_findings", "_has_old_call", "_has_role", "_known", "finish_reason")

    def __init__(self, findings: Findings) -> None:
        self.finish_reason: str | None = None
        self._findings = findings
        self._has_role = False
        self._has_old_call = False
        self._calls: list[_Call] = []
        self._known: dict[int, _Call] = {}

    def check(self, choice: Json) -> None:
        delta = choice.get("delta")
        if delta and isinstance(delta, dict):
            is_plain = len(delta) == 1 and "content" in delta and self._has_role and self.finish_reason is None
            if not is_plain:
                self._delta(delta)
        reason = choice.get("finish_reason")
        if reason is not None:
            self._finish(reason)

    def _delta(self, delta: Json) -> None:
        calls = delta.get("tool_calls")
        old_call = delta.get("function_call")
        says = bool(calls or old_call or _speaks(delta))
        if says and self.finish_reason is not None:
            self._findings.add(AFTER_FINISH)
        if delta.get("role"):
            if self._has_role:
                self._findings.add(ROLE_REPEATED)
            self._has_role = True
        elif says and not self._has_role:
            self._has_role = True
            self._findings.add(ROLE_MISSING)
        if calls:
            for call in objects(calls):
                self._call(call)
        self._has_old_call = self._has_old_call or isinstance(old_call, dict)

    def _call(self, call: Json) -> None:
        index = count_or_none(call.get("index"))
        call_id = text_or_none(call.get("id")) or ""
        part = object_of(call.get("function")) or object_of(call.get("custom"))
        name = text_or_none(part.get("name")) or ""
        if index is None:
            self._findings.add(CALL_INDEX_MISSING)
            known = None if call_id or name or not self._calls else self._calls[-1]
        else:
            known = self._known.get(index)
        if known is not None and index is not None and known.is_before(call_id, name):
            self._findings.add(CALL_INDEX_REUSED)
            known = None
        elif known is None and index is not None and index != len(self._known):
            self._findings.add(CALL_INDEX, f"{index} for {len(self._known)}")
        if known is None:
            known = self._begin(call_id, name)
            if index is not None:
                self._known[index] = known
        arguments = part.get("arguments")
        if isinstance(arguments, str):
            known.arguments.pieces.append(arguments)

    def _begin(self, call_id: str, name: str) -> _Call:
        if not call_id:
            self._findings.add(CALL_ID_MISSING)
        if not name:
            self._findings.add(CALL_NAME_MISSING)
        call = _Call(call_id)
        self._calls.append(call)
        return call

    def _finish(self, reason: object) -> None:
        if not reason or not isinstance(reason, str):
            self._findings.add(FINISH_EMPTY)
            return
        if self.finish_reason is not None:
            self._findings.add(FINISH_REPEATED)
            return
        self.finish_reason = reason
        if (reason == "tool_calls" and not self._calls) or (reason == "function_call" and not self._has_old_call):
            self._findings.add(NO_CALLS)
        elif reason == "stop" and (self._calls or self._has_old_call):
            self._findings.add(UNTOLD_CALLS)
        if reason == "tool_calls":
            self._check_arguments()

    def _check_arguments(self) -> None:
        said = ["".join(call.arguments.pieces) for call in self._calls if call.arguments.pieces]
        bad = sum(1 for text in said if not jsontext.is_valid(text))
        if bad:
            self._findings.add(TOOL_ARGUMENTS, f"{bad} of {len(self._calls)} calls")


class OpenAIChatValidator:
    def __init__(self) -> None:
        self._findings = Findings()
        self._id: str | None = None
        self._choices: dict[int, _Choice] = {}
        self._has_failed = False
        self._is_done = False

    def check(self, chunk: Chunk) -> Sequence[Violation]:
        if chunk.data:
            if self._is_done:
                self._findings.add(AFTER_END)
            elif (body := chunk.json) is not None:
                self._check(body)
            elif is_done(chunk):
                self._done()
            else:
                self._findings.add(NOT_JSON)
        return self._findings.told() if self._findings.found else ()

    def end(self) -> Sequence[Violation]:
        if not self._is_done and not self._has_failed:
            self._findings.add(END_MISSING)
        return self._findings.told()

    def _check(self, body: Json) -> None:
        if body.get("error"):
            self._has_failed = True
            return
        if body.get("object") != _OBJECT:
            self._findings.add(OBJECT if body.get("object") else OBJECT_MISSING)
        if body.get("id") != self._id or self._id is None:
            self._check_id(body.get("id"))
        choices = body.get("choices")
        if not isinstance(choices, list):
            self._findings.add(CHOICES_MISSING)
        elif choices:
            for choice in choices:
                if isinstance(choice, dict):
                    self._choice(choice)
        elif body.get("usage") and any(choice.finish_reason is None for choice in self._choices.values()):
            self._findings.add(USAGE_EARLY)

    def _check_id(self, value: object) -> None:
        if not value or not isinstance(value, str):
            self._findings.add(ID_MISSING)
        elif self._id is None:
            self._id = value
        else:
            self._findings.add(ID_CHANGED)

    def _choice(self, choice: Json) -> None:
        index = choice.get("index")
        if type(index) is not int:
            self._findings.add(CHOICE_INDEX_MISSING)
            index = 0
        known = self._choices.get(index)
        if known is None:
            known = self._choices[index] = _Choice(self._findings)
        known.check(choice)

    def _done(self) -> None:
        self._is_done = True
        if self._has_failed:
            return
        if self._choices and (min(self._choices) < 0 or max(self._choices) >= len(self._choices)):
            self._findings.add(CHOICE_INDEX, f"{len(self._choices)} choices up to {max(self._choices)}")
        unfinished = sum(1 for choice in self._choices.values() if choice.finish_reason is None)
        if unfinished:
            self._findings.add(FINISH_MISSING, f"{unfinished} of {len(self._choices)} choices")


def _speaks(delta: Json) -> bool:
    """Whether it adds to a text. Empty ones say nothing."""
    return bool(delta.get("content")) or any(delta.get(name) for name in _OTHER_TEXTS)
