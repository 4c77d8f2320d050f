"""Policies that the whole corpus passes through, and what each must make of a text and of a tool call."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import regex

from tests.corpus.content import SIGNED, Content

Json = dict[str, Any]
Change = Callable[[str], str]
_WITHOUT_CALLS = {"tool_calls": "stop", "function_call": "stop", "tool_use": "end_turn"}
FILE = Path(__file__).with_name("policies.py")


def same(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class Configuration:
    """Policies as `luthien.yaml` has them.

    `says` makes of each text that people read what the client must get, `calls` the same of a call's arguments; None
    where texts come from elsewhere, or all calls are dropped. `keeps` are the names of those that are not.
    `is_silent`: the client gets the provider's very bytes.
    """

    name: str
    policies: list[Json]
    says: Change | None = same
    calls: Change | None = same
    keeps: Callable[[str], bool] = field(default=lambda _: True)
    is_silent: bool = False
    kinds: Callable[[str], bool] = field(default=lambda kind: kind != SIGNED)

    def __str__(self) -> str:
        return self.name

    @property
    def is_shadow(self) -> bool:
        """Whether no policy may change anything, whatever it is shown."""
        return all(policy.get("mode") == "shadow" for policy in self.policies)

    def expected(self, content: Content) -> Content:
        """What the client must get of what the provider said, as far as it can be told."""
        changed = Content()
        for kind, text in content.texts if self.says else ():
            changed.say(kind, self.says(text) if self.says and self.kinds(kind) else text)
        changed.ends = content.ends
        for name, arguments in content.calls if self.calls else ():
            if self.calls and self.keeps(name):
                changed.call(name, self.calls(arguments))
        if content.calls and not changed.calls:
            changed.ends = [_WITHOUT_CALLS.get(end, end) for end in content.ends]
        return changed


def replaces(find: str, replacement: str) -> Json:
    rule = {"find": find, "replace": replacement, "regex": True, "in": ["response"]}
    return {"policy": "replace_text", "config": {"rules": [rule]}}


def _file(name: str) -> Json:
    return {"policy": f"{FILE}:{name}"}


REDACTS = {
    "policy": "redact",
    "config": {"rules": [{"kinds": ["email"], "action": "mask", "in": ["request", "response"]}]},
}
GIVES_BACK = {"policy": "redact", "config": {"rules": [{"kinds": ["email"], "action": "reversible"}]}}
DROPS: Json = {"policy": "block_tools", "config": {"rules": [{"tool": "*"}], "text": ""}}
SWAPS = replaces(r"(\w+)\s+(\w+)", r"\2 \1")


def masked(text: str) -> str:
    return text.replace("bob@example.org", "[email]")


def given_back(text: str) -> str:
    return text.replace("[email-1]", "jane@example.com")


def swapped(text: str) -> str:
    done: str = regex.sub(r"(\w+)\s+(\w+)", r"\2 \1", text)
    return done


def _is_reasoning(kind: str) -> bool:
    return "reasoning" in kind or kind in {SIGNED, "summary_text"}


SERVICE = "http://service.invalid"
"""Stands for where a test has its webhook."""
JUDGE = "the-judge"
"""The model that judges."""
ASKS = {"policy": "webhook", "config": {"url": f"{SERVICE}/decide", "send": "texts", "sides": ["response"]}}
JUDGES = {
    "policy": "judge",
    "config": {"model": JUDGE, "question": "Is it rude?", "credential": "none", "action": "annotate"},
}

CONFIGURATIONS = [
    Configuration("noop", [{"policy": "noop"}], is_silent=True),
    Configuration("replace_letter", [replaces("e", "[E]")], lambda text: text.replace("e", "[E]")),
    Configuration("replace_words", [SWAPS], swapped),
    Configuration("replace_all_by_nothing", [replaces(r"[\s\S]", "")], lambda _: ""),
    Configuration("redact_mask", [REDACTS], masked, masked),
    Configuration("redact_reversible", [GIVES_BACK], given_back, given_back),
    Configuration("block_tools_drop", [DROPS], calls=None),
    Configuration(
        "block_tools_some",
        [{"policy": "block_tools", "config": {"rules": [{"tool": "tide_at"}], "text": ""}}],
        keeps=lambda name: name != "tide_at",
    ),
    Configuration(
        "block_tools_says_so",
        [{"policy": "block_tools", "config": {"rules": [{"tool": "*"}]}}],
        says=None,
        calls=None,
    ),
    Configuration(
        "block_tools_other",
        [{"policy": "block_tools", "config": {"rules": [{"tool": "no_such_tool"}]}}],
        is_silent=True,
    ),
    Configuration("limit", [{"policy": "limit", "config": {"max_tokens": {"at_most": 2000}}}], is_silent=True),
    Configuration(
        "add_system_message",
        [{"policy": "add_system_message", "config": {"text": "Be brief."}}],
        is_silent=True,
    ),
    Configuration(
        "file_blocks",
        [_file("UpperBlocks")],
        str.upper,
        kinds=lambda kind: not _is_reasoning(kind),
    ),
    Configuration("file_whole", [_file("UpperWhole")], str.upper),
    Configuration("file_no_reasoning", [_file("NoReasoning")], lambda _: "", kinds=_is_reasoning),
    Configuration("file_other_texts", [_file("OtherTexts")], says=None),
    Configuration(
        "file_own_arguments",
        [_file("OwnArguments")],
        calls=lambda _: json.dumps({"said": 'a "b"\n', "n": [1, 2]}),
    ),
    Configuration(
        "shadow",
        [SWAPS | {"mode": "shadow"}, REDACTS | {"mode": "shadow"}],
        is_silent=True,
    ),
    Configuration(
        "shadow_blocks",
        [each | {"mode": "shadow"} for each in (DROPS, _file("UpperWhole"))],
        is_silent=True,
    ),
    Configuration("webhook", [ASKS], str.upper),
    Configuration("judge", [JUDGES], is_silent=True),
    Configuration(
        "chain",
        [SWAPS, GIVES_BACK, replaces("o", "0")],
        lambda text: given_back(swapped(text)).replace("o", "0"),
        given_back,
    ),
    Configuration(
        "chain_blocks",
        [replaces("e", "[E]"), DROPS, _file("UpperWhole")],
        lambda text: text.replace("e", "[E]").upper(),
        calls=None,
    ),
]

UNSAID = frozenset({"openai_responses/done_without_deltas", "openai_responses/only_the_end"})
"""Cases that say text whole without a delta before. It gets one where a policy is shown the response
and may change it (docs/policies.md), so the bytes are others."""
