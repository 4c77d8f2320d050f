"""Open streams leave checkpoints: superseded when they end, and all there is when the gateway dies first."""

from __future__ import annotations

import hashlib
import json
import operator
import signal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.dialects import Dialect, in_dialects
from tests.playbook import DEADLINE_S, TOKEN, Gateway, Play, ScriptedProvider, Turn, eventually, running_gateway
from tests.serving import read_until, serving
from tests.wire import (
    openai_chunk,
    openai_request,
    openai_stream,
)

OPENAI = "/v1/chat/completions"
REPLACING = [{"policy": "replace_text", "config": {"rules": [{"find": "secret", "replace": "[hidden]"}]}}]

Row = tuple[str, int, bytes | None, bytes, int, dict[str, Any]]


def partials(dsn: str) -> list[Row]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(
            "SELECT event_type, sequence, payload, payload_sha256, payload_bytes, attributes"
            " FROM conversation_events WHERE event_type = 'response_partial' ORDER BY call_id, sequence"
        ).fetchall()


def pausing(dsn: str, *pieces: bytes) -> Play:
    """A stream that goes on when what it has sent is in a checkpoint in the database."""

    async def play(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for number, piece in enumerate(pieces):
            before = len(partials(dsn))
            await turn.chunk(piece)
            if number < len(pieces) - 1:
                eventually(lambda: len(partials(dsn)), partial(operator.lt, before))
        await turn.send(b"0\r\n\r\n")

    return play


def holding(*frames: bytes) -> Play:
    """A stream that goes on for ever after these frames."""

    async def play(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for frame in frames:
            await turn.chunk(frame)
        await turn.reader.read()

    return play


@pytest.mark.parametrize("policies", [[], REPLACING], ids=["unchanged", "replacing"])
@in_dialects()
def test_a_slow_stream_leaves_checkpoints_whose_payloads_go_when_it_ends(
    record_database: str,
    provider: ScriptedProvider,
    dialect: Dialect,
    policies: list[dict[str, Any]],
) -> None:
    frames = dialect.stream("a ", "secret ", "b ", "c ")
    provider.will(pausing(record_database, *frames))
    with running_gateway(record_database, provider.url, policies, checkpoint_s=0.02) as gateway:
        response = gateway.post(dialect.path, dialect.request(stream=True))
        call = gateway.call(response)
    assert call["outcome"] == "completed"
    assert [stage["state"] for stage in call["stages"].values()] == ["recorded"] * 4
    assert call["records"]["emitted"] == call["records"]["stored"]
    rows = partials(record_database)
    assert len(rows) >= len(frames) - 2
    assert [row[2] for row in rows] == [None] * len(rows)
    assert all(len(row[3]) == 32 and row[4] > 0 for row in rows)
    with psycopg.connect(record_database) as conn:
        found = conn.execute("SELECT sequence, event_type, attributes FROM conversation_events ORDER BY 1").fetchall()
    assert [sequence for sequence, _, _ in found] == list(range(len(found)))
    assert found[-1][1] == "call_outcome"
    said = {kind: attributes.get("luthien.checkpoints") for _, kind, attributes in found}
    assert said["response_original"] == said["response_final"] == said["call_outcome"] == len(rows)


def test_while_it_is_open_the_page_has_what_has_passed_and_says_so(
    record_database: str, provider: ScriptedProvider
) -> None:
    frames = openai_stream("Hello ", "secret ", "there ")
    provider.will(holding(*frames[:4]))
    with (
        running_gateway(record_database, provider.url, REPLACING, checkpoint_s=0.02) as gateway,
        httpx.stream("POST", gateway.url + OPENAI, json=openai_request(stream=True), timeout=DEADLINE_S) as response,
    ):
        call_id = response.headers["luthien-call-id"]
        call = eventually(
            lambda: shown(gateway, call_id),
            lambda call: "there" in str(call) and "[hidden]" in str(call["stages"]["response_final"]),
        )
        original, final = call["stages"]["response_original"], call["stages"]["response_final"]
        assert (original["state"], final["state"]) == ("partial", "partial")
        assert original["note"].startswith("partial: as of the last checkpoint at 20")
        assert original["payload"]["choices"][0]["message"]["content"] == "Hello secret there "
        assert "secret" not in json.dumps(final["payload"])
        assert final["payload"]["choices"][0]["message"]["content"].startswith("Hello [hidden]")
        assert "no change" not in call["verdict"]
        assert "response_original and response_final are partial" in call["verdict"]
        raw = gateway.get(f"/debug/calls/{call_id}/stages/response_original/raw")
        assert raw.content == b"".join(frames[:4])
        assert ".partial.sse" in raw.headers["content-disposition"]
        page = gateway.get(f"/debug/calls/{call_id}", gateway.headers | {"accept": "text/html"})
        assert original["note"] in page.text
        assert "No change." not in page.text.partition('id="response-diff"')[2]
        diff = gateway.get(f"/debug/calls/{call_id}/diff.json").json()
        assert diff["response"] is None


def shown(gateway: Gateway, call_id: str) -> dict[str, Any]:
    found: dict[str, Any] = gateway.get(f"/debug/calls/{call_id}.json").json()
    return found


def test_a_fast_stream_has_one_for_so_many_bytes(record_database: str, provider: ScriptedProvider) -> None:
    frames = [openai_chunk({"content": "x" * 60_000}) for _ in range(20)]

    async def play(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for frame in [*frames, *openai_stream("end")]:
            await turn.chunk(frame)
        await turn.send(b"0\r\n\r\n")

    provider.will(play)
    with running_gateway(record_database, provider.url, checkpoint_s=3600.0) as gateway:
        gateway.call(gateway.post(OPENAI, openai_request(stream=True)))
    rows = partials(record_database)
    assert 3 <= len(rows) <= 5
    assert {row[5]["luthien.checkpoint.sides"] for row in rows} == {"both"}


def test_credentials_that_a_provider_sends_back_are_in_no_checkpoint(
    record_database: str, provider: ScriptedProvider
) -> None:
    frame = openai_chunk({"content": "a"}, mcp_servers=[{"authorization_token": "s3cr3t-t0ken"}])
    provider.will(holding(openai_chunk({"content": "before"}), frame))
    with (
        running_gateway(record_database, provider.url, checkpoint_s=0.02) as gateway,
        httpx.stream("POST", gateway.url + OPENAI, json=openai_request(stream=True), timeout=DEADLINE_S) as response,
    ):
        call_id = response.headers["luthien-call-id"]
        call = eventually(lambda: shown(gateway, call_id), lambda call: "beforea" in str(call))
        assert call["stages"]["response_final"]["payload"]["mcp_servers"] == [
            {"authorization_token": "[credential masked]"}
        ]
        payloads = b"".join(row[2] or b"" for row in partials(record_database))
    assert b"before" in payloads
    assert b"s3cr3t-t0ken" not in payloads


@pytest.mark.parametrize("database_is_away", [False, True])
def test_a_gateway_that_is_killed_in_mid_stream_leaves_what_a_checkpoint_had(
    record_database: str, provider: ScriptedProvider, data_dir: Path, database_is_away: bool
) -> None:
    """The next one stores it, and shows it as what it is."""
    frames = openai_stream("Hello ", "there ", "never")
    provider.will(holding(*frames[:3]))
    spool = data_dir / "spool"
    with (
        serving(
            data_dir,
            record_database,
            provider.url,
            LUTHIEN_CHECKPOINT_S="0.05",
            # Away is whoever does not write for a long time: the spool alone has it then.
            LUTHIEN_BATCH_MAX_AGE_MS="600000" if database_is_away else "5",
        ) as gateway,
        gateway.open(OPENAI, openai_request(stream=True)) as client,
    ):
        received = read_until(client, frames[2])
        call_id = dict(line.split(": ", 1) for line in received.decode().partition("\r\n\r\n")[0].split("\r\n")[1:])[
            "luthien-call-id"
        ]
        if database_is_away:
            eventually(lambda: spooled(spool), lambda found: b"there " in found and b"partial" in found)
        else:
            eventually(
                lambda: b"".join(row[2] or b"" for row in partials(record_database)), lambda raw: frames[2] in raw
            )
        gateway.signal(signal.SIGKILL)
        assert gateway.command.wait() == -signal.SIGKILL
    with running_gateway(record_database, provider.url, spool_dir=spool) as gateway_after:
        assert gateway_after.headers == {"authorization": f"Bearer {TOKEN}"}
        call = eventually(lambda: shown(gateway_after, call_id), lambda call: "there" in str(call))
        for stage in ("response_original", "response_final"):
            assert call["stages"][stage]["state"] == "partial"
            assert call["stages"][stage]["payload"]["choices"][0]["message"]["content"] == "Hello there "
            raw = gateway_after.get(f"/debug/calls/{call_id}/stages/{stage}/raw").content
            assert raw == b"".join(frames[:3])
        assert call["outcome"] is None
        assert call["verdict"].startswith("incomplete: response_original and response_final are partial")
    for _, _, payload, sha256, _, _ in partials(record_database):
        assert payload is not None
        assert hashlib.sha256(payload).digest() == sha256


def spooled(spool: Path) -> bytes:
    return b"".join(path.read_bytes() for path in spool.rglob("*") if path.is_file())
