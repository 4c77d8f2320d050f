"""Real OTLP receivers, over HTTP and over gRPC: they decode what an exporter sends, and keep the bytes too."""

from __future__ import annotations

import gzip
import ssl
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from luthien import deadlines
from tests.certificates import Certificates

_PATIENCE_S = 60.0

AttributeValue = str | bool | int | float | list[str]
_Message = ExportTraceServiceRequest | ExportMetricsServiceRequest | ExportLogsServiceRequest

_SERVICES: dict[str, tuple[str, Any, Any]] = {
    "/v1/traces": ("trace.v1.TraceService", ExportTraceServiceRequest, ExportTraceServiceResponse),
    "/v1/metrics": ("metrics.v1.MetricsService", ExportMetricsServiceRequest, ExportMetricsServiceResponse),
    "/v1/logs": ("logs.v1.LogsService", ExportLogsServiceRequest, ExportLogsServiceResponse),
}


@dataclass(frozen=True)
class Refusal:
    """How a receiver answers instead of taking what it is sent."""

    status: int = 503
    """Over HTTP."""
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs_up: bool = False
    """Over HTTP: resets the connection and answers nothing."""
    waits_for: threading.Event | None = None
    """Answers only then."""


@dataclass(frozen=True)
class Reservation:
    """How a receiver answers that takes what it is sent, and says something of it."""

    rejected: int = 0
    words: str = ""
    body: bytes | None = None
    """Over HTTP: instead of such an answer."""
    content_type: str = "application/x-protobuf"


_Answer = Refusal | Reservation | None
_REJECTED = {
    "/v1/traces": "rejected_spans",
    "/v1/metrics": "rejected_data_points",
    "/v1/logs": "rejected_log_records",
}


class OtlpReceiver:
    """What has arrived so far. `refusal` decides, for each request, whether it is taken."""

    def __init__(self, refusal: Callable[[], _Answer] = lambda: None) -> None:
        self.refusal = refusal
        self.requests = 0
        """Those that were refused among them."""
        self.bodies: list[bytes] = []
        self.encodings: set[str | None] = set()
        """Over HTTP."""
        self.headers: list[dict[str, str]] = []
        """Of each request: its HTTP headers, or what gRPC calls metadata."""
        self.paths: list[str] = []
        self.spans: list[Span] = []
        self.metrics: list[Metric] = []
        self.logs: list[tuple[str, LogRecord]] = []
        """Each with the name of its logger."""
        self.resources: list[dict[str, AttributeValue]] = []
        """The attributes of every resource."""
        self.instances: set[AttributeValue] = set()
        """`service.instance.id` of every resource."""
        self.clients: set[str] = set()
        """Over gRPC with TLS: the names on the clients' certificates."""
        self.endpoint = ""
        self._taking = threading.Lock()

    def arrived(self) -> Refusal | Reservation | None:
        """Counts a request, and says how it is to be answered if not everything is to be taken."""
        with self._taking:
            self.requests += 1
            return self.refusal()

    def receive(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """Over HTTP: headers with their names in lower case."""
        encoding = headers.get("content-encoding")
        decoded = body
        if encoding is not None:
            decoded = gzip.decompress(body) if encoding == "gzip" else zlib.decompress(body)
        self.encodings.add(encoding)
        self.take(path, headers, _SERVICES[path][1].FromString(decoded) if path in _SERVICES else None, decoded)

    def take(self, path: str, headers: Mapping[str, str], message: _Message | None, body: bytes) -> None:
        """Signals arrive at once, each on a thread of its own; what is kept of a request is kept together."""
        with self._taking:
            self.headers.append(dict(headers))
            self.bodies.append(body)
            self._take_message(message)
            self.paths.append(path)

    def _take_message(self, message: _Message | None) -> None:
        if isinstance(message, ExportTraceServiceRequest):
            for spans in message.resource_spans:
                self._take_resource(spans.resource.attributes)
                self.spans += [span for scope in spans.scope_spans for span in scope.spans]
        elif isinstance(message, ExportMetricsServiceRequest):
            for metrics in message.resource_metrics:
                self._take_resource(metrics.resource.attributes)
                self.metrics += [metric for scope in metrics.scope_metrics for metric in scope.metrics]
        elif message is not None:
            for logs in message.resource_logs:
                self._take_resource(logs.resource.attributes)
                self.logs += [(scope.scope.name, log) for scope in logs.scope_logs for log in scope.log_records]

    def _take_resource(self, attributes: Iterable[KeyValue]) -> None:
        self.resources.append(attributes_of(attributes))
        self.instances.add(self.resources[-1]["service.instance.id"])


def exports_unhurried(patch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """Gateways that are started now export to the receiver, and stop once it has all, however long that takes."""
    patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(_PATIENCE_S))
    for part in ("TELEMETRY_S", "LOGS_S"):
        patch.setattr(deadlines, part, _PATIENCE_S)


def attributes_of(attributes: Iterable[KeyValue]) -> dict[str, AttributeValue]:
    """Protobuf attributes as a dict."""
    found: dict[str, AttributeValue] = {}
    for each in attributes:
        kind = str(each.value.WhichOneof("value"))
        if kind == "array_value":
            found[each.key] = [item.string_value for item in each.value.array_value.values]
        else:
            found[each.key] = getattr(each.value, kind)
    return found


def _response(path: str, said: Reservation) -> Any:
    partial = {_REJECTED[path]: said.rejected, "error_message": said.words}
    return _SERVICES[path][2](partial_success=partial)


@contextmanager
def otlp_receiver(
    refusal: Callable[[], _Answer] = lambda: None, *, tls: Certificates | None = None
) -> Iterator[OtlpReceiver]:
    """Over HTTP; with TLS it wants a certificate of the client."""
    receiver = OtlpReceiver(refusal)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = receiver.arrived()
            if isinstance(answer, Refusal):
                self._refuse(answer)
                return
            receiver.receive(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            if not isinstance(answer, Reservation):
                self._answer(200, {})
                return
            said = _response(self.path, answer).SerializeToString() if answer.body is None else answer.body
            self._answer(200, {"content-type": answer.content_type}, said)

        def _refuse(self, refused: Refusal) -> None:
            if refused.waits_for is not None:
                refused.waits_for.wait()
            if refused.hangs_up:
                self.connection.close()
                return
            self._answer(refused.status, refused.headers)

        def _answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that went away is none of a test's business."""

    server = Server(("127.0.0.1", 0), Handler)
    scheme = "http"
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.server, tls.server_key)
        context.load_verify_locations(tls.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    receiver.endpoint = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="otlp-receiver", daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def otlp_grpc_receiver(
    refusal: Callable[[], _Answer] = lambda: None,
    *,
    tls: Certificates | None = None,
    takes_compressed: bool = True,
) -> Iterator[OtlpReceiver]:
    """Over gRPC; with TLS it wants a certificate of the client."""
    receiver = OtlpReceiver(refusal)

    def handler(path: str, request: Any, response: Any) -> Any:
        def export(message: Any, context: Any) -> Any:
            answer = receiver.arrived()
            if isinstance(answer, Refusal):
                if answer.waits_for is not None:
                    answer.waits_for.wait()
                context.abort(answer.code, "not now")
            receiver.clients |= {name.decode() for name in context.auth_context().get("x509_common_name", ())}
            receiver.take(path, dict(context.invocation_metadata()), message, message.SerializeToString())
            return _response(path, answer) if isinstance(answer, Reservation) else response()

        return grpc.unary_unary_rpc_method_handler(export, request.FromString, response.SerializeToString)

    # One bit for each algorithm; the first is none at all.
    options = [] if takes_compressed else [("grpc.compression_enabled_algorithms_bitset", 1)]
    with ThreadPoolExecutor(4, thread_name_prefix="otlp-grpc-receiver") as threads:
        server = grpc.server(threads, options=options)
        for path, (service, request, response) in _SERVICES.items():
            name = f"opentelemetry.proto.collector.{service}"
            exports = {"Export": handler(path, request, response)}
            server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, exports)])
        if tls is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            pair = (tls.server_key.read_bytes(), tls.server.read_bytes())
            credentials = grpc.ssl_server_credentials([pair], tls.authority.read_bytes(), require_client_auth=True)
            port = server.add_secure_port("127.0.0.1:0", credentials)
        receiver.endpoint = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
        server.start()
        try:
            yield receiver
        finally:
            server.stop(None).wait()
