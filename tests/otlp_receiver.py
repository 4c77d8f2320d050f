"""A real OTLP receiver over HTTP: decodes what an exporter sends, and keeps the bytes too."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

AttributeValue = str | bool | int | float | list[str]


class OtlpReceiver:
    """What has arrived so far."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.encodings: set[str | None] = set()
        self.spans: list[Span] = []
        self.metrics: list[Metric] = []
        self.logs: list[tuple[str, LogRecord]] = []
        """Each with the name of its logger."""
        self.instances: set[AttributeValue] = set()
        """`service.instance.id` of every resource."""
        self.endpoint = ""

    def receive(self, path: str, body: bytes, encoding: str | None) -> None:
        decoded = gzip.decompress(body) if encoding == "gzip" else body
        self.bodies.append(decoded)
        self.encodings.add(encoding)
        if path == "/v1/traces":
            request = ExportTraceServiceRequest.FromString(decoded)
            for resource in request.resource_spans:
                self.instances.add(attributes_of(resource.resource.attributes)["service.instance.id"])
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        elif path == "/v1/metrics":
            for metrics in ExportMetricsServiceRequest.FromString(decoded).resource_metrics:
                self.instances.add(attributes_of(metrics.resource.attributes)["service.instance.id"])
                for scope_metrics in metrics.scope_metrics:
                    self.metrics += scope_metrics.metrics
        elif path == "/v1/logs":
            for logs in ExportLogsServiceRequest.FromString(decoded).resource_logs:
                self.instances.add(attributes_of(logs.resource.attributes)["service.instance.id"])
                for scope_logs in logs.scope_logs:
                    self.logs += [(scope_logs.scope.name, record) for record in scope_logs.log_records]


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


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    receiver = OtlpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.receive(self.path, body, self.headers.get("content-encoding"))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, name="otlp-receiver", daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
