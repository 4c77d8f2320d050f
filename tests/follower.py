"""Somebody who follows the live feed over HTTP, as a script would."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.playbook import TOKEN, eventually

SIGNED_IN = {"authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True)
class Event:
    kind: str
    id: str
    data: Any


@dataclass
class Follower:
    """What came so far. `is_over` once the server has ended the stream in order."""

    events: list[Event] = field(default_factory=list)
    position: str = ""
    is_over: bool = False

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    def calls(self) -> list[str]:
        """The calls that events were of, each once, in the order in which they came first."""
        return [*dict.fromkeys(event.data["call_id"] for event in self.of("call"))]

    def wait_for(self, is_enough: Callable[[Follower], object]) -> Follower:
        assert eventually(lambda: bool(is_enough(self)), bool), self.events
        return self

    def wait_for_kind(self, kind: str) -> Event:
        self.wait_for(lambda it: it.of(kind))
        return self.of(kind)[-1]

    def wait_for_outcome(self, call_id: str, outcome: str = "completed") -> None:
        self.wait_for(
            lambda it: any(e.data["call_id"] == call_id and e.data["outcome"] == outcome for e in it.of("call"))
        )

    def take(self, lines: Iterator[str]) -> None:
        kind, data = "", ""
        for line in lines:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                data = value
            elif name == "id":
                self.position = value
            elif not line and data:
                self.events.append(Event(kind, self.position, json.loads(data)))
                kind = data = ""


@contextmanager
def following(url: str, query: str = "", last: str | None = None) -> Iterator[Follower]:
    """Follows until the block is left; it has been greeted when the block begins, unless the database is away."""
    follower, headers = Follower(), dict(SIGNED_IN)
    if last is not None:
        headers["last-event-id"] = last
    with (
        httpx.Client(timeout=httpx.Timeout(10.0, read=60.0)) as client,
        client.stream("GET", f"{url}/debug/events{query}", headers=headers) as response,
    ):
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")

        def read() -> None:
            with suppress(httpx.HTTPError, httpx.StreamError, RuntimeError):
                follower.take(response.iter_lines())
                follower.is_over = True

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            follower.wait_for(lambda it: it.events)
            yield follower
        finally:
            socket = response.extensions["network_stream"].get_extra_info("socket")
            with suppress(OSError):
                socket.shutdown(2)
            thread.join(20)
