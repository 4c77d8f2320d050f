"""The provider of a benchmark: two answers that never change, from a server that costs next to nothing.

It lives in the load generator's event loop, so that a stream can go in lockstep: the next chunk is sent when the
client has the one before. Each chunk then passes through the gateway by itself, as it does with a real model,
and a slow gateway is not flattered by chunks that arrive together.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

CHUNKS = 200
STREAM_HEADER = b"x-benchmark-stream"
"""Which stream the client asks for: a number, or `0` for one that waits for nobody."""

_WORDS = (
    "The gateway stands between a client and a provider, runs policies on every request and response, and keeps an "
    "exact record of what each of them changed. "
)
_SDK_HEADERS = {
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "authorization": "Bearer sk-benchmark-0123456789abcdef0123456789abcdef",
    "connection": "keep-alive",
    "content-type": "application/json",
    "host": "127.0.0.1",
    "user-agent": "OpenAI/Python 2.8.1",
    "x-stainless-arch": "x64",
    "x-stainless-async": "false",
    "x-stainless-lang": "python",
    "x-stainless-os": "Linux",
    "x-stainless-package-version": "2.8.1",
    "x-stainless-retry-count": "0",
    "x-stainless-runtime": "CPython",
    "x-stainless-runtime-version": "3.11.7",
}
_PROVIDER_HEADERS = {
    "date": "Sun, 22 Nov 2026 12:00:00 GMT",
    "openai-organization": "benchmark",
    "openai-processing-ms": "412",
    "openai-version": "2020-10-01",
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-limit-tokens": "2000000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-remaining-tokens": "1999321",
    "x-request-id": "req_0123456789abcdef0123456789abcdef",
}


def _request_body(*, stream: bool) -> bytes:
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Current weather in a place.",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
                "required": ["place"],
            },
        },
    }
    body: dict[str, Any] = {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. " + _WORDS * 4},
            {"role": "user", "content": "What does it do? " + _WORDS * 2},
            {"role": "assistant", "content": _WORDS},
            {"role": "user", "content": "Say it again, in other words."},
        ],
        "tools": [tool],
        "temperature": 0.7,
        "max_tokens": 512,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


def _response_body() -> bytes:
    return json.dumps(
        {
            "id": "chatcmpl-0123456789abcdef",
            "object": "chat.completion",
            "created": 1795348800,
            "model": "gpt-4o-mini-2024-07-18",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": _WORDS * 10, "refusal": None, "annotations": []},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 321,
                "completion_tokens": 280,
                "total_tokens": 601,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
            },
            "service_tier": "default",
            "system_fingerprint": "fp_0123456789",
        },
        indent=2,
    ).encode()


def _frames() -> tuple[bytes, ...]:
    frames = []
    for number in range(CHUNKS):
        is_last = number == CHUNKS - 1
        chunk = {
            "id": "chatcmpl-0123456789abcdef",
            "object": "chat.completion.chunk",
            "created": 1795348800,
            "model": "gpt-4o-mini-2024-07-18",
            "service_tier": "default",
            "system_fingerprint": "fp_0123456789",
            "choices": [
                {
                    "index": 0,
                    "delta": {} if is_last else {"content": f" word{number}"},
                    "logprobs": None,
                    "finish_reason": "stop" if is_last else None,
                }
            ],
            "usage": None,
        }
        frames.append(b"data: %s\n\n" % json.dumps(chunk, separators=(",", ":")).encode())
    return tuple(frames)


PLAIN_BODY = _response_body()
FRAMES = _frames()
END_FRAME = b"data: [DONE]\n\n"


def request(*, stream: int | None = None) -> bytes:
    """A whole HTTP request as an SDK sends it, about 2 KB; for a plain response, or for the stream of that number."""
    body = _request_body(stream=stream is not None)
    headers = {**_SDK_HEADERS, "content-length": str(len(body))}
    if stream is not None:
        headers[STREAM_HEADER.decode()] = str(stream)
    return _head("POST /v1/chat/completions HTTP/1.1", headers) + body


def _head(first: str, headers: dict[str, str]) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_LENGTH = b"\ncontent-length: "
_STREAM = b"\n" + STREAM_HEADER + b": "
_OK = "HTTP/1.1 200 OK"
_PLAIN = (
    _head(
        _OK,
        {**_PROVIDER_HEADERS, "content-type": "application/json", "content-length": str(len(PLAIN_BODY))},
    )
    + PLAIN_BODY
)
_STREAM_HEAD = _head(
    _OK,
    {**_PROVIDER_HEADERS, "content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"},
)
_STREAM_PIECES = (*map(_http_chunk, FRAMES), _http_chunk(END_FRAME) + b"0\r\n\r\n")
_EMPTY = _head(_OK, {"content-type": "application/x-protobuf", "content-length": "0"})


def _number_after(name: bytes, head: bytes) -> int | None:
    _, found, rest = head.partition(name)
    return int(rest.partition(b"\r")[0]) if found else None


class CannedUpstream:
    """The server: answers calls to the model, and takes whatever is sent over OTLP."""

    def __init__(self) -> None:
        self.port = 0
        self._server: asyncio.Server | None = None
        self._streams: dict[int, _Provider] = {}

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Provider(self._streams), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def has_arrived(self, stream: int) -> None:
        """The client of that stream has the last chunk; sends the next."""
        self._streams[stream].send_next()


class _Provider(asyncio.Protocol):
    """One connection from a gateway."""

    def __init__(self, streams: dict[int, _Provider]) -> None:
        self._streams = streams
        self._buffer = b""
        self._pieces = iter(_STREAM_PIECES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not derive from it

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        fields = head.lower()
        if len(rest) < (_number_after(_LENGTH, fields) or 0):
            return
        self._buffer = b""  # nobody here pipelines
        self._answer(head, _number_after(_STREAM, fields))

    def _answer(self, head: bytes, stream: int | None) -> None:
        if not head.startswith(b"POST /v1/chat/completions "):
            self._transport.write(_EMPTY)
        elif stream is None:
            self._transport.write(_PLAIN)
        elif stream == 0:
            self._transport.write(b"".join([_STREAM_HEAD, *_STREAM_PIECES]))
        else:
            self._streams[stream] = self
            self._pieces = iter(_STREAM_PIECES)
            self._transport.write(_STREAM_HEAD + next(self._pieces))

    def send_next(self) -> None:
        self._transport.write(next(self._pieces))
