"""The spans of a call as Tempo has them: asked for directly, or through Grafana's data source proxy.

Tempo may be slow, away, or somebody else: an answer takes two seconds and eight MiB at most, and every text in it is
shown as a stranger's.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx2 as httpx

from luthien.debug.showing.shown import plain
from luthien.settings import Settings

DEADLINE_S = 2.0
MAX_BYTES = 8 * 1024 * 1024
MAX_SPANS = 1000
_NAME_CHARS = 200
_AROUND_S = 3600
_CALL_ID = "luthien.call_id"


class TraceState(StrEnum):
    """What came of asking Tempo."""

    NOT_CONFIGURED = "not_configured"
    AWAY = "away"
    NOT_FOUND = "not_found"
    FOUND = "found"


@dataclass(frozen=True, slots=True)
class Span:
    """One span. Times are nanoseconds since the epoch; `is_ours` says whether it is one of this call."""

    id: str
    parent: str | None
    name: str
    service: str
    kind: str
    start_ns: int
    end_ns: int
    is_error: bool
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """What Tempo said of a call, earliest span first; `sentence` is for people."""

    state: TraceState
    sentence: str
    spans: tuple[Span, ...] = ()
    omitted: int = 0
    """Spans of the trace beyond those that are shown."""


class _Unreadable(Exception):
    """An answer that is not one of Tempo's; the message says why."""


class Tempo:
    """Asks Tempo. Opened with the first question; to be closed."""

    def __init__(self, settings: Settings) -> None:
        self._base, self._headers = _way_to(settings)
        self._grafana = settings.grafana_url.rstrip("/") if settings.grafana_url else None
        self._datasource = settings.tempo_datasource
        self._client: httpx.AsyncClient | None = None

    @property
    def is_configured(self) -> bool:
        return self._base is not None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def trace(self, call_id: UUID, trace_id: str | None, started_s: float, ended_s: float | None) -> Trace:
        """The spans of the call's trace: looked for by the trace id, and else by the call's.

        Args:
            started_s: when the call began, in seconds since the epoch; a search needs to know.
        """
        if self._base is None:
            return Trace(
                TraceState.NOT_CONFIGURED,
                "No Tempo is configured: set LUTHIEN_TEMPO_URL, or LUTHIEN_GRAFANA_URL to ask through Grafana.",
            )
        try:
            async with asyncio.timeout(DEADLINE_S):
                found = await self._by_id(call_id, trace_id) if trace_id else None
                if not found:
                    searched = await self._search(call_id, started_s, ended_s)
                    is_new = searched is not None and searched != trace_id
                    found = await self._by_id(call_id, searched) if is_new and searched else found
        except (TimeoutError, httpx.TimeoutException):
            return Trace(TraceState.AWAY, f"Tempo did not answer within {DEADLINE_S:g} seconds.")
        except httpx.InvalidURL:
            return Trace(TraceState.AWAY, "Tempo cannot be asked: its address is not one.")
        except (httpx.HTTPError, OSError) as error:
            return Trace(TraceState.AWAY, f"Tempo cannot be reached ({type(error).__name__}).")
        except _Unreadable as error:
            return Trace(TraceState.AWAY, str(error))
        if not found:
            return Trace(
                TraceState.NOT_FOUND,
                "Tempo does not have this trace: it may still be on its way, was not sampled, or is too old.",
            )
        found.sort(key=lambda span: (span.start_ns, -span.end_ns))
        spans, omitted = found[:MAX_SPANS], len(found) - MAX_SPANS
        return Trace(TraceState.FOUND, "", tuple(spans), max(0, omitted))

    def link(self, call_id: UUID, trace_id: str | None, started_s: float, ended_s: float | None) -> str | None:
        """Where Grafana shows the trace; None when no Grafana is configured."""
        if self._grafana is None:
            return None
        query = trace_id or _query(call_id)
        query_of_pane = {
            "refId": "A",
            "datasource": {"type": "tempo", "uid": self._datasource},
            "queryType": "traceql",
            "query": query,
        }
        times = {
            "from": str(int((started_s - _AROUND_S) * 1000)),
            "to": str(int(((ended_s or started_s) + _AROUND_S) * 1000)),
        }
        panes = {"t": {"datasource": self._datasource, "queries": [query_of_pane], "range": times}}
        written = quote(json.dumps(panes, separators=(",", ":")), safe="")
        return f"{self._grafana}/explore?orgId=1&schemaVersion=1&panes={written}"

    async def _by_id(self, call_id: UUID, trace_id: str) -> list[Span]:
        answer = await self._get(f"/api/v2/traces/{quote(trace_id, safe='')}", {})
        return [] if answer is None else await asyncio.to_thread(spans_of, answer, call_id)

    async def _search(self, call_id: UUID, started_s: float, ended_s: float | None) -> str | None:
        """The id of the trace that has a span of the call."""
        parameters = {
            "q": _query(call_id),
            "start": str(int(started_s - _AROUND_S)),
            "end": str(int((ended_s or started_s) + _AROUND_S)),
            "limit": "1",
        }
        answer = await self._get("/api/search", parameters)
        return None if answer is None else await asyncio.to_thread(_first_trace, answer)

    async def _get(self, path: str, parameters: dict[str, str]) -> bytes | None:
        """The body of Tempo's answer; None when it says that there is no such thing.

        Raises:
            _Unreadable: another status, or too much.
        """
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=DEADLINE_S, follow_redirects=False, headers=self._headers)
        async with self._client.stream("GET", f"{self._base}{path}", params=parameters) as response:
            if response.status_code == 404:
                return None
            if response.status_code != 200:
                raise _Unreadable(f"Tempo answers with status {response.status_code}.")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise _Unreadable("Tempo answers in a coding that it was not asked for.")
            body = bytearray()
            async for part in response.aiter_raw():
                body += part
                if len(body) > MAX_BYTES:
                    raise _Unreadable(f"Tempo's answer has more than {MAX_BYTES // 1024**2} MiB.")
            return bytes(body)


def _way_to(settings: Settings) -> tuple[str | None, dict[str, str]]:
    """The address to which Tempo's paths are added, and the headers that go along."""
    headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "luthien"}
    if settings.tempo_url:
        return settings.tempo_url.rstrip("/"), headers
    if not settings.grafana_url:
        return None, headers
    if settings.grafana_token is not None:
        headers["authorization"] = f"Bearer {settings.grafana_token.get_secret_value()}"
    datasource = quote(settings.tempo_datasource, safe="")
    return f"{settings.grafana_url.rstrip('/')}/api/datasources/proxy/uid/{datasource}", headers


def _query(call_id: UUID) -> str:
    return f'{{ span.{_CALL_ID} = "{call_id}" }}'


def spans_of(answer: bytes, call_id: UUID) -> list[Span]:
    """The spans in Tempo's answer, of its API's second version or its first.

    Raises:
        _Unreadable: it is no trace.
    """
    value = _parsed(answer)
    trace = value.get("trace", value)
    if not isinstance(trace, dict):
        raise _unlike_a_trace()
    batches = trace.get("resourceSpans", trace.get("batches"))
    if batches is None and trace is not value:
        return []  # as an empty message is written
    if not isinstance(batches, list):
        raise _unlike_a_trace()
    try:
        return [span for batch in batches for span in _of_batch(batch, str(call_id))]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unlike_a_trace() from error


def _parsed(answer: bytes) -> dict[str, Any]:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise _unlike_a_trace() from error
    if not isinstance(value, dict):
        raise _unlike_a_trace()
    return value


def _unlike_a_trace() -> _Unreadable:
    return _Unreadable("What answers in Tempo's place does not speak as Tempo does.")


def _of_batch(batch: Mapping[str, Any], call_id: str) -> Iterator[Span]:
    service = _attributes(batch.get("resource") or {}).get("service.name", "")
    scopes = batch.get("scopeSpans") or batch.get("instrumentationLibrarySpans") or []
    for scope in scopes:
        for span in scope.get("spans") or ():
            attributes = _attributes(span)
            start_ns = _nanoseconds(span["startTimeUnixNano"])
            status = span.get("status") or {}
            yield Span(
                id=_hex(span["spanId"]),
                parent=_hex(span.get("parentSpanId") or "") or None,
                name=plain(str(span.get("name", ""))[:_NAME_CHARS]),
                service=plain(service[:_NAME_CHARS]),
                kind=str(span.get("kind", "")).removeprefix("SPAN_KIND_").lower()[:20],
                start_ns=start_ns,
                end_ns=max(start_ns, _nanoseconds(span.get("endTimeUnixNano", start_ns))),
                is_error=status.get("code") in (2, "STATUS_CODE_ERROR"),
                is_ours=attributes.get(_CALL_ID) == call_id,
            )


def _attributes(holder: Mapping[str, Any]) -> dict[str, str]:
    """Those that are text."""
    pairs = ((each["key"], each.get("value") or {}) for each in holder.get("attributes") or ())
    return {key: value["stringValue"] for key, value in pairs if isinstance(value.get("stringValue"), str)}


def _nanoseconds(value: object) -> int:
    """A 64-bit integer, which JSON has as text. Raises ValueError."""
    number = int(str(value)[:20])
    if not 0 <= number < 1 << 64:
        raise ValueError("not a time")
    return number


def _hex(span_id: object) -> str:
    """An id in hexadecimal digits, which JSON may have in Base64. Raises ValueError."""
    text = str(span_id)
    if len(text) == 16:
        return f"{int(text, 16):016x}"
    return base64.b64decode(text, validate=True).hex()


def _first_trace(answer: bytes) -> str | None:
    """The id of the first trace that a search found, without the leading zeros that Tempo leaves out."""
    traces = _parsed(answer).get("traces")
    if not traces:
        return None
    try:
        return f"{int(traces[0]['traceID'], 16):032x}"
    except (KeyError, TypeError, ValueError) as error:
        raise _unlike_a_trace() from error
