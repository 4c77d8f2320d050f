"""What goes in comes out: bodies, headers and errors, byte for byte."""

from __future__ import annotations

import asyncio
import gzip
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from luthien.exchange import call_time_ms
from tests.playbook import DEADLINE_S, Gateway, ScriptedProvider, Turn, answers, eventually, running_gateway, streams
from tests.ports import reserved_port
from tests.wire import (
    DONE,
    anthropic_request,
    anthropic_stream,
    openai_chunk,
    openai_request,
    openai_response,
    responses_stream,
    sse,
)

OPENAI = "/v1/chat/completions"
ANTHROPIC = "/v1/messages"
ODD_JSON = (
    b'{ "model" : "m", "messages": [],  "n\\u00e4me": 1.00, "big": 123456789012345678901234567890,\n'
    b'"twice": 1, "twice": 2, "half": "\\ud800", "nul": "\\u0000", "unknown": {"": [1e400]} }'
)


def test_unchanged_bodies_are_forwarded_as_the_very_bytes_that_came(
    gateway: Gateway, provider: ScriptedProvider
) -> None:
    """Key order, number text, repeated keys, escapes and white space survive, both ways and in the record."""
    provider.will(answers(ODD_JSON))
    response = gateway.post(OPENAI, ODD_JSON)
    assert provider.turns[0].body == ODD_JSON
    assert response.content == ODD_JSON
    for stage in ("request_original", "request_final", "response_original", "response_final"):
        assert gateway.raw(response, stage) == ODD_JSON
    call = gateway.call(response)
    assert call["changed"] == {"request": False, "response": False}
    assert call["verdict"] == "no policy looked at this call"


def test_unchanged_streams_are_forwarded_as_the_very_bytes_that_came(
    gateway: Gateway, provider: ScriptedProvider
) -> None:
    frames = [b": a comment\r\n\r\n", b"event: x\r\nid: 7\r\ndata: 1\r\ndata: 2\r\n\r\n", b"data:{}\n\n", DONE]
    provider.will(streams(b"".join(frames)[:25], b"".join(frames)[25:]))
    response = gateway.post(OPENAI, openai_request(stream=True))
    assert response.content == b"".join(frames)
    assert gateway.call(response)["changed"]["response"] is False


def test_unchanged_responses_are_forwarded_as_the_very_bytes_that_came(
    gateway: Gateway, provider: ScriptedProvider
) -> None:
    """Unknown events, comments and odd line ends among them."""
    unknown = b'event: response.new\r\ndata: {"type":"response.new", "n": 1.00}\r\n\r\n'
    frames = [b": ping\n\n", *responses_stream("a")]
    frames.insert(4, unknown)
    provider.will(streams(b"".join(frames)[:99], b"".join(frames)[99:]))
    body = b'{"input": [{"type":"from_the_future","n":1.00}], "stream":true,  "model":"m"}'
    response = gateway.post("/v1/responses", body)
    assert provider.turns[0].body == body
    assert response.content == b"".join(frames)
    assert gateway.call(response)["changed"] == {"request": False, "response": False}


def test_unknown_fields_pass_in_both_directions(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response() | {"x_new": {"a": [1]}}))
    response = gateway.post(OPENAI, openai_request(x_future={"b": None}))
    assert provider.turns[0].json["x_future"] == {"b": None}
    assert response.json()["x_new"] == {"a": [1]}


def test_headers_are_forwarded_but_for_those_of_one_connection(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response(), headers={"x-ratelimit-remaining": "9", "set-cookie": "a=b"}))
    response = gateway.post(
        OPENAI,
        openai_request(),
        headers={
            "authorization": "Bearer sk-1",
            "openai-organization": "org",
            "x-custom": "kept",
            "x-forwarded-for": "10.0.0.1",
            "traceparent": "00-11111111111111111111111111111111-2222222222222222-01",
            "baggage": "secret=1",
        },
    )
    sent = provider.turns[0].headers
    assert (sent["authorization"], sent["openai-organization"], sent["x-custom"]) == ("Bearer sk-1", "org", "kept")
    assert not {"x-forwarded-for", "traceparent", "baggage"} & sent.keys()
    assert sent["host"] == provider.url.removeprefix("http://")
    assert response.headers["x-ratelimit-remaining"] == "9"
    assert "set-cookie" not in response.headers
    assert len(response.headers.get_list("date")) == 1


def test_the_query_is_forwarded(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response()))
    gateway.post(f"{OPENAI}?api-version=1&x=%2F", openai_request())
    assert provider.turns[0].path == f"{OPENAI}?api-version=1&x=%2F"


def test_compressed_responses_are_given_and_recorded_uncompressed(
    gateway: Gateway, provider: ScriptedProvider
) -> None:
    plain = json.dumps(openai_response()).encode()
    provider.will(answers(gzip.compress(plain), headers={"content-encoding": "gzip"}))
    response = gateway.post(OPENAI, openai_request())
    assert response.content == plain
    assert "content-encoding" not in response.headers
    assert gateway.raw(response, "response_original") == plain


def test_connections_to_the_provider_are_kept_alive(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response()))
    for _ in range(3):
        gateway.post(OPENAI, openai_request())
    assert len({id(turn.writer) for turn in provider.turns}) == 1


def test_call_ids_are_uuid7_and_cannot_be_chosen_by_clients(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(answers(openai_response(), headers={"luthien-call-id": "from-the-provider"}))
    wanted = "00000000-0000-7000-8000-000000000000"
    first = gateway.post(OPENAI, openai_request(), headers={"luthien-call-id": wanted})
    second = gateway.post(OPENAI, openai_request())
    ids = [uuid.UUID(each.headers["luthien-call-id"]) for each in (first, second)]
    assert len(first.headers.get_list("luthien-call-id")) == 1
    assert [each.version for each in ids] == [7, 7]
    assert str(ids[0]) != wanted
    assert ids[0] < ids[1]
    assert call_time_ms(ids[0]) <= call_time_ms(ids[1])


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        (OPENAI, {"error": {"type": "api_error", "code": "upstream_unreachable"}}),
        (ANTHROPIC, {"type": "error", "error": {"type": "api_error"}}),
    ],
)
def test_an_unreachable_provider_is_a_502_in_the_format_of_the_call(
    record_database: str, path: str, shape: dict[str, Any]
) -> None:
    with reserved_port() as port, running_gateway(record_database, f"http://127.0.0.1:{port}") as gateway:
        response = gateway.post(path, openai_request())
        assert response.status_code == 502
        error = response.json()
        assert error | shape | {"error": error["error"] | shape["error"]} == error
        call = gateway.call(response)
    assert (call["outcome"], call["error"]["type"]) == ("upstream_error", "upstream_unreachable")
    states = {name: stage["state"] for name, stage in call["stages"].items()}
    assert states == {
        "request_original": "recorded",
        "request_final": "recorded",
        "response_original": "not_reached",
        "response_final": "gateway_generated",
    }


@pytest.mark.parametrize(("path", "kind"), [(OPENAI, "api_error"), (ANTHROPIC, "timeout_error")])
def test_a_slow_provider_is_a_504(record_database: str, provider: ScriptedProvider, path: str, kind: str) -> None:
    async def never(turn: Turn) -> None:
        await turn.reader.read()

    provider.will(never)
    with running_gateway(record_database, provider.url, read_timeout_s=0.3) as gateway:
        response = gateway.post(path, openai_request())
        assert response.status_code == 504
        assert response.json()["error"]["type"] == kind
        assert gateway.call(response)["error"]["type"] == "upstream_timeout"


def test_a_call_that_gets_no_connection_to_the_provider_is_a_504(
    record_database: str, provider: ScriptedProvider
) -> None:
    gate = provider.gate()

    async def wait(turn: Turn) -> None:
        await asyncio.wait_for(gate.wait(), DEADLINE_S)
        await answers(openai_response())(turn)

    provider.will(wait)
    with (
        running_gateway(record_database, provider.url, max_connections=1, pool_timeout_s=0.2) as gateway,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(gateway.post, OPENAI, openai_request())
        eventually(lambda: provider.turns, bool)
        second = gateway.post(OPENAI, openai_request())
        gate.open()
        assert first.result().status_code == 200
        assert second.status_code == 504
        assert second.json()["error"]["code"] == "upstream_pool_timeout"


def test_a_slow_stream_outlives_the_read_timeout_as_long_as_it_is_not_silent(
    record_database: str, provider: ScriptedProvider
) -> None:
    """It lasts half as long again. A machine that stalls makes it silent, and it is tried more slowly."""
    frames = [openai_chunk({"content": "x"}) for _ in range(8)]
    for read_timeout_s in (1.5, 6.0, 24.0):
        provider.will(streams(*frames, DONE, pause_s=read_timeout_s / 6))
        with running_gateway(record_database, provider.url, read_timeout_s=read_timeout_s) as gateway:
            response = gateway.post(OPENAI, openai_request(stream=True))
        if response.content == b"".join([*frames, DONE]):
            break
    else:
        pytest.fail(f"it came to {response.content!r}")


@pytest.mark.parametrize(("path", "kind"), [(OPENAI, "invalid_request_error"), (ANTHROPIC, "invalid_request_error")])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"nonsense", b"\xff\xfe", b'"text"', b"[" * 100_000, b'{"a":' * 100_000]
)
def test_a_body_that_is_no_json_object_is_a_400(
    gateway: Gateway, provider: ScriptedProvider, path: str, kind: str, body: bytes
) -> None:
    response = gateway.post(path, body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == kind
    assert provider.turns == []
    call = gateway.call(response)
    assert call["outcome"] == "rejected"
    assert call["stages"]["request_original"]["payload_bytes"] == len(body)
    assert call["stages"]["request_final"]["state"] == "not_reached"


def test_a_body_over_the_limit_is_a_413(record_database: str, provider: ScriptedProvider) -> None:
    with running_gateway(record_database, provider.url, max_body_bytes=100) as gateway:
        declared = gateway.post(OPENAI, b"x" * 101)
        streamed = httpx.post(gateway.url + ANTHROPIC, content=iter([b"x" * 60, b"x" * 60]), timeout=DEADLINE_S)
        for response in (declared, streamed):
            assert response.status_code == 413
            call = gateway.call(response)
            assert call["outcome"] == "rejected"
            assert call["stages"]["request_original"]["state"] == "not_reached"
    assert streamed.json()["error"]["type"] == "request_too_large"
    assert provider.turns == []


def test_bodies_of_32_mib_pass_whole(gateway: Gateway, provider: ScriptedProvider) -> None:
    request = openai_request("x" * (32 * 1024 * 1024 - 200))
    provider.will(answers(openai_response("y" * (31 * 1024 * 1024))))
    response = gateway.post(OPENAI, request)
    assert response.status_code == 200
    assert provider.turns[0].json == request
    assert len(gateway.raw(response, "request_original")) == len(provider.turns[0].body)


def test_a_response_that_is_not_json_passes_when_no_policy_must_read_it(
    gateway: Gateway, provider: ScriptedProvider
) -> None:
    provider.will(answers(b"<html>", headers={"content-type": "text/html"}))
    response = gateway.post(OPENAI, openai_request())
    assert (response.status_code, response.content) == (200, b"<html>")
    assert gateway.call(response)["stages"]["response_final"]["payload"] == "<html>"


def test_a_response_that_is_not_json_goes_no_further_when_a_policy_must_read_it(
    record_database: str, provider: ScriptedProvider
) -> None:
    provider.will(answers(b"<html>", headers={"content-type": "text/html"}))
    with running_gateway(record_database, provider.url, [{"policy": "noop"}]) as gateway:
        response = gateway.post(OPENAI, openai_request())
        assert response.status_code == 502
        call = gateway.call(response)
    assert (call["outcome"], call["error"]["type"]) == ("upstream_error", "upstream_protocol")
    assert call["stages"]["response_original"]["payload"] == "<html>"
    assert call["stages"]["response_final"]["state"] == "gateway_generated"


def test_a_stream_is_not_held_until_it_is_whole(gateway: Gateway, provider: ScriptedProvider) -> None:
    """The first chunk reaches the client while the provider has not sent the second."""
    gate = provider.gate()

    async def play(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await turn.chunk(openai_chunk({"content": "first"}))
        await asyncio.wait_for(gate.wait(), DEADLINE_S)
        await turn.chunk(DONE)
        await turn.send(b"0\r\n\r\n")

    provider.will(play)
    body = json.dumps(openai_request(stream=True)).encode()
    with httpx.stream("POST", gateway.url + OPENAI, content=body, timeout=DEADLINE_S) as response:
        pieces = response.iter_raw()
        assert b"first" in next(pieces)
        gate.open()
        assert b"".join(pieces) == DONE


def test_the_end_marker_does_not_wait_for_the_providers_eof(gateway: Gateway, provider: ScriptedProvider) -> None:
    gate = provider.gate()

    async def play(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await turn.chunk(b"".join(anthropic_stream("a")))
        await asyncio.wait_for(gate.wait(), DEADLINE_S)

    provider.will(play)
    response = gateway.post(ANTHROPIC, anthropic_request(stream=True))
    gate.open()
    assert response.content == b"".join(anthropic_stream("a"))
    assert gateway.call(response)["outcome"] == "completed"


def test_bytes_after_the_end_marker_are_not_passed_on(gateway: Gateway, provider: ScriptedProvider) -> None:
    provider.will(streams(openai_chunk({"content": "a"}) + DONE + sse("after the end")))
    response = gateway.post(OPENAI, openai_request(stream=True))
    assert response.content.endswith(DONE)
