"""`block_tools`: takes tools out of requests, and calls of them out of responses, by name and by their arguments."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cached_property
from typing import Annotated, Any, Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from luthien.formats import jsontext
from luthien.formats.sse import MAX_DEPTH
from luthien.policies.builtin.substitution import TimeLimit
from luthien.policies.policy import Block, BlockKind, Needs, Policy, Request, Verdict

Text = Annotated[str, StringConstraints(min_length=1)]


class Condition(BaseModel):
    """Something about the arguments of a call."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    pointer: str = ""
    """Where in the arguments: a JSON pointer (RFC 6901) in which `*` stands for every member; empty: all of them."""
    matches: Text
    """A regular expression of the `regex` package, to be found in a text there, or in another value's JSON."""
    negate: bool = False
    """Whether the condition holds when there is something there and the expression is not found in it."""

    @cached_property
    def pattern(self) -> regex.Pattern[str]:
        return regex.compile(self.matches)

    @field_validator("pointer")
    @classmethod
    def _is_pointer(cls, value: str) -> str:
        if value and not value.startswith("/"):
            raise ValueError("must be a JSON pointer, as in /command")
        return value

    @model_validator(mode="after")
    def _compiles(self) -> Condition:
        try:
            _ = self.pattern
        except regex.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return self

    def holds(self, arguments: Any, timeout_s: float) -> bool:
        values = _values_at(arguments, self.pointer.split("/")[1:])
        texts = (value if isinstance(value, str) else jsontext.render(value).decode() for value in values)
        return any((TimeLimit(timeout_s).find(self.pattern.search, text, 0) is None) == self.negate for text in texts)


class Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tool: Text = "*"
    """The tool's name, as a glob: `*` stands for anything, `?` for one character. Case matters."""
    when: tuple[Condition, ...] = ()
    """Conditions that must all hold. A call whose arguments are not JSON is taken to meet them."""


class BlockToolsConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    """A call is blocked if any of them is met."""
    action: Literal["drop", "block"] = "drop"
    """Whether the call is taken out of the response, or the whole response is blocked."""
    text: str = "[The call of the tool {tool} was blocked by a policy.]"
    """What stands in the place of a dropped call; `{tool}` is the tool's name. Empty: nothing."""
    definitions: Literal["keep", "remove"] = "keep"
    """Whether tools that a rule without conditions blocks are taken out of requests, so that the model never calls
    them."""
    match_timeout_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1000
    """How long one expression may take on one value, in milliseconds; beyond that the policy breaks."""


class BlockTools(Policy):
    Config = BlockToolsConfig
    needs = Needs.BLOCKS
    kinds = frozenset({BlockKind.TOOL_CALL})

    async def on_request(self, request: Request) -> Verdict:
        if self.config.definitions == "keep":
            return Verdict.allow()
        unwanted = [rule.tool for rule in self.config.rules if not rule.when]
        removed = self.call.format.blocks.remove_tools(
            request.body, lambda name: any(fnmatchcase(name, glob) for glob in unwanted)
        )
        if not removed:
            return Verdict.allow()
        return Verdict.modify(f"removed the tools {', '.join(removed)}", len(removed))

    async def on_block(self, block: Block) -> Verdict:
        if not any(self._is_met(rule, block) for rule in self.config.rules):
            return Verdict.allow()
        if self.config.action == "block":
            return Verdict.block(f"the model called the tool {block.name}")
        block.drop(self.config.text.replace("{tool}", block.name))
        return Verdict.modify(f"dropped a call of the tool {block.name}")

    def _is_met(self, rule: Rule, block: Block) -> bool:
        if not fnmatchcase(block.name, rule.tool):
            return False
        if not rule.when:
            return True
        try:
            arguments = jsontext.parse(block.text or "{}", max_depth=MAX_DEPTH)
        except jsontext.InvalidJson:
            return True
        return all(condition.holds(arguments, self.config.match_timeout_ms / 1000) for condition in rule.when)


def _values_at(value: Any, path: list[str]) -> list[Any]:
    """What stands there; nothing when there is no such place."""
    if not path:
        return [value]
    key, rest = path[0].replace("~1", "/").replace("~0", "~"), path[1:]
    members: list[Any] = []
    if isinstance(value, dict):
        members = [member for name, member in value.items() if key in {"*", name}]
    elif isinstance(value, list):
        members = [member for index, member in enumerate(value) if key in {"*", str(index)}]
    return [found for member in members for found in _values_at(member, rest)]
