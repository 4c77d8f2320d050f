"""The HTTP session of the exporters; a module of its own, for only who exports over HTTP is to load `requests`."""

from __future__ import annotations

import io
import socket
import time
from contextvars import ContextVar
from http.client import HTTPResponse
from typing import Any

import requests
import urllib3
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from luthien.telemetry.answers import Answers, is_a_page
from luthien.telemetry.losses import points_in

_MOST_BYTES = 64 * 1024
_PIECE_BYTES = 16 * 1024
_UNTIL: ContextVar[float] = ContextVar("luthien_export_until")


class LedAway(requests.RequestException):
    """A redirection: what was sent is not where it should be, though the exporters call any status below 400 well."""


class NoReceiver(requests.RequestException):
    """A web page in the receiver's place, with a status that says that all is well."""


class ExportSession(requests.Session):
    """Believes the certificate that it was told to believe, waits no longer than it was told to, and reads answers.

    Args:
        answers: is given the body of each that says that an export was taken.
    """

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers
        self.headers["Accept-Encoding"] = "identity"
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        # Else `REQUESTS_CA_BUNDLE` would go before it.
        wanted = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, wanted, cert)

    def request(  # type: ignore[override] # the exporters name everything, and so does this
        self, *, timeout: float | None = None, **options: Any
    ) -> requests.Response:
        """Raises LedAway, NoReceiver, requests.RequestException; after `timeout` seconds at the latest."""
        token = _UNTIL.set(time.monotonic() + (timeout or 0.0))
        try:
            response = super().request(timeout=timeout, **{**options, "stream": True})
            if 300 <= response.status_code < 400:
                response.close()
                raise LedAway(f"status {response.status_code} leads elsewhere")
            body = _read(response)
        finally:
            _UNTIL.reset(token)
        if 200 <= response.status_code < 300:
            self._take(response, body)
        return response

    def _take(self, response: requests.Response, body: bytes) -> None:
        if is_a_page(response.headers.get("content-type")):
            raise NoReceiver(f"status {response.status_code} with a web page: no receiver of OTLP answers so")
        self._answers.read(body)


class HttpMetrics(OTLPMetricExporter):
    """Counts of the points that it exports those that the receiver rejects."""

    def __init__(self, answers: Answers, **options: Any) -> None:
        super().__init__(**options)
        self._answers = answers

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        result = super().export(metrics_data, timeout_millis, **kwargs)
        self._answers.take_rejected(points_in(metrics_data))
        return result


def _read(response: requests.Response) -> bytes:
    """What the answer says, so that the connection can be used again; one that goes on and on costs it that.

    The status has come, and decides: what breaks off now is as good as empty.
    """
    parts: list[bytes] = []
    left = _MOST_BYTES
    try:
        while part := response.raw.read1(left):
            parts.append(part)
            left -= len(part)
            if left <= 0:
                response.close()
                return b""
    except (urllib3.exceptions.HTTPError, OSError):
        response.close()
        return b""
    return b"".join(parts)


def _left_s() -> float:
    """Until the export must be over; urllib3 knows of a limit for each byte only.

    Raises:
        TimeoutError: it must be over now.
    """
    left_s = _UNTIL.get() - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the answer did not come in time")
    return left_s


class _Incoming(io.RawIOBase):
    """What comes from a socket, for as long as the export may take."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left_s())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Answer(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Incoming(sock))


class _Outgoing:
    """A connection that is through with an export in time, both ways."""

    response_class: Any = _Answer
    sock: Any

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]
        view = memoryview(data)
        for start in range(0, len(view), _PIECE_BYTES):
            # With TLS, whatever goes out begins the socket's own limit anew.
            self.sock.settimeout(_left_s())
            super().send(view[start : start + _PIECE_BYTES])  # type: ignore[misc]


class _Connection(_Outgoing, HTTPConnection):
    pass


class _SafeConnection(_Outgoing, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SafePool(HTTPSConnectionPool):
    ConnectionCls = _SafeConnection


class _Adapter(HTTPAdapter):
    """Makes these connections, directly and through proxies."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SafePool}

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SafePool}
        return manager
