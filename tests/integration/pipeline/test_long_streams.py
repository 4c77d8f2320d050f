"""Long streams: every byte passes as fast as the client reads, and what is kept has a bound and says so."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest

from luthien.formats import format as format_module
from tests.playbook import ScriptedProvider, Turn, eventually, running_gateway, settled
from tests.wire import DONE, openai_chunk, openai_request

OPENAI = "/v1/chat/completions"
CHUNKS = 100_000
FRAMES = b"".join(openai_chunk({"content": f"{number} secret "}) for number in range(CHUNKS)) + DONE
REPLACE = [
    {"policy": "replace_text", "config": {"rules": [{"find": "secret", "replace": "word", "in": ["response"]}]}}
]


async def play(turn: Turn) -> None:
    await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
    for at in range(0, len(FRAMES), 65_000):
        await turn.chunk(FRAMES[at : at + 65_000])
    await turn.send(b"0\r\n\r\n")


def test_all_of_a_stream_of_100_000_chunks_is_passed_and_recorded(
    record_database: str, provider: ScriptedProvider
) -> None:
    provider.will(play)
    with running_gateway(record_database, provider.url) as gateway:
        response = gateway.post(OPENAI, openai_request(stream=True))
        assert response.content == FRAMES
        stage = gateway.call(response)["stages"]["response_final"]
    assert stage["wire_sha256"] == hashlib.sha256(FRAMES).hexdigest()
    assert stage["capped"] is False
    assert stage["payload"]["choices"][0]["message"]["content"].count("secret") == CHUNKS


@pytest.mark.parametrize("policies", [[], REPLACE], ids=["unchanged", "changed"])
def test_a_stream_that_is_too_long_to_be_put_together_passes_and_is_recorded_as_its_beginning(
    record_database: str,
    provider: ScriptedProvider,
    monkeypatch: pytest.MonkeyPatch,
    policies: list[dict[str, object]],
) -> None:
    monkeypatch.setattr(format_module, "MAX_ASSEMBLED_BYTES", 1_000_000)
    provider.will(play)
    with running_gateway(record_database, provider.url, policies) as gateway:
        response = gateway.post(OPENAI, openai_request(stream=True))
        assert response.content.endswith(DONE)
        assert response.content.count(b"word" if policies else b"secret") == CHUNKS
        call = gateway.call(response)
        diff = gateway.diff(response)
    original, final = call["stages"]["response_original"], call["stages"]["response_final"]
    assert call["outcome"] == "completed"
    assert (original["capped"], final["capped"]) == (True, True)
    assert original["wire_sha256"] == hashlib.sha256(FRAMES).hexdigest()
    assert final["wire_sha256"] == hashlib.sha256(response.content).hexdigest()
    assert original["note"] == f"capped: what the beginning of the stream says; {len(FRAMES)} bytes of it passed"
    assert original["payload_bytes"] < 1_000_000
    if policies:
        assert diff["response"] is None
        assert call["verdict"].startswith("incomplete: the response was not compared")
    else:
        assert call["verdict"] == "no policy looked at this call"


@pytest.mark.parametrize("policies", [[], REPLACE], ids=["unchanged", "changed"])
def test_a_client_that_reads_slowly_slows_the_provider(
    record_database: str, provider: ScriptedProvider, policies: list[dict[str, Any]]
) -> None:
    """Nothing is read from the provider that the client does not take."""
    sent = 0
    frame = openai_chunk({"content": "one secret in " + "x" * 63_000})
    total = 600

    async def play(turn: Turn) -> None:
        nonlocal sent
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for _ in range(total):
            await turn.chunk(frame)
            sent += 1
        await turn.chunk(DONE)
        await turn.send(b"0\r\n\r\n")

    provider.will(play)
    with (
        running_gateway(record_database, provider.url, policies) as gateway,
        httpx.stream(
            "POST", f"{gateway.url}/v1/chat/completions", json=openai_request(stream=True), timeout=60
        ) as response,
    ):
        pieces = response.iter_raw()
        received = len(next(pieces))
        assert eventually(lambda: sent, bool), "counted after it is written"
        assert settled(lambda: sent) < total // 2  # the kernel holds about 200 of them
        received += sum(map(len, pieces))
        call = gateway.call(response)
    assert (call["outcome"], call["stages"]["response_final"]["wire_bytes"]) == ("completed", received)
