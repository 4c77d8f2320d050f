"""One sentence that says what the policies changed in a call, or why that cannot be said.

"No change" is a claim about records that are there: whatever is missing, lost or hidden turns the sentence
into one that says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from luthien.debug.completeness import State
from luthien.debug.ops import Diff, Op
from luthien.debug.phrases import counted, listed
from luthien.debug.values import tokens
from luthien.exchange import STAGES, EventType, Side

StageState: TypeAlias = Literal["recorded", "not_reached", "gateway_generated", "missing", "partial", "awaited"]

_LISTS = {"messages": "message", "input": "input item", "tools": "tool"}
_FIELDS = {"system": "the system prompt", "instructions": "the instructions", "input": "the input"}
_VERBS = {"change": "changed", "add": "added", "remove": "removed"}
_INTERRUPTED = "the process ended before the call did"
_UNFINISHED = {State.PENDING: "the record is not all there yet", State.INTERRUPTED: _INTERRUPTED}
_NAMED_FIELDS = 3
_NAME_CHARS = 40


class Decision(NamedTuple):
    """What one policy decided on one side, as recorded. `action`: allow, modify, annotate, block or error.

    In shadow it was not carried out.
    """

    policy: str
    side: str
    action: str
    changed: bool
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Basis:
    """What the sentence rests on. A stage that `states` does not name is missing.

    `lost_records` counts what is lost besides those stages. `redacted` are the sides whose payloads
    differed on the wire although, after redaction, they may not differ in the record.
    """

    states: Mapping[EventType, StageState]
    lost_records: int = 0
    redacted: Collection[Side] = ()
    record: State = State.COMPLETE


def verdict_sentence(
    request: Diff | None,
    response: Diff | None,
    *,
    before: object,
    after: object,
    decisions: Sequence[Decision],
    basis: Basis,
) -> str:
    """The sentence for one call; `before` and `after` are its parsed request documents.

    A diff is None where there is nothing to compare. Says for example "replace_text changed 1 of 2 messages;
    response: no change", or "incomplete: response_final is missing, so what changed cannot be said". What
    policies in shadow would have done comes last.
    """
    enforced = [decision for decision in decisions if not decision.shadow]
    sentence = _enforced(request, response, before, after, enforced, basis)
    return "; ".join(
        [
            sentence,
            *_broken(enforced, basis),
            *_remarks(enforced),
            *_would_have(decision for decision in decisions if decision.shadow),
        ]
    )


def _enforced(
    request: Diff | None,
    response: Diff | None,
    before: object,
    after: object,
    decisions: Sequence[Decision],
    basis: Basis,
) -> str:
    teller = _Teller(decisions, basis)
    first = teller.tell_request(request, before, after)
    second = teller.tell_response(response)
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
    return "no policy changed this call"


def _broken(decisions: Iterable[Decision], basis: Basis) -> list[str]:
    """The policies that broke on a side of which the record has all that went on."""
    finals = {Side.REQUEST: EventType.REQUEST_FINAL, Side.RESPONSE: EventType.RESPONSE_FINAL}
    went_on = [side.value for side, final in finals.items() if basis.states.get(final) == "recorded"]
    return [
        f"{decision.policy} broke on the {decision.side}"
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
    for policy, side, action, changed, _ in decisions:
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

    def tell_request(self, diff: Diff | None, before: object, after: object) -> str | None:
        stopped = self._stopped(Side.REQUEST)
        if stopped:
            return stopped
        if self.basis.states.get(EventType.REQUEST_ORIGINAL) == "not_reached":
            return "the request was turned away before it was read"
        if self.ends_with_request:
            return "the request was not sent to the provider"
        if diff is None or not _is_recorded(self.basis, Side.REQUEST):
            return None
        if not diff.ops:
            return "request: changed, content redacted" if Side.REQUEST in self.basis.redacted else None
        subject = _names(self.decisions, {Side.REQUEST}) or "an unrecorded step"
        ops = [op for op in diff.ops if op.touches_value]
        return f"{subject} {_told(ops, before, after) if ops else 'changed only how the request is written'}"

    def tell_response(self, diff: Diff | None) -> str | None:
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
        names = _names(self.decisions, {Side.RESPONSE})
        told_before = _names(self.decisions, {Side.REQUEST})
        by = f" by {names}" if names and names != told_before else ""
        ops = [op for op in diff.ops if op.touches_value]
        if not ops:
            return f"response: changed only in how it is written{by}"
        return f"response: {counted(len(ops), 'change')}{by}"

    def _stopped(self, side: Side) -> str | None:
        """That a policy blocked this side, or broke on it and nothing went on."""
        final = EventType.REQUEST_FINAL if side is Side.REQUEST else EventType.RESPONSE_FINAL
        for policy, where, action, *_ in self.decisions:
            if where == side and action == "block":
                return f"{policy} blocked the {side}"
            if where == side and action == "error" and self.basis.states.get(final) != "recorded":
                return f"{policy} broke on the {side}"
        return None


def _told(ops: Sequence[Op], before: object, after: object) -> str:
    """What happened to a request, in the words of its wire format: "changed 1 of 2 messages and added 1"."""
    fields: dict[str, dict[str, None]] = {"change": {}, "add": {}, "remove": {}}
    within: dict[str, list[Op]] = {}
    for op in ops:
        path = _path(op)
        if not path:
            return f"{_VERBS[op.op]} the whole request"
        if len(path) == 1:
            fields[op.op][_label(path[0])] = None
        elif path[0] in _LISTS and _length(before, path[0]) is not None:
            within.setdefault(path[0], []).append(op)
        else:
            fields["change"][_label(path[0])] = None
    parts = {action: _sorted(labels) for action, labels in fields.items()}
    for name, inner in within.items():
        changed, added, removed = _touched(inner)
        noun, bare = _LISTS[name], len(within) == 1 and bool(changed)
        if changed:
            parts["change"].append(f"{len(changed)} of {counted(_length(before, name) or 0, noun)}")
        if added:
            parts["add"].append(str(len(added)) if bare else counted(len(added), noun))
        if removed:
            parts["remove"].append(str(len(removed)) if bare else counted(len(removed), noun))
    return _clauses([f"{_VERBS[action]} {listed(labels)}" for action, labels in parts.items() if labels])


def _touched(ops: Iterable[Op]) -> tuple[set[int], set[int], set[int]]:
    """Which elements of a list were changed, added (indices after) and removed (indices before).

    A changed element counts once, whether its operations name it by its index before or, as additions within
    it do, after.
    """
    added, removed, changed, grown = set[int](), set[int](), set[int](), set[int]()
    for op in ops:
        path = _path(op)
        if op.op == "add":
            (added if len(path) == 2 else grown).add(int(path[1]))
        elif op.op == "remove" and len(path) == 2:
            removed.add(int(path[1]))
        else:
            changed.add(int(path[1]))
    return changed | {_index_before(index, added, removed) for index in grown}, added, removed


def _index_before(index: int, added: set[int], removed: set[int]) -> int:
    """The index that an element had before others were removed and added."""
    kept = index - sum(other < index for other in added)
    for other in sorted(removed):
        kept += other <= kept
    return kept


def _path(op: Op) -> list[str]:
    return tokens((op.after_ptr if op.before_ptr is None else op.before_ptr) or "")


def _length(document: object, name: str) -> int | None:
    elements = document.get(name) if isinstance(document, Mapping) else None
    return len(elements) if isinstance(elements, list) else None


def _label(name: str) -> str:
    if name in _FIELDS:
        return _FIELDS[name]
    if name in _LISTS:
        return f"the {_LISTS[name]}s"
    return name if len(name) <= _NAME_CHARS else f"{name[:_NAME_CHARS]}…"


def _sorted(labels: Iterable[str]) -> list[str]:
    """The system prompt first, and no more names of other fields than a sentence bears."""
    known = [label for label in labels if label.startswith("the ")]
    others = [label for label in labels if not label.startswith("the ")]
    if len(others) > _NAMED_FIELDS:
        others = [counted(len(others), "other field" if known else "field")]
    return known + others


def _names(decisions: Iterable[Decision], sides: Collection[Side]) -> str:
    """The policies that say they changed something there, each once, in order."""
    return listed(list(dict.fromkeys(d.policy for d in decisions if d.changed and d.side in sides)))


def _clauses(clauses: Sequence[str]) -> str:
    """Clauses joined so that an "and" within one is not taken for the one between them."""
    if len(clauses) == 2 and " and " in clauses[0]:
        return f"{clauses[0]}, and {clauses[1]}"
    return listed(clauses)
