"""What is said of a call behind the sentence about what changed: how it ended, what policies did in vain. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus

from luthien.debug.blaming.steps import GATEWAY
from luthien.debug.call.basis import Basis, Decision
from luthien.debug.diffing.ops import Diff
from luthien.debug.showing.phrases import listed
from luthien.exchange import EventType, Outcome, Side


def ending(basis: Basis, response: Diff | None) -> list[str]:
    """How a call ended that its provider or its client did not let end well, where some of a response is there."""
    if not basis.is_recorded(Side.RESPONSE):
        return []
    if basis.outcome == Outcome.CLIENT_DISCONNECTED:
        return ["the client hung up before the end"]
    if basis.outcome != Outcome.UPSTREAM_ERROR:
        return []
    if basis.http_status is not None and basis.http_status >= HTTPStatus.BAD_REQUEST:
        return [f"the provider answered with an error (HTTP {basis.http_status})"]
    is_told = response is not None and any(op.reason == GATEWAY and op.op == "add" for op in response.ops)
    return ["the provider's answer broke off" if is_told else "the provider ended its answer with an error"]


def in_vain(decisions: Sequence[Decision], request: Diff | None, response: Diff | None, basis: Basis) -> list[str]:
    """The policies that say they changed a side, and of which nothing is left on it, or never was."""
    diffs = {Side.REQUEST: request, Side.RESPONSE: response}
    told: list[str] = []
    if any(diff is not None and diff.ops for diff in diffs.values()):
        for side, diff in diffs.items():
            names = _undone(decisions, side, diff) if diff and side not in (*basis.redacted, *basis.rewritten) else []
            told += [f"nothing is left of what {listed(names)} changed in the {side}"] if names else []
    for side in Side:
        idle = [each for each in decisions if each.side == side and each.action == "modify" and not each.changed]
        names = list(dict.fromkeys(each.policy for each in idle))
        told += [f"{listed(names)} said it modified the {side}, but left it as it was"] if names else []
    return told


def _undone(decisions: Iterable[Decision], side: Side, diff: Diff) -> list[str]:
    """The policies that had no part in any operation, where it is certain who had one."""
    if any(op.policy is None and op.reason != GATEWAY for op in diff.ops):
        return []
    blamed = {each.decision for op in diff.ops for each in op.by}
    undone = [
        each.policy
        for each in decisions
        if each.side == side and each.changed and each.sequence is not None and each.sequence not in blamed
    ]
    return list(dict.fromkeys(undone))


def broken(decisions: Iterable[Decision], basis: Basis) -> list[str]:
    """The policies that broke on a side of which the record has all that went on."""
    finals = {Side.REQUEST: EventType.REQUEST_FINAL, Side.RESPONSE: EventType.RESPONSE_FINAL}
    went_on = [side.value for side, final in finals.items() if basis.states.get(final) == "recorded"]
    if basis.outcome == Outcome.POLICY_ERROR and Side.RESPONSE in went_on:
        went_on.remove(Side.RESPONSE)
    return [
        f"{decision.policy} broke on the {decision.side}, and the call went on without it"
        for decision in decisions
        if decision.action == "error" and decision.side in went_on
    ]


def remarks(decisions: Iterable[Decision]) -> list[str]:
    """Which policies left a remark, each on the sides that it was left on."""
    sides: dict[str, dict[str, None]] = {}
    for decision in decisions:
        if decision.action == "annotate":
            sides.setdefault(decision.policy, {})[f"the {decision.side}"] = None
    return [f"{policy} left a remark on {listed([*where])}" for policy, where in sides.items()]


def would_have(decisions: Iterable[Decision]) -> list[str]:
    """What each policy in shadow would have done to each side, if anything."""
    told: dict[tuple[str, str], dict[str, None]] = {}
    for policy, side, action, changed, *_ in decisions:
        verb = {"block": "blocked", "error": "broken on"}.get(action, "changed" if changed else "")
        if verb:
            told.setdefault((policy, verb), {})[f"the {side}"] = None
    return [f"in shadow, {policy} would have {verb} {listed([*sides])}" for (policy, verb), sides in told.items()]
