"""The word-level diff of two strings, whose work is bounded by counting steps rather than by a clock.

What both strings begin and end with is set aside first, at the speed of memory. The middle is cut into words
and compared by `edits`, which is fast exactly when there is little to show. If that costs more than its share, lines
are compared first, and words only within those replaced; what is still too much is one replaced block. The same
strings always give the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeAlias
from unicodedata import normalize

from luthien.debug.diffing.edits import codes_of, equal_runs

Tag: TypeAlias = Literal["=", "-", "+"]
Segments: TypeAlias = tuple[tuple[Tag, str], ...]

STEPS_PER_DIFF = 2_500_000
"""What all strings of one diff may cost together, in steps of about 0.2 microseconds."""
STEPS_PER_PASS = 400_000
"""What one pass over a string, by words or by lines, may cost; bounds its memory too, to some 20 MB."""
MAX_WORD_CHARS = 400_000
"""The longest string that is cut into words, in characters."""
CHARS_PER_STEP = 2
"""How many characters are cut, or looked through, in the time of a step."""
MAX_LINES = 100_000
"""How many lines a string may have to be cut into lines."""
SNAP_CHARS = 64
"""How far a boundary moves so as not to cut a word; a longer word is cut."""
MAX_KNOWN, MAX_KNOWN_CHARS = 2_000, 400
"""How many pairs of strings are remembered, and how long both may be together: what is replaced is often the same."""

UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts that write no spaces, whose words are single characters; as a part of a regular expression's class."""
# A word takes one following space along.
_WORDS = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+ ?|\s+|[^\w\s]")
_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_CHUNK = 1 << 16


class Budget:
    """The steps that the strings of one diff may still take, and short strings that it has seen."""

    def __init__(self, steps: int = STEPS_PER_DIFF) -> None:
        self.steps = steps
        self.known: dict[tuple[str, str], Segments] = {}


def diff_words(before: str, after: str, budget: Budget) -> tuple[Segments, bool]:
    """Segments tagged "=", "-" or "+", and whether they are coarser than words.

    The "=" and "-" segments together are exactly `before`, "=" and "+" exactly `after`; none is empty, no two
    neighbours have the same tag, and "-" comes before "+".
    """
    known = budget.known.get((before, after))
    if known is not None:
        return known, False
    segments, degraded = _diff(before, after, budget)
    if not degraded and len(before) + len(after) <= MAX_KNOWN_CHARS and len(budget.known) < MAX_KNOWN:
        budget.known[before, after] = segments
    return segments, degraded


def _diff(before: str, after: str, budget: Budget) -> tuple[Segments, bool]:
    head, tail = _common_ends(before, after)
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    middle, degraded = _diff_middle(old, new, budget)
    return _merge([("=", before[:head]), *middle, ("=", before[len(before) - tail :])]), degraded


def spelling(segments: Segments, budget: Budget) -> tuple[Literal["normalization_only", "whitespace_only"], ...]:
    """What alone two strings differ in, given their diff, if it is the Unicode normal form, or white space.

    What they begin and end with is left out of that, since equivalent strings stay so beside equal ones. Nothing
    is said of strings that differ in too many characters to look at.
    """
    first, end = segments[0][0] == "=", len(segments) - (segments[-1][0] == "=")
    old, new = ("".join(text for tag, text in segments[first:end] if tag in ("=", side)) for side in ("-", "+"))
    budget.steps -= (len(old) + len(new)) // CHARS_PER_STEP
    if max(len(old), len(new)) > MAX_WORD_CHARS or budget.steps < 0:
        return ()
    if not (old.isascii() and new.isascii()) and normalize("NFD", old) == normalize("NFD", new):
        return ("normalization_only",)
    return ("whitespace_only",) if "".join(old.split()) == "".join(new.split()) else ()


def _diff_middle(old: str, new: str, budget: Budget) -> tuple[list[tuple[Tag, str]], bool]:
    if not old or not new:
        return [("-", old), ("+", new)], False
    segments = _diff_as(_WORDS, old, new, budget)
    if segments is not None:
        return segments, False
    lines = _diff_as(_LINES, old, new, budget) or [("-", old), ("+", new)]
    return _refine(_merge(lines), budget)


def _refine(segments: Segments, budget: Budget) -> tuple[list[tuple[Tag, str]], bool]:
    """Every deletion with an insertion behind it, told in words where the budget lasts; and whether it did."""
    refined, degraded, i = list[tuple[Tag, str]](), False, 0
    while i < len(segments):
        tags = [tag for tag, _ in segments[i : i + 2]]
        words = _diff_as(_WORDS, segments[i][1], segments[i + 1][1], budget) if tags == ["-", "+"] else None
        degraded = degraded or (tags == ["-", "+"] and words is None)
        refined += words or [segments[i]]
        i += 1 if words is None else 2
    return refined, degraded


def _diff_as(pattern: re.Pattern[str], old: str, new: str, budget: Budget) -> list[tuple[Tag, str]] | None:
    """The shortest edit in tokens of one sort, or None if it costs more than there is."""
    if pattern is _WORDS:
        too_big = max(len(old), len(new)) > MAX_WORD_CHARS
    else:
        too_big = max(old.count("\n"), new.count("\n")) > MAX_LINES
    if too_big or budget.steps <= 0:
        return None
    budget.steps -= (len(old) + len(new)) // CHARS_PER_STEP
    return _diff_tokens(pattern.findall(old), pattern.findall(new), budget)


def _diff_tokens(old: list[str], new: list[str], budget: Budget) -> list[tuple[Tag, str]] | None:
    runs, steps = equal_runs(*codes_of(old, new), min(budget.steps, STEPS_PER_PASS))
    budget.steps -= steps
    if runs is None:
        return None
    x, y, script = 0, 0, list[tuple[Tag, str]]()
    for old_start, new_start, length in [*runs, (len(old), len(new), 0)]:
        script.append(("-", "".join(old[x:old_start])))
        script.append(("+", "".join(new[y:new_start])))
        x, y = old_start + length, new_start + length
        script.append(("=", "".join(old[old_start:x])))
    return script


def _merge(segments: Iterable[tuple[Tag, str]]) -> Segments:
    """Runs of changes told as one deletion and one insertion, runs of equal text as one segment."""
    merged: list[tuple[Tag, str]] = []
    parts: dict[Tag, list[str]] = {"=": [], "-": [], "+": []}
    is_equal = True
    for tag, text in segments:
        if not text:
            continue
        if is_equal != (tag == "="):
            merged += _joined(parts)
            is_equal = not is_equal
        parts[tag].append(text)
    return (*merged, *_joined(parts))


def _joined(parts: dict[Tag, list[str]]) -> Iterator[tuple[Tag, str]]:
    """The texts that were collected for each tag, which are then collected anew."""
    for tag, texts in parts.items():
        if texts:
            yield tag, texts[0] if len(texts) == 1 else "".join(texts)
            texts.clear()


def _common_ends(before: str, after: str) -> tuple[int, int]:
    """How many characters both strings begin with, and end with after those, cutting no word of either."""
    head = _common_length(before, after, min(len(before), len(after)), from_end=False)
    head = _snapped(head, lambda i: _cuts_word(before, i) or _cuts_word(after, i))
    tail = _common_length(before, after, min(len(before), len(after)) - head, from_end=True)
    tail = _snapped(tail, lambda i: _cuts_word(before, len(before) - i) or _cuts_word(after, len(after) - i))
    return head, tail


def _common_length(before: str, after: str, limit: int, *, from_end: bool) -> int:
    """The length of the common prefix or suffix, up to `limit`: compared by blocks, then by halving."""
    length, step = 0, _CHUNK
    while step and length < limit:
        size = min(step, limit - length)
        if from_end:
            old, new = len(before) - length, len(after) - length
            equal = before[old - size : old] == after[new - size : new]
        else:
            equal = before[length : length + size] == after[length : length + size]
        if equal:
            length += size
        else:
            step = size // 2
    return length


def _snapped(length: int, cuts: Callable[[int], bool]) -> int:
    """`length`, made shorter until nothing is cut, unless that leads too far."""
    for shorter in range(length, max(length - SNAP_CHARS, -1), -1):
        if not cuts(shorter):
            return shorter
    return length


def _cuts_word(text: str, index: int) -> bool:
    return 0 < index < len(text) and _is_word(text[index - 1]) and _is_word(text[index])


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
