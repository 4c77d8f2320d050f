"""The documents between the policies of a call, as far as its records have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from luthien.debug.blaming.steps import MAX_REASON_CHARS, Steps, steps_of
from luthien.debug.call.losses import Records
from luthien.exchange import EventType, Side, StageRecord, new_call_id
from luthien.store.stored import SetAside, StoredCall
from tests.records import record

CALL_ID = new_call_id()
D0, D1, D2, D3 = (b'{"n":%d}' % number for number in range(4))


def decision(
    policy: str, output: bytes | None = None, *, position: int = 0, side: str = "request", **attributes: Any
) -> StageRecord:
    """What a policy leaves; `output` is what it gave on, b"" if that is the final document."""
    said = {
        "name": policy,
        "version": f"{policy}-1",
        "side": side,
        "position": position,
        "action": "allow" if output is None else "modify",
        "changed": output is not None,
        "reason": f"because of {policy}",
        "output.sha256": None if output is None else "some",
    }
    said |= {name.replace("_", "."): value for name, value in attributes.items()}
    return record(
        CALL_ID,
        0,
        EventType.POLICY_DECISION,
        output or None,
        attributes={f"luthien.policy.{name}": value for name, value in said.items() if value is not None},
    )


def steps(
    *between: StageRecord | None,
    original: bytes = D0,
    final: bytes | None = D3,
    side: Side = Side.REQUEST,
    policies: Sequence[str] = (),
    outcome: str = "completed",
    aside: dict[int, str] | None = None,
    stream: bool = False,
    final_attributes: dict[str, Any] | None = None,
) -> Steps:
    """The steps of a call of these records, None being one that is lost."""
    marks = {"luthien.chunks": 3} if stream else {}
    found = [
        record(CALL_ID, 0, f"{side}_original", original, attributes=marks),
        *between,
        None if final is None else record(CALL_ID, 0, f"{side}_final", final, attributes=final_attributes or {}),
    ]
    records = [replace(each, sequence=number) for number, each in enumerate(found) if each is not None]
    row = {
        "wire_format": "openai_chat",
        "records_emitted": len(found),
        "outcome": outcome,
        "policies": [{"name": name, "version": f"{name}-1"} for name in policies],
        "process_ended_how": None,
    }
    set_aside = [SetAside(number, kind, "spool_full", "") for number, kind in (aside or {}).items()]
    return steps_of(Records(StoredCall(row, records, set_aside)), side)


def made(found: Steps) -> list[tuple[bytes, bytes, str]]:
    """From what to what each stretch leads, and who may have made it; "?" if others may, too."""
    return [
        (each.before, each.after, "".join(step.policy for step in each.by) + ("?" if each.is_open else ""))
        for each in found.stretches
    ]


class TestWholeChains:
    def test_every_step_is_a_stretch_of_its_own(self) -> None:
        found = steps(decision("a", D1), decision("b", D2), decision("c", b""))
        assert made(found) == [(D0, D1, "a"), (D1, D2, "b"), (D2, D3, "c")]
        step = found.stretches[1].author
        assert step is not None
        assert (step.policy, step.version, step.reason, step.decision) == ("b", "b-1", "because of b", 2)

    def test_those_that_changed_nothing_are_none(self) -> None:
        assert made(steps(decision("a"), decision("b", b""), decision("c"))) == [(D0, D3, "b")]
        assert made(steps(decision("a"), final=D0)) == []

    def test_one_on_the_way_that_was_what_went_on_in_the_end(self) -> None:
        found = steps(decision("a", b""), decision("b", D2), decision("c", b""))
        assert made(found) == [(D0, D3, "a"), (D3, D2, "b"), (D2, D3, "c")]

    def test_the_other_side_has_its_own(self) -> None:
        assert made(steps(decision("a", D1), decision("b", D2, side="response"), final=D1)) == [(D0, D1, "a")]

    def test_what_nobody_made_is_nobodys(self) -> None:
        [stretch] = steps().stretches
        assert (stretch.by, stretch.author, stretch.why) == ((), None, "no recorded step made it")
        last = steps(decision("a", D1)).stretches[-1]
        assert (last.before, last.after, last.by) == (D1, D3, ())
        assert "gateway" in str(last.why)

    def test_a_block_has_no_end(self) -> None:
        assert made(steps(decision("a", D1), decision("b", action="block"), final=None)) == [(D0, D1, "a")]
        generated = {"luthien.generated": True}
        assert made(steps(decision("a", D1), final_attributes=generated)) == [(D0, D1, "a")]

    def test_long_reasons_are_cut(self) -> None:
        [stretch] = steps(decision("a", b"", reason="x" * 2000)).stretches
        assert stretch.by[0].reason == "x" * MAX_REASON_CHARS + "…"


class TestGaps:
    def lost(self, policy: str, **attributes: Any) -> StageRecord:
        return replace(decision(policy, D1, **attributes), payload=None)

    def test_an_output_that_is_lost(self) -> None:
        found = steps(self.lost("a"), decision("b", D2), decision("c", b""))
        assert made(found) == [(D0, D2, "ab"), (D2, D3, "c")]
        assert found.stretches[0].author is None
        assert found.stretches[0].why == "what a gave on is not in the record: unreadable"

    def test_one_alone_is_certain(self) -> None:
        [stretch] = steps(self.lost("a"), decision("b")).stretches
        assert stretch.author is not None
        assert stretch.author.policy == "a"

    def test_an_output_that_was_refused_capped_or_damaged(self) -> None:
        refused = self.lost("a")
        refused = replace(refused, attributes={**refused.attributes, "luthien.record.refused": "spool_full"})
        capped = decision("a", D1)
        capped = replace(capped, attributes={**capped.attributes, "luthien.payload.capped": True})
        damaged = replace(decision("a", D1), payload=b"other")
        for each, why in ((refused, "spool full"), (capped, "only its beginning was kept"), (damaged, "unreadable")):
            stretch = steps(each, decision("b", D2), final=D2).stretches[0]
            assert [step.policy for step in stretch.by] == ["a", "b"]
            assert str(stretch.why).endswith(why)

    def test_a_lost_record_that_can_be_only_one_policys(self) -> None:
        found = steps(None, decision("b", D2, position=1), final=D2, policies="ab")
        assert made(found) == [(D0, D2, "ab")]
        found = steps(None, decision("b", position=1), final=D2, policies="ab")
        assert made(found) == [(D0, D2, "a")]
        assert found.stretches[0].by[0].decision == 1

    @pytest.mark.parametrize("policies", ["", "axb", "b"])
    def test_one_that_may_be_another_ones(self, policies: str) -> None:
        position = max(0, len(policies) - 1)
        found = steps(None, decision("b", D2, position=position), final=D2, policies=policies)
        assert made(found) == [(D0, D2, "b?")]
        assert found.stretches[0].why == "the record of a step is missing"

    def test_a_lost_record_behind_all_others(self) -> None:
        found = steps(decision("a", D1), None, policies="ab")
        assert made(found) == [(D0, D1, "a"), (D1, D3, "b")]

    def test_a_lost_record_of_another_kind_is_no_step(self) -> None:
        kind = {1: EventType.RESPONSE_TIMELINE.value}
        found = steps(None, decision("a", b"", side="response"), side=Side.RESPONSE, aside=kind)
        assert made(found) == [(D0, D3, "a")]
        found = steps(None, decision("a", b"", side="response"), side=Side.RESPONSE, stream=True)
        assert made(found) == [(D0, D3, "a")]
        found = steps(None, decision("a", b"", side="response"), side=Side.RESPONSE)
        assert made(found) == [(D0, D3, "a?")]

    def test_a_stage_that_is_lost(self) -> None:
        assert made(steps(decision("a", D1), decision("b", b""), final=None)) == [(D0, D1, "a")]


class TestEnds:
    def stream(self, *between: StageRecord, outcome: str = "blocked") -> Steps:
        return steps(*between, side=Side.RESPONSE, outcome=outcome)

    def test_who_ended_a_stream_made_what_is_missing_at_its_end(self) -> None:
        first, last = decision("a", D1, side="response"), decision("b", side="response", action="block")
        found = self.stream(first, last)
        assert made(found) == [(D0, D1, "a"), (D1, D3, "b")]
        assert found.stopped_by is not None
        assert (found.stopped_by.policy, found.is_cut) == ("b", True)

    def test_it_is_not_known_what_it_let_go_on_before_others(self) -> None:
        first, last = decision("a", side="response", action="error"), decision("b", b"", side="response")
        found = self.stream(first, last, outcome="policy_error")
        assert made(found) == [(D0, D3, "ab")]
        assert "a ended the stream" in str(found.stretches[0].why)

    def test_an_error_that_ended_nothing(self) -> None:
        first, last = decision("a", side="response", action="error"), decision("b", b"", side="response")
        found = self.stream(first, last, outcome="completed")
        assert made(found) == [(D0, D3, "b")]
        assert (found.stopped_by, found.is_cut) == (None, False)


class TestShadows:
    def test_they_stand_beside(self) -> None:
        found = steps(decision("a", D1), decision("s", D2, shadow=True), decision("b", b""))
        assert made(found) == [(D0, D1, "a"), (D1, D3, "b")]
        [shadow] = found.shadows
        assert (shadow.step.policy, shadow.before, shadow.after, shadow.why) == ("s", D1, D2, None)

    def test_what_it_would_have_given_on_is_what_went_on(self) -> None:
        [shadow] = steps(decision("s", b"", shadow=True), decision("b", b"")).shadows
        assert (shadow.before, shadow.after) == (D0, D3)

    def test_one_that_would_have_changed_nothing(self) -> None:
        [shadow] = steps(decision("s", shadow=True), final=D0).shadows
        assert (shadow.before, shadow.after) == (D0, D0)

    def test_one_that_would_have_blocked(self) -> None:
        [shadow] = steps(decision("s", action="block", shadow=True), final=D0).shadows
        assert (shadow.before, shadow.after, shadow.why) == (D0, None, "it would have ended the call here")

    def test_what_is_not_known(self) -> None:
        lost = replace(decision("a", D1), payload=None)
        [shadow] = steps(lost, decision("s", D2, shadow=True)).shadows
        assert (shadow.before, shadow.after) == (None, D2)
        assert "what a gave on" in str(shadow.why)
        [shadow] = steps(replace(decision("s", D2, shadow=True), payload=None), final=D0).shadows
        assert (shadow.before, shadow.after) == (D0, None)
        assert str(shadow.why).startswith("what it would have given on is not in the record")
