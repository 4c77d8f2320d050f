"""Many who ask for large pages at once: they wait for each other, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest

from luthien.debug.apart import Stopping
from luthien.debug.call.call_view import view_call
from luthien.debug.views import BIG_AT_ONCE, SMALL_AT_ONCE, THREADS, Lane
from luthien.errors import StoreBusy
from tests.playbook import TOKEN, Gateway, ScriptedProvider, answers, eventually, running_gateway
from tests.wire import openai_request, openai_response

LONG = "Hello there. " * 1_000
REDACTS = [{"policy": "redact", "config": {"rules": [{"kinds": ["email"]}]}}]


class Slow:
    """Makes views only when it may, and counts them."""

    def __init__(self, view: Any) -> None:
        self.view = view
        self.begun = 0
        self.may = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self.begun += 1
        assert self.may.wait(60)
        return self.view(*args, **kwargs)


@pytest.fixture
def gateway(record_database: str, provider: ScriptedProvider) -> Iterator[Gateway]:
    provider.will(answers(openai_response()))
    with running_gateway(record_database, provider.url, REDACTS) as gateway:
        yield gateway


def asked(gateway: Gateway, path: str) -> socket.socket:
    """A connection on which a page was asked for."""
    address = urlsplit(gateway.url)
    conn = socket.create_connection((address.hostname, address.port))
    conn.sendall(f"GET {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {TOKEN}\r\n\r\n".encode())
    return conn


def test_large_pages_wait_for_each_other_and_calls_and_lists_for_none(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = gateway.post("/v1/chat/completions", openai_request())
    gateway.call(response)
    path = f"/debug/calls/{response.headers['luthien-call-id']}"
    slow = Slow(view_call)
    monkeypatch.setattr("luthien.debug.pages.call.view_call", slow)
    with ExitStack() as stack:
        stack.callback(slow.may.set)
        pool = stack.enter_context(ThreadPoolExecutor(4))
        gone = [stack.enter_context(asked(gateway, f"{path}/diff.json")) for _ in range(SMALL_AT_ONCE + 20)]
        assert eventually(lambda: slow.begun, lambda begun: begun == THREADS) == THREADS
        last = pool.submit(gateway.get, f"{path}/diff.json")
        # A long text is looked at in one of the event loop's own threads.
        assert gateway.post("/v1/chat/completions", openai_request(LONG)).status_code == 200
        assert gateway.get("/debug/calls.json").status_code == 200
        assert slow.begun == THREADS
        for conn in gone:
            conn.close()
        connections = gateway.server.server_state.connections
        assert eventually(lambda: len(connections), lambda count: count == 1) == 1, "it has seen that they left"
        slow.may.set()
        assert last.result().status_code == 200
        assert slow.begun <= SMALL_AT_ONCE + 1, "pages were made for those who had gone"


def test_small_calls_do_not_wait_for_big_ones_and_no_more_exports_than_there_is_room_for(gateway: Gateway) -> None:
    small, big = (
        gateway.post("/v1/chat/completions", openai_request(text)) for text in ("Hello", "Hello there. " * 50_000)
    )
    for each in (small, big):
        gateway.call(each)
    views = gateway.app._now.views
    held = views._apart._starting
    with ExitStack() as stack:
        stack.enter_context(held)  # no process for big calls starts meanwhile
        for _ in range(BIG_AT_ONCE + 1):
            stack.enter_context(asked(gateway, f"/debug/calls/{big.headers['luthien-call-id']}/diff.json"))
        assert eventually(lambda: views._big._waiting, lambda waiting: waiting == 1) == 1
        assert gateway.get(f"/debug/calls/{small.headers['luthien-call-id']}/diff.json").status_code == 200

        while views.exports.take():
            stack.callback(views.exports.give_back)
        busy = gateway.get("/debug/calls/export.ndjson")
        assert (busy.status_code, busy.json()["reason"], busy.headers["retry-after"]) == (503, "busy", "1")
        assert "exports are under way" in busy.json()["error"]
    exported = gateway.get("/debug/calls/export.ndjson")
    assert len(exported.text.splitlines()) == 2
    assert views.exports.take()

    views.end()
    for path in ("", f"/{big.headers['luthien-call-id']}"):
        stopping = gateway.get(f"/debug/calls{path}.json")
        assert (stopping.status_code, stopping.json()["reason"]) == (503, "stopping")
        assert stopping.json()["error"] == "the gateway stops"


async def test_a_line_has_an_end_and_is_closed_with_the_gateway() -> None:
    lane = Lane(1, most_waiting=1)
    async with asyncio.TaskGroup() as group, lane.turn():
        waiting = group.create_task(_turn(lane))
        await asyncio.sleep(0)
        with pytest.raises(StoreBusy, match="1 others wait"):
            await _turn(lane)
        lane.close()
        assert await waiting == "the gateway stops"


async def _turn(lane: Lane) -> str:
    try:
        async with lane.turn():
            return ""
    except Stopping as stopping:
        return str(stopping)
