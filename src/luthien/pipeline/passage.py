"""A request that is passed through: no policy sees it, bodies of any size stream both ways, and it is recorded.

It leaves the records of a call: each body as hash, size and beginning. A request that fits into the beginning is
recorded before the provider is called, as any call's; a longer one when all of it has passed.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, nullcontext, suppress
from dataclasses import dataclass
from uuid import UUID

import httpx2 as httpx
from opentelemetry.trace import Span, SpanKind

from luthien.errors import CallError, ClientError, UpstreamError
from luthien.exchange import EventType, Outcome
from luthien.formats.format import WireFormat
from luthien.pipeline.client import Client, ClientGone
from luthien.pipeline.ending import Ending, Error, Headers, error_headers
from luthien.pipeline.headers import kept_request_headers, kept_response_headers
from luthien.pipeline.ledger import Instruments, Ledger
from luthien.pipeline.open_calls import OpenCalls
from luthien.pipeline.terms import Terms
from luthien.telemetry import conventions as names
from luthien.telemetry.spans import Wire
from luthien.upstream.client import check_passable, is_event_stream, returned_headers, translated_errors
from luthien.upstream.decoding import codings_of, decoded

_log = logging.getLogger(__name__)

KEPT_BYTES = 64 * 1024
"""How much of each body is kept."""
WIRE_FORMAT = "passthrough"


@dataclass(frozen=True, slots=True)
class Passenger:
    """A request that may pass: `path` in its one spelling, `template` the pattern that opens it.

    `wire_format` is that of the provider; errors are told in it. `withheld` are headers that are for somebody else.
    """

    wire_format: WireFormat
    method: str
    path: str
    template: str
    withheld: frozenset[bytes] = frozenset()

    name = WIRE_FORMAT

    @property
    def provider(self) -> str:
        return self.wire_format.provider


class Passthrough:
    """What all passages share."""

    def __init__(self, instruments: Instruments, open_calls: OpenCalls) -> None:
        self.instruments = instruments
        self._open_calls = open_calls

    async def run(
        self, call_id: UUID, passenger: Passenger, client: Client, terms: Terms, refusal: ClientError | None = None
    ) -> None:
        """Takes one to its end: to the provider and back, or no further than here if it is refused."""
        with self._open_calls.one():
            await _Passage(self, call_id, passenger, client, terms).run(refusal)


class _Body:
    """What has passed of a body: hashed, counted, and its beginning kept."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self._kept = bytearray()

    def passed(self, data: bytes) -> None:
        self._hash.update(data)
        self.size_bytes += len(data)
        self._kept += data[: KEPT_BYTES - len(self._kept)]

    def __deepcopy__(self, memo: dict[int, object]) -> _Body:
        twin = copy.copy(self)
        twin.__dict__ |= {"_hash": self._hash.copy(), "_kept": self._kept.copy()}
        return twin

    def and_also(self, data: bytes) -> _Body:
        """This with something that followed, which did not pass here."""
        twin = copy.deepcopy(self)
        twin.passed(data)
        return twin

    @property
    def is_capped(self) -> bool:
        return self.size_bytes > len(self._kept)

    @property
    def payload(self) -> bytes:
        return bytes(self._kept)

    @property
    def wire(self) -> Wire:
        return Wire(self._hash.digest(), self.size_bytes, is_payload=not self.is_capped)


class _Passage:
    """One request on its way."""

    def __init__(
        self, shared: Passthrough, call_id: UUID, passenger: Passenger, client: Client, terms: Terms
    ) -> None:
        self._terms = terms
        self._passenger = passenger
        self._client = client
        self._ledger = Ledger(shared.instruments, call_id, passenger, terms.marks)
        self._ending = Ending(self._ledger, client)
        self._parts = client.parts()
        self._waited_for_client_s = 0.0
        self._request: _Body | None = None
        self._is_request_recorded = False
        self._span: Span | None = None
        self._response: httpx.Response | None = None
        self._released = _Body()
        self._held = b""

    async def run(self, refusal: ClientError | None) -> None:
        with self._ledger.measured.under_way():
            await self._run_and_close(refusal)

    async def _run_and_close(self, refusal: ClientError | None) -> None:
        try:
            try:
                await self._run_to_an_end(refusal)
            except asyncio.CancelledError:
                await self._ending.stop(self._tell)
        finally:
            if not self._ending.is_closed:  # what ends a passage broke, or was stopped, itself
                error = ("gateway_error", "the exchange did not come to its end")
                self._ending.close_now(Outcome.POLICY_ERROR, None, error)
            await self._parts.aclose()

    async def _run_to_an_end(self, refusal: ClientError | None) -> None:
        try:
            if refusal is not None:
                raise refusal
            beginning = await self._receive_beginning()
            async with self._client.attentive():
                await self._pass(beginning)
        except ClientGone:
            self._abandon(("client_disconnected", "the client hung up"))
        except CallError as error:
            outcome = Outcome.UPSTREAM_ERROR if isinstance(error, UpstreamError) else Outcome.REJECTED
            await self._tell(outcome, error.status, error.code, str(error))
        except Exception as error:  # noqa: BLE001 - the request boundary: whatever it is, the client is told
            _log.exception("a passage broke")
            await self._tell(
                Outcome.POLICY_ERROR, 500, "gateway_error", f"the gateway failed ({type(error).__name__})"
            )

    # The request

    async def _receive_beginning(self) -> list[bytes]:
        """The parts of the body, as far as its beginning is kept; a body that is whole then is recorded."""
        self._ledger.begin(names.RECEIVE)
        request = self._request = _Body()
        parts: list[bytes] = []
        while request.size_bytes <= KEPT_BYTES:
            part: bytes | None = await anext(self._parts, None)
            if part is None:
                self._record_request()
                await self._ledger.safe()
                break
            request.passed(part)
            parts.append(part)
        return parts

    async def _rest(self, request: _Body, beginning: list[bytes]) -> AsyncIterator[bytes]:
        for each in beginning:
            yield each
        while True:
            since = time.perf_counter()
            try:
                part: bytes | None = await anext(self._parts, None)
            finally:
                self._waited_for_client_s += time.perf_counter() - since
            if part is None:
                self._record_request()
                return
            request.passed(part)
            yield part

    def _record_request(self) -> None:
        """Records what has come of the request, once."""
        request = self._request
        if request is None or self._is_request_recorded:
            return
        self._is_request_recorded = True
        span = self._ledger.open_span(names.RECEIVE)
        payload, wire, capped = request.payload, request.wire, request.is_capped or None
        original = self._ledger.stage(
            span,
            EventType.REQUEST_ORIGINAL,
            payload,
            wire=wire,
            scalars={
                names.WIRE_FORMAT: WIRE_FORMAT,
                names.HTTP_METHOD: self._passenger.method,
                names.URL_PATH: self._passenger.path,
                names.SESSION: self._client.header(b"luthien-session-id"),
                names.REQUEST_HEADERS: kept_request_headers(self._client.headers),
                names.CAPPED: capped,
            },
        )
        self._ledger.stage(
            span,
            EventType.REQUEST_FINAL,
            payload,
            wire=wire,
            same_as=original,
            scalars={names.CHANGED: False, names.PROVIDER: self._passenger.provider, names.CAPPED: capped},
        )
        self._ledger.end(names.RECEIVE)

    # The provider

    async def _pass(self, beginning: list[bytes]) -> None:
        passenger, client, timings = self._passenger, self._client, self._ledger.timings
        endpoint = self._terms.upstream.passage(passenger.provider, passenger.path)
        self._span = self._ledger.begin(
            names.PASSED,
            f"{passenger.method} {passenger.template}",
            SpanKind.CLIENT,
            {
                names.HTTP_METHOD: passenger.method,
                names.URL_TEMPLATE: passenger.template,
                names.PROVIDER: passenger.provider,
                names.SERVER_ADDRESS: endpoint.host,
                names.SERVER_PORT: endpoint.port,
            },
        )
        headers = [(name, value) for name, value in client.headers if name not in passenger.withheld]
        body, length = self._forwarded(beginning)
        timings.sent = time.perf_counter()
        async with self._terms.upstream.send(
            endpoint, client.query, headers, body, method=passenger.method, length=length
        ) as response:
            timings.waited(timings.sent + self._waited_for_client_s)
            self._record_request()  # it may have answered without having read all of it
            client.stop_reading()
            self._response = response
            self._span.set_attribute(names.HTTP_STATUS, response.status_code)
            check_passable(response)
            with translated_errors(endpoint.host):
                async with aclosing(decoded(response)) as data:
                    with self._ledger.measured.streaming() if is_event_stream(response) else nullcontext():
                        await self._pass_back(response, data)

    def _forwarded(self, beginning: list[bytes]) -> tuple[bytes | AsyncIterator[bytes], int | None]:
        """The body as it goes on, and its length where that must be said: that of a body which still comes."""
        if self._is_request_recorded or self._request is None:
            return b"".join(beginning), None
        length = self._client.header(b"content-length") or ""
        is_chunked = self._client.header(b"transfer-encoding") is not None
        known = int(length) if length.isdecimal() and not is_chunked else None
        return self._rest(self._request, beginning), known

    # The response

    async def _pass_back(self, response: httpx.Response, data: AsyncGenerator[bytes, None]) -> None:
        status, headers = response.status_code, returned_headers(response)
        expected = None if codings_of(response.headers) else _length_of(response)
        if expected is not None:
            headers.append((b"content-length", str(expected).encode()))
        while (part := await self._next(data)) is not None:
            self._held += part
            if expected is not None and self._released.size_bytes + len(self._held) >= expected:
                continue  # with these the client has it whole: they wait until the record is safe
            await self._release(status, headers)
        refused = None if response.is_success else (str(status), f"the provider answered with status {status}")
        last, self._held = self._held, b""
        self._released.passed(last)
        self._record_response(refused[0] if refused else None, is_whole=True)
        if not self._client.started:
            self._ledger.timings.client_first_chunk_s = self._ledger.elapsed_s
        outcome = Outcome.COMPLETED if refused is None else Outcome.UPSTREAM_ERROR
        await self._ending.close(outcome, status, refused, (status, headers, last))

    async def _next(self, data: AsyncGenerator[bytes, None]) -> bytes | None:
        timings = self._ledger.timings
        since = time.perf_counter()
        try:
            part = await anext(data, None)
        finally:
            timings.waited(since)
        if part is not None and timings.upstream_first_chunk_s is None:
            timings.first_chunk()
        return part

    async def _release(self, status: int, headers: Headers) -> None:
        if not self._client.started:
            self._ledger.timings.client_first_chunk_s = self._ledger.elapsed_s
            await self._client.start(status, headers)
        await self._client.send(self._held)
        self._released.passed(self._held)
        self._held = b""

    def _record_response(self, error: str | None, *, is_whole: bool = False) -> None:
        """Records what came of the provider's answer and, of that, what the client was given."""
        response = self._response
        if response is None or self._span is None:
            self._ledger.end(names.PASSED, error)
            return
        status = response.status_code
        original = self._released.and_also(self._held) if self._held else self._released
        sequence = self._ledger.stage(
            self._span,
            EventType.RESPONSE_ORIGINAL,
            original.payload,
            wire=original.wire,
            scalars={
                names.HTTP_STATUS: status,
                names.RESPONSE_HEADERS: kept_response_headers(response.headers.raw),
                names.CAPPED: original.is_capped or None,
            },
        )
        self._ledger.end(names.PASSED, error)
        released = self._released
        if self._client.started or is_whole:
            self._record_final(released, status, sequence if released.payload == original.payload else None)

    def _record_final(
        self, body: _Body, status: int, same_as: int | None = None, *, is_generated: bool = False
    ) -> None:
        self._ledger.stage(
            self._ledger.open_span(names.EXCHANGE),
            EventType.RESPONSE_FINAL,
            body.payload,
            wire=body.wire,
            same_as=same_as,
            scalars={
                names.CHANGED: False,
                names.GENERATED: is_generated or None,
                names.HTTP_STATUS: status,
                names.CAPPED: body.is_capped or None,
            },
        )

    # Ends

    def _abandon(self, error: Error) -> None:
        """Nobody is there to be told: records how far it came."""
        if self._ending.is_closed:
            return
        self._record_request()
        self._record_response(error[0])
        status = None if self._response is None else self._response.status_code
        self._ending.close_now(Outcome.CLIENT_DISCONNECTED, status, error)

    async def _tell(self, outcome: Outcome, status: int, code: str, message: str) -> None:
        """Ends the passage with an error in the client's own format, or breaks off the response that has begun.

        A response without its end is one that everybody takes for broken: our server closes the connection.
        """
        if self._ending.is_closed:
            return
        self._record_request()
        self._record_response(code)
        if self._client.started:
            begun_with = self._response.status_code if self._response is not None else None
            self._ending.close_now(outcome, begun_with, (code, message))
            await self._ledger.safe()
            return
        data = self._passenger.wire_format.error_body(status, code, message)
        body = _Body()
        body.passed(data)
        self._record_final(body, status, is_generated=True)
        with suppress(ClientGone):
            await self._ending.close(
                outcome, status, (code, message), (status, error_headers(outcome, status, data), data)
            )


def _length_of(response: httpx.Response) -> int | None:
    length = response.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None
