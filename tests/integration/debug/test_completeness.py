"""What the pages say of calls whose record is not, or not yet, what it should be: with real processes that die."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg

from luthien.exchange import EventType
from tests.acceptance.commands import Command, luthien
from tests.playbook import DEADLINE_S, TOKEN, Gateway, Play, ScriptedProvider, answers, eventually, running_gateway
from tests.ports import reserved_port
from tests.records import record, store
from tests.wire import DONE, openai_chunk, openai_request, openai_response

OPENAI = "/v1/chat/completions"
HEADERS = {"authorization": f"Bearer {TOKEN}"}
HTML = {"accept": "text/html"}


def opened(provider: ScriptedProvider) -> tuple[Play, Any]:
    """A stream that has begun, and ends when the gate is opened."""
    gate = provider.gate()

    async def play(turn: Any) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await turn.chunk(openai_chunk({"content": "a"}))
        await gate.wait()
        await turn.chunk(DONE)
        await turn.send(b"0\r\n\r\n")

    return play, gate


@contextmanager
def serving(data_dir: Path, dsn: str, provider: ScriptedProvider) -> Iterator[tuple[Command, str]]:
    """`luthien serve` as a process of its own; the address."""
    config = data_dir / "luthien.yaml"
    config.write_text(f"upstreams:\n  openai: {{url: '{provider.url}'}}\n")
    environment = {
        "DATABASE_URL": dsn,
        "LUTHIEN_CONFIG": str(config),
        "LUTHIEN_DEBUG_TOKEN": TOKEN,
    }
    with (
        reserved_port() as port,
        luthien("serve", data_dir=data_dir, LUTHIEN_PORT=str(port), **environment) as command,
    ):
        address = f"http://127.0.0.1:{port}"

        def is_ready() -> bool:
            assert command.process.poll() is None, command.output
            try:
                return httpx.get(f"{address}/readyz", timeout=DEADLINE_S).status_code == 200
            except httpx.TransportError:
                return False

        assert eventually(is_ready, bool), command.output
        yield command, address


def shown(address: str, call_id: str) -> dict[str, Any]:
    """The call's JSON, of which `completeness` is the same in the list, but for the details."""
    response = httpx.get(f"{address}/debug/calls/{call_id}.json", headers=HEADERS, timeout=DEADLINE_S)
    assert response.status_code in (200, 202), response.text
    found: dict[str, Any] = response.json()
    assert (response.status_code == 202) == (found["completeness"]["state"] == "pending")
    return found


def state(address: str, call_id: str) -> str:
    said: str = shown(address, call_id)["completeness"]["state"]
    return said


def listed(address: str, call_id: str) -> str:
    calls = httpx.get(f"{address}/debug/calls.json", headers=HEADERS, timeout=DEADLINE_S).json()["calls"]
    said: list[str] = [each["completeness"]["state"] for each in calls if each["call_id"] == call_id]
    return "".join(said)


def page(address: str, call_id: str) -> str:
    return httpx.get(f"{address}/debug/calls/{call_id}", headers=HEADERS | HTML, timeout=DEADLINE_S).text


def test_a_call_whose_process_was_killed_is_interrupted_until_its_end_turns_up(
    data_dir: Path, record_database: str, provider: ScriptedProvider
) -> None:
    play, gate = opened(provider)
    provider.will(play)
    with serving(data_dir, record_database, provider) as (first, address):
        body = openai_request(stream=True)
        with httpx.stream("POST", address + OPENAI, json=body, timeout=DEADLINE_S) as response:
            call_id = response.headers["luthien-call-id"]
            eventually(lambda: shown(address, call_id), lambda call: call.get("records", {}).get("stored") == 2)
            assert state(address, call_id) == listed(address, call_id) == "pending"
            said = shown(address, call_id)
            assert said["verdict"].startswith("incomplete: response_original and response_final are still to come")
            assert said["stages"]["response_final"]["state"] == "awaited"
            first.process.send_signal(signal.SIGKILL)
            first.wait()
    gate.open()
    with serving(data_dir, record_database, provider) as (_, address):
        assert eventually(lambda: state(address, call_id), lambda said: said != "pending") == "interrupted"
        assert listed(address, call_id) == "interrupted"
        said = shown(address, call_id)
        assert "died before the call ended" in said["completeness"]["sentence"]
        assert said["verdict"] == (
            "incomplete: response_original and response_final are missing, since the process ended before the call"
            " did, so what changed cannot be said"
        )
        assert "died before the call ended" in page(address, call_id)
        assert "No change." not in page(address, call_id)
        late = [
            record(UUID(call_id), 2, EventType.RESPONSE_ORIGINAL, b"{}"),
            record(UUID(call_id), 3, EventType.RESPONSE_FINAL, b"{}"),
            record(
                UUID(call_id),
                4,
                EventType.CALL_OUTCOME,
                None,
                attributes={"luthien.outcome": "completed", "luthien.records.emitted": 5},
            ),
        ]
        store(record_database, late[2])
        assert state(address, call_id) == listed(address, call_id) == "partial"
        assert shown(address, call_id)["completeness"]["missing"] == [2, 3]
        store(record_database, *late)
        assert state(address, call_id) == listed(address, call_id) == "complete"
        assert "No change." in page(address, call_id)


def test_a_call_that_runs_in_another_process_is_pending_and_then_complete(
    record_database: str, provider: ScriptedProvider
) -> None:
    play, gate = opened(provider)
    provider.will(play)
    with (
        running_gateway(record_database, provider.url) as one,
        running_gateway(record_database, provider.url) as other,
        httpx.stream("POST", one.url + OPENAI, json=openai_request(stream=True), timeout=DEADLINE_S) as response,
    ):
        call_id = response.headers["luthien-call-id"]
        eventually(lambda: listed(other.url, call_id), bool)
        for gateway in (one, other):
            assert state(gateway.url, call_id) == listed(gateway.url, call_id) == "pending"
        assert "still running" in page(other.url, call_id)
        gate.open()
        response.read()
        for gateway in (one, other):
            assert eventually(lambda: state(gateway.url, call_id), lambda said: said == "complete") == "complete"  # noqa: B023


def test_the_processes_say_how_they_are_and_how_they_ended(record_database: str, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response()))
    with running_gateway(record_database, provider.url, spool_max_bytes=60_000) as gateway:
        gateway.call(gateway.post(OPENAI, openai_request("x" * 80_000)))
    with psycopg.connect(record_database) as conn:
        [row] = conn.execute("""
            SELECT ended_how, stats->'appended', stats->'stored', stats->'unsaved', pid IS NOT NULL, host, version,
                stats->'dropped', stats->'spool_bytes', stats->'trouble'
            FROM conversation_processes JOIN conversation_calls USING (process_id)
        """).fetchall()
    assert row[:5] == ("stopped", 5, 5, 0, True)
    assert all(row[5:7])
    assert row[7:] == ({"spool_full": 1}, 0, None)


def test_a_full_spool_keeps_hashes_and_says_so_on_the_page(record_database: str, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response("Hi")))
    with running_gateway(record_database, provider.url, spool_max_bytes=60_000) as gateway:
        response = gateway.post(OPENAI, openai_request("x" * 80_000))
        assert response.status_code == 200
        call = gateway.call(response)
        assert call["completeness"]["state"] == "partial"
        assert call["completeness"]["reasons"] == [
            {"reason": "spool_full", "records": 2, "stages": ["request_original", "request_final"]}
        ]
        assert call["records"] == {"emitted": 5, "stored": 5, "refused": 1}
        original = call["stages"]["request_original"]
        assert (original["state"], original["reason"]) == ("missing", "spool_full")
        assert original["payload_bytes"] > 80_000
        assert original["payload_sha256"]
        assert call["stages"]["response_final"]["state"] == "recorded"
        assert call["verdict"].startswith("incomplete: request_original and request_final are missing")
        assert listed(gateway.url, call["call_id"]) == "partial"
        html = page(gateway.url, call["call_id"])
        assert "the spool was full" in html
        assert "Raise LUTHIEN_SPOOL_MAX_BYTES" in html
        assert "No change." not in html
    with psycopg.connect(record_database) as conn:
        [[reasons]] = conn.execute(
            "SELECT attributes->'luthien.records.refused.reasons' FROM conversation_events"
            " WHERE event_type = 'call_outcome'"
        ).fetchall()
    assert reasons == ["spool_full=1"]


def test_a_call_of_which_nothing_could_be_kept_is_known_all_the_same(
    record_database: str, provider: ScriptedProvider
) -> None:
    """Not even the record of its end; else it would seem to run until its process ends."""
    provider.will(answers(openai_response("Hi")))
    with running_gateway(record_database, provider.url, spool_max_bytes=1) as gateway:
        response = gateway.post(OPENAI, openai_request())
        assert response.json()["choices"][0]["message"]["content"] == "Hi"
        call = gateway.call(response)
        assert call["completeness"]["state"] == listed(gateway.url, call["call_id"]) == "failed"
        assert call["completeness"]["reasons"] == [
            {
                "reason": "spool_full",
                "records": 5,
                "stages": [
                    "request_original",
                    "request_final",
                    "response_original",
                    "response_final",
                    "call_outcome",
                ],
            }
        ]
        assert call["stages"]["response_final"] == {"state": "missing", "reason": "spool_full"}
        assert "nothing of it" not in call["verdict"]
        assert "Nothing that went through this call was kept" in page(gateway.url, call["call_id"])


def test_records_that_a_crash_would_have_lost_say_so(
    record_database: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    """The record is complete all the same."""
    provider.will(answers(openai_response("Hi")))
    (tmp_path / "no-folder").touch()
    with running_gateway(record_database, provider.url, spool_dir=tmp_path / "no-folder") as gateway:
        call = gateway.call(gateway.post(OPENAI, openai_request()))
        assert call["completeness"]["state"] == "complete"
        assert call["completeness"]["not_crash_proof"] == {"disk_failed": 5}
        assert '<span class="chip">not crash-proof</span> 5 of its records' in page(gateway.url, call["call_id"])


def test_without_a_spool_calls_have_a_process_all_the_same(record_database: str, provider: ScriptedProvider) -> None:
    play, gate = opened(provider)
    provider.will(play)
    with (
        running_gateway(record_database, provider.url, spool=False) as one,
        running_gateway(record_database, provider.url, spool=False) as other,
    ):
        body = openai_request(stream=True)
        with httpx.stream("POST", one.url + OPENAI, json=body, timeout=DEADLINE_S) as response:
            call_id = response.headers["luthien-call-id"]
            eventually(lambda: listed(other.url, call_id), bool)
            assert state(one.url, call_id) == state(other.url, call_id) == "pending"
            gate.open()
            response.read()
        assert one.call(call_id)["completeness"]["state"] == "complete"


def test_a_record_that_was_set_aside_is_named_with_its_reason(gateway: Gateway, provider: ScriptedProvider) -> None:
    """Postgres has no U+0000 in jsonb, so the record cannot be stored where it belongs."""
    provider.will(answers(openai_response("Hi")))
    call = gateway.call(gateway.post(OPENAI, openai_request()))
    bad = record(UUID(call["call_id"]), 5, EventType.POLICY_DECISION, None, attributes={"luthien.x": "\0"})
    gateway_spool(gateway).submit([bad])
    said = eventually(
        lambda: shown(gateway.url, call["call_id"])["completeness"], lambda each: each["state"] != "complete"
    )
    assert said["state"] == listed(gateway.url, call["call_id"]) == "partial"
    assert said["reasons"] == [{"reason": "refused_by_database", "records": 1, "stages": ["policy_decision"]}]
    assert "Postgres did not take it" in page(gateway.url, call["call_id"])


def gateway_spool(gateway: Gateway) -> Any:
    return gateway.app._now.lookup._source


def test_a_payload_that_was_damaged_in_the_database_costs_the_stage_that_refers_to_it_too(
    gateway: Gateway, provider: ScriptedProvider, record_database: str
) -> None:
    """The page looks at the payloads, and so sees more than the list."""
    provider.will(answers(openai_response("Hi")))
    call = gateway.call(gateway.post(OPENAI, openai_request()))
    with psycopg.connect(record_database, autocommit=True) as conn:
        conn.execute("UPDATE conversation_events SET payload = 'x' WHERE sequence = 2")
    said = shown(gateway.url, call["call_id"])["completeness"]
    assert said["state"] == "partial"
    assert said["reasons"] == [
        {"reason": "unreadable", "records": 2, "stages": ["response_original", "response_final"]}
    ]
