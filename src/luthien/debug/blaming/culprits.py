"""Who is named for an operation, given the stretches of its side's documents that made it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from luthien.debug.blaming.authors import Piece
from luthien.debug.blaming.steps import Stretch, names_of
from luthien.debug.diffing.ops import Blame, Op
from luthien.debug.showing.phrases import listed

TOO_LARGE = "too large to be traced further"


def signed(op: Op, by: tuple[Blame, ...], why: str | None) -> Op:
    """The operation and all inside it with those that made it; `why` says why there may be others."""
    last = by[-1] if by and why is None else None
    return replace(
        op,
        by=by,
        policy=last.policy if last else None,
        version=last.version if last else None,
        reason=last.reason if last else why,
        inside=tuple(signed(each, by, why) if each.reason is None else each for each in op.inside),
    )


class Culprits:
    """Who made each stretch."""

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self._stretches = stretches

    def sign(self, op: Op, numbers: Iterable[int]) -> Op:
        """The operation as that of these stretches."""
        made_by = [self._stretches[number] for number in sorted(set(numbers))]
        by = tuple(dict.fromkeys(each.author for each in made_by if each.author is not None))
        why = next((_why(each) for each in made_by if each.author is None), None)
        is_coarse = any(each.author is None and each.why == TOO_LARGE for each in made_by)
        return signed(replace(op, degraded=True) if is_coarse else op, by, why)

    def sign_text(self, op: Op, pieces: Sequence[Piece]) -> Op:
        """The operation on a text of which each part has its stretch; the parts are told if there are several."""
        numbers = {number for _, _, number in pieces if number is not None}
        told = self.sign(op, numbers)
        if len(numbers) < 2:
            return told
        authors = {number: self._stretches[number].author for number in numbers}
        return replace(
            told,
            text=tuple((tag, text) for tag, text, _ in pieces),
            authors=tuple(_place(told.by, None if n is None else authors[n]) for _, _, n in pieces),
        )


def _place(by: Sequence[Blame], author: Blame | None) -> int | None:
    return None if author is None else by.index(author)


def _why(stretch: Stretch) -> str:
    why = stretch.why or "nobody knows who made it"
    names = names_of(stretch.by)
    if stretch.is_open or not names:
        return why
    return f"{why}; it was {listed(names, 'or')}"
