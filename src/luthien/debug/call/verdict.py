"""One sentence that says what the policies changed in a call, or why that cannot be said.

"No change" is a claim about records that are there: whatever is missing, lost or hidden turns the sentence
into one that says so.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from operator import itemgetter
from typing import Literal, NamedTuple, TypeAlias

from luthien.debug.blaming.steps import GATEWAY, names_of
from luthien.debug.call.completeness import State
from luthien.debug.call.told import set_apart, told_of_request
from luthien.debug.call.told_response import told_of_response
from luthien.debug.diffing.ops import Diff, Op
from luthien.debug.diffing.values import Json
from luthien.debug.showing.phrases import counted, listed
from luthien.exchange import STAGES, EventType, Outcome, Side

StageState: TypeAlias = Literal["recorded", "not_reached", "gateway_generated", "missing", "partial", "awaited"]

_INTERRUPTED = "the process ended before the call did"
_UNFINISHED = {State.PENDING: "the record is not all there yet", State.INTERRUPTED: _INTERRUPTED}


class Decision(NamedTuple):
    """What one policy decided on one side, as recorded. `action`: allow, modify, annotate, block or error.

    In shadow it was not carried out. `sequence` is that of its record.
    """

    policy: str
    side: str
    action: str
    changed: bool
    shadow: bool = False
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Basis:
    """What the sentence rests on. A stage that `states` does not name is missing.

    `lost_records` counts what is lost besides those stages. `redacted` are the sides whose payloads
    differed on the wire although, after redaction, they may not differ in the record; `rewritten` those of which
    other bytes passed that add up to the same. `http_status` is what the client was answered with.
    """

    states: Mapping[EventType, StageState]
    lost_records: int = 0
    redacted: Collection[Side] = ()
    record: State = State.COMPLETE
    rewritten: Collection[Side] = ()
    outcome: str | None = None
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class Bodies:
    """What is counted in: the parsed request as it came, and the response before and after.

    None is for what is not JSON, and for what nobody needs since it does not differ.
    """

    request: object = None
    came: Json = None
    given: Json = None


def verdict_sentence(
    request: Diff | None,
    response: Diff | None,
    *,
    bodies: Bodies,
    decisions: Sequence[Decision],
    basis: Basis,
) -> str:
    """The sentence for one call.

    A diff is None where there is nothing to compare. Says for example "replace_text changed 1 of 2 messages;
    response: no change", or "incomplete: response_final is missing, so what changed cannot be said". What
    policies in shadow would have done comes last.
    """
    enforced = [decision for decision in decisions if not decision.shadow]
    sentence = _enforced(request, response, bodies, enforced, basis, is_looked_at=bool(decisions))
    return "; ".join(
        [
            sentence,
            *_ending(basis, response),
            *_in_vain(enforced, request, response, basis),
            *_broken(enforced, basis),
            *_remarks(enforced),
            *_would_have(decision for decision in decisions if decision.shadow),
        ]
    )


def _enforced(
    request: Diff | None,
    response: Diff | None,
    bodies: Bodies,
    decisions: Sequence[Decision],
    basis: Basis,
    *,
    is_looked_at: bool,
) -> str:
    teller = _Teller(decisions, basis)
    first = teller.tell_request(request, bodies)
    second = teller.tell_response(response, bodies)
    problems = _problems(basis, request, response)
    if problems:
        known = [side for side in (first, second) if side]
        what = "what else changed" if known else "what changed"
        return "; ".join([f"incomplete: {listed(problems)}, so {what} cannot be said", *known])
    if first or second:
        end = second or ("" if teller.ends_with_request else "response: no change")
        return "; ".join(part for part in (first or "request: no change", end) if part)
    claims = _names(decisions, {Side.REQUEST, Side.RESPONSE})
    if claims:
        return f"no change in the end, although {claims} changed something on the way"
    return "no policy changed this call" if is_looked_at else "no policy looked at this call"


def _ending(basis: Basis, response: Diff | None) -> list[str]:
    """How a call ended that its provider or its client did not let end well, where some of a response is there."""
    if not _is_recorded(basis, Side.RESPONSE):
        return []
    if basis.outcome == Outcome.CLIENT_DISCONNECTED:
        return ["the client hung up before the end"]
    if basis.outcome != Outcome.UPSTREAM_ERROR:
        return []
    if basis.http_status is not None and basis.http_status >= HTTPStatus.BAD_REQUEST:
        return [f"the provider answered with an error (HTTP {basis.http_status})"]
    is_told = response is not None and any(op.reason == GATEWAY and op.op == "add" for op in response.ops)
    return ["the provider's answer broke off" if is_told else "the provider ended its answer with an error"]


def _in_vain(decisions: Sequence[Decision], request: Diff | None, response: Diff | None, basis: Basis) -> list[str]:
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


def _broken(decisions: Iterable[Decision], basis: Basis) -> list[str]:
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


def _remarks(decisions: Iterable[Decision]) -> list[str]:
    """Which policies left a remark, each on the sides that it was left on."""
    sides: dict[str, dict[str, None]] = {}
    for decision in decisions:
        if decision.action == "annotate":
            sides.setdefault(decision.policy, {})[f"the {decision.side}"] = None
    return [f"{policy} left a remark on {listed([*where])}" for policy, where in sides.items()]


def _would_have(decisions: Iterable[Decision]) -> list[str]:
    """What each policy in shadow would have done to each side, if anything."""
    told: dict[tuple[str, str], dict[str, None]] = {}
    for policy, side, action, changed, *_ in decisions:
        verb = {"block": "blocked", "error": "broken on"}.get(action, "changed" if changed else "")
        if verb:
            told.setdefault((policy, verb), {})[f"the {side}"] = None
    return [f"in shadow, {policy} would have {verb} {listed([*sides])}" for (policy, verb), sides in told.items()]


def _problems(basis: Basis, request: Diff | None, response: Diff | None) -> list[str]:
    missing = [stage for stage in STAGES if basis.states.get(stage, "missing") == "missing"]
    awaited = [stage for stage in STAGES if basis.states.get(stage) == "awaited"]
    partial = [stage for stage in STAGES if basis.states.get(stage) == "partial"]
    since = f", since {_INTERRUPTED}" if basis.record is State.INTERRUPTED else ""
    so_far = " so far" if basis.record is State.PENDING else since
    problems = [
        f"{listed(stages)} {'is' if len(stages) == 1 else 'are'} {how}"
        for stages, how in (
            (missing, "missing" if partial else f"missing{since}"),
            (partial, f"partial{so_far}"),
            (awaited, "still to come"),
        )
        if stages
    ]
    if basis.lost_records:
        problems.append(f"{counted(basis.lost_records, 'record')} of this call got lost")
    for diff, side in ((request, Side.REQUEST), (response, Side.RESPONSE)):
        if diff is None and not missing and not awaited and _is_recorded(basis, side):
            problems.append(f"the {side} was not compared")
    if basis.record is not State.COMPLETE and not problems:
        problems.append(_UNFINISHED.get(basis.record, f"the record is {basis.record}"))
    return problems


def _is_recorded(basis: Basis, side: Side) -> bool:
    return all(basis.states.get(stage) == "recorded" for stage in STAGES if stage.value.startswith(side.value))


@dataclass(frozen=True, slots=True)
class _Teller:
    """Tells each side on its own: None is "no change, as far as is known"."""

    decisions: Sequence[Decision]
    basis: Basis

    @property
    def ends_with_request(self) -> bool:
        """Whether the provider was never asked, so that there is no response to speak of."""
        return self.basis.states.get(EventType.REQUEST_FINAL) == "not_reached"

    def tell_request(self, diff: Diff | None, bodies: Bodies) -> str | None:
        stopped = self._stopped(Side.REQUEST)
        if stopped:
            return stopped
        if self.basis.states.get(EventType.REQUEST_ORIGINAL) == "not_reached":
            return "the request was turned away before it was read"
        if self.ends_with_request:
            answered = self.basis.states.get(EventType.RESPONSE_FINAL) == "gateway_generated"
            return f"the request was not sent to the provider{': the gateway rejected it' if answered else ''}"
        if diff is None or not _is_recorded(self.basis, Side.REQUEST):
            return None
        if not diff.ops:
            return "request: changed, content redacted" if Side.REQUEST in self.basis.redacted else None
        ops = [op for op in diff.ops if op.touches_value]
        if not ops:
            [(subject, _), *_] = _by_subject(diff.ops, self._claim(Side.REQUEST))
            return f"{subject} changed only how the request is written"
        makers = _by_subject(ops, self._claim(Side.REQUEST))
        return set_apart([f"{who} {told_of_request(theirs, ops, bodies.request)}" for who, theirs in makers])

    def _claim(self, side: Side) -> str:
        """Who is told to have changed a side where it cannot be said by whom which change was made."""
        return _names(self.decisions, {side}) or "an unrecorded step"

    def tell_response(self, diff: Diff | None, bodies: Bodies) -> str | None:
        stopped = self._stopped(Side.RESPONSE)
        if stopped:
            return stopped
        if self.ends_with_request:
            return None
        final = self.basis.states.get(EventType.RESPONSE_FINAL)
        if final == "gateway_generated":
            return "response: the gateway answered in the provider's place"
        if final == "not_reached":
            return "response: none reached the client"
        if diff is None or not _is_recorded(self.basis, Side.RESPONSE):
            return None
        if not diff.ops:
            hidden = Side.RESPONSE in self.basis.redacted
            return "response: changed, content redacted" if hidden else None
        ops = [op for op in diff.ops if op.touches_value and "encoding_only" not in op.flags]
        claim = _names(self.decisions, {Side.RESPONSE}) or "an unrecorded step"
        makers = _by_subject(ops or diff.ops, claim)
        if not ops:
            return f"response: {makers[0][0]} changed only how it is written"
        told = [f"{who} {told_of_response(theirs, bodies.came, bodies.given)}" for who, theirs in makers]
        return f"response: {set_apart(told)}"

    def _stopped(self, side: Side) -> str | None:
        """That a policy blocked this side, or broke on it and nothing went on."""
        final = EventType.REQUEST_FINAL if side is Side.REQUEST else EventType.RESPONSE_FINAL
        went_on = self.basis.states.get(final) == "recorded"
        theirs = [each for each in self.decisions if each.side == side]
        in_part = ", of which the client had been given a part" if went_on and side is Side.RESPONSE else ""
        blocked = next((each.policy for each in theirs if each.action == "block"), None)
        if blocked is not None:
            return f"{blocked} blocked the {side}{in_part}"
        broken = list(dict.fromkeys(each.policy for each in theirs if each.action == "error"))
        is_end = not went_on or (side is Side.RESPONSE and self.basis.outcome == Outcome.POLICY_ERROR)
        return f"{listed(broken)} broke on the {side}{in_part}" if broken and is_end else None


def _by_subject(ops: Iterable[Op], claim: str) -> list[tuple[str, list[Op]]]:
    """Operations by those that made them, in the order of the chain; `claim` names them where it is not known."""
    makers: dict[tuple[int, str], list[Op]] = {}
    ops = list(ops)
    is_known = any(op.policy is not None for op in ops)
    for op in ops:
        if op.policy is not None:
            place, who = op.by[0].decision, listed(names_of(op.by))
        elif op.reason == GATEWAY:
            place, who = sys.maxsize, "the gateway"
        else:
            place, who = sys.maxsize, "an unknown step" if is_known else claim
        makers.setdefault((place, who), []).append(op)
    told: dict[str, list[Op]] = {}
    for (_, who), theirs in sorted(makers.items(), key=itemgetter(0)):
        told.setdefault(who, []).extend(theirs)
    return [*told.items()]


def _names(decisions: Iterable[Decision], sides: Collection[Side]) -> str:
    """The policies that say they changed something there, each once, in order."""
    return listed(list(dict.fromkeys(d.policy for d in decisions if d.changed and d.side in sides)))
