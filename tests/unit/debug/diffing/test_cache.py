"""A diff is made once, however many ask, and what is kept stays within its bounds."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from luthien.debug.diff import diff_payloads
from luthien.debug.diffing import cache
from luthien.debug.diffing.cache import DiffCache, size_of
from luthien.debug.diffing.documents import Documents
from luthien.debug.diffing.ops import Diff


class Counting:
    """Compares payloads, and knows how often it did."""

    def __init__(self) -> None:
        self.calls: list[tuple[bytes | None, bytes | None]] = []

    def __call__(self, before: bytes | None, after: bytes | None, /, *, documents: Documents | None = None) -> Diff:
        self.calls.append((before, after))
        return diff_payloads(before, after)


def test_the_same_payloads_are_compared_once() -> None:
    differ = Counting()
    kept = DiffCache(differ)
    first = kept(b'{"a": 1}', b'{"a": 2}')
    assert first == diff_payloads(b'{"a": 1}', b'{"a": 2}')
    assert kept(bytes(bytearray(b'{"a": 1}')), b'{"a": 2}') is first
    assert len(differ.calls) == 1


def test_the_other_way_round_and_absent_payloads_are_other_diffs() -> None:
    differ = Counting()
    kept = DiffCache(differ)
    pairs = [(b"1", b"2"), (b"2", b"1"), (None, b"1"), (b"1", None), (b"", b"1"), (None, None)]
    for _ in range(2):
        for pair in pairs:
            assert kept(*pair) == diff_payloads(*pair)
    assert differ.calls == pairs


def test_another_way_to_compare_is_not_taken_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    differ = Counting()
    kept = DiffCache(differ)
    kept(b"1", b"2")
    monkeypatch.setattr(cache, "ALGO", "another")
    kept(b"1", b"2")
    assert len(differ.calls) == 2


def test_several_that_ask_at_once_wait_for_one_comparison() -> None:
    started, may_go_on, calls = threading.Event(), threading.Event(), list[bytes | None]()

    def slow(before: bytes | None, after: bytes | None, /, *, documents: Documents | None = None) -> Diff:
        calls.append(before)
        started.set()
        assert may_go_on.wait(30)
        return diff_payloads(before, after)

    kept = DiffCache(slow)
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(kept, b"1", b"2")]
        assert started.wait(30)
        asked += [threads.submit(kept, b"1", b"2") for _ in range(3)]
        may_go_on.set()
        diffs = [each.result(30) for each in asked]
    assert all(diff is diffs[0] for diff in diffs)
    assert calls == [b"1"]


def test_one_that_fails_fails_all_who_wait_and_is_tried_again() -> None:
    outcomes = iter([MemoryError("no"), None])

    def failing(before: bytes | None, after: bytes | None, /, *, documents: Documents | None = None) -> Diff:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        return diff_payloads(before, after)

    kept = DiffCache(failing)
    with pytest.raises(MemoryError):
        kept(b"1", b"2")
    assert kept(b"1", b"2").summary.changed == 1


def test_what_was_not_asked_for_the_longest_goes_first() -> None:
    differ = Counting()
    kept = DiffCache(differ, max_diffs=2)
    kept(b"1", b"a")
    kept(b"2", b"a")
    kept(b"1", b"a")
    kept(b"3", b"a")
    assert kept.kept[0] == 2
    kept(b"1", b"a")
    assert [before for before, _ in differ.calls] == [b"1", b"2", b"3"]
    kept(b"2", b"a")
    assert len(differ.calls) == 4


def test_bytes_are_bounded_and_a_diff_beyond_them_is_not_kept() -> None:
    differ = Counting()
    kept = DiffCache(differ, max_bytes=10_000)
    for n in range(100):
        kept(b"%d" % n, b'"%s"' % (b"x" * 2_000))
        assert kept.kept[1] <= 10_000
    count, size = kept.kept
    assert 0 < count < 5
    kept(b"1", b'"%s"' % (b"x" * 20_000))
    assert kept.kept == (count, size)
    kept(b"99", b'"%s"' % (b"x" * 2_000))
    assert len(differ.calls) == 101


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"{}", b'{"a": "%s"}' % (b"x" * 100_000)),
        (b"{}", b'{"a": ["%s"]}' % b'","'.join(b"x" * 1_000 for _ in range(100))),
        (b"{}", b'{"a": {"%s": 1}}' % (b"x" * 100_000)),
        (b'["%s"]' % (b"x" * 100_000), b'["%s"]' % (b"y" * 100_000)),
        (b"1", b"1" * 100_000),
    ],
)
def test_the_size_of_a_diff_is_at_least_what_it_holds(before: bytes, after: bytes) -> None:
    assert size_of(diff_payloads(before, after)) >= 100_000
    assert size_of(diff_payloads(after, after)) < 1_000
