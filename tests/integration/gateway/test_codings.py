"""Compressed answers of providers: understood in every coding, and never half of one taken for the whole."""

from __future__ import annotations

import json

import pytest

from tests.codings import ENCODERS
from tests.playbook import Gateway, ScriptedProvider, answers, running_gateway, streams
from tests.wire import openai_request, openai_response, openai_stream

OPENAI = "/v1/chat/completions"
PLAIN = json.dumps(openai_response("a long answer " * 50)).encode()


@pytest.mark.parametrize("name", ENCODERS)
def test_a_plain_answer_is_given_and_recorded_uncompressed(
    gateway: Gateway, provider: ScriptedProvider, name: str
) -> None:
    coding, encode = ENCODERS[name]
    provider.will(answers(encode(PLAIN), headers={"content-encoding": coding}))
    response = gateway.post(OPENAI, openai_request())
    assert (response.status_code, response.content) == (200, PLAIN)
    assert "content-encoding" not in response.headers
    assert provider.turns[0].headers["accept-encoding"] == "gzip, deflate"
    assert gateway.raw(response, "response_original") == PLAIN


@pytest.mark.parametrize("name", ENCODERS)
def test_a_stream_is_given_and_recorded_uncompressed(gateway: Gateway, provider: ScriptedProvider, name: str) -> None:
    coding, encode = ENCODERS[name]
    plain = b"".join(openai_stream("Hel", "lo"))
    body = encode(plain)
    provider.will(streams(body[:10], body[10:30], body[30:], headers={"content-encoding": coding}))
    response = gateway.post(OPENAI, openai_request(stream=True))
    assert response.content == plain
    call = gateway.call(response)
    assert call["outcome"] == "completed"
    assert call["stages"]["response_final"]["payload"]["choices"][0]["message"]["content"] == "Hello"


@pytest.mark.parametrize("name", ENCODERS)
def test_a_plain_answer_that_breaks_off_is_a_502(gateway: Gateway, provider: ScriptedProvider, name: str) -> None:
    """The provider says how long the body is, and means what is left of it: only the coding knows."""
    coding, encode = ENCODERS[name]
    for missing in (1, 20):
        provider.will(answers(encode(PLAIN)[:-missing], headers={"content-encoding": coding}))
        response = gateway.post(OPENAI, openai_request())
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_incomplete")
        call = gateway.call(response)
        assert (call["outcome"], call["error"]["type"]) == ("upstream_error", "upstream_incomplete")
        assert call["stages"]["response_original"]["state"] == "recorded"


@pytest.mark.parametrize("name", ENCODERS)
def test_a_stream_that_breaks_off_is_an_upstream_error(
    gateway: Gateway, provider: ScriptedProvider, name: str
) -> None:
    coding, encode = ENCODERS[name]
    frames = openai_stream(*(f"word {number} " for number in range(200)))
    body = encode(b"".join(frames))
    provider.will(streams(body[: len(body) // 2], headers={"content-encoding": coding}))
    response = gateway.post(OPENAI, openai_request(stream=True))
    assert b"[DONE]" not in response.content
    call = gateway.call(response)
    assert (call["outcome"], call["error"]["type"]) == ("upstream_error", "upstream_incomplete")


@pytest.mark.parametrize("name", ENCODERS)
def test_much_in_little_is_bounded_by_the_size_of_a_body(
    record_database: str, provider: ScriptedProvider, name: str
) -> None:
    coding, encode = ENCODERS[name]
    provider.will(answers(encode(bytes(50_000_000)), headers={"content-encoding": coding}))
    with running_gateway(record_database, provider.url, max_body_bytes=1_000_000) as gateway:
        response = gateway.post(OPENAI, openai_request())
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_response_too_large")
        kept = gateway.call(response)["stages"]["response_original"]["payload_bytes"]
    assert 1_000_000 < kept < 1_300_000
