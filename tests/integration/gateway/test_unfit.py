"""What is unfit to be handed on stays where it is, and the record says so."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from luthien.policies.policy import Policy, Request, Verdict
from luthien.policies.registry import BUILTIN
from tests.playbook import (
    DEADLINE_S,
    TOKEN,
    Gateway,
    Play,
    ScriptedProvider,
    Turn,
    answers,
    eventually,
    running_gateway,
)
from tests.wire import openai_request, openai_response

OPENAI = "/v1/chat/completions"


def raw(head: str, body: bytes = b"{}") -> Play:
    async def play(turn: Turn) -> None:
        await turn.send(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
        turn.writer.close()

    return play


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_would_lead_the_client_around_the_gateway(
    gateway: Gateway, provider: ScriptedProvider, status: int
) -> None:
    provider.will(answers(b"", status=status, headers={"location": "https://elsewhere.example/v1"}))
    response = gateway.post(OPENAI, openai_request())
    assert response.status_code == 502
    assert "location" not in response.headers
    call = gateway.call(response)
    assert (call["outcome"], call["error"]["type"]) == ("upstream_error", "upstream_redirect")
    assert len(provider.turns) == 1


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 200 OK\ncontent-type: application/json\ncontent-encoding: br\ncontent-length: 2",
        "HTTP/1.1 200 OK\ncontent-type: application/json\ncontent-encoding: gzip, zstd\ncontent-length: 2",
        "HTTP/1.1 700 Who knows\ncontent-type: application/json\ncontent-length: 2",
    ],
)
def test_what_was_not_asked_for_is_an_error_of_the_provider(
    gateway: Gateway, provider: ScriptedProvider, head: str
) -> None:
    provider.will(raw(head))
    response = gateway.post(OPENAI, openai_request())
    assert response.status_code == 502
    call = gateway.call(response)
    assert (call["outcome"], call["error"]["type"]) == ("upstream_error", "upstream_protocol")


def test_a_form_for_a_token_is_not_read_for_ever(gateway: Gateway) -> None:
    refused = gateway.post("/debug/sign-in", b"token=" + b"x" * 100_000)
    assert refused.status_code == 413


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
def test_a_caller_cannot_say_where_it_calls_from(
    record_database: str, provider: ScriptedProvider, header: str
) -> None:
    """Its trace is joined by trust in its address, which is that of the connection."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01", header: "10.1.2.3"}
    with running_gateway(record_database, provider.url, trusted_networks=["10.0.0.0/8"]) as gateway:
        provider.will(answers(openai_response()))
        response = gateway.post(OPENAI, openai_request(), headers=headers)
        assert gateway.call(response)["trace_id"] != trace_id


def test_the_pages_join_no_strangers_trace(record_database: str, provider: ScriptedProvider) -> None:
    headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "baggage": "a=b"}
    with running_gateway(record_database, provider.url, trusted_networks=["10.0.0.0/8"]) as gateway:
        page = gateway.get("/debug/calls", gateway.headers | headers)
        assert page.status_code == 200
        assert "traceparent" not in page.headers


class Unmade(Policy):
    def __init__(self) -> None:
        raise RuntimeError("not today")


class Cancelled(Policy):
    """Raises what it got from something that it waits for."""

    async def on_request(self, request: Request) -> Verdict:
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        future.cancel()
        return await future


@pytest.fixture(params=[Unmade, Cancelled], ids=["cannot be made", "is cancelled"])
def broken(
    request: pytest.FixtureRequest, record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Gateway]:
    monkeypatch.setitem(BUILTIN, "broken", request.param)
    with running_gateway(record_database, provider.url, [{"policy": "broken"}]) as gateway:
        yield gateway


def test_a_policy_that_breaks_in_an_odd_way_fails_closed(broken: Gateway, provider: ScriptedProvider) -> None:
    response = broken.post(OPENAI, openai_request())
    assert response.status_code == 500
    assert response.headers["x-should-retry"] == "false"
    assert broken.call(response)["outcome"] == "policy_error"
    assert provider.turns == []


def test_clients_that_hang_up_leave_no_connection_behind(record_database: str, provider: ScriptedProvider) -> None:
    """A pool of two would soon be used up by calls that nobody waits for."""

    async def never(turn: Turn) -> None:
        await turn.reader.read(1)

    with running_gateway(record_database, provider.url, max_connections=2, pool_timeout_s=DEADLINE_S) as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        body = b'{"model":"m","messages":[]}'
        head = f"POST {OPENAI} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        for number in range(12):
            provider.will(never)
            with socket.create_connection((host, int(port))) as client:
                client.sendall(head + body)
                assert eventually(lambda: len(provider.turns), (number + 1).__eq__)
        provider.will(answers(openai_response()))
        assert gateway.post(OPENAI, openai_request()).status_code == 200


def test_requests_in_a_row_on_one_connection_are_answered_in_order(
    gateway: Gateway, provider: ScriptedProvider
) -> None:
    """Whether or not the client has read the answer before."""
    provider.will(answers({"n": 1}), answers({"n": 2}), answers({"n": 3}))
    host, port = gateway.url.removeprefix("http://").split(":")
    body = b'{"model":"m","messages":[]}'
    head = f"POST {OPENAI} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n".encode()
    with socket.create_connection((host, int(port))) as client:
        client.sendall((head + b"\r\n" + body) * 2 + head + b"connection: close\r\n\r\n" + body)
        received = b"".join(iter(lambda: client.recv(65536), b""))
    assert [received.find(b'{"n": %d}' % n) > 0 for n in (1, 2, 3)] == [True] * 3
    assert received.find(b'{"n": 1}') < received.find(b'{"n": 2}') < received.find(b'{"n": 3}')
    assert TOKEN.encode() not in received
