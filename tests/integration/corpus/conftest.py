"""One provider and one database for all gateways that the corpus passes through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import psycopg
import pytest

from tests import conftest
from tests.corpus.cases import Case
from tests.corpus.configurations import JUDGE
from tests.playbook import DEADLINE_S, Gateway, Play, ScriptedProvider, Turn, answers, eventually, streams
from tests.wire import openai_response


@pytest.fixture(scope="package")
def corpus_provider() -> Iterator[ScriptedProvider]:
    scripted = ScriptedProvider()
    yield scripted
    scripted.close()


@pytest.fixture(scope="package")
def corpus_service() -> Iterator[ScriptedProvider]:
    """A webhook that says all texts in capitals."""

    async def shout(turn: Turn) -> None:
        texts = [each["text"].upper() for each in turn.json["texts"]]
        await answers({"action": "modify", "texts": texts})(turn)

    scripted = ScriptedProvider()
    scripted.will(shout)
    yield scripted
    scripted.close()


@pytest.fixture(scope="package")
def corpus_database(postgres_dsn: str, migrated_template: str) -> Iterator[str]:
    yield from conftest._database(postgres_dsn, migrated_template)


@dataclass(frozen=True, slots=True)
class Passed:
    """What became of a case: the bytes that the client got, and what the record says of them."""

    case: Case
    raw: bytes
    outcome: str
    original: bytes
    final: bytes


def _pieces(raw: bytes, step: int) -> list[bytes]:
    return [raw[at : at + step] for at in range(0, len(raw), step)]


def _with_a_judge(play: Play) -> Play:
    """The provider's model that judges finds nothing wrong; all others play that."""

    async def play_both(turn: Turn) -> None:
        is_judge = turn.json["model"] == JUDGE
        said = json.dumps({"probability": 0.1, "explanation": "not rude"})
        await (answers(openai_response(said)) if is_judge else play)(turn)

    return play_both


class Passage:
    """Sends cases through one gateway, and looks them up in the record together."""

    def __init__(self, gateway: Gateway, provider: ScriptedProvider, dsn: str) -> None:
        self._gateway = gateway
        self._provider = provider
        self._dsn = dsn

    def send(self, cases: list[Case], piece_bytes: int | None = None) -> list[Passed]:
        """The provider answers each case with its stream, in one write or in pieces of that many bytes."""
        got: dict[str, tuple[Case, bytes]] = {}
        with httpx.Client(base_url=self._gateway.url, timeout=DEADLINE_S) as client:
            for case in cases:
                step = piece_bytes or len(case.raw)
                self._provider.will(_with_a_judge(streams(*_pieces(case.raw, step))))
                response = client.post(case.format.path, json=case.request)
                assert response.status_code == 200, f"{case}: {response.status_code} {response.text}"
                got[response.headers["luthien-call-id"]] = case, response.content
        told = eventually(lambda: self._told([*got]), lambda told: len(told) == len(got))
        return [Passed(case, raw, *told[call_id]) for call_id, (case, raw) in got.items()]

    def _told(self, call_ids: list[str]) -> dict[str, tuple[str, bytes, bytes]]:
        """Outcome and both responses of each call that is stored to its end."""
        with psycopg.connect(self._dsn) as conn:
            rows = conn.execute(
                """
                SELECT calls.call_id::text, calls.outcome, original.payload, COALESCE(final.payload, original.payload)
                FROM conversation_calls calls
                JOIN conversation_events original USING (call_id)
                JOIN conversation_events final USING (call_id)
                WHERE calls.call_id = ANY(%s::uuid[]) AND calls.outcome IS NOT NULL
                AND original.event_type = 'response_original' AND final.event_type = 'response_final'
                """,
                [call_ids],
            ).fetchall()
        return {call_id: (outcome, original, final) for call_id, outcome, original, final in rows}
