"""Filters as they stand in addresses: what they may be, and what is said of those that may not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.debug.search.filters import (
    CHOICES,
    NAMES,
    NEEDS,
    FilterError,
    filter_items,
    query_of,
    read_filter,
    without,
)
from luthien.exchange import Side
from luthien.policies.policy import Action
from luthien.store.call_filter import EVERY_CALL, NEEDS_INDEX, WITHOUT, CallFilter, Decided, Mode, Part

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
WORDS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=50).filter(
    lambda text: text.strip() == text
)
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1), timezones=st.just(UTC))


def _in_order(some: set[str], name: str) -> tuple[str, ...]:
    return tuple(each for each in CHOICES[name] if each in some)


FILTERS = st.builds(
    CallFilter,
    id=st.none() | st.text("0123456789abcdef", min_size=1, max_size=32),
    session=st.none() | WORDS,
    model=st.none() | WORDS,
    policy=st.none() | WORDS,
    outcome=st.none()
    | st.sets(st.sampled_from(CHOICES["outcome"]), min_size=1).map(lambda some: _in_order(some, "outcome")),
    changed=st.none() | st.sampled_from(CHOICES["changed"]),
    since=st.none() | TIMES,
    until=st.none() | TIMES,
    changed_by=st.none() | WORDS,
    part=st.none() | st.sampled_from(Part),
    path=st.none() | WORDS,
    version=st.none() | WORDS,
    side=st.none() | st.sampled_from(Side),
    decided=st.none() | st.sampled_from(Decided),
    mode=st.none() | st.sampled_from(Mode),
    without=st.none() | st.sets(st.sampled_from(WITHOUT), min_size=1).map(lambda some: _in_order(some, "without")),
).map(lambda wanted: without(replace(wanted, without=_lacking(wanted))))


def _lacking(wanted: CallFilter) -> tuple[str, ...] | None:
    return tuple(each for each in wanted.without or () if getattr(wanted, each) is None) or None


@given(FILTERS)
def test_what_is_written_is_read_again(wanted: CallFilter) -> None:
    assert read_filter(filter_items(wanted)) == wanted
    assert read_filter(parse_qsl(query_of(wanted, limit=5), keep_blank_values=True), also=("limit",)) == wanted


def test_nothing_asks_for_everything() -> None:
    assert read_filter([]) == EVERY_CALL
    assert read_filter([(name, "  ") for name in NAMES]) == EVERY_CALL
    assert query_of(EVERY_CALL) == ""
    assert query_of(EVERY_CALL, before=None, limit=50) == "limit=50"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("2026-11-22", datetime(2026, 11, 22, tzinfo=UTC)),
        ("2026-11-22T15:00", datetime(2026, 11, 22, 15, tzinfo=UTC)),
        ("2026-11-22T15:00Z", datetime(2026, 11, 22, 15, tzinfo=UTC)),
        ("2026-11-22T15:00+02:00", datetime(2026, 11, 22, 15, tzinfo=timezone(timedelta(hours=2)))),
        ("30s", NOW - timedelta(seconds=30)),
        ("90m", NOW - timedelta(minutes=90)),
        ("1h", NOW - timedelta(hours=1)),
        ("7d", NOW - timedelta(days=7)),
        ("2 w", NOW - timedelta(weeks=2)),
    ],
)
def test_a_time_is_a_date_a_moment_or_so_long_ago(said: str, meant: datetime) -> None:
    wanted = read_filter([("since", said)], now=NOW)
    assert wanted.since == meant
    assert wanted.since is not None
    assert wanted.since.tzinfo is UTC


def test_an_id_is_how_it_begins_whichever_way_it_is_written() -> None:
    assert read_filter([("id", "01A0-2B")]).id == "01a02b"


@pytest.mark.parametrize(
    ("parameter", "value", "said"),
    [
        ("outcome", "complete", "is none of completed, blocked"),
        ("outcome", "blocked,,complete", "'complete' is none of completed, blocked"),
        ("without", "provider,part", "'part' is none of session, model, provider, format, key, policy, version"),
        ("without", "model,version", "version: of what? Say policy or changed_by, too"),
        ("version", "3f2a91c04d5e", "Say policy or changed_by, too"),
        ("side", "request", "Say policy or changed_by or part or path, too"),
        ("decided", "block", "Say policy, too"),
        ("mode", "shadow", "Say policy, too"),
        ("mode", "dry", "is none of enforce, shadow"),
        ("changed", "yes", "is none of request, response, any, none"),
        ("part", "arguments", "is none of system, message, tool_arguments"),
        ("since", "yesterday", "is no time"),
        ("since", "2026-13-01", "is no time"),
        ("until", "999999w", "is no time"),
        ("since", "0001-01-01T00:00+14:00", "is no time"),
        ("id", "xyz", "hexadecimal"),
        ("id", "0" * 33, "32 at most"),
        ("session", "a\0b", "NUL"),
        ("text", "x" * 1001, "1001 characters are too many"),
        ("text", "?!", "no word"),
        ("text", " ".join(f"w{number}" for number in range(65)), "65 words"),
        ("text", "".join(chr(0x4E00 + number) for number in range(66)), "65 words"),
        ("modle", "gpt", "there is no such filter; there are id, session"),
    ],
)
def test_what_cannot_be_is_said_with_its_name_and_what_may_be(parameter: str, value: str, said: str) -> None:
    with pytest.raises(FilterError, match=parameter) as caught:
        read_filter([(parameter, value)], now=NOW)
    assert said in str(caught.value)
    assert caught.value.parameter == parameter


def test_no_call_has_something_and_has_it_not() -> None:
    with pytest.raises(FilterError, match="without: model is asked for, too"):
        read_filter([("without", "provider,model"), ("model", "x")])
    with pytest.raises(FilterError, match="decided: of what"):
        read_filter([("without", "policy"), ("decided", "block")])


def test_what_is_somebody_else_s_is_left_alone() -> None:
    assert read_filter([("before", "x"), ("limit", "9")], also=("before", "limit")) == EVERY_CALL


def test_only_text_changes_and_decisions_need_the_index() -> None:
    assert not CallFilter(session="s", model="m", policy="p", outcome=("blocked",), changed="any").needs_index
    for name in NEEDS_INDEX:
        asked: Any = {name: "x"}
        assert CallFilter(**asked).needs_index
    assert [name for name in WITHOUT if CallFilter(without=(name,)).needs_index] == ["version", "changed_by", "path"]


def test_several_outcomes_stand_together_or_one_by_one() -> None:
    expected = CallFilter(outcome=("blocked", "policy_error", "running"))
    for items in (
        [("outcome", "running, policy_error,blocked,blocked")],
        [("outcome", ""), ("outcome", "running"), ("outcome", "blocked"), ("outcome", "policy_error")],
    ):
        assert read_filter(items) == expected
    assert query_of(expected) == "outcome=blocked%2Cpolicy_error%2Crunning"
    assert read_filter([("outcome", " , ")]) == EVERY_CALL


def test_what_said_more_goes_with_the_last_that_it_said_more_of() -> None:
    wanted = CallFilter(
        policy="p", changed_by="p", version="1", side=Side.REQUEST, decided=Decided.BLOCK, mode=Mode.ENFORCE
    )
    assert without(wanted, "policy") == CallFilter(changed_by="p", version="1", side=Side.REQUEST)
    assert without(wanted, "policy", "changed_by") == EVERY_CALL
    assert without(wanted, "version") == replace(wanted, version=None)
    unknown = read_filter([("without", "provider,version,changed_by"), ("side", "request")])
    assert without(unknown, "changed_by") == CallFilter(without=("provider",))
    assert without(unknown, "version") == replace(unknown, without=("provider", "changed_by"))
    for name, needed in NEEDS.items():
        for each in needed:
            assert getattr(
                read_filter([(name, CHOICES.get(name, ("1",))[0]), (each, CHOICES.get(each, ("x",))[0])]), name
            )


def test_a_policy_decides_what_may_be_asked_for() -> None:
    assert {action.value for action in Action} == {each.value for each in Decided} - {Decided.CHANGE.value}
