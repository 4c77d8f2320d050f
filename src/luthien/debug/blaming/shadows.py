"""What policies in shadow would have made of what they saw. Pure; takes time for large payloads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from luthien.debug.blaming.blame import blame
from luthien.debug.blaming.steps import Shadow, Steps, Stretch
from luthien.debug.diff import Differ, diff_payloads
from luthien.debug.diffing.documents import Documents
from luthien.debug.diffing.ops import Diff


@dataclass(frozen=True, slots=True)
class ShadowView:
    """A decision in shadow: the document that the policy saw, and what it would have made of it.

    `diff` is None, and `why` says why, where that is not known or does not exist, as with a block.
    """

    policy: str
    version: str
    side: str
    action: str
    reason: str
    decision: int
    diff: Diff | None
    before: bytes | None = None
    after: bytes | None = None
    why: str | None = None

    def as_dict(self) -> dict[str, object]:
        """For diff.json, without the documents."""
        return {
            "policy": self.policy,
            "version": self.version,
            "side": self.side,
            "action": self.action,
            "reason": self.reason,
            "decision": self.decision,
            "why": self.why,
            "diff": None if self.diff is None else self.diff.as_dict(),
        }


def shadows_of(
    steps: Steps, differ: Differ = diff_payloads, documents: Documents | None = None
) -> Iterator[ShadowView]:
    """Every decision in shadow on one side, in order."""
    for shadow in steps.shadows:
        yield ShadowView(
            shadow.step.policy,
            shadow.step.version,
            shadow.side.value,
            shadow.action,
            shadow.step.reason,
            shadow.step.decision,
            _diff(shadow, differ, documents),
            shadow.before,
            shadow.after,
            shadow.why,
        )


def _diff(shadow: Shadow, differ: Differ, documents: Documents | None) -> Diff | None:
    if shadow.before is None or shadow.after is None:
        return None
    made = Stretch(shadow.before, shadow.after, (shadow.step,))
    diff = differ(shadow.before, shadow.after, documents=documents)
    return blame(diff, Steps(shadow.side, (made,)), differ, documents)
