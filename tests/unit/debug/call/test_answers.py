"""What a call cost and how far its verdict can be trusted, in sentences."""

from __future__ import annotations

import json
from typing import Any

from luthien.debug.blaming.blame import blame
from luthien.debug.blaming.steps import GATEWAY, Steps, Stretch
from luthien.debug.call.answers import cost_of, trust_of
from luthien.debug.call.timeline import Entry, Lanes
from luthien.debug.diff import diff_payloads
from luthien.debug.diffing.ops import Blame, Diff
from luthien.exchange import Side

ROW: dict[str, Any] = {
    "duration_ms": 245.0,
    "upstream_ms": 230.0,
    "policy_ms": 4.0,
    "gateway_ms": 11.0,
    "streaming": False,
    "upstream_first_chunk_ms": 12.0,
    "client_first_chunk_ms": 20.5,
}
A, B = Blame("a", "1", "", 1), Blame("b", "1", "", 2)


def made(*by: Blame, why: str | None = None, **after: Any) -> Diff:
    """A document whose fields are 1 and became these, by these policies."""
    before = dict.fromkeys(after, 1)
    payloads = json.dumps(before).encode(), json.dumps(after).encode()
    return blame(diff_payloads(*payloads), Steps(Side.REQUEST, (Stretch(*payloads, by, why=why),)))


class TestCost:
    def test_is_what_came_on_top_of_the_provider(self) -> None:
        assert cost_of(ROW, None, []) == (
            "15.0 ms on top of the provider's 230.0 ms: 4.0 ms in policies, 11.0 ms in the gateway.",
        )

    def test_of_a_call_that_the_provider_never_saw_is_all_of_it(self) -> None:
        assert cost_of({**ROW, "duration_ms": 15.0, "upstream_ms": None}, None, []) == (
            "15.0 ms: 4.0 ms in policies, 11.0 ms in the gateway.",
        )

    def test_of_a_call_that_runs_is_not_known(self) -> None:
        assert cost_of({**ROW, "duration_ms": None}, None, []) == ()

    def test_of_a_stream_is_how_long_readers_waited_for_its_beginning_too(self) -> None:
        entry = Entry(0, 1, 12.0, 10, 40.0, 10, held_ms=28.0, held_by="redact")
        _, first, held = cost_of({**ROW, "streaming": True}, Lanes(1, 1, [entry]), [])
        assert first == "The first token came 8.5 ms later."
        assert held == "redact held a frame for 28.0 ms at most."

    def test_has_what_policies_asked_of_models(self) -> None:
        child = {"input_tokens": 100, "output_tokens": 7, "duration_ms": 300.0}
        silent = {"input_tokens": None, "output_tokens": None, "duration_ms": None}
        assert cost_of(ROW, None, [child, child, silent])[-1] == (
            "Policies asked models in 3 calls: 200 tokens in, 14 out, 600.0 ms."
        )
        assert cost_of(ROW, None, [{**silent, "duration_ms": 2.0}])[-1] == (
            "Policies asked models in 1 call: tokens not reported, 2.0 ms."
        )


class TestTrust:
    def test_where_nothing_changed_there_is_nothing_to_trace(self) -> None:
        assert trust_of([made(), None], []) == ()

    def test_every_change_has_somebody(self) -> None:
        assert trust_of([made(A, x=2, y=2)], []) == ("Every change is traced to who made it.",)
        assert trust_of([made(A, x=2)], []) == ("The change is traced to who made it.",)
        assert trust_of([made(why=GATEWAY, x=2)], []) == ("The change is traced to who made it.",)

    def test_some_have_nobody_for_certain(self) -> None:
        assert trust_of([made(A, x=2), made(A, B, why="lost", y=2)], []) == (
            "1 of 2 changes is not traced to one policy for certain.",
        )

    def test_what_is_coarse_and_what_is_masked_is_said(self) -> None:
        coarse = Diff("1", made().summary, True, ())
        assert trust_of([coarse], ["request", "response"]) == (
            "Some of the diff is coarser than it could be, for its size.",
            "Credentials in the request and response are masked.",
        )
