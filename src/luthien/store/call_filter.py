"""Which calls a list is of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, TypeAlias

from luthien.exchange import Side

Changed: TypeAlias = Literal["request", "response", "any", "none"]


class Part(StrEnum):
    """What of a call a policy changed, in words that hold for every wire format."""

    SYSTEM = "system"
    MESSAGE = "message"
    TOOL_ARGUMENTS = "tool_arguments"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    TOOLS = "tools"
    REASONING = "reasoning"
    REFUSAL = "refusal"
    FINISH_REASON = "finish_reason"
    USAGE = "usage"
    PARAMETER = "parameter"
    OTHER = "other"


class Decided(StrEnum):
    """What a policy decided, as its records have it; `change` if it changed something, or would have."""

    ALLOW = "allow"
    MODIFY = "modify"
    ANNOTATE = "annotate"
    BLOCK = "block"
    ERROR = "error"
    CHANGE = "change"


class Mode(StrEnum):
    """Whether a policy's decision was carried out, or only recorded."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


NEEDS_INDEX = ("version", "side", "decided", "mode", "text", "changed_by", "part", "path")
"""What only the index knows."""
WITHOUT = ("session", "model", "provider", "format", "key", "policy", "version", "changed_by", "path")
"""What a call may be asked to have none of."""


@dataclass(frozen=True, slots=True)
class CallFilter:
    """What a call must be to be listed; all of it, and None asks for nothing.

    What `NEEDS_INDEX` names is known of calls that are indexed; all else of every stored call. `version`, `side`,
    `decided` and `mode` say more of `policy`: all of it is true of one decision. `version` and `side` say more of the
    change that `changed_by`, `part` and `path` ask for, too.
    """

    id: str | None = None
    """How the call's id begins: lower-case hexadecimal digits, without hyphens."""
    session: str | None = None
    model: str | None = None
    """The model asked for, or the one used."""
    provider: str | None = None
    format: str | None = None
    key: str | None = None
    """The name of a gateway key."""
    policy: str | None = None
    """A policy that looked at the call; with one of the next four, that decided so."""
    version: str | None = None
    side: Side | None = None
    decided: Decided | None = None
    mode: Mode | None = None
    outcome: tuple[str, ...] | None = None
    """Some of `Outcome`, or `running`: none yet."""
    changed: Changed | None = None
    since: datetime | None = None
    """The earliest start, with a time zone."""
    until: datetime | None = None
    """Started before this."""
    text: str | None = None
    """Words that all stand in what was sent or answered."""
    changed_by: str | None = None
    """A policy that changed something: with `part` and `path`, that."""
    part: Part | None = None
    path: str | None = None
    """Where something was changed, as `conversation_changes` has it for counting."""
    without: tuple[str, ...] | None = None
    """Some of `WITHOUT`, none of which it has. For `model` none was asked for; for `policy` it is over, and none
    looked at it; for `changed_by` and `path` there is a change of which that is not known; `version` is the
    decision's, or the change's. Never with a value of the same: no call has it and has it not."""

    def lacks(self, name: str) -> bool:
        return self.without is not None and name in self.without

    def asks(self, name: str) -> bool:
        """Whether it asks for a value of this, or for a decision or change that has none."""
        return getattr(self, name) is not None or (name in NEEDS_INDEX and self.lacks(name))

    @property
    def needs_index(self) -> bool:
        """Whether calls that are not yet indexed may be missing from the list."""
        return any(self.asks(name) for name in NEEDS_INDEX)

    @property
    def asks_decision(self) -> bool:
        """Whether more is asked of the policy than that it looked at the call."""
        return self.policy is not None and any(self.asks(name) for name in ("version", "side", "decided", "mode"))

    @property
    def asks_change(self) -> bool:
        return any(self.asks(name) for name in ("changed_by", "part", "path"))


EVERY_CALL = CallFilter()
