"""What filters ask of a call, as lexemes of the index: the same for what is indexed and for what is asked. Pure.

A facet begins with "=", which no word of a text does. What is true of one decision, or of one change, at once is one
facet, so that any part of it that may be asked for is found without looking at the call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Final
from uuid import UUID

from luthien.exchange import Side, call_time_ms
from luthien.store.call_filter import NEEDS_INDEX, CallFilter, Decided, Mode, Part
from luthien.store.lexemes import asked_words, plain

SLOT_MS = 1 << 20
"""A call's time is a facet of this grain, about 17 minutes, and one of `SPAN` of them."""
SPAN = 16

_MAX_FACET_BYTES = 512
_ANY: Final = "*"
"""What is not asked for."""
_NONE: Final = ""
"""What there is not."""
_SIDES: Final = tuple(side.value for side in Side)
_PARTS: Final = tuple(part.value for part in Part)
_MODES: Final = tuple(mode.value for mode in Mode)
_ACTIONS: Final = tuple(action.value for action in Decided if action is not Decided.CHANGE)


def facet(name: str, *values: str) -> str:
    """The lexeme that says so of a call."""
    whole = f"={name}:{plain(' '.join(values))}"
    if len(whole.encode()) <= _MAX_FACET_BYTES:
        return whole
    return f"={name}#{hashlib.sha256(whole.encode()).hexdigest()}"


def lacking(name: str) -> str:
    """The lexeme that says that a call has none of this."""
    return facet("without", name)


def time_facets(call_id: UUID) -> tuple[str, str]:
    """When a call began, finely and roughly."""
    slot = call_time_ms(call_id) // SLOT_MS
    return f"=slot:{slot:x}", f"=span:{slot // SPAN:x}"


def decision_facets(
    side: str, action: str, policy: str, version: str, *, is_shadow: bool, is_changing: bool
) -> Iterator[str]:
    """What a policy decided on a side, and whether it changed something, or would have."""
    mode = Mode.SHADOW if is_shadow else Mode.ENFORCE
    for decided in (action, Decided.CHANGE) if is_changing else (action,):
        for whose in (_ANY, _own(version)):
            yield facet("decision", side, decided, mode, whose, _own(policy))


def change_facets(side: str, part: str, path: str | None, policy: str | None, version: str | None) -> Iterator[str]:
    """What was changed on a side, by whom, and where; without a path for as much of it as is not about that.

    What is not known of a change is empty: its path, or None, the policy and the version.
    """
    named = [(whose, _own(policy or _NONE)) for whose in (_ANY, _own(version or _NONE))]
    yield from (facet("change", side, _ANY, _ANY, *each) for each in named)
    who = [(_ANY, _ANY), *named]
    for where in (_ANY,) if path is None else (_ANY, _own(path)):
        yield from (facet("change", side, part, where, *each) for each in who)


def asked_facets(wanted: CallFilter) -> list[tuple[str, ...]]:
    """What a call's document must have, beside words, to be let through by a filter: one of each."""
    named = ("session", "model", "provider", "format", "key", "changed")
    asked: list[tuple[str, ...]] = [
        (facet(name, str(value)),) for name in named if (value := getattr(wanted, name)) is not None
    ]
    asked += [(lacking(name),) for name in wanted.without or () if name not in NEEDS_INDEX]
    if wanted.outcome is not None:
        asked.append(tuple(facet("outcome", each) for each in wanted.outcome))
    if wanted.asks_decision:
        asked.append(tuple(_asked_decisions(wanted)))
    elif wanted.policy is not None:
        asked.append((facet("policy", wanted.policy),))
    if wanted.asks_change:
        asked.append(tuple(_asked_changes(wanted)))
    return asked


def _asked_decisions(wanted: CallFilter) -> Iterator[str]:
    whose = _asked(wanted, "version"), _asked(wanted, "policy")
    said = product(_one_of(wanted.side, _SIDES), _one_of(wanted.decided, _ACTIONS), _one_of(wanted.mode, _MODES))
    return (facet("decision", *each, *whose) for each in said)


def _asked_changes(wanted: CallFilter) -> Iterator[str]:
    is_whose = wanted.asks("changed_by")
    who = _asked(wanted, "version") if is_whose else _ANY, _asked(wanted, "changed_by")
    parts = _one_of(wanted.part, _PARTS if wanted.asks("path") or not is_whose else (_ANY,))
    said = product(_one_of(wanted.side, _SIDES), parts, (_asked(wanted, "path"),))
    return (facet("change", *each, *who) for each in said)


def _asked(wanted: CallFilter, name: str) -> str:
    value = getattr(wanted, name)
    if value is None:
        return _NONE if wanted.lacks(name) else _ANY
    return _own(value)


def _own(value: str) -> str:
    """A value that somebody else chose, so that it is neither two values nor `_ANY`."""
    return "%2A" if value == _ANY else value.replace("%", "%25").replace(" ", "%20")


def _one_of(asked: str | None, all_there_are: tuple[str, ...]) -> tuple[str, ...]:
    return all_there_are if asked is None else (asked,)


def _asked_times(slots: range) -> list[str]:
    """Facets of which each call of these slots has one; so may some that are later.

    Few, since each is looked at for each call that has all the rest.
    """
    if len(slots) <= SPAN:
        return [f"=slot:{slot:x}" for slot in slots]
    aligned = -(-slots.start // SPAN) * SPAN
    spans = range(aligned // SPAN, (slots.stop - 1) // SPAN + 1)
    return [*(f"=slot:{slot:x}" for slot in range(slots.start, aligned)), *(f"=span:{span:x}" for span in spans)]


def tsquery(wanted: CallFilter, slots: range = range(0)) -> str:
    """What `luthien_found` is asked for: all of a filter's words and facets, and one of the slots, if there are any.

    Empty, which matches nothing, when nothing is asked for.
    """
    words = asked_words(wanted.text) if wanted.text else []
    if wanted.text and not words:
        return ""
    asked = [_quoted(word) for word in words] + [_either(each) for each in asked_facets(wanted)]
    times = _asked_times(slots)
    if times:
        asked.append(_either(times))
    return " & ".join(asked)


def _either(lexemes: Iterable[str]) -> str:
    quoted = [_quoted(lexeme) for lexeme in lexemes]
    return quoted[0] if len(quoted) == 1 else f"({' | '.join(quoted)})"


def _quoted(lexeme: str) -> str:
    doubled = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{doubled}'"
