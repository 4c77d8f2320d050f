"""Asks Tempo for the spans of a call.

Tempo may be slow, away, or somebody else. Nothing of a page waits for it: the page asks for trace.json by itself. All
questions for one call together take no longer than the deadline, what several ask for at the same time is asked for
once, and a Tempo that fails again and again is left alone for a while.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast
from uuid import UUID

import httpx2 as httpx

from luthien.debug.apart import Apart, CannotStart, Failed
from luthien.debug.tempo.breaker import Breaker, Failure, Resting
from luthien.debug.tempo.links import Explore, Links, Times, traceql_of
from luthien.debug.tempo.reading import (
    JSON,
    MOST_READ,
    PROTOBUF,
    Answer,
    TooManySpans,
    UnlikeTempo,
    read_search,
    read_trace,
)
from luthien.debug.tempo.trace import Trace, TraceState
from luthien.debug.tempo.transports import (
    MAX_BYTES,
    NoRoute,
    Reply,
    Transport,
    Unanswerable,
    fetch,
    transport_of,
)
from luthien.settings import Settings

_DAY_S, _HOUR_S = 86_400, 3600
_ON_ITS_WAY_S = 120.0
"""Spans are exported in batches, and a Tempo may search only what is older than half a minute."""
_ASKED_AGAIN_S = 5.0
_MOST_TRACES = 5
_AT_ONCE = 4
"""Questions: the answer to each may take much memory."""
BIG_BYTES = 64 * 1024
"""A longer answer is read in another process: what it is made of may take seconds, and all streams would wait."""
READ_S = 10.0
"""How long that may take."""
_READ_MEMORY_BYTES = 768 * 1024 * 1024
_SEARCH_BYTES = 64 * 1024
_HEADERS = {"accept-encoding": "identity", "user-agent": "luthien"}

_WHOLE = "The record of the call is whole all the same."
_NONE_OF_ITS_OWN = "None of these spans is of this call: its own were not sampled, or are still on their way."
_GIVEN_UP: object = object()

T = TypeVar("T")


class Tempo:
    """Opened with the first question; to be closed. All questions come from one event loop.

    Args:
        breaker: when Tempo is left alone.
    """

    def __init__(self, settings: Settings, breaker: Breaker | None = None) -> None:
        self._way = transport_of(settings)
        self._deadline_s = settings.tempo_timeout_s
        self._explore = Explore(settings)
        self._breaker = breaker or Breaker()
        self._client: httpx.AsyncClient | None = None
        self._few = asyncio.Semaphore(_AT_ONCE)
        self._apart = Apart(limit_s=READ_S, memory_bytes=_READ_MEMORY_BYTES)
        self._asked: dict[tuple[str, ...], asyncio.Future[object]] = {}

    @property
    def is_configured(self) -> bool:
        return self._way is not None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        await asyncio.to_thread(self._apart.close)

    def end(self) -> None:
        """No answer is waited for that is being read."""
        self._apart.end()

    def links(self, call_id: UUID, trace_id: str | None, times: Times) -> Links:
        """Where Grafana shows the call's trace."""
        return self._explore.links(call_id, trace_id, times)

    def link_to(self, trace_id: str, times: Times) -> str | None:
        """Where Grafana shows another trace of about the same time."""
        return self._explore.of(trace_id, times)

    async def trace(self, call_id: UUID, trace_id: str | None, times: Times) -> Trace:
        """The spans of the call's trace: looked for by the trace's id, and else by the call's."""
        if self._way is None:
            return Trace(
                TraceState.NOT_CONFIGURED,
                "No Tempo is configured: set LUTHIEN_TEMPO_URL, or LUTHIEN_GRAFANA_URL to ask through Grafana.",
            )
        until = asyncio.get_running_loop().time() + self._deadline_s
        try:
            return await self._trace(_Asker(self._way, call_id, times, until), trace_id)
        except Resting as resting:
            return _not_asked(resting)
        except (Failure, Unanswerable) as trouble:
            return Trace(TraceState.AWAY, str(trouble))

    async def _trace(self, asker: _Asker, trace_id: str | None) -> Trace:
        """Raises Failure, Unanswerable, Resting."""
        known = await self._by_id(asker, trace_id) if trace_id else Answer(())
        if asker.has_spans_in(known):
            return asker.found(known, trace_id)
        try:
            searched = [each for each in await self._search(asker) if each != trace_id]
            other = await self._by_id(asker, searched[0]) if searched else Answer(())
        except (Failure, Unanswerable, Resting):
            if not known.spans:
                raise
            searched, other = [], Answer(())
        if other.spans:
            return asker.found(other, searched[0], searched[1:])
        if known.spans:
            return asker.found(known, trace_id)
        return asker.found_nothing()

    async def _by_id(self, asker: _Asker, trace_id: str) -> Answer:
        """One trace; without spans if Tempo does not have it. Raises Failure, Unanswerable, Resting."""
        way = asker.way

        is_wrapped = True

        async def ask() -> Reply | None:
            nonlocal is_wrapped
            # A trace is cut at these bounds, and that of a caller may be much longer than the call.
            start, end = asker.times.around(_DAY_S)
            parameters = {"start": str(int(start)), "end": str(int(end))}
            try:
                return await self._fetch(way, f"/api/v2/traces/{trace_id}", parameters, PROTOBUF)
            except NoRoute:  # an older Tempo
                is_wrapped = False
                return await self._fetch(way, f"/api/traces/{trace_id}", parameters, PROTOBUF)

        async def read(reply: Reply) -> Answer:
            return await self._read(reply, str(asker.call_id), is_wrapped=is_wrapped)

        async def answer() -> Answer:
            return await self._guarded(asker, ask, read) or Answer(())

        return await self._shared(("trace", trace_id, str(asker.call_id)), answer)

    async def _read(self, reply: Reply, call_id: str, *, is_wrapped: bool) -> Answer:
        """Raises TooManySpans, UnlikeTempo, Unanswerable."""
        if len(reply.body) <= BIG_BYTES:
            return await asyncio.to_thread(read_trace, reply.content_type, reply.body, call_id, is_wrapped=is_wrapped)
        try:
            found = await self._apart.run(read_apart, reply.content_type, reply.body, call_id, is_wrapped)
        except (Failed, CannotStart) as error:
            raise Unanswerable("Tempo's answer is too big to be read here: look at the trace in Grafana.") from error
        if isinstance(found, Answer):
            return found
        raise found

    async def _search(self, asker: _Asker) -> Sequence[str]:
        """The ids of the traces that have spans of the call, most of them first. Raises as `_by_id`."""

        async def ask() -> Reply | None:
            start, end = asker.times.around(_HOUR_S)
            parameters = {
                "q": traceql_of(asker.call_id),
                "start": str(int(start)),
                "end": str(int(end)),
                "limit": str(_MOST_TRACES),
            }
            return await self._fetch(asker.way, "/api/search", parameters, JSON, _SEARCH_BYTES)

        async def read(reply: Reply) -> Sequence[str]:
            return await asyncio.to_thread(read_search, reply.body)

        async def answer() -> Sequence[str]:
            return await self._guarded(asker, ask, read) or ()

        return await self._shared(("call", str(asker.call_id)), answer)

    async def _guarded(
        self, asker: _Asker, ask: Callable[[], Awaitable[Reply | None]], read: Callable[[Reply], Awaitable[T]]
    ) -> T | None:
        """Raises Failure, Unanswerable, Resting, and nothing else."""
        way = asker.way
        with self._breaker.question():
            try:
                async with asyncio.timeout_at(asker.until) as limit, self._few:
                    reply = await ask()
                    limit.reschedule(None)  # Tempo has answered: to read it is not its doing
                    return None if reply is None else await read(reply)
            except (TimeoutError, httpx.TimeoutException):
                raise Failure(
                    f"Tempo did not answer within {self._deadline_s:g} seconds: ask again, or let it take longer with"
                    " LUTHIEN_TEMPO_TIMEOUT_S."
                ) from None
            except (httpx.InvalidURL, httpx.UnsupportedProtocol):
                raise Failure(f"Tempo cannot be asked, its address is not one: {way.wrong_address}.") from None
            except (httpx.HTTPError, OSError) as error:
                raise Failure(f"Tempo cannot be reached ({type(error).__name__}): {way.unreachable}") from None
            except NoRoute:
                raise Failure(f"There is no Tempo at this address (status 404): {way.wrong_address}.") from None
            except TooManySpans:
                raise Unanswerable(
                    f"The trace has more than {MOST_READ:,} spans, too many to be drawn here: look at it in Grafana."
                ) from None
            except UnlikeTempo:
                raise Failure(
                    f"What answers in Tempo's place does not speak as Tempo does: {way.wrong_address}."
                ) from None

    async def _shared(self, key: tuple[str, ...], ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` brings, or the one who asks for the same already. Raises as that does."""
        while (asked := self._asked.get(key)) is not None:
            came = await asyncio.shield(asked)
            if isinstance(came, Exception):
                raise came
            if came is not _GIVEN_UP:
                return cast("T", came)
        asked = self._asked[key] = asyncio.get_running_loop().create_future()
        came = _GIVEN_UP
        try:
            came = await ask()
        except Exception as error:
            came = error
            raise
        finally:
            del self._asked[key]
            asked.set_result(came)
        return came

    async def _fetch(
        self, way: Transport, path: str, parameters: dict[str, str], accept: str, max_bytes: int = MAX_BYTES
    ) -> Reply | None:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=self._deadline_s, follow_redirects=False, headers=_HEADERS)
        return await fetch(self._client, way, path, parameters, accept, max_bytes)


@dataclass(frozen=True, slots=True)
class _Asker:
    """What one reader of a call wants to know, and until when, by the clock of the event loop."""

    way: Transport
    call_id: UUID
    times: Times
    until: float

    def has_spans_in(self, answer: Answer) -> bool:
        return any(span.call_id == str(self.call_id) for span in answer.spans)

    def found(self, answer: Answer, trace_id: str | None, others: Sequence[str] = ()) -> Trace:
        has_own = self.has_spans_in(answer)
        return Trace(
            TraceState.FOUND,
            "" if has_own else _NONE_OF_ITS_OWN,
            answer.spans,
            answer.omitted,
            trace_id,
            others,
            is_partial=answer.is_partial,
            message=answer.message,
            retry_after_s=None if has_own else self._worth_asking_again_in_s(),
        )

    def found_nothing(self) -> Trace:
        retry_after_s = self._worth_asking_again_in_s()
        why = "it may still be on its way" if retry_after_s else "it was not sampled, or is too old"
        return Trace(
            TraceState.NOT_FOUND, f"Tempo does not have this trace: {why}. {_WHOLE}", retry_after_s=retry_after_s
        )

    def _worth_asking_again_in_s(self) -> float | None:
        ended_s = self.times.ended_s or self.times.started_s
        return _ASKED_AGAIN_S if time.time() - ended_s < _ON_ITS_WAY_S else None


def _not_asked(resting: Resting) -> Trace:
    seconds = math.ceil(resting.seconds)
    return Trace(
        TraceState.NOT_ASKED,
        f"Tempo has failed again and again, and is left alone: it is asked again in {seconds} s. The last time:"
        f" {resting.reason}",
        retry_after_s=seconds,
    )


def read_apart(content_type: str, body: bytes, call_id: str, is_wrapped: bool) -> Answer | TooManySpans | UnlikeTempo:
    """`read_trace` for another process: what it raises is returned."""
    try:
        return read_trace(content_type, body, call_id, is_wrapped=is_wrapped)
    except (TooManySpans, UnlikeTempo) as error:
        return error
