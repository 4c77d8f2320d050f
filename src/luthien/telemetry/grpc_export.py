"""Exports over gRPC that read their answers, which the SDK's own exporters throw away.

A module of its own, for only who exports over gRPC is to load `grpc`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from luthien.otlp import Otlp, Signal
from luthien.telemetry.answers import Answers, one_line
from luthien.telemetry.losses import points_in

_log = logging.getLogger(__name__)

SERVICES: Final[dict[Signal, str]] = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
}
_COMPRESSIONS: Final = {
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
    "none": grpc.Compression.NoCompression,
}
# https://opentelemetry.io/docs/specs/otlp/#failures: these, and RESOURCE_EXHAUSTED where the receiver says when.
_FOR_A_MOMENT: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_MOST_ATTEMPTS: Final = 16
_OPTIONS: Final = [
    # An answer that is longer counts as a failure, though the receiver has taken what it was sent.
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),  # else all channels to one address share one line, and its troubles
]


def channel(otlp: Otlp) -> grpc.Channel:
    """The way to a receiver; encrypted as the address says, or `INSECURE` if the address has no scheme."""
    parts = urlsplit(otlp.endpoint if "://" in otlp.endpoint else f"//{otlp.endpoint}")
    target = parts.netloc.rpartition("@")[2]
    if parts.scheme == "http" or (not parts.scheme and otlp.insecure):
        return grpc.insecure_channel(target, _OPTIONS, _COMPRESSIONS[otlp.compression])
    key = otlp.client_key or otlp.client_certificate
    files = (
        None if path is None else Path(path).read_bytes() for path in (otlp.certificate, key, otlp.client_certificate)
    )
    return grpc.secure_channel(
        target, grpc.ssl_channel_credentials(*files), _OPTIONS, _COMPRESSIONS[otlp.compression]
    )


class Sender:
    """Sends the exports of one signal, and again what is refused for a moment, for as long as the timeout permits."""

    def __init__(self, otlp: Otlp, signal: Signal, answers: Answers) -> None:
        self._otlp = otlp
        self._signal = signal
        self._answers = answers
        self._headers = [*otlp.headers.items()]
        self._stopped = threading.Event()
        self._changing = threading.Lock()
        self._channel = channel(otlp)

    def send(self, request: bytes) -> bool:
        """Whether it was taken, be it in part."""
        ends = time.monotonic() + self._otlp.timeout_s
        for attempt in range(_MOST_ATTEMPTS):
            if self._stopped.is_set():
                break
            try:
                export = self._channel.unary_unary(f"/{SERVICES[self._signal]}/Export")
                answer = export(request, timeout=max(0.0, ends - time.monotonic()), metadata=self._headers)
            except ValueError:  # the channel was closed meanwhile
                break
            except grpc.RpcError as error:
                self._connect_anew()
                pause_s = _pause_s(error, attempt) if attempt + 1 < _MOST_ATTEMPTS else None
                if pause_s is None or time.monotonic() + pause_s >= ends:
                    self._tell(error)
                    return False
                self._stopped.wait(pause_s)
                continue
            self._answers.read(answer)
            return True
        return False

    def shutdown(self) -> None:
        """Ends what is being sent, too."""
        with self._changing:
            self._stopped.set()
            self._channel.close()

    def _connect_anew(self) -> None:
        """Else gRPC would try again when it pleases: up to two minutes after the receiver is back."""
        with self._changing:
            if self._stopped.is_set():
                return
            try:
                anew = channel(self._otlp)
            except (
                OSError
            ):  # its certificates are being exchanged: until the next time, the old one is better than none
                return
            self._channel.close()
            self._channel = anew

    def _tell(self, error: Any) -> None:
        words = one_line(error.details() or "")
        _log.error("%s could not be exported over gRPC: %s %s", self._signal, error.code().name, words)


def _pause_s(error: Any, attempt: int) -> float | None:
    """How long to wait before the next attempt; None when there is to be none."""
    said = _retry_delay_s(error)
    if error.code() not in _FOR_A_MOMENT and not (error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and said):
        return None
    return float(2**attempt * random.uniform(0.8, 1.2)) if said is None else said  # noqa: S311 - no secret


def _retry_delay_s(error: Any) -> float | None:
    """What the receiver says of it."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            try:
                for detail in Status.FromString(value).details:
                    info = RetryInfo()
                    if detail.Unpack(info):
                        delay = info.retry_delay
                        return max(0.0, float(delay.seconds) + float(delay.nanos) / 1e9)
            except DecodeError:
                return None
    return None


class GrpcSpans(SpanExporter):
    def __init__(self, otlp: Otlp, answers: Answers) -> None:
        self._sender = Sender(otlp, "traces", answers)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        is_taken = self._sender.send(encode_spans(spans).SerializeToString())
        return SpanExportResult.SUCCESS if is_taken else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._sender.shutdown()


class GrpcLogs(LogRecordExporter):
    def __init__(self, otlp: Otlp, answers: Answers) -> None:
        self._sender = Sender(otlp, "logs", answers)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        is_taken = self._sender.send(encode_logs(batch).SerializeToString())
        return LogRecordExportResult.SUCCESS if is_taken else LogRecordExportResult.FAILURE

    def shutdown(self) -> None:
        self._sender.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class GrpcMetrics(MetricExporter):
    def __init__(self, otlp: Otlp, answers: Answers, **preferred: Any) -> None:
        super().__init__(**preferred)
        self._answers = answers
        self._sender = Sender(otlp, "metrics", answers)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object
    ) -> MetricExportResult:
        is_taken = self._sender.send(encode_metrics(metrics_data).SerializeToString())
        self._answers.take_rejected(points_in(metrics_data))
        return MetricExportResult.SUCCESS if is_taken else MetricExportResult.FAILURE

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
        self._sender.shutdown()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True
