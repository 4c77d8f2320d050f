"""Which calls a list is of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, TypeAlias

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


@dataclass(frozen=True, slots=True)
class CallFilter:
    """What a call must be to be listed; all of it, and None asks for nothing.

    `text`, `changed_by` and `part` know only calls that are indexed; all else is known of every stored call.
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
    """A policy that looked at the call."""
    outcome: str | None = None
    """One of `Outcome`, or `running`: none yet."""
    changed: Changed | None = None
    since: datetime | None = None
    """The earliest start, with a time zone."""
    until: datetime | None = None
    """Started before this."""
    text: str | None = None
    """Words that all stand in what was sent or answered."""
    changed_by: str | None = None
    """A policy that changed something: with `part`, that part."""
    part: Part | None = None

    @property
    def needs_index(self) -> bool:
        """Whether calls that are not yet indexed may be missing from the list."""
        return bool(self.text or self.changed_by or self.part)


EVERY_CALL = CallFilter()
