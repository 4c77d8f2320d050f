"""Which call goes on from which, and what it added."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.debug.sessions.histories import History, Item, history_of
from luthien.debug.sessions.turns import Step, Threads, Turn, how_of, step_between

items = st.lists(st.sampled_from([Item(bytes([letter])) for letter in b"abcdef"]), max_size=12).map(tuple)
SUMMARY = "The parser now reads nested lists; what is left is the writer, and a test for empty input. " * 6


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def chat(*messages: dict[str, Any], system: str = "", **fields: Any) -> History:
    first = [{"role": "system", "content": system}] if system else []
    history = history_of({"model": "m", "messages": [*first, *messages], **fields})
    assert history is not None
    return history


def placed(*histories: History | None, answers: dict[int, str] | None = None) -> list[Turn | None]:
    threads = Threads()
    return [threads.place(history, (answers or {}).get(at, "")) for at, history in enumerate(histories)]


def turn_of(turn: Turn | None) -> Turn:
    assert turn is not None
    return turn


def rebuilt(before: tuple[Item, ...], step: Step, after: tuple[Item, ...]) -> tuple[Item, ...]:
    """What was there, less what was dropped, with what was added."""
    kept = iter([item for at, item in enumerate(before) if at not in step.dropped])
    return tuple(after[at] if at in step.added else next(kept) for at in range(len(after)))


@given(items, items)
def test_what_was_there_and_what_was_added_are_the_request(before: tuple[Item, ...], after: tuple[Item, ...]) -> None:
    step = step_between(before, after)
    assert rebuilt(before, step, after) == after
    assert len(before) - len(step.dropped) == len(after) - len(step.added)
    assert (how_of(step, len(before), len(after)) == "same") is (before == after)


@given(items, items)
def test_what_is_appended_is_all_that_was_added(before: tuple[Item, ...], more: tuple[Item, ...]) -> None:
    step = step_between(before, before + more)
    assert not step.dropped
    assert len(step.added) == len(more)
    assert how_of(step, len(before), len(before) + len(more)) == ("continued" if more else "same")


@given(items, items, items)
def test_what_is_dropped_at_the_end_is_a_step_back(
    before: tuple[Item, ...], gone: tuple[Item, ...], more: tuple[Item, ...]
) -> None:
    step = step_between(before + gone, before)
    assert len(step.dropped) == len(gone)
    assert how_of(step, len(before + gone), len(before)) == ("went_back" if gone else "same")
    assert rebuilt(before + gone, step_between(before + gone, before + more), before + more) == before + more


def test_what_would_take_long_to_align_counts_as_another_history() -> None:
    """Even what both have in common in the middle; what they begin and end with is kept."""
    before = tuple(Item(b"both" if number == 7 else b"a%d" % number) for number in range(2000))
    after = tuple(Item(b"both" if number == 9 else b"b%d" % number) for number in range(2000))
    step = step_between((Item(b"x"), *before, Item(b"y")), (Item(b"x"), *after, Item(b"y")))
    assert step.dropped == step.added == tuple(range(1, 2001))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (user("Hi"), {"role": "user", "content": [{"type": "text", "text": "Hi"}]}),
        (user("Hi"), {"content": "Hi", "role": "user"}),
        (user("Hi"), {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}),
        (
            user("Hi"),
            {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
        ),
        (assistant("Hi"), assistant("Hi") | {"refusal": None, "tool_calls": None}),
    ],
)
def test_spelling_and_caching_marks_say_nothing(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert chat(one).items == chat(other).items


@pytest.mark.parametrize(
    "other",
    [
        assistant("Hi"),
        user("hi"),
        user("Hi") | {"name": "x"},
        user(""),
        {"role": "user", "content": [{"type": "text", "text": "Hi", "citations": ["x"]}]},
    ],
)
def test_what_is_said_and_by_whom_counts(other: dict[str, Any]) -> None:
    assert chat(user("Hi")).items != chat(other).items


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        "x",
        {"messages": "x"},
        {"messages": None},
        {"input": 7},
        {"input": "Paris", "encoding_format": "float"},
    ],
)
def test_what_is_no_conversation_has_no_history(body: object) -> None:
    assert history_of(body) is None


def test_an_input_that_is_a_text_is_what_a_user_says() -> None:
    one, other = history_of({"input": "Hi"}), history_of({"input": [user("Hi")]})
    assert one
    assert other
    assert one.items == other.items


def test_nesting_costs_a_history_and_nothing_else() -> None:
    deep: Any = "x"
    for _ in range(20_000):
        deep = [deep]
    assert history_of({"messages": [{"role": "user", "content": deep}]}) is None


def test_a_conversation_is_one_thread() -> None:
    first, second = [user("Hello")], [user("Hello"), assistant("Hi"), user("And?")]
    turns = placed(chat(*first), chat(*second), chat(*second), chat(*second, assistant("So"), user("Well")))
    assert [turn_of(turn).how for turn in turns] == ["first", "continued", "same", "continued"]
    assert [turn_of(turn).thread for turn in turns] == [0, 0, 0, 0]
    assert [turn_of(turn).follows for turn in turns] == [None, 0, 1, 2]
    assert turn_of(turns[1]).step == Step((), (1, 2))


def test_threads_that_take_turns_are_told_apart() -> None:
    """An agent, and one that it lets work, under instructions of its own."""
    main = [user("Fix the parser, please, and tell me when it is done")]
    sub = [user("Look for all the callers of parse() and list them by file")]
    turns = placed(
        chat(*main, system="You code"),
        chat(*sub, system="You search"),
        chat(*main, assistant("a"), user("b"), system="You code"),
        chat(*sub, assistant("c"), user("d"), system="You search"),
        chat(*main, assistant("a"), user("b"), assistant("e"), user("f"), system="You code"),
    )
    assert [turn_of(turn).thread for turn in turns] == [0, 1, 0, 1, 0]
    assert [turn_of(turn).follows for turn in turns] == [None, None, 0, 1, 2]


def test_the_same_instructions_make_no_thread() -> None:
    turns = placed(chat(user("Hello"), system="Be kind"), chat(user("Bye"), system="Be kind"))
    assert [turn_of(turn).how for turn in turns] == ["first", "began_anew"]
    assert [turn_of(turn).thread for turn in turns] == [0, 1]


def test_an_answer_asked_for_again_steps_back() -> None:
    base = [user("Hello"), assistant("Hi")]
    turns = placed(chat(*base[:1]), chat(*base, user("Red or blue?")), chat(*base, user("Red or green?")))
    assert turn_of(turns[2]).how == "went_back"
    assert turn_of(turns[2]).follows == 1
    assert turn_of(turns[2]).step == Step((2,), (2,))


def test_what_goes_on_from_the_same_call_at_once_is_a_branch() -> None:
    base = [user("Hello")]
    turns = placed(
        chat(*base),
        chat(*base, assistant("Hi"), user("One?")),
        chat(*base, assistant("Hello!"), user("Two?")),
        chat(*base, assistant("Hello!"), user("Two?"), assistant("2"), user("So?")),
        chat(*base, assistant("Hi"), user("One?"), assistant("1"), user("So?")),
    )
    assert [turn_of(turn).thread for turn in turns] == [0, 0, 1, 1, 0]
    assert [turn_of(turn).is_branch for turn in turns] == [False, False, True, False, False]
    assert turn_of(turns[2]).follows == 0


def test_the_call_that_shares_most_is_found_among_repetitions() -> None:
    turns = placed(
        chat(user("Go on"), user("And?")),
        chat(*[user("Go on")] * 4),
        chat(*[user("Go on")] * 4, user("So?"), user("And?")),
    )
    assert turn_of(turns[2]).follows == 1


def test_a_result_that_was_cleared_is_a_rewritten_history() -> None:
    history = [user("Fix it"), assistant("Reading"), user("x" * 500), assistant("Found it"), user("Go on")]
    cleared = [*history[:2], user("[cleared]"), *history[3:], assistant("Done"), user("Thanks")]
    turns = placed(chat(*history[:3]), chat(*history), chat(*cleared))
    assert turn_of(turns[2]).how == "rewritten"
    assert turn_of(turns[2]).follows == 1
    assert turn_of(turns[2]).step == Step((2,), (2, 5, 6))


def test_a_compaction_that_keeps_the_end_stays_in_its_thread() -> None:
    long = [user(f"Step {number}: " + "words " * 30) for number in range(12)]
    turns = placed(
        chat(*long, system="You code"),
        chat(user("In short: eleven steps"), *long[-2:], user("Go on"), system="You code"),
    )
    second = turn_of(turns[1])
    assert (second.how, second.thread, second.follows) == ("rewritten", 0, 0)
    assert second.step is not None
    assert len(second.step.dropped) == 10


def test_a_compaction_that_keeps_an_answer_only_is_known_by_that_answer() -> None:
    long = [user(f"Step {number}") for number in range(12)]
    turns = placed(
        chat(*long, user("Sum this up"), system="You code"),
        chat(user(f"This goes on from another conversation.\n{SUMMARY}\nGo on."), system="You code"),
        answers={0: f"<summary>{SUMMARY}</summary>"},
    )
    second = turn_of(turns[1])
    assert (second.how, second.thread, second.follows, second.step) == ("summed_up", 0, 0, None)


def test_a_call_that_is_no_conversation_takes_a_place_in_none() -> None:
    turns = placed(chat(user("Hello")), None, chat(user("Hello"), assistant("Hi"), user("So?")))
    assert turns[1] is None
    assert turn_of(turns[2]).follows == 0


def test_other_fields_that_differ_are_named() -> None:
    turns = placed(chat(user("a"), temperature=0), chat(user("a"), temperature=1, tools=[{"name": "t"}]))
    assert turn_of(turns[1]).how == "same"
    assert turn_of(turns[1]).settings == ("temperature", "tools")


@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=6), max_size=8))
def test_every_call_follows_one_before_it_or_begins_a_thread(sessions: list[list[str]]) -> None:
    histories = [chat(*map(user, texts)) for texts in sessions]
    turns = [turn_of(turn) for turn in placed(*histories)]
    begun = 0
    for place, turn in enumerate(turns):
        begins = turn.step is None or turn.is_branch
        assert turn.thread == begun if begins else turn.thread < begun
        begun += begins
        if turn.step is not None:
            assert turn.follows is not None
            assert turn.follows < place
            assert rebuilt(histories[turn.follows].items, turn.step, histories[place].items) == histories[place].items
