"""Those who ask and then read nothing: viewers, and clients of the gateway."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from luthien.gateway import protocol
from tests.playbook import TOKEN, Gateway, ScriptedProvider, Turn, answers, eventually, running_gateway
from tests.wire import openai_request, openai_response

LONG = "Hello there. " * 1_500_000


@pytest.fixture
def gateway(record_database: str, provider: ScriptedProvider) -> Iterator[Gateway]:
    with running_gateway(record_database, provider.url, write_timeout_s=0.3) as gateway:
        yield gateway


def asked(gateway: Gateway, request: bytes) -> socket.socket:
    """A connection on which something was asked for, and nothing will be read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", int(gateway.url.rpartition(":")[2])))
    client.sendall(request)
    return client


def post(body: bytes) -> bytes:
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def test_a_viewer_who_takes_nothing_of_a_page_is_cut_off(
    gateway: Gateway, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is whole for the app, and waits in the server's memory."""
    provider.will(answers(openai_response()))
    response = gateway.post("/v1/chat/completions", openai_request(LONG))
    gateway.call(response)
    raw = f"/debug/calls/{response.headers['luthien-call-id']}/stages/request_original/raw"
    head = f"GET {raw} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
    state = gateway.server.server_state
    made = state.total_requests
    with monkeypatch.context() as impatient:
        impatient.setattr(protocol, "STALL_S", 0.3)
        with closing(asked(gateway, head.encode())):
            assert eventually(lambda: state.total_requests, lambda count: count > made) == made + 1
            assert eventually(lambda: len(state.connections), lambda count: count == 0) == 0
    assert gateway.get(raw).content.endswith(LONG.encode()[-100:] + b'"}]}')


def test_a_client_that_takes_nothing_of_its_stream_has_hung_up(gateway: Gateway, provider: ScriptedProvider) -> None:
    async def goes_on(turn: Turn) -> None:
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        while True:
            await turn.chunk(b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % (b"x" * 50_000))
            await asyncio.sleep(0)

    provider.will(goes_on)
    body = b'{"model": "m", "stream": true, "messages": []}'
    with closing(asked(gateway, post(body))):
        call = gateway.call(gateway.only_call_id())
        call = eventually(lambda: gateway.call(call["call_id"]), lambda each: each["outcome"] is not None)
    assert call["outcome"] == "client_disconnected"
    assert call["error"]["message"] == "the client took nothing for 0.3 s"
