"""While a policy holds a stream the client hears that it is not forgotten, and the record does not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import anthropic
import httpx
import openai
import pytest

from luthien.policies.policy import Needs, Policy, Response, Verdict
from luthien.policies.registry import BUILTIN
from tests.dialects import CHAT, MESSAGES, Dialect, in_dialects
from tests.playbook import DEADLINE_S, Gateway, Play, ScriptedProvider, Turn, running_gateway
from tests.validity import assert_valid
from tests.wire import anthropic_stream, openai_request, openai_stream


class Patient(Policy):
    """Wants to see it all."""

    needs = Needs.WHOLE

    async def on_response(self, response: Response) -> Verdict:
        if any("block" in slot.text for slot in response.texts()):
            return Verdict.block("not here")
        return Verdict.allow()


@pytest.fixture
def patient(record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setitem(BUILTIN, "patient", Patient)
    with running_gateway(record_database, provider.url, [{"policy": "patient"}], keep_alive_s=0.02) as gateway:
        yield gateway


def hesitates(provider: ScriptedProvider, frames: list[bytes]) -> tuple[Play, Callable[[], None]]:
    """A stream that stops in the middle until it is told to go on."""
    gate = provider.gate()

    async def play(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await turn.chunk(b"".join(frames[:2]))
        await gate.wait()
        await turn.chunk(b"".join(frames[2:]))
        await turn.send(b"0\r\n\r\n")

    return play, gate.open


@in_dialects(CHAT, MESSAGES)
def test_keep_alives_are_sent_while_a_stream_is_held_and_are_no_part_of_the_record(
    patient: Gateway, provider: ScriptedProvider, dialect: Dialect
) -> None:
    keep_alive = dialect.format.keep_alive
    frames = [
        frame for frame in dialect.stream("Hello", " there") if frame != keep_alive
    ]  # the provider sends some, too
    play, go_on = hesitates(provider, frames)
    provider.will(play)
    url, body = patient.url + dialect.path, dialect.request(stream=True)
    with httpx.stream("POST", url, json=body, timeout=DEADLINE_S) as response:
        assert response.status_code == 200
        received = b""
        for part in response.iter_raw():
            if not received:
                assert part.startswith(keep_alive)
            received += part
            if received.count(keep_alive) >= 2:
                go_on()
    assert received.replace(keep_alive, b"") == b"".join(frames)
    assert_valid(dialect.path, received)
    call = patient.call(response.headers["luthien-call-id"])
    assert call["outcome"] == "completed"
    for stage in ("response_original", "response_final"):
        assert call["stages"][stage]["wire_sha256"] == hashlib.sha256(b"".join(frames)).hexdigest()
    assert call["changed"]["response"] is False


@in_dialects(CHAT, MESSAGES)
def test_a_block_after_keep_alives_is_an_error_event(
    patient: Gateway, provider: ScriptedProvider, dialect: Dialect
) -> None:
    frames = dialect.stream("block")
    play, go_on = hesitates(provider, frames)
    provider.will(play)
    url, body = patient.url + dialect.path, dialect.request(stream=True)
    with httpx.stream("POST", url, json=body, timeout=DEADLINE_S) as response:
        received = b""
        for part in response.iter_raw():
            received += part
            go_on()
    rest = received.replace(dialect.format.keep_alive, b"")
    assert b"not here" in rest
    assert b'block"' not in rest
    assert frames[-1] not in rest
    assert_valid(dialect.path, received)
    call = patient.call(response.headers["luthien-call-id"])
    assert call["outcome"] == "blocked"
    assert call["stages"]["response_final"]["wire_sha256"] == hashlib.sha256(rest).hexdigest()


def test_a_client_that_hangs_up_meanwhile_is_noticed(patient: Gateway, provider: ScriptedProvider) -> None:
    play, go_on = hesitates(provider, openai_stream("Hello"))
    provider.will(play)
    body = openai_request(stream=True)
    with httpx.stream("POST", patient.url + "/v1/chat/completions", json=body, timeout=DEADLINE_S) as response:
        next(response.iter_raw())
    call = patient.call(response.headers["luthien-call-id"])
    go_on()
    assert call["outcome"] == "client_disconnected"


def test_the_sdks_take_no_notice_of_them(patient: Gateway, provider: ScriptedProvider) -> None:
    play, go_on = hesitates(provider, openai_stream("Hello", " there"))
    provider.will(play)
    with openai.OpenAI(base_url=f"{patient.url}/v1", api_key="k", max_retries=0) as client:
        chunks = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
        go_on()
        said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == "Hello there"
    play, go_on = hesitates(provider, anthropic_stream("Hello", " there"))
    provider.will(play)
    with (
        anthropic.Anthropic(base_url=patient.url, api_key="k", max_retries=0) as claude,
        claude.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as events,
    ):
        go_on()
        assert events.get_final_text() == "Hello there"


def test_what_is_not_held_is_not_interrupted(
    record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider's own silence is the client's to bear."""
    frames = openai_stream("Hello")
    play, go_on = hesitates(provider, frames)
    provider.will(play)
    with running_gateway(record_database, provider.url, [{"policy": "noop"}], keep_alive_s=0.02) as gateway:
        url = gateway.url + "/v1/chat/completions"
        with httpx.stream("POST", url, json=openai_request(stream=True), timeout=DEADLINE_S) as response:
            received = b""
            for part in response.iter_raw():
                received += part
                # As many round trips take longer than many intervals of keep-alives.
                assert all(gateway.get("/healthz").status_code == 200 for _ in range(30))
                go_on()
    assert received == b"".join(frames)
