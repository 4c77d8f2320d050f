"""What a call's page says beside its verdict: what the policies cost, and how far to trust the answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from luthien.debug.blaming.steps import GATEWAY
from luthien.debug.call.timeline import Lanes
from luthien.debug.diffing.ops import Diff
from luthien.debug.showing.phrases import counted, listed
from luthien.debug.showing.shown import duration
from luthien.store.stored import CallRow

Sentences: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """Sentences, none where there is nothing to say."""

    cost: Sentences
    trust: Sentences


def cost_of(row: CallRow, lanes: Lanes | None, children: Sequence[CallRow]) -> Sentences:
    """What the call took beyond what its provider did, in time and in calls of policies' own."""
    return (*_time(row), *_first(row), *_held(lanes), *_asked(children))


def trust_of(diffs: Iterable[Diff | None], masked: Sequence[str]) -> Sentences:
    """How certain it is who made the changes, and what is not told in full.

    `masked` are the sides in whose payloads credentials were masked.
    """
    compared = [diff for diff in diffs if diff is not None]
    ops = [op for diff in compared for op in diff.ops]
    unknown = [op for op in ops if op.policy is None and op.reason != GATEWAY]
    told: list[str] = []
    if unknown:
        verb = "is" if len(unknown) == 1 else "are"
        told.append(f"{len(unknown)} of {counted(len(ops), 'change')} {verb} not traced to one policy for certain.")
    elif ops:
        told.append(
            "Every change is traced to who made it." if len(ops) > 1 else "The change is traced to who made it."
        )
    if any(diff.degraded for diff in compared):
        told.append("Some of the diff is coarser than it could be, for its size.")
    if masked:
        told.append(f"Credentials in the {listed(masked)} are masked.")
    return tuple(told)


def _time(row: CallRow) -> Sentences:
    whole, provider = row["duration_ms"], row["upstream_ms"]
    if whole is None:
        return ()
    spent = f"{duration(row['policy_ms'])} in policies, {duration(row['gateway_ms'])} in the gateway"
    if provider is None:
        return (f"{duration(whole)}: {spent}.",)
    return (f"{duration(max(0.0, whole - provider))} on top of the provider's {duration(provider)}: {spent}.",)


def _first(row: CallRow) -> Sentences:
    came, given = row["upstream_first_chunk_ms"], row["client_first_chunk_ms"]
    if not row["streaming"] or came is None or given is None:
        return ()
    return (f"The first token came {duration(max(0.0, given - came))} later.",)


def _held(lanes: Lanes | None) -> Sentences:
    longest = max(lanes.entries, key=lambda entry: entry.held_ms, default=None) if lanes else None
    if longest is None or longest.held_by is None:
        return ()
    return (f"{longest.held_by} held a frame for {duration(longest.held_ms)} at most.",)


def _asked(children: Sequence[CallRow]) -> Sentences:
    if not children:
        return ()
    given, made = (_sum(child[f"{each}_tokens"] for child in children) for each in ("input", "output"))
    tokens = "tokens not reported" if given is made is None else f"{given or 0} tokens in, {made or 0} out"
    took = _sum(child["duration_ms"] for child in children)
    return (f"Policies asked models in {counted(len(children), 'call')}: {tokens}, {duration(took)}.",)


def _sum(numbers: Iterable[float | None]) -> float | None:
    """Of those that are known; None if none is."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
