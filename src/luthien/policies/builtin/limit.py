"""`limit`: what a request may ask for; its models, sizes, tokens and tools."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from luthien.formats import jsontext
from luthien.formats.format import Json, number_or_none, objects, text_or_none
from luthien.formats.parts import definition_name
from luthien.policies.policy import Policy, Request, Verdict

_TOKEN_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
# Mean nothing, or are refused by providers, once there are no tools.
_ABOUT_TOOLS = ("tools", "functions", "tool_choice", "function_call", "parallel_tool_calls")

Glob = Annotated[str, StringConstraints(min_length=1)]
Count = Annotated[int, Field(ge=0, strict=True)]


class Names(BaseModel):
    """Names by glob (`*`, `?`, `[ab]`), upper and lower case apart. What is denied is denied though it is allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: tuple[Glob, ...] | None = None
    """Only these; all when it is not given."""
    deny: tuple[Glob, ...] = ()
    """Never these."""

    @model_validator(mode="after")
    def _says_something(self) -> Names:
        if self.allow is None and not self.deny:
            raise ValueError("must have allow, deny or both")
        return self

    def permit(self, name: str) -> bool:
        is_allowed = self.allow is None or any(fnmatchcase(name, glob) for glob in self.allow)
        return is_allowed and not any(fnmatchcase(name, glob) for glob in self.deny)


class OnTokens(StrEnum):
    CLAMP = "clamp"
    BLOCK = "block"


class OnTools(StrEnum):
    REMOVE = "remove"
    BLOCK = "block"


class TokenLimit(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    at_most: Annotated[int, Field(gt=0, strict=True)]
    action: OnTokens = OnTokens.CLAMP


class ToolNames(Names):
    action: OnTools = OnTools.REMOVE


class LimitConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Names | None = None
    """Models that may be asked for; others are blocked."""
    max_tokens: TokenLimit | None = None
    """How many tokens a request may ask for."""
    tools: ToolNames | None = None
    """Tools that may be offered to the model, by name; one that has none goes by its type."""
    max_tools: Count | None = None
    """How many tools a request may offer, after those not permitted are removed."""
    max_messages: Count | None = None
    """How many messages it may have."""
    max_request_bytes: Annotated[int, Field(gt=0, strict=True)] | None = None
    """How long it may be, as compact JSON in UTF-8."""

    @model_validator(mode="after")
    def _limits_something(self) -> LimitConfig:
        if not self.model_fields_set:
            raise ValueError("limits nothing")
        return self


class Refused(Exception):
    """A request that must not go on; the message says why, in words fit for a client."""


class Limit(Policy):
    Config = LimitConfig

    async def on_request(self, request: Request) -> Verdict:
        body = request.body
        try:
            self._check_model(body)
            self._check_sizes(body)
            changes = [*self._limit_tools(body), *self._limit_tokens(body)]
        except Refused as refusal:
            return Verdict.block(str(refusal))
        return Verdict.modify("; ".join(changes), len(changes)) if changes else Verdict.allow()

    def _check_model(self, body: Json) -> None:
        model = text_or_none(body.get("model"))
        models: Names | None = self.config.models
        if models and (model is None or not models.permit(model)):
            raise Refused(f"the model {model!r} is not permitted" if model else "the request names no model")

    def _check_sizes(self, body: Json) -> None:
        _check_count("messages", len([*_items(body, "messages"), *_items(body, "input")]), self.config.max_messages)
        if self.config.max_request_bytes is not None:
            _check_count("bytes", len(jsontext.render(body)), self.config.max_request_bytes)

    def _limit_tools(self, body: Json) -> Iterator[str]:
        if self.config.tools is not None:
            yield from self._remove_tools(body, self.config.tools)
        count = len([*_items(body, "tools"), *_items(body, "functions")])
        _check_count("tools", count, self.config.max_tools)

    def _remove_tools(self, body: Json, permitted: ToolNames) -> Iterator[str]:
        removed: list[str] = []
        for field in ("tools", "functions"):
            named = [(definition_name(tool), tool) for tool in _items(body, field)]
            kept = [tool for name, tool in named if permitted.permit(name)]
            removed += [name for name, _ in named if not permitted.permit(name)]
            if len(kept) < len(named):
                body[field] = kept
        if not removed:
            return
        words = ", ".join(repr(name) for name in removed)
        if permitted.action is OnTools.BLOCK:
            raise Refused(f"not permitted as tools: {words}")
        chosen = [name for field in ("tool_choice", "function_call") for name in _chosen(body.get(field))]
        if missing := next((name for name in chosen if not permitted.permit(name)), None):
            raise Refused(f"the request insists on the tool {missing!r}, which is not permitted")
        _drop_empty(body)
        yield f"removed the tools {words}"

    def _limit_tokens(self, body: Json) -> Iterator[str]:
        limit: TokenLimit | None = self.config.max_tokens
        if limit is None:
            return
        for field in _TOKEN_FIELDS:
            asked = number_or_none(body.get(field))
            if asked is None or asked <= limit.at_most:
                continue
            if limit.action is OnTokens.BLOCK:
                raise Refused(f"{field} is {asked}, and at most {limit.at_most} is permitted")
            _check_thinking(body, limit.at_most)
            body[field] = limit.at_most
            yield f"{field} is {limit.at_most} instead of {asked}"


def _check_count(of: str, count: int, most: int | None) -> None:
    if most is not None and count > most:
        raise Refused(f"the request has {count} {of}, and at most {most} are permitted")


def _check_thinking(body: Json, most: int) -> None:
    """A provider refuses to think for longer than it may answer."""
    thinking = body.get("thinking")
    budget = number_or_none(thinking.get("budget_tokens")) if isinstance(thinking, dict) else None
    if budget is not None and budget >= most:
        raise Refused(f"thinking.budget_tokens is {budget}, which does not fit into the {most} tokens permitted")


def _items(body: Json, field: str) -> list[Any]:
    value = body.get(field)
    return value if isinstance(value, list) else []


def _chosen(choice: Any) -> Iterator[str]:
    """The tools that a choice insists on by name."""
    if not isinstance(choice, dict):
        return
    allowed = choice.get("allowed_tools")
    among = [*objects(choice.get("tools")), *objects(allowed.get("tools") if isinstance(allowed, dict) else None)]
    if among:
        yield from (definition_name(tool) for tool in among)
    elif any(isinstance(choice.get(key), (str, dict)) for key in ("name", "function", "custom")):
        yield definition_name(choice)


def _drop_empty(body: Json) -> None:
    if _items(body, "tools") or _items(body, "functions"):
        for field in ("tools", "functions"):
            if body.get(field) == []:
                del body[field]
        return
    for field in _ABOUT_TOOLS:
        body.pop(field, None)
