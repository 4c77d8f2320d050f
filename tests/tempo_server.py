"""A server with the part of Tempo's documented HTTP API that Luthien speaks, and Grafana's proxy in front of one.

Spans come in over OTLP/HTTP, as any exporter sends them, and are found by trace id and by TraceQL, of which it
understands comparisons with text, joined by `&&`. What Tempo documents of errors, defaults and limits holds here:
https://grafana.com/docs/tempo/latest/api_docs/
"""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, TracesData

from luthien.debug.tempo.messages import TraceByIdResponse
from tests.otlp_receiver import AttributeValue, attributes_of

JSON, PROTOBUF, TEXT = "application/json", "application/protobuf", "text/plain; charset=utf-8"
ROOT_IS_MISSING = "<root span not yet received>"
MOST_SECONDS = 168 * 3600
_TERM = re.compile(r'\s*(span|resource)\.([\w.]+)\s*=\s*"((?:[^"\\]|\\.)*)"\s*')

Answer = tuple[int, str, bytes]
Attributes = dict[str, AttributeValue]


class _Refused(Exception):
    """Answered with 400 and this."""


class TempoServer:
    """What was sent to it, and what is to be different from a Tempo that has nothing to hide."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, dict[str, str]]] = []
        """Paths of questions, with the headers that came along."""
        self.cutoff_s = 0.0
        """As `query_end_cutoff`: what is younger is not found by searches."""
        self.tenant: str | None = None
        """As with `multitenancy_enabled`: whose data this is."""
        self.has_v2 = True
        self.is_partial = False
        self._lock = threading.Lock()
        self._traces: dict[str, TracesData] = {}

    @property
    def trace_ids(self) -> list[str]:
        with self._lock:
            return [*self._traces]

    def take(self, request: ExportTraceServiceRequest) -> None:
        with self._lock:
            for batch in request.resource_spans:
                for scope in batch.scope_spans:
                    for span in scope.spans:
                        trace = self._traces.setdefault(span.trace_id.hex(), TracesData())
                        into = _batch_like(trace, batch)
                        into.scope_spans.add(scope=scope.scope).spans.append(span)

    def answer(self, address: str, headers: dict[str, str]) -> Answer:
        self.asked.append((address, headers))
        parts = urlsplit(address)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/api/echo":
            return 200, TEXT, b"echo"
        if self.tenant is not None and headers.get("x-scope-orgid") != self.tenant:
            return 401, TEXT, b"no org id\n"
        accepts_protobuf = headers.get("accept") == PROTOBUF
        try:
            if parts.path == "/api/search":
                return 200, JSON, json.dumps(self._search(query)).encode()
            by_id = re.fullmatch(r"/api(/v2)?/traces/([^/]+)", parts.path)
            if by_id is not None and (by_id[1] is None or self.has_v2):
                return self._by_id(by_id[2], query, is_v2=by_id[1] is not None, protobuf=accepts_protobuf)
        except _Refused as refused:
            return 400, TEXT, str(refused).encode()
        return 404, TEXT, b"404 page not found\n"

    def _by_id(self, trace_id: str, query: dict[str, str], *, is_v2: bool, protobuf: bool) -> Answer:
        if not re.fullmatch(r"[0-9A-Fa-f]{1,32}", trace_id):
            raise _Refused("trace IDs can only contain hex characters")
        with self._lock:
            whole = self._traces.get(trace_id.lower().zfill(32))
            trace = None if whole is None else _copy_of(whole)
        trace = self._within(trace, _range(query))
        if trace is None:
            return 404, TEXT, b"" if is_v2 else b"trace not found"
        if protobuf:
            wrapped = TraceByIdResponse(
                trace=trace, status=int(self.is_partial), message="max size" * self.is_partial
            )
            return 200, PROTOBUF, (wrapped if is_v2 else trace).SerializeToString()
        value = MessageToDict(trace)
        if not is_v2:
            return 200, JSON, json.dumps({"batches": value.get("resourceSpans", [])}).encode()
        partial = {"status": "PARTIAL", "message": "max size"} if self.is_partial else {}
        return 200, JSON, json.dumps({"trace": value, "metrics": {}, **partial}).encode()

    def _within(self, trace: TracesData | None, bounds: tuple[int, int] | None) -> TracesData | None:
        """Tempo looks into the blocks of that time only."""
        if trace is None or bounds is None:
            return trace
        found = TracesData()
        for batch, span in _spans_of(trace):
            if span.end_time_unix_nano >= bounds[0] * 10**9 and span.start_time_unix_nano <= bounds[1] * 10**9:
                _batch_like(found, batch).scope_spans.add().spans.append(span)
        return found if found.resource_spans else None

    def _search(self, query: dict[str, str]) -> dict[str, Any]:
        matches = _traceql(query.get("q", "{}"))
        bounds = _range(query)
        if bounds is not None and bounds[1] - bounds[0] > MOST_SECONDS:
            raise _Refused("range specified by start and end exceeds 168h0m0s")
        limit, most_spans = (_positive(query, name, default) for name, default in (("limit", 20), ("spss", 3)))
        start, end = bounds or (0, time.time() + 60)
        end = min(end, time.time() - self.cutoff_s) if self.cutoff_s else end
        found = []
        with self._lock:
            for trace_id, trace in self._traces.items():
                hits = [
                    span
                    for batch, span in _spans_of(trace)
                    if matches(attributes_of(span.attributes), attributes_of(batch.resource.attributes))
                    and span.end_time_unix_nano >= start * 10**9
                    and span.start_time_unix_nano <= end * 10**9
                ]
                if hits:
                    found.append(_metadata(trace_id, trace, hits, most_spans))
        found.sort(key=lambda each: -int(each["startTimeUnixNano"]))
        return {"traces": found[:limit], "metrics": {"inspectedTraces": len(self._traces)}}


def _copy_of(trace: TracesData) -> TracesData:
    """As it is now: spans may be added while it is looked at."""
    copy = TracesData()
    copy.CopyFrom(trace)
    return copy


def _batch_like(trace: TracesData, batch: ResourceSpans) -> ResourceSpans:
    known = next((each for each in trace.resource_spans if each.resource == batch.resource), None)
    found: ResourceSpans = trace.resource_spans.add(resource=batch.resource) if known is None else known
    return found


def _spans_of(trace: TracesData) -> Iterator[tuple[ResourceSpans, Span]]:
    for batch in trace.resource_spans:
        for scope in batch.scope_spans:
            for span in scope.spans:
                yield batch, span


def _metadata(trace_id: str, trace: TracesData, hits: list[Span], most_spans: int) -> dict[str, Any]:
    everything = [*_spans_of(trace)]
    root = next(((batch, span) for batch, span in everything if not span.parent_span_id), None)
    start = min(span.start_time_unix_nano for _, span in everything)
    end = max(span.end_time_unix_nano for _, span in everything)
    spans = [
        {
            "spanID": span.span_id.hex().lstrip("0"),
            "startTimeUnixNano": str(span.start_time_unix_nano),
            "durationNanos": str(span.end_time_unix_nano - span.start_time_unix_nano),
        }
        for span in hits[:most_spans]
    ]
    service = attributes_of(root[0].resource.attributes).get("service.name", "") if root else ROOT_IS_MISSING
    return {
        "traceID": trace_id.lstrip("0"),
        "rootServiceName": service,
        "rootTraceName": root[1].name if root else "",
        "startTimeUnixNano": str(start),
        "durationMs": (end - start) // 10**6,
        "spanSets": [{"spans": spans, "matched": len(hits)}],
    }


def _traceql(query: str) -> Callable[[Attributes, Attributes], bool]:
    """Of a span's attributes, and of its resource's."""
    inner = re.fullmatch(r"\s*\{(.*)\}\s*", query, re.DOTALL)
    if inner is None:
        raise _Refused("invalid TraceQL query: parse error at line 1, col 1: syntax error: unexpected IDENTIFIER")
    terms = []
    for text in inner[1].split("&&") if inner[1].strip() else []:
        term = _TERM.fullmatch(text)
        if term is None:
            raise _Refused("invalid TraceQL query: parse error at line 1, col 3: syntax error")
        terms.append((term[1], term[2], re.sub(r"\\(.)", r"\1", term[3])))

    def matches(span: Attributes, resource: Attributes) -> bool:
        return all((span if scope == "span" else resource).get(name) == value for scope, name, value in terms)

    return matches


def _range(query: dict[str, str]) -> tuple[int, int] | None:
    if ("start" in query) != ("end" in query):
        raise _Refused("please provide both start and end, or neither")
    if "start" not in query:
        return None
    try:
        start, end = int(query["start"]), int(query["end"])
    except ValueError:
        raise _Refused("invalid start or end: must be a unix epoch in seconds") from None
    if start >= end:
        raise _Refused("http parameter start must be before end")
    return start, end


def _positive(query: dict[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isdigit() or int(text) < 1:
        raise _Refused(f"invalid {name}: must be a positive number")
    return int(text)


@contextmanager
def tempo_server() -> Iterator[TempoServer]:
    """Takes spans at `/v1/traces`, and answers questions below `/api`."""
    tempo = TempoServer()

    class Handler(_Quiet):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            tempo.take(ExportTraceServiceRequest.FromString(body))
            self.reply(200, PROTOBUF, b"")

        def do_GET(self) -> None:
            self.reply(*tempo.answer(self.path, {name.lower(): value for name, value in self.headers.items()}))

    with _served(Handler) as tempo.url:
        yield tempo


@contextmanager
def grafana_proxy(tempo_url: str, uid: str, token: str) -> Iterator[str]:
    """Grafana's root, with one data source and one service account's token. Yields its address."""

    class Handler(_Quiet):
        def do_GET(self) -> None:
            below = re.fullmatch(r"/api/datasources/proxy/uid/([^/]+)(/.*)", self.path)
            if not self.path.startswith("/api/"):
                self.reply(302, "text/html", b"<a href=/login>Found</a>", {"location": "/login"})
            elif self.path == "/api/health":
                self.reply(200, JSON, b'{"commit":"0","database":"ok","version":"13.2.3"}')
            elif self.headers.get("authorization") != f"Bearer {token}":
                self.reply(401, JSON, b'{"message":"Invalid API key"}')
            elif below is None or unquote(below[1]) != uid:
                self.reply(404, JSON, b'{"message":"Unable to find datasource"}')
            else:
                headers = {"accept": self.headers.get("accept", "*/*"), "accept-encoding": "identity"}
                try:
                    answer = httpx.get(tempo_url + below[2], headers=headers, timeout=20)
                except httpx.HTTPError:
                    self.reply(502, TEXT, b"Bad Gateway")
                else:
                    self.reply(answer.status_code, answer.headers["content-type"], answer.content)

    with _served(Handler) as url:
        yield url


class _Quiet(BaseHTTPRequestHandler):
    def reply(self, status: int, content_type: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "content-type": content_type,
            "content-length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 128


@contextmanager
def _served(handler: type[_Quiet]) -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
