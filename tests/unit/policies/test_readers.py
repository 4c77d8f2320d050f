"""What a policy in a stream was given and has not answered for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from luthien.formats.sse import Chunk, parse_frame
from luthien.policies.readers import Pending

SEVERAL = 20


def chunk(number: int) -> Chunk:
    raw = b"data: %d\n\n" % number
    return parse_frame(raw, raw)


def pending(chunks: list[Chunk]) -> Pending:
    made = Pending()
    for each in chunks:
        made.add(each)
    return made


@given(st.lists(st.integers(0, SEVERAL - 1), unique=True), st.integers(0, SEVERAL))
def test_a_chunk_answers_for_itself_and_all_before(given_on: list[int], others: int) -> None:
    """And one that a policy made for the oldest."""
    chunks = [chunk(number) for number in range(SEVERAL)]
    waiting, left = pending(chunks), [*chunks]
    for number in given_on:
        was_due = bool(left) and left[0] is chunks[number]
        left = left[left.index(chunks[number]) + 1 :] if chunks[number] in left else left[1:]
        assert waiting.settle(chunks[number]) is was_due
        assert [*waiting.chunks] == left
    for number in range(others):
        assert not waiting.settle(chunk(number))
        left = left[1:]
    assert [*waiting.chunks] == left
    assert waiting.size_bytes == sum(len(each.raw) for each in left)


def test_the_same_chunk_twice_is_due_twice() -> None:
    one = chunk(1)
    waiting = pending([one, one])
    assert [waiting.settle(one), waiting.settle(one), waiting.settle(one)] == [True, True, False]


def test_what_was_cleared_is_not_waited_for() -> None:
    one, other = chunk(1), chunk(2)
    waiting = pending([one])
    waiting.clear()
    waiting.add(other)
    assert waiting.size_bytes == len(other.raw)
    assert not waiting.settle(one)
    assert not waiting.chunks


def test_very_many_chunks_that_were_made_anew_are_answered_in_time() -> None:
    """Looking through all that are pending, for each of them, would take minutes."""
    waiting = pending([chunk(number) for number in range(300_000)])
    for number in range(300_000):
        assert not waiting.settle(chunk(number))
    assert not waiting.chunks
