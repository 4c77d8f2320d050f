"""One sentence that says what the policies changed in a call, or why that cannot be said.

"No change" is a claim about records that are there: whatever is missing, lost or hidden turns the sentence
into one that says so.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from luthien.debug.blaming.steps import GATEWAY, names_of
from luthien.debug.call import asides
from luthien.debug.call.basis import Basis, Decision
from luthien.debug.call.completeness import State
from luthien.debug.call.told import set_apart, told_of_request
from luthien.debug.call.told_response import told_of_response
from luthien.debug.diffing.ops import Diff, Op
from luthien.debug.diffing.values import Json
from luthien.debug.showing.phrases import counted, listed
from luthien.exchange import STAGES, EventType, Outcome, Side

_INTERRUPTED = "the process ended before the call did"
_UNFINISHED = {State.PENDING: "the record is not all there yet", State.INTERRUPTED: _INTERRUPTED}


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
            *asides.ending(basis, response),
            *asides.in_vain(enforced, request, response, basis),
            *asides.broken(enforced, basis),
            *asides.remarks(enforced),
            *asides.would_have(decision for decision in decisions if decision.shadow),
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
        if diff is None and not missing and not awaited and basis.is_recorded(side):
            problems.append(f"the {side} was not compared")
    if basis.record is not State.COMPLETE and not problems:
        problems.append(_UNFINISHED.get(basis.record, f"the record is {basis.record}"))
    return problems


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
        if diff is None or not self.basis.is_recorded(Side.REQUEST):
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
        if diff is None or not self.basis.is_recorded(Side.RESPONSE):
            return None
        if not diff.ops:
            hidden = Side.RESPONSE in self.basis.redacted
            return "response: changed, content redacted" if hidden else None
        ops = [op for op in diff.ops if op.touches_value and "encoding_only" not in op.flags]
        makers = _by_subject(ops or diff.ops, self._claim(Side.RESPONSE))
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
