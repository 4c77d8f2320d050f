"""One exchange, from its first byte to its last.

Every exchange takes the same road: receive, ask the policies about the request, call the provider, ask the
policies about the response, hand it over. It ends in exactly one outcome, with every stage accounted for, and
the client is told of every end in its own format.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import httpx2 as httpx
from opentelemetry.trace import Span, SpanKind

from luthien.errors import CallError, ClientError, PolicyFailure, UpstreamError
from luthien.exchange import EventType, Outcome, Side
from luthien.formats import jsontext
from luthien.formats.format import Json, WireFormat
from luthien.formats.sse import parse_frame
from luthien.pipeline.answer import Answer
from luthien.pipeline.children import ChildCalls
from luthien.pipeline.client import Asker, Client, ClientGone
from luthien.pipeline.ending import Ending, Error, error_headers
from luthien.pipeline.headers import kept_request_headers
from luthien.pipeline.ledger import Instruments, Ledger, Parent
from luthien.pipeline.open_calls import OpenCalls
from luthien.pipeline.session import Session
from luthien.pipeline.stream import PolicyBlock, StreamPass
from luthien.pipeline.terms import Terms
from luthien.pipeline.timeline import Timeline
from luthien.policies.chain import Chain
from luthien.policies.policy import CallContext
from luthien.telemetry import conventions as names
from luthien.telemetry.spans import Wire, clean_name
from luthien.upstream.client import (
    UpstreamClient,
    check_passable,
    is_event_stream,
    returned_headers,
    translated_errors,
)
from luthien.upstream.decoding import decoded

_log = logging.getLogger(__name__)

# How long to wait for the provider's EOF after its end marker, so that its connection can be used again.
_EOF_S = 0.5


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """What all exchanges share."""

    instruments: Instruments
    max_body_bytes: int
    checkpoint_s: float
    """How often an open stream records what has passed."""
    keep_alive_s: float
    """How long a client may hear nothing while policies hold its stream."""
    open_calls: OpenCalls = field(default_factory=OpenCalls)

    async def run(self, call_id: UUID, wire_format: WireFormat, client: Client, terms: Terms) -> None:
        """Takes one exchange to its end. Cancelled, that is soon (`ending.FAREWELL_S`), and the client is told."""
        with self.open_calls.one():
            await _Exchange(self, call_id, wire_format, client, terms).run()

    async def run_child(
        self, terms: Terms, call_id: UUID, wire_format: WireFormat, asker: Asker, parent: Parent
    ) -> None:
        """Takes the call of a policy to its end; no policy looks at it. Cancelled, it ends as if its asker hung up.

        It is held by the task of the policy, and open like any call, for a policy that does not wait for it.
        """
        with self.open_calls.one():
            await _Exchange(self, call_id, wire_format, asker, terms, parent).run()


class _Exchange:
    """One exchange on its way."""

    def __init__(
        self,
        shared: Orchestrator,
        call_id: UUID,
        wire_format: WireFormat,
        client: Asker,
        terms: Terms,
        parent: Parent | None = None,
    ) -> None:
        self._shared = shared
        self._terms = terms
        self._format = wire_format
        self._client = client
        self._ledger = Ledger(shared.instruments, call_id, wire_format, terms.marks, parent)
        self._session = None if parent is None else parent.session
        self._run = Chain().open(CallContext(call_id, wire_format, "", streaming=False))
        self._call_id = call_id
        self._request: Json = {}
        self._answer: Answer | None = None
        self._ending = Ending(self._ledger, client)

    async def run(self) -> None:
        with self._ledger.current(), self._ledger.measured.under_way():
            await self._run_and_close()

    async def _run_and_close(self) -> None:
        try:
            try:
                await self._run_to_an_end()
            except asyncio.CancelledError:
                await self._ending.stop(self._tell)
        finally:
            if not self._ending.is_closed:  # what ends an exchange broke, or was stopped, itself
                error = ("gateway_error", "the exchange did not come to its end")
                self._ending.close_now(Outcome.POLICY_ERROR, None, error)

    async def _run_to_an_end(self) -> None:
        try:
            if self._terms.refusal is not None:
                raise self._terms.refusal
            body = await self._receive()
            async with self._client.attentive():
                await self._call_provider(await self._ask_about_request(body))
        except ClientGone:
            self._abandon()
        except PolicyBlock as block:
            await self._refuse(block)
        except CallError as error:
            await self._fail(error)
        except Exception as error:  # noqa: BLE001 - the request boundary: whatever it is, the client is told
            _log.exception("an exchange broke")
            await self._fail(CallError(f"the gateway failed ({type(error).__name__})"))

    # The request

    async def _receive(self) -> bytes:
        span = self._ledger.begin(names.RECEIVE)
        body = await self._client.body(self._shared.max_body_bytes)
        wire = self._request_wire = Wire.of(body)
        scalars: dict[str, Any] = {
            names.WIRE_FORMAT: self._format.name,
            names.REQUEST_HEADERS: kept_request_headers(self._client.headers),
        }
        mistake: jsontext.InvalidJson | None = None
        try:
            request = self._request = jsontext.parse_object(body)
            self._ledger.asked(_text(request.get("model")), is_streaming=request.get("stream") is True)
            scalars |= {
                names.REQUEST_MODEL: _text(request.get("model")),
                names.STREAMING: request.get("stream") is True,
            }
        except jsontext.InvalidJson as error:
            mistake = error
        session = self._session or Session.of(self._client.headers, self._request)
        scalars |= {names.SESSION: session.id, names.SESSION_USER: session.user}
        self._ledger.belongs_to(session)
        self._choose_group()
        self._request_sequence = self._ledger.stage(
            span, EventType.REQUEST_ORIGINAL, body, wire=wire, scalars=scalars
        )
        self._ledger.end(names.RECEIVE)
        if mistake is not None:
            raise ClientError(f"the request body is not a JSON object: {mistake}", code="invalid_json")
        return body

    def _choose_group(self) -> None:
        """The policies are those for the model that the client asks for, whatever they make of it."""
        group = self._terms.groups.of(_text(self._request.get("model")), self._format.path, self._terms.key)
        self._ending.chain = group.chain
        self._ledger.goes_through(group.name)

    async def _ask_about_request(self, body: bytes) -> bytes:
        span = self._ledger.begin(names.POLICY_REQUEST)
        model = _text(self._request.get("model"))
        run_child = partial(self._shared.run_child, self._terms.of_child())
        call = CallContext(
            self._call_id,
            self._format,
            model or "",
            self._request.get("stream") is True,
            ChildCalls(run_child, self._ledger, self._format.provider, self._client.headers),
            partial(_trace_headers, self._terms.upstream, self._ledger),  # no method: else the exchange held itself
        )
        run = self._run = self._ending.chain.open(call)
        final: bytes | None = None
        try:
            final = await run.on_request(body)
        finally:
            self._ledger.decisions(span, run.decisions, Side.REQUEST, None if run.blocked else final)
        if run.blocked is not None:
            raise PolicyBlock(run.blocked)
        is_changed = final != body
        self._ledger.stage(
            span,
            EventType.REQUEST_FINAL,
            final,
            wire=Wire.of(final) if is_changed else self._request_wire,
            same_as=None if is_changed else self._request_sequence,
            scalars={names.CHANGED: is_changed, names.PROVIDER: self._format.provider},
        )
        self._ledger.end(names.POLICY_REQUEST)
        if is_changed:
            self._request = jsontext.parse_object(final)
        await self._ledger.safe()
        return final

    # The provider

    async def _call_provider(self, body: bytes) -> None:
        upstream, client = self._terms.upstream, self._client
        endpoint = upstream.endpoint(self._format.provider, self._format.path)
        where = {names.SERVER_ADDRESS: endpoint.host, names.SERVER_PORT: endpoint.port}
        model = _text(self._request.get("model"))
        span = self._ledger.begin(
            names.CHAT,
            f"chat {clean_name(model)}" if model else "chat",
            SpanKind.CLIENT,
            {
                names.OPERATION: "chat",
                names.PROVIDER: self._format.provider,
                names.REQUEST_MODEL: model,
                names.REQUEST_STREAM: self._request.get("stream") is True,
                **where,
                **self._format.request_attributes(self._request),
            },
        )
        answer = self._answer = Answer(self._ledger, self._format, span, where)
        timings = self._ledger.timings
        timings.sent = time.perf_counter()
        async with upstream.send(endpoint, client.query, client.headers, body, span=span) as response:
            timings.waited(timings.sent)
            answer.begin(response)
            check_passable(response)
            with translated_errors(endpoint.host):
                async with aclosing(decoded(response)) as data:
                    if response.is_success and is_event_stream(response):
                        with self._ledger.measured.streaming():
                            await self._pass_stream(answer, response, data)
                    else:
                        await self._pass_plain(answer, response, data)

    # A plain response

    async def _pass_plain(self, answer: Answer, response: httpx.Response, data: AsyncGenerator[bytes, None]) -> None:
        await answer.read(data, self._shared.max_body_bytes)
        status = response.status_code
        refused = None if response.is_success else (str(status), f"the provider answered with status {status}")
        answer.end(refused[0] if refused else None)
        self._ledger.begin(names.POLICY_RESPONSE)
        body = answer.payload
        run = self._run
        if refused is None and run.reads_responses:
            body = await self._ask_about_response(answer.payload)
        self._end_response(body, Wire.of(body), status, is_changed=body != answer.payload)
        self._ledger.timings.client_first_chunk_s = self._ledger.elapsed_s
        outcome = Outcome.COMPLETED if refused is None else Outcome.UPSTREAM_ERROR
        headers = [*returned_headers(response), (b"content-length", str(len(body)).encode())]
        await self._ending.close(outcome, status, refused, (status, headers, body))

    async def _ask_about_response(self, body: bytes) -> bytes:
        try:
            jsontext.parse_object(body)
        except jsontext.InvalidJson as error:
            # The policies cannot look at it, so it goes no further.
            message = f"the provider's response is not a JSON object: {error}"
            raise UpstreamError(message, code="upstream_protocol") from error
        final = await self._run.on_response(body)
        if self._run.blocked is not None:
            raise PolicyBlock(self._run.blocked)
        return final

    # A streamed response

    async def _pass_stream(self, answer: Answer, response: httpx.Response, data: AsyncGenerator[bytes, None]) -> None:
        status, headers = response.status_code, returned_headers(response)
        ledger, client = self._ledger, self._client  # not the exchange, which would hold itself

        async def give(raw: bytes, is_stream: bool) -> None:
            if is_stream and ledger.timings.client_first_chunk_s is None:
                ledger.timings.client_first_chunk_s = ledger.elapsed_s
            if not client.started:
                await client.start(status, headers)
            await client.send(raw)

        timeline = Timeline(self._ledger.started)
        stream = answer.stream = StreamPass(
            self._format,
            self._run.stream(timeline),
            self._ledger.timings,
            timeline,
            give,
            self._shared.max_body_bytes,
            self._ledger.checkpoint,
            self._shared.checkpoint_s,
            self._shared.keep_alive_s,
        )
        self._ledger.begin(names.POLICY_RESPONSE)
        terminal = await stream.run(data)
        failure = None if stream.failure is None else ("upstream_stream_error", stream.failure)
        answer.end(failure[0] if failure else None)
        await stream.finish()
        terminal = stream.policies.agreed(terminal)
        # Only the end marker is still held. It is given when the record of all before it is safe.
        stream.passed(terminal.raw, (terminal,))
        stream.sides.closed()
        self._end_stream(stream, status, is_whole=True)
        outcome = Outcome.COMPLETED if failure is None else Outcome.UPSTREAM_ERROR
        await self._ending.close(outcome, status, failure, (status, headers, terminal.raw))
        await _drain(data)

    def _end_stream(self, stream: StreamPass, status: int, *, is_whole: bool) -> None:
        """Records what the client was given of a stream, whole or as far as it came."""
        sides = stream.sides
        final = sides.final
        payload = final.payload()
        stream.policies.decide(payload, self._whole_original(stream) if is_whole else None)
        is_changed = final.wire != sides.original.wire if is_whole else stream.policies.changed
        self._end_response(
            payload,
            final.wire,
            status,
            is_changed=is_changed,
            chunks=final.chunks,
            is_capped=final.is_capped,
            violations=self._ledger.violated("gateway", sides.gateway_violations),
        )

    def _whole_original(self, stream: StreamPass) -> bytes | None:
        """What the provider's stream adds up to, if that and what the client was given are known from end to end."""
        is_capped = stream.sides.original.is_capped or stream.sides.final.is_capped
        return None if is_capped or self._answer is None else self._answer.payload

    # Ends

    def _end_response(
        self,
        payload: bytes,
        wire: Wire,
        status: int,
        *,
        is_changed: bool,
        is_generated: bool = False,
        chunks: int | None = None,
        is_capped: bool = False,
        violations: list[str] | None = None,
    ) -> None:
        """Records the decisions about the response and what the client is given, and ends their span."""
        span = self._ledger.open_span(names.POLICY_RESPONSE)
        self._keep_timeline(span)
        self._ledger.decisions(span, self._run.decisions, Side.RESPONSE, payload)
        answer = self._answer
        same_as = answer.sequence if answer is not None and answer.payload == payload else None
        self._ledger.stage(
            span,
            EventType.RESPONSE_FINAL,
            payload,
            wire=wire,
            same_as=same_as,
            scalars={
                names.CHANGED: is_changed,
                names.GENERATED: is_generated or None,
                names.CHUNKS: chunks,
                names.CAPPED: is_capped or None,
                names.VIOLATIONS: violations,
                names.CHECKPOINTS: self._ledger.checkpoints,
                names.HTTP_STATUS: status,
            },
        )
        self._ledger.end(names.POLICY_RESPONSE)

    def _keep_timeline(self, span: Span) -> None:
        stream = None if self._answer is None else self._answer.stream
        if stream is not None and stream.timeline.frames:
            policies = [step.name for step in self._ending.chain.steps]
            self._ledger.stage(span, EventType.RESPONSE_TIMELINE, stream.timeline.payload(policies))

    def _abandon(self) -> None:
        """Nobody is there to be told: records how far it came.

        A client that hangs up on the provider's error, as SDKs do, is not what ended the call.
        """
        if self._ending.is_closed:
            return
        failure = self._answer.stream.failure if self._answer and self._answer.stream else None
        outcome = Outcome.CLIENT_DISCONNECTED if failure is None else Outcome.UPSTREAM_ERROR
        error: Error = ("client_disconnected", self._client.hung_up)
        if failure is not None:
            error = ("upstream_stream_error", failure)
        stream, status = self._end_answer_early(error[0])
        if stream is not None and self._client.started:
            self._end_stream(stream, status or 200, is_whole=False)
        else:
            if stream is not None:
                stream.policies.decide(None)
            span = self._ledger.open_span(names.POLICY_RESPONSE)
            self._keep_timeline(span)
            self._ledger.decisions(span, self._run.decisions, Side.RESPONSE, None)
        self._ending.close_now(outcome, status, error)

    def _end_answer_early(self, error: str | None) -> tuple[StreamPass | None, int | None]:
        """Records what came of the provider's answer, if it was asked; returns its stream and status, if any."""
        answer = self._answer
        if answer is None:
            return None, None
        if answer.stream is not None:
            answer.stream.sides.diverge()
        answer.end(error)
        return answer.stream, answer.status

    async def _refuse(self, block: PolicyBlock) -> None:
        name, reason = block.block.policy, block.block.reason
        message = f"blocked by the policy {name!r}" + (f": {reason}" if reason else "")
        await self._tell(Outcome.BLOCKED, 403, "policy_blocked", message)

    async def _fail(self, error: CallError) -> None:
        outcome = _OUTCOMES.get(type(error), Outcome.POLICY_ERROR)
        if isinstance(error, UpstreamError) and self._answer is not None and self._answer.stream is not None:
            # What the policies hold is decided as it stands, now that no more will come.
            try:
                async with self._client.attentive():
                    await self._answer.stream.finish()
            except PolicyBlock as block:
                await self._refuse(block)
                return
            except PolicyFailure as failure:
                error, outcome = failure, Outcome.POLICY_ERROR
            except ClientGone:
                self._abandon()
                return
        await self._tell(outcome, error.status, error.code, str(error))

    async def _tell(self, outcome: Outcome, status: int, code: str, message: str) -> None:
        """Ends the exchange with an error in the client's own format: a response, or a frame of its stream."""
        if self._ending.is_closed:
            return
        is_upstream = outcome is Outcome.UPSTREAM_ERROR
        stream, begun_with = self._end_answer_early(code if is_upstream else None)
        if stream is not None and self._client.started:
            # The provider's own error, if it sent one, was passed on already, unless a policy withheld it: nothing
            # comes behind an error.
            is_told = stream.failure is not None and _has_error(stream.sides.final.response)
            frame = b"" if is_told else self._format.error_frame(status, code, message, stream.sides.final.chunks)
            stream.sides.released(frame, () if is_told else (parse_frame(frame, frame),))
            stream.sides.closed()
            self._end_stream(stream, begun_with or 200, is_whole=False)
            with suppress(ClientGone):
                await self._ending.close(outcome, begun_with, (code, message), (begun_with or 200, [], frame))
            return
        if stream is not None:
            stream.policies.decide(None)
        body = self._format.error_body(status, code, message)
        self._end_response(body, Wire.of(body), status, is_changed=False, is_generated=True)
        headers = error_headers(outcome, status, body)
        with suppress(ClientGone):
            await self._ending.close(outcome, status, (code, message), (status, headers, body))


_OUTCOMES: dict[type[CallError], Outcome] = {
    ClientError: Outcome.REJECTED,
    UpstreamError: Outcome.UPSTREAM_ERROR,
    PolicyFailure: Outcome.POLICY_ERROR,
}


def _trace_headers(upstream: UpstreamClient, ledger: Ledger, url: str) -> Mapping[str, str]:
    return upstream.propagation.headers(ledger.as_parent().context, url)


async def _drain(data: AsyncGenerator[bytes, None]) -> None:
    """Reads to the end of a stream that is over, so that its connection can be used again."""
    with suppress(TimeoutError, httpx.HTTPError, UpstreamError):
        async with asyncio.timeout(_EOF_S):
            async for _ in data:
                pass


def _has_error(response: Json | None) -> bool:
    return response is not None and bool(response.get("error"))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
