"""One policy of a chain as configured, and what it decided."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any

from luthien.exchange import Side
from luthien.policies.extent import Extent
from luthien.policies.models import ModelFailed
from luthien.policies.policy import Action, Needs, Policy, Verdict


@dataclass(frozen=True, slots=True)
class Step:
    """One policy of the chain as configured. `version` is a hash of its code and configuration."""

    name: str
    version: str
    policy: type[Policy]
    config: Any
    fails_open: bool = False
    """Whether a call goes on with what the policy was given when it breaks."""
    is_shadow: bool = False
    """Whether what it decides is recorded only."""
    sides: frozenset[Side] = frozenset(Side)
    """Those that it must see."""

    @property
    def response_hook(self) -> str:
        """What is asked about a plain response."""
        return "on_block" if self.policy.needs is Needs.BLOCKS else "on_response"

    @property
    def stream_hook(self) -> str:
        """What is asked about a stream."""
        return "on_chunk" if self.policy.needs is Needs.CHUNKS else self.response_hook

    @property
    def holds_whole_streams(self) -> bool:
        """Whether its clients wait for the end of a stream before they are given anything of it."""
        return self.policy.needs is Needs.WHOLE and not self.is_shadow and self.looks_at(Side.RESPONSE, "on_response")

    def looks_at(self, side: Side, hook: str) -> bool:
        """Whether this hook is to be asked about that side."""
        return side in self.sides and self.overrides(hook)

    def overrides(self, hook: str) -> bool:
        return getattr(self.policy, hook) is not getattr(Policy, hook)


@dataclass(frozen=True, slots=True)
class Decision:
    """What one step decided on one side of a call.

    `output` is what the step gave on (a body; for a stream, the response it adds up to, or if it `is_capped`, its
    beginning); None when it changed nothing. Of a step in shadow, all of this is what would have been.
    """

    step: Step
    side: Side
    position: int
    verdict: Verdict
    changed: bool
    duration_s: float
    chunks: int | None = None
    output: bytes | None = None
    is_capped: bool = False
    extent: Extent | None = None
    """How much it changed, where that is known; never of a step in shadow."""

    @property
    def output_sha256(self) -> bytes | None:
        return None if self.output is None else hashlib.sha256(self.output).digest()


def error_verdict(error: BaseException) -> Verdict:
    """What is recorded of a policy that broke."""
    verdict = Verdict(Action.ERROR, f"{type(error).__name__}: {error}")
    if isinstance(error, ModelFailed) and error.call_id is not None:
        return verdict.with_details(asked_call_id=str(error.call_id))
    return verdict


def is_cancelled(error: BaseException) -> bool:
    """Whether this is the call being cancelled, and not a policy that raises what it got from a task of its own."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
