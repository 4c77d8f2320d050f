"""Which characters cannot be seen, or move others about: where people read a text, they stand as something else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_UNUSUAL = re.compile(r"[^ -~\n\t\r]+")
_HIDDEN = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u2800\u3164\ufe00-\ufe0e\uffa0\U000e0100-\U000e01ef"
"""Characters of visible categories that leave no mark; the one behind an emoji (U+FE0F) is not worth a chip."""
_IS_HIDDEN = re.compile(f"[{_HIDDEN}]")
_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"})


def with_invisible(text: str, told: Callable[[str], str]) -> str:
    """The text with what `told` makes of each invisible character in its place; tabs and ends of lines stay."""

    def shown(match: re.Match[str]) -> str:
        run = match[0]
        return run if _is_visible(run) else "".join(each if _is_visible(each) else told(each) for each in run)

    return _UNUSUAL.sub(shown, text)


def is_visible(text: str) -> bool:
    """Whether all of it can be seen as it is."""
    return all(map(_is_visible, _UNUSUAL.findall(text)))


def unusual_chars(text: str) -> int:
    """How many characters stand in runs of which not all can be seen."""
    return sum(len(run) for run in _UNUSUAL.findall(text) if not _is_visible(run))


def _is_visible(run: str) -> bool:
    if _IS_HIDDEN.search(run):
        return False
    return run.isprintable() or not any(unicodedata.category(each) in _CATEGORIES for each in run)
