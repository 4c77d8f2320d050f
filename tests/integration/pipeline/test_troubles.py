"""Whoever fails, and whenever: each call has its one outcome, and its record says what came and what was released.

Client, provider and policy fail at the first frame of a stream, in its middle and at its last, in every wire format.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_RESPONSES
from luthien.formats.sse import Chunk
from luthien.policies.policy import Policy, Verdict
from luthien.policies.registry import BUILTIN
from tests.chunks import chunks_of
from tests.playbook import DEADLINE_S, Gateway, Play, ScriptedProvider, Turn, running_gateway, states
from tests.validity import assert_valid
from tests.wire import (
    anthropic_event,
    anthropic_request,
    anthropic_stream,
    openai_request,
    openai_stream,
    responses_request,
    responses_stream,
    sse,
)

WORDS = ("one ", "two ", "three ", "four ")
READ_TIMEOUT_S = 1.0
"""How long the impatient gateways wait: for who tests their patience alone, since a busy machine may try it, too."""


@dataclass(frozen=True)
class Spoken:
    """A wire format, a stream in it, and how its provider says that it failed."""

    format: WireFormat
    request: dict[str, Any]
    frames: list[bytes]
    error: bytes


SPOKEN = {
    "openai.chat": Spoken(
        OPENAI_CHAT,
        openai_request(stream=True),
        openai_stream(*WORDS),
        sse({"error": {"message": "the provider is overloaded", "type": "server_error", "code": None}}),
    ),
    "openai.responses": Spoken(
        OPENAI_RESPONSES,
        responses_request(stream=True),
        responses_stream(*WORDS),
        sse(
            {
                "type": "error",
                "code": "server_error",
                "message": "the provider is overloaded",
                "param": None,
                "sequence_number": 99,
            },
            "error",
        ),
    ),
    "anthropic.messages": Spoken(
        ANTHROPIC_MESSAGES,
        anthropic_request(stream=True),
        anthropic_stream(*WORDS),
        anthropic_event(
            {"type": "error", "error": {"type": "overloaded_error", "message": "the provider is overloaded"}}
        ),
    ),
}
FORMAT = pytest.mark.parametrize("spoken", SPOKEN.values(), ids=SPOKEN)
# How many frames have passed when it happens; the end marker is never one of them.
MOMENTS: dict[str, Callable[[Sequence[bytes]], int]] = {
    "first": lambda frames: 1,
    "middle": lambda frames: len(frames) // 2,
    "last": lambda frames: len(frames) - 1,
}
MOMENT = pytest.mark.parametrize("moment", MOMENTS)


class Shouts(Policy):
    """Rewrites every text, a chunk at a time, and gives on at once."""

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
        texts = self.call.format.chunk_texts(chunk.json or {})
        if not any(text for _, text in texts):
            return (chunk,)
        return (self.call.format.with_chunk_texts(chunk, [text.upper() for _, text in texts]),)


class Fails(Policy):
    """Breaks or blocks at the frame of that number."""

    at = 0
    does = "break"

    def __init__(self, config: Any, call: Any) -> None:
        super().__init__(config, call)
        self._seen = 0

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        self._seen += 1
        if self._seen < self.at:
            return (chunk,)
        return self._fail()

    async def on_stream_end(self) -> Sequence[Chunk] | Verdict:
        return self._fail() if self._seen < self.at else ()

    def _fail(self) -> Verdict:
        if self.does == "break":
            raise RuntimeError("the secret of the policy")
        return Verdict.block("not here")


CHAINS: dict[str, list[dict[str, Any]]] = {
    "unchanged": [],
    "rewritten": [{"policy": "shouts"}],
    "failing": [{"policy": "shouts"}, {"policy": "fails"}],
}


@pytest.fixture(scope="module")
def gateways(shared_record_database: str, shared_provider: ScriptedProvider) -> Iterator[dict[str, Gateway]]:
    url = shared_provider.url
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILTIN, "shouts", Shouts)
        patch.setitem(BUILTIN, "fails", Fails)
        with ExitStack() as stack:
            patient = {
                name: stack.enter_context(running_gateway(shared_record_database, url, chain))
                for name, chain in CHAINS.items()
            }
            impatient = {
                f"impatient, {name}": stack.enter_context(
                    running_gateway(shared_record_database, url, CHAINS[name], read_timeout_s=READ_TIMEOUT_S)
                )
                for name in ("unchanged", "rewritten")
            }
            yield patient | impatient


@dataclass
class Scene:
    """A provider that says some frames, waits until the client has them, and then does something."""

    frames: list[bytes]
    then: str
    was_left: threading.Event = field(default_factory=threading.Event)
    """The gateway closed the connection."""

    def play(self, go_on: Any) -> Play:
        async def play(turn: Turn) -> None:
            await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
            for frame in self.frames:
                await turn.chunk(frame)
            await go_on.wait()
            match self.then:
                case "cut":
                    turn.cut()
                case "end":
                    await turn.send(b"0\r\n\r\n")
                case "wait":
                    await turn.reader.read()
                    self.was_left.set()

        return play


class Caller:
    """A client on a bare socket: what it has received so far, and its way to hang up."""

    def __init__(self, gateway: Gateway, spoken: Spoken) -> None:
        host, port = gateway.url.removeprefix("http://").split(":")
        data = json.dumps(spoken.request).encode()
        self._socket = socket.create_connection((host, int(port)), timeout=DEADLINE_S)
        head = f"POST {spoken.format.path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
        self._socket.sendall(head.encode() + data)
        self._received = b""

    def read_until(self, text: bytes) -> None:
        while text not in self._received:
            received = self._socket.recv(65536)
            assert received, self._received
            self._received += received

    def read_frames(self, count: int) -> None:
        """Reads until so many frames have arrived: no chain here makes more or fewer of them."""
        while len(chunks_of(self.body)) < count:
            received = self._socket.recv(65536)
            assert received, self._received
            self._received += received

    def read_all(self) -> None:
        self.read_until(b"\r\n0\r\n\r\n")

    def hang_up(self, *, rudely: bool) -> None:
        if rudely:  # a reset instead of a farewell
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    @property
    def call_id(self) -> str:
        found = re.search(rb"luthien-call-id: ([\w-]+)", self._received)
        assert found, self._received
        return found[1].decode()

    @property
    def status(self) -> int:
        return int(self._received.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        """The chunks of the body that have arrived, put together."""
        body, rest = b"", self._received.partition(b"\r\n\r\n")[2]
        while match := re.match(rb"([0-9a-f]+)\r\n", rest):
            size, start = int(match[1], 16), match.end()
            body += rest[start : start + size]
            rest = rest[start + size + 2 :]
        return body


@contextmanager
def calling(gateway: Gateway, spoken: Spoken) -> Iterator[Caller]:
    caller = Caller(gateway, spoken)
    try:
        yield caller
    finally:
        caller.hang_up(rudely=False)


def shown(gateway: Gateway, caller: Caller) -> dict[str, Any]:
    call = gateway.call(caller.call_id)
    assert call["completeness"]["state"] == "complete"
    return call


def assembled(wire_format: WireFormat, raw: bytes) -> dict[str, Any] | None:
    assembler = wire_format.assembler()
    for chunk in chunks_of(raw):
        assembler.add(chunk)
    return assembler.result()


def assert_wire(stage: dict[str, Any], wire_format: WireFormat, raw: bytes) -> None:
    """The stage is what these bytes say."""
    assert (stage["wire_bytes"], stage["wire_sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert stage["payload"] == assembled(wire_format, raw)


def errors_in(spoken: Spoken, body: bytes) -> list[Chunk]:
    return [chunk for chunk in chunks_of(body) if spoken.format.stream_error(chunk)]


def as_given(chain: str, spoken: Spoken, frames: list[bytes]) -> bytes:
    """What the client gets of these frames."""
    raw = b"".join(frames)
    for word in WORDS if chain != "unchanged" else ():
        raw = raw.replace(word.encode(), word.upper().encode())
    return raw


@pytest.mark.parametrize("chain", ["unchanged", "rewritten"])
@pytest.mark.parametrize("rudely", [False, True], ids=["politely", "rudely"])
@MOMENT
@FORMAT
def test_the_client_hangs_up(
    gateways: dict[str, Gateway],
    shared_provider: ScriptedProvider,
    spoken: Spoken,
    moment: str,
    rudely: bool,
    chain: str,
) -> None:
    frames = spoken.frames[: MOMENTS[moment](spoken.frames)]
    scene, gate = Scene(frames, "wait"), shared_provider.gate()
    gate.open()
    shared_provider.will(scene.play(gate))
    with calling(gateways[chain], spoken) as caller:
        caller.read_frames(len(frames))
        caller.hang_up(rudely=rudely)
        assert scene.was_left.wait(DEADLINE_S)
        call = shown(gateways[chain], caller)
    assert (call["outcome"], call["error"]["type"]) == ("client_disconnected", "client_disconnected")
    assert states(call) == ["recorded"] * 4
    assert_wire(call["stages"]["response_original"], spoken.format, b"".join(frames))
    final = call["stages"]["response_final"]
    assert final["payload"] == assembled(spoken.format, caller.body)
    assert final["wire_bytes"] == len(caller.body)
    assert [each["action"] for each in call["decisions"]] == _actions(chain, spoken, frames)


def _actions(chain: str, spoken: Spoken, frames: list[bytes]) -> list[str]:
    if chain == "unchanged":
        return []
    raw = b"".join(frames)
    return ["modify" if as_given(chain, spoken, frames) != raw else "allow"]


@pytest.mark.parametrize("chain", ["unchanged", "rewritten"])
@pytest.mark.parametrize(
    ("then", "error_type"),
    [("cut", "upstream_disconnected"), ("end", "upstream_incomplete"), ("wait", "upstream_timeout")],
    ids=["cut", "ended", "stalled"],
)
@MOMENT
@FORMAT
def test_the_provider_fails(
    gateways: dict[str, Gateway],
    shared_provider: ScriptedProvider,
    spoken: Spoken,
    moment: str,
    then: str,
    error_type: str,
    chain: str,
) -> None:
    frames = spoken.frames[: MOMENTS[moment](spoken.frames)]
    scene, gate = Scene(frames, then), shared_provider.gate()
    shared_provider.will(scene.play(gate))
    gateway = gateways[f"impatient, {chain}" if then == "wait" else chain]
    with calling(gateway, spoken) as caller:
        caller.read_frames(len(frames))
        gate.open()
        caller.read_all()
        call = shown(gateway, caller)
    assert caller.status == 200
    assert (call["outcome"], call["error"]["type"]) == ("upstream_error", error_type)
    assert states(call) == ["recorded"] * 4
    assert_wire(call["stages"]["response_original"], spoken.format, b"".join(frames))
    assert_wire(call["stages"]["response_final"], spoken.format, caller.body)
    assert spoken.frames[-1] not in caller.body
    assert_valid(spoken.format.path, caller.body)
    [error] = errors_in(spoken, caller.body)
    assert error_type.encode() in error.raw


@pytest.mark.parametrize("chain", ["unchanged", "rewritten"])
@MOMENT
@FORMAT
def test_the_provider_says_that_it_failed(
    gateways: dict[str, Gateway], shared_provider: ScriptedProvider, spoken: Spoken, moment: str, chain: str
) -> None:
    """Its own words are passed on, once, and nothing of ours beside them."""
    frames = [*spoken.frames[: MOMENTS[moment](spoken.frames)], spoken.error]
    scene, gate = Scene(frames, "end"), shared_provider.gate()
    gate.open()
    shared_provider.will(scene.play(gate))
    with calling(gateways[chain], spoken) as caller:
        caller.read_all()
        call = shown(gateways[chain], caller)
    assert (call["outcome"], call["error"]["type"]) == ("upstream_error", "upstream_stream_error")
    assert call["error"]["message"] == "the provider is overloaded"
    assert states(call) == ["recorded"] * 4
    assert_wire(call["stages"]["response_original"], spoken.format, b"".join(frames))
    assert_wire(call["stages"]["response_final"], spoken.format, caller.body)
    [error] = errors_in(spoken, caller.body)
    assert error.raw == spoken.error
    assert caller.body.endswith(spoken.error)


@pytest.mark.parametrize(
    ("does", "outcome", "error_type", "action"),
    [("break", "policy_error", "policy_error", "error"), ("block", "blocked", "policy_blocked", "block")],
    ids=["breaks", "blocks"],
)
@MOMENT
@FORMAT
def test_the_policy_ends_it(
    gateways: dict[str, Gateway],
    shared_provider: ScriptedProvider,
    monkeypatch: pytest.MonkeyPatch,
    spoken: Spoken,
    moment: str,
    does: str,
    outcome: str,
    error_type: str,
    action: str,
) -> None:
    """What it was shown then goes no further; at the last, that is when it hears that no more will come."""
    at = {"first": 2, "middle": len(spoken.frames) // 2, "last": len(spoken.frames) + 1}[moment]
    monkeypatch.setattr(Fails, "at", at)
    monkeypatch.setattr(Fails, "does", does)
    is_last = moment == "last"
    sent = spoken.frames if is_last else spoken.frames[:at]
    scene, gate = Scene(sent, "end" if is_last else "wait"), shared_provider.gate()
    gate.open()
    shared_provider.will(scene.play(gate))
    with calling(gateways["failing"], spoken) as caller:
        caller.read_all()
        call = shown(gateways["failing"], caller)
    assert is_last or scene.was_left.wait(DEADLINE_S)
    assert (call["outcome"], call["error"]["type"]) == (outcome, error_type)
    assert states(call) == ["recorded"] * 4
    assert_wire(call["stages"]["response_original"], spoken.format, b"".join(sent))
    assert_wire(call["stages"]["response_final"], spoken.format, caller.body)
    assert b"the secret of the policy" not in caller.body
    assert spoken.frames[-1] not in caller.body
    assert_valid(spoken.format.path, caller.body)
    [error] = errors_in(spoken, caller.body)
    assert caller.body.endswith(error.raw)
    assert ("fails", action) in {(each["policy"], each["action"]) for each in call["decisions"]}


@pytest.mark.parametrize(("does", "outcome"), [("break", "policy_error"), ("block", "blocked")])
@pytest.mark.parametrize("goes_on", [False, True], ids=["at the end", "behind it"])
@FORMAT
def test_who_was_told_of_the_providers_error_is_told_of_no_other(
    gateways: dict[str, Gateway],
    shared_provider: ScriptedProvider,
    monkeypatch: pytest.MonkeyPatch,
    spoken: Spoken,
    goes_on: bool,
    does: str,
    outcome: str,
) -> None:
    """Whatever becomes of the stream then: the policy ends it when the provider does, or at what comes behind."""
    sent = [*spoken.frames[:3], spoken.error, *(spoken.frames[3:4] if goes_on else ())]
    monkeypatch.setattr(Fails, "at", 5)
    monkeypatch.setattr(Fails, "does", does)
    scene, gate = Scene(sent, "wait" if goes_on else "end"), shared_provider.gate()
    gate.open()
    shared_provider.will(scene.play(gate))
    with calling(gateways["failing"], spoken) as caller:
        caller.read_all()
        call = shown(gateways["failing"], caller)
    assert call["outcome"] == outcome
    assert_wire(call["stages"]["response_original"], spoken.format, b"".join(sent))
    assert_wire(call["stages"]["response_final"], spoken.format, caller.body)
    [error] = errors_in(spoken, caller.body)
    assert error.raw == spoken.error
    assert caller.body.endswith(spoken.error)


@pytest.mark.parametrize(("does", "status", "outcome"), [("break", 500, "policy_error"), ("block", 403, "blocked")])
@FORMAT
def test_the_policy_ends_it_before_anything_was_released(
    gateways: dict[str, Gateway],
    shared_provider: ScriptedProvider,
    monkeypatch: pytest.MonkeyPatch,
    spoken: Spoken,
    does: str,
    status: int,
    outcome: str,
) -> None:
    """Then it is no stream yet: the answer is an error like any other."""
    monkeypatch.setattr(Fails, "at", 1)
    monkeypatch.setattr(Fails, "does", does)
    scene, gate = Scene(spoken.frames[:1], "wait"), shared_provider.gate()
    gate.open()
    shared_provider.will(scene.play(gate))
    with calling(gateways["failing"], spoken) as caller:
        caller.read_until(b"}")
        assert scene.was_left.wait(DEADLINE_S)
        call = shown(gateways["failing"], caller)
    assert (caller.status, call["outcome"]) == (status, outcome)
    assert states(call) == ["recorded", "recorded", "recorded", "gateway_generated"]
    assert_wire(call["stages"]["response_original"], spoken.format, spoken.frames[0])
