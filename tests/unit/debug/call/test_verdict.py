"""The sentence about a call says what is known, and "no change" only of records that are all there."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.debug.align import Alignment
from luthien.debug.blaming.blame import blame
from luthien.debug.blaming.steps import GATEWAY, Steps, Stretch
from luthien.debug.call.basis import Basis, Decision, StageState
from luthien.debug.call.completeness import State
from luthien.debug.call.verdict import Bodies, verdict_sentence
from luthien.debug.diff import diff_payloads
from luthien.debug.diffing.ops import Blame, Diff
from luthien.exchange import STAGES, EventType, Side

WHOLE: Mapping[EventType, StageState] = dict.fromkeys(STAGES, "recorded")
CHAT = {
    "model": "m",
    "messages": [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}],
}
FATES = ["recorded", "missing", "awaited", "partial"]
REPLY: dict[str, Any] = {"id": "r", "choices": [{"message": {"content": "hello there"}}]}


def chat(*contents: Any, **fields: Any) -> dict[str, Any]:
    return {**CHAT, "messages": [{"role": "user", "content": content} for content in contents], **fields}


def tell(
    after: Any = CHAT,
    *,
    before: Any = CHAT,
    reply: Any = REPLY,
    by: Collection[str] = ("replace_text",),
    replied_by: Collection[str] = (),
    decisions: Collection[Decision] = (),
    states: Mapping[EventType, StageState] = WHOLE,
    lost_records: int = 0,
    redacted: Collection[Side] = (),
    record: State = State.COMPLETE,
    outcome: str | None = None,
    http_status: int | None = None,
    pairing: Any = None,
) -> str:
    """The sentence for a call whose request went from `before` to `after` and whose response to `reply`."""
    options = {} if pairing is None else {"pairing": pairing}

    def recorded(*stages: EventType) -> bool:
        return all(
            states.get(stage) not in (None, "missing", "awaited", "partial", "not_reached") for stage in stages
        )

    request = diff_payloads(json.dumps(before).encode(), json.dumps(after).encode(), **options)
    response = diff_payloads(json.dumps(REPLY).encode(), json.dumps(reply).encode())
    return verdict_sentence(
        request if recorded(EventType.REQUEST_ORIGINAL, EventType.REQUEST_FINAL) else None,
        response if recorded(EventType.RESPONSE_ORIGINAL, EventType.RESPONSE_FINAL) else None,
        bodies=Bodies(before, REPLY, reply),
        decisions=[
            *(Decision(policy, "request", "modify", changed=True) for policy in by if after != before),
            *(Decision(policy, "response", "modify", changed=True) for policy in replied_by),
            *decisions,
        ],
        basis=Basis(states, lost_records, redacted, record, (), outcome, http_status),
    )


def without(**states: StageState) -> Mapping[EventType, StageState]:
    return {**WHOLE, **{EventType(name): state for name, state in states.items()}}


class TestCompleteCalls:
    def test_nothing_changed(self) -> None:
        assert tell(decisions=[Decision("noop", "request", "allow", changed=False)]) == "no policy changed this call"

    def test_that_nobody_looked_is_another_thing(self) -> None:
        assert tell() == "no policy looked at this call"

    def test_one_message_changed(self) -> None:
        assert tell(chat("ONE", "two")) == "replace_text changed 1 of 2 messages; response: no change"

    def test_request_and_response_changed_by_the_same_policy(self) -> None:
        reply = {"id": "r", "choices": [{"message": {"content": "hello"}}]}
        assert (
            tell(chat("ONE", "two"), reply=reply, replied_by=["replace_text"])
            == "replace_text changed 1 of 2 messages; response: replace_text changed the answer"
        )

    def test_only_the_response_changed(self) -> None:
        reply = {"choices": [{"message": {"content": "hello"}}]}
        assert (
            tell(reply=reply, replied_by=["mask"])
            == "request: no change; response: mask changed the answer and removed id"
        )

    def test_a_message_with_several_changes_counts_once(self) -> None:
        assert tell(
            {"model": "m", "messages": [{"role": "user", "content": "y", "name": "z"}, CHAT["messages"][1]]}
        ) == ("replace_text changed 1 of 2 messages; response: no change")

    def test_a_message_changed_and_one_added(self) -> None:
        assert tell(chat("one", "TWO", "three"), by=["add_system_message"]).startswith(
            "add_system_message changed 1 of 2 messages and added 1;"
        )

    def test_messages_added_or_removed_alone(self) -> None:
        assert tell(chat("one", "two", "three", "four")).startswith("replace_text added 2 messages;")
        assert tell(chat("one")).startswith("replace_text removed 1 message;")

    def test_a_message_is_counted_once_when_others_before_it_came_and_went(self) -> None:
        before = chat("gone", "stays", "also")
        after = chat("first", "second", "stays!", "also")
        after["messages"][2]["name"] = "new"
        sentence = tell(
            after,
            before=before,
            pairing=lambda ptr, b, a: Alignment([(0, None), (None, 0), (None, 1), (1, 2), (2, 3)]),
        )
        assert sentence.startswith("replace_text changed 1 of 3 messages, added 2 and removed 1;")

    def test_messages_that_moved(self) -> None:
        before = chat("one", "two", "three", "four")
        assert tell(chat("four", "one", "two", "three"), before=before).startswith("replace_text moved 1 message;")
        assert tell(chat("four", "one", "TWO", "three"), before=before).startswith(
            "replace_text changed 1 of 4 messages and moved 1;"
        )

    def test_the_same_content_written_otherwise_is_not_changed(self) -> None:
        parts = [{"type": "text", "text": "one"}]
        assert tell(chat(parts, "two")).startswith("replace_text re-encoded 1 of 2 messages (same content);")
        assert tell(chat(parts, "TWO")).startswith(
            "replace_text changed 1 of 2 messages and re-encoded 1 of 2 messages (same content);"
        )
        both = chat(parts, "two")
        both["messages"][0]["name"] = "x"
        assert tell(both).startswith("replace_text changed 1 of 2 messages;")
        assert tell(chat("one", "two", system=parts), before=chat("one", "two", system="one")).startswith(
            "replace_text re-encoded the system prompt (same content);"
        )

    def test_a_response_with_the_same_content_written_otherwise(self) -> None:
        reply = {"id": "r", "choices": [{"message": {"content": [{"type": "text", "text": "hello there"}]}}]}
        assert tell(reply=reply, replied_by=["mask"]).endswith("; response: mask changed only how it is written")

    def test_the_system_prompt_beside_the_messages(self) -> None:
        before = chat("one", "two", system="be kind")
        assert tell(chat("ONE", "two", system="be brief"), before=before).startswith(
            "replace_text changed the system prompt and 1 of 2 messages;"
        )
        assert tell(chat("one", "two", system="be brief")).startswith("replace_text added the system prompt;")
        blocks = chat("one", "two", system=[{"type": "text", "text": "be kind"}])
        assert tell(chat("one", "two", system=[{"type": "text", "text": "be rude"}]), before=blocks).startswith(
            "replace_text changed the system prompt;"
        )

    def test_an_addition_after_several_changes_is_set_off(self) -> None:
        before = chat("one", "two", system="be kind")
        assert tell(chat("ONE", "two", "three", system="be brief"), before=before).startswith(
            "replace_text changed the system prompt and 1 of 2 messages, and added 1;"
        )

    def test_responses_api_input_and_instructions(self) -> None:
        before = {"input": [{"role": "user", "content": "a"}], "instructions": "x"}
        after = {"input": [{"role": "user", "content": "b"}], "instructions": "y"}
        assert tell(after, before=before).startswith("replace_text changed the instructions and 1 of 1 input item;")
        assert tell({"input": "b"}, before={"input": "a"}).startswith("replace_text changed the input;")

    def test_tools_and_other_fields_by_name(self) -> None:
        before = chat("one", tools=[{"name": "a"}, {"name": "b"}], temperature=1)
        after = chat("one", tools=[{"name": "a"}], temperature=1.0, model="n", seed=3)
        assert tell(after, before=before).startswith(
            "replace_text changed model from m to n and temperature from 1 to 1.0, added seed and removed 1 tool;"
        )

    def test_many_other_fields_are_counted(self) -> None:
        assert tell(chat("one", "two", a=1, b=2, c=3, d=4)).startswith("replace_text added 4 fields;")

    def test_the_whole_request(self) -> None:
        assert tell([1], before={"a": 1}).startswith("replace_text changed the whole request;")

    def test_several_policies_are_named_once_each(self) -> None:
        assert tell(chat("ONE", "two"), by=["a", "b", "a", "c"]).startswith("a, b and c changed 1 of 2 messages;")

    def test_a_change_that_no_policy_claims_is_not_pinned_on_one(self) -> None:
        assert tell(chat("ONE", "two"), by=[]).startswith("an unrecorded step changed 1 of 2 messages;")

    def test_a_change_that_was_undone_is_not_called_none_at_all(self) -> None:
        claim = Decision("upper", "request", "modify", changed=True)
        assert tell(decisions=[claim]) == "no change in the end, although upper changed something on the way"

    def test_another_order_of_keys_is_not_called_no_change(self) -> None:
        assert tell(dict(reversed(CHAT.items())), decisions=[Decision("p", "request", "modify", changed=True)]) == (
            "p changed only how the request is written; response: no change"
        )
        assert tell(reply=dict(reversed(REPLY.items()))) == (
            "request: no change; response: an unrecorded step changed only how it is written"
        )

    def test_what_redaction_hides_is_not_called_no_change(self) -> None:
        assert tell(redacted=[Side.REQUEST]) == "request: changed, content redacted; response: no change"
        assert tell(redacted=[Side.RESPONSE]) == "request: no change; response: changed, content redacted"


class TestStoppedCalls:
    def test_a_blocked_request(self) -> None:
        states = without(
            request_final="not_reached", response_original="not_reached", response_final="gateway_generated"
        )
        block = Decision("no_secrets", "request", "block", changed=False)
        assert tell(decisions=[block], states=states) == "no_secrets blocked the request"

    def test_a_blocked_response(self) -> None:
        block = Decision("no_secrets", "response", "block", changed=False)
        assert tell(decisions=[block], states=without(response_final="gateway_generated")) == (
            "request: no change; no_secrets blocked the response"
        )

    def test_a_policy_that_broke(self) -> None:
        states = without(
            request_final="not_reached", response_original="not_reached", response_final="gateway_generated"
        )
        error = Decision("shaky", "request", "error", changed=False)
        assert tell(decisions=[error], states=states) == "shaky broke on the request"

    def test_a_policy_that_broke_and_was_passed_over(self) -> None:
        error = Decision("shaky", "request", "error", changed=False)
        assert (
            tell(decisions=[error])
            == "no policy changed this call; shaky broke on the request, and the call went on without it"
        )

    def test_a_policy_that_broke_or_blocked_when_a_part_was_given(self) -> None:
        reply = {**REPLY, "error": {"code": "policy_error"}}
        error = Decision("shaky", "response", "error", changed=False)
        assert tell(reply=reply, decisions=[error], outcome="policy_error") == (
            "request: no change; shaky broke on the response, of which the client had been given a part"
        )
        block = Decision("guard", "response", "block", changed=False)
        assert tell(reply=reply, decisions=[block], outcome="blocked") == (
            "request: no change; guard blocked the response, of which the client had been given a part"
        )

    def test_a_provider_that_answered_with_an_error(self) -> None:
        noop = [Decision("noop", "request", "allow", changed=False)]
        assert tell(decisions=noop, outcome="upstream_error", http_status=429) == (
            "no policy changed this call; the provider answered with an error (HTTP 429)"
        )
        assert tell(decisions=noop, outcome="upstream_error", http_status=200) == (
            "no policy changed this call; the provider ended its answer with an error"
        )

    def test_a_client_that_hung_up(self) -> None:
        assert tell(chat("ONE", "two"), outcome="client_disconnected") == (
            "replace_text changed 1 of 2 messages; response: no change; the client hung up before the end"
        )

    def test_a_request_that_the_gateway_rejected(self) -> None:
        states = without(
            request_final="not_reached", response_original="not_reached", response_final="gateway_generated"
        )
        assert tell(states=states) == "the request was not sent to the provider: the gateway rejected it"

    def test_remarks_are_no_changes(self) -> None:
        remarks = [Decision("judge", side, "annotate", changed=False) for side in ("request", "response")]
        shadow = Decision("guard", "request", "annotate", changed=False, shadow=True)
        assert tell(decisions=[*remarks, shadow]) == (
            "no policy changed this call; judge left a remark on the request and the response"
        )

    def test_an_upstream_that_gave_no_answer(self) -> None:
        states = without(response_original="not_reached", response_final="gateway_generated")
        assert tell(chat("ONE", "two"), states=states) == (
            "replace_text changed 1 of 2 messages; response: the gateway answered in the provider's place"
        )

    def test_a_client_that_left_before_the_response(self) -> None:
        states = without(response_original="not_reached", response_final="not_reached")
        assert tell(states=states) == "request: no change; response: none reached the client"

    def test_a_request_that_was_turned_away(self) -> None:
        states = without(
            request_original="not_reached",
            request_final="not_reached",
            response_original="not_reached",
            response_final="gateway_generated",
        )
        assert tell(states=states) == "the request was turned away before it was read"


class TestBlamedChanges:
    """What is known of who made each operation is said of each policy on its own."""

    def tell(self, *documents: Any, replies: Collection[Any] = (), steps: Mapping[str, Steps] | None = None) -> str:
        """The sentence when policies a, b, c made each the next of these requests, and of these responses."""
        diffs: list[Diff | None] = []
        decisions: list[Decision] = []
        for side, made in ((Side.REQUEST, documents), (Side.RESPONSE, (REPLY, *replies))):
            payloads = [json.dumps(each).encode() for each in made]
            stretches: list[Stretch] = []
            for before, after in itertools.pairwise(payloads):
                number = len(decisions)
                who = Blame("abcdef"[len(stretches)], "1", "", number)
                stretches.append(Stretch(before, after, (who,)))
                decisions.append(Decision(who.policy, side.value, "modify", before != after, sequence=number))
            chain = Steps(side, tuple(each for each in stretches if each.before != each.after))
            chain = (steps or {}).get(side.value, chain)
            diffs.append(blame(diff_payloads(payloads[0], payloads[-1]), chain))
        return verdict_sentence(
            diffs[0],
            diffs[1],
            bodies=Bodies(documents[0], REPLY, [REPLY, *replies][-1]),
            decisions=decisions,
            basis=Basis(WHOLE),
        )

    def test_each_policy_has_its_own_count(self) -> None:
        first, second, third = chat("one", "two", "x"), chat("ONE", "TWO", "x"), chat("ONE", "TWO", "x", "four")
        assert self.tell(first, second, third) == (
            "a changed 2 of 3 messages and b added 1 message; response: no change"
        )

    def test_an_element_that_a_policy_changed_behind_one_that_another_added(self) -> None:
        first, second = chat("one", "two"), chat("zero", "one", "two")
        third = {**second, "messages": [*second["messages"][:2], {**second["messages"][2], "name": "n"}]}
        assert self.tell(first, second, third).startswith("a added 1 message and b changed 1 of 2 messages;")

    def test_one_that_was_made_by_two(self) -> None:
        first, second, third = chat("one two", x=1), chat("1 two", x=1), chat("1 2", x=2)
        assert self.tell(first, second, third).startswith(
            "a and b changed 1 of 1 message, and b changed x from 1 to 2;"
        )

    def test_responses(self) -> None:
        second = {"id": "s", "choices": [{"message": {"content": "hello there"}}]}
        third = {"id": "s", "choices": [{"message": {"content": "bye"}}], "x": 1}
        assert self.tell(CHAT, replies=[second, third]) == (
            "request: no change; response: a changed id and b changed the answer and added x"
        )

    def test_a_moved_message(self) -> None:
        first, second = chat("one", "two", "three", "four"), chat("two", "three", "four", "one")
        assert self.tell(first, second).startswith("a moved 1 message;")

    def test_a_policy_of_which_nothing_is_left(self) -> None:
        first, second, third = chat("one", x=1), chat("one", x=2), chat("two", x=1)
        assert self.tell(first, second, third) == (
            "b changed 1 of 1 message; response: no change; nothing is left of what a changed in the request"
        )
        assert (
            self.tell(first, second, first) == "no change in the end, although a and b changed something on the way"
        )

    def test_a_policy_that_only_said_so(self) -> None:
        assert self.tell(CHAT, CHAT, chat("one", "TWO")) == (
            "b changed 1 of 2 messages; response: no change; a said it modified the request, but left it as it was"
        )

    def test_what_is_not_known_is_told_as_such(self) -> None:
        first, second, third = (json.dumps(each).encode() for each in (chat("one"), chat("ONE"), chat("ONE", x=1)))
        a, b, c = (Blame(name, "1", "", number) for number, name in enumerate("abc"))
        gap = Stretch(first, second, (a, b), why="lost")
        known = Steps(Side.REQUEST, (gap, Stretch(second, third, (c,))))
        documents = [json.loads(each) for each in (first, first, second, third)]
        assert self.tell(*documents, steps={"request": known}).startswith(
            "c added x and an unknown step changed 1 of 1 message;"
        )
        unknown = Steps(Side.REQUEST, (Stretch(first, third, (a, b), why="lost"),))
        assert self.tell(*documents, steps={"request": unknown}).startswith("b and c changed 1 of 1 message")
        assert "nothing is left" not in self.tell(*documents, steps={"request": unknown})

    def test_how_the_gateway_ended_a_stream_is_no_policys_doing(self) -> None:
        before, after = (json.dumps(each).encode() for each in (REPLY, {**REPLY, "error": {"code": "x"}}))
        ended = Steps(Side.RESPONSE, (Stretch(before, after, (), why=GATEWAY),), is_cut=True)
        assert self.tell(CHAT, replies=[{**REPLY, "error": {"code": "x"}}], steps={"response": ended}).startswith(
            "request: no change; response: the gateway added an error"
        )

    def test_what_a_provider_broke_off(self) -> None:
        before, after = (json.dumps(each).encode() for each in (REPLY, {**REPLY, "error": {"code": "x"}}))
        ended = Steps(Side.RESPONSE, (Stretch(before, after, (), why=GATEWAY),), is_cut=True)
        sentence = verdict_sentence(
            diff_payloads(b"{}", b"{}"),
            blame(diff_payloads(before, after), ended),
            bodies=Bodies({}, REPLY, {**REPLY, "error": {"code": "x"}}),
            decisions=[],
            basis=Basis(WHOLE, outcome="upstream_error", http_status=200),
        )
        assert sentence == (
            "request: no change; response: the gateway added an error; the provider's answer broke off"
        )


class TestIncompleteRecords:
    def test_a_stage_of_which_only_checkpoints_are_there(self) -> None:
        assert tell(states=without(response_final="partial")) == (
            "incomplete: response_final is partial, so what changed cannot be said"
        )
        assert tell(
            states=without(request_final="missing", response_original="partial", response_final="partial")
        ) == (
            "incomplete: request_final is missing and response_original and response_final are partial, "
            "so what changed cannot be said"
        )

    def test_a_missing_stage(self) -> None:
        assert tell(states=without(response_final="missing")) == (
            "incomplete: response_final is missing, so what changed cannot be said"
        )

    def test_what_is_known_all_the_same(self) -> None:
        assert tell(chat("ONE", "two"), states=without(response_final="missing")) == (
            "incomplete: response_final is missing, so what else changed cannot be said; "
            "replace_text changed 1 of 2 messages"
        )

    def test_a_call_of_which_nothing_is_there(self) -> None:
        assert tell(states={}) == (
            "incomplete: request_original, request_final, response_original and response_final are missing, "
            "so what changed cannot be said"
        )

    def test_lost_records(self) -> None:
        assert tell(lost_records=1) == ("incomplete: 1 record of this call got lost, so what changed cannot be said")

    @pytest.mark.parametrize(
        ("record", "problem"),
        [
            (State.PENDING, "the record is not all there yet"),
            (State.PARTIAL, "the record is partial"),
            (State.INTERRUPTED, "the process ended before the call did"),
            (State.FAILED, "the record is failed"),
        ],
    )
    def test_a_record_that_is_not_proved_complete_although_all_stages_are_there(
        self, record: State, problem: str
    ) -> None:
        assert tell(record=record) == f"incomplete: {problem}, so what changed cannot be said"

    def test_a_call_that_runs(self) -> None:
        states = without(response_original="awaited", response_final="awaited")
        assert tell(chat("ONE", "two"), states=states, record=State.PENDING) == (
            "incomplete: response_original and response_final are still to come, so what else changed cannot be said;"
            " replace_text changed 1 of 2 messages"
        )

    def test_a_call_that_was_interrupted(self) -> None:
        assert tell(states=without(response_final="missing"), record=State.INTERRUPTED) == (
            "incomplete: response_final is missing, since the process ended before the call did, so what changed"
            " cannot be said"
        )

    def test_a_stream_of_which_checkpoints_have_a_part(self) -> None:
        states = without(response_original="partial", response_final="missing")
        assert tell(states=states, record=State.INTERRUPTED) == (
            "incomplete: response_final is missing and response_original is partial, since the process ended before"
            " the call did, so what changed cannot be said"
        )
        states = without(response_original="partial", response_final="partial")
        assert tell(states=states, record=State.PENDING) == (
            "incomplete: response_original and response_final are partial so far, so what changed cannot be said"
        )

    def test_a_side_that_was_not_compared(self) -> None:
        sentence = verdict_sentence(None, None, bodies=Bodies(CHAT), decisions=[], basis=Basis(WHOLE))
        assert sentence == (
            "incomplete: the request was not compared and the response was not compared, "
            "so what changed cannot be said"
        )


@given(
    st.dictionaries(st.sampled_from(STAGES), st.sampled_from(FATES), max_size=4),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from(State),
)
def test_no_change_is_only_said_of_complete_records(
    states: dict[EventType, StageState], lost_records: int, has_changed: bool, record: State
) -> None:
    after = chat("ONE", "two") if has_changed else CHAT
    sentence = tell(after, states=states, lost_records=lost_records, record=record)
    is_complete = record is State.COMPLETE and not lost_records
    is_complete = is_complete and all(states.get(stage) == "recorded" for stage in STAGES)
    assert sentence.startswith("incomplete: ") == (not is_complete)
    assert is_complete or ("no change" not in sentence and "no policy" not in sentence)


@pytest.mark.parametrize("document", [None, [], "text", {"messages": "text"}, {"messages": None}])
def test_a_request_of_any_shape_has_a_sentence(document: Any) -> None:
    assert tell(document).endswith("response: no change")
    assert tell(before=document).endswith("response: no change")


class TestShadow:
    def test_what_would_have_been_comes_last_and_claims_no_change(self) -> None:
        decisions = [
            Decision("replace_text", "request", "modify", changed=True, shadow=True),
            Decision("replace_text", "response", "modify", changed=True, shadow=True),
            Decision("guard", "response", "block", changed=False, shadow=True),
            Decision("shaky", "request", "error", changed=False, shadow=True),
            Decision("noop", "request", "allow", changed=False, shadow=True),
        ]
        assert tell(decisions=decisions) == (
            "no policy changed this call; in shadow, replace_text would have changed the request and the response; "
            "in shadow, guard would have blocked the response; in shadow, shaky would have broken on the request"
        )

    def test_what_did_happen_comes_first(self) -> None:
        after = chat("one", "2")
        shadow = Decision("guard", "request", "block", changed=False, shadow=True)
        assert tell(after, decisions=[shadow]) == (
            "replace_text changed 1 of 2 messages; response: no change; "
            "in shadow, guard would have blocked the request"
        )
