"""The shortest edit is found, or the budget says that it was not."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from luthien.debug.diffing.edits import codes_of, equal_runs, longest_rising

SEQUENCES = st.lists(st.sampled_from("abc"), max_size=10)


def common_length(a: list[str], b: list[str]) -> int:
    """The longest common subsequence, the slow and obvious way."""
    row = [0] * (len(b) + 1)
    for x in a:
        new = [0]
        for j, y in enumerate(b):
            new.append(row[j] + 1 if x == y else max(row[j + 1], new[-1]))
        row = new
    return row[-1]


@given(SEQUENCES, SEQUENCES)
def test_no_shorter_edit_exists(before: list[str], after: list[str]) -> None:
    runs, _ = equal_runs(*codes_of(before, after), 10**6)
    assert runs is not None
    assert sum(length for _, _, length in runs) == common_length(before, after)
    for x, y, length in runs:
        assert before[x : x + length] == after[y : y + length]
    for (x, y, length), (next_x, next_y, _) in pairwise(runs):
        assert x + length <= next_x
        assert y + length <= next_y


@given(SEQUENCES, SEQUENCES, st.integers(0, 60))
def test_no_more_steps_are_taken_than_allowed(before: list[str], after: list[str], allowed: int) -> None:
    runs, steps = equal_runs(*codes_of(before, after), allowed)
    assert steps <= allowed
    assert runs is None or equal_runs(*codes_of(before, after), 10**6) == (runs, steps)


@given(st.permutations(range(8)))
def test_no_longer_rising_subsequence_exists(numbers: list[int]) -> None:
    places = longest_rising(numbers)
    found = [numbers[place] for place in places]
    assert places == sorted(places)
    assert found == sorted(found)
    as_text = [str(number) for number in numbers]
    assert len(found) == common_length(as_text, sorted(as_text))
