"""Whoever takes traces, metrics and logs: each is sent an export of nothing, as the exporter would send it.

With its headers and certificates, since that is what is wrong most often. What comes back is told without them.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx2 as httpx

from luthien.doctor.finding import Finding, ok, problem, warning
from luthien.doctor.network import TIMEOUT_S, origin, words
from luthien.errors import ConfigError
from luthien.otlp import Otlp, Signal
from luthien.settings import Settings
from luthien.upstream.client import proxy_for

if TYPE_CHECKING:
    import grpc

_SERVICES: Final[dict[Signal, str]] = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
}
_MEANWHILE = "Calls are served and recorded all the same; what could not be exported is lost"
_UNKNOWN = "OTEL_EXPORTER_OTLP_HEADERS must have the key that it wants"


def receivers(settings: Settings) -> Iterator[Finding]:
    """One finding a signal."""
    exporters: dict[Signal, frozenset[str]] = {
        "traces": settings.traces_exporters,
        "metrics": settings.metrics_exporters,
        "logs": settings.logs_exporters,
    }
    for signal, chosen in exporters.items():
        check = f"OTLP {signal}"
        if "otlp" not in chosen:
            others = ", ".join(sorted(chosen)) or "none"
            yield ok(check, f"not exported over OTLP: OTEL_{signal.upper()}_EXPORTER is {others}")
            continue
        if not settings.has_endpoint(signal):
            yield ok(check, "not exported: OTEL_EXPORTER_OTLP_ENDPOINT is not set")
            continue
        try:
            yield _examined(check, signal, settings.otlp(signal))
        except ConfigError as error:
            yield problem(check, str(error))


def _examined(check: str, signal: Signal, otlp: Otlp) -> Finding:
    where = origin(otlp.endpoint)
    try:
        if otlp.protocol == "grpc":
            return _over_grpc(check, signal, otlp, where)
        return _over_http(check, otlp, where)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return problem(check, f"{where} cannot be reached: {words(error)}", f"{_port(otlp.protocol)} {_MEANWHILE}")


def _port(protocol: str) -> str:
    """Most receivers have two ports beside each other, and are asked at the wrong one."""
    mostly = "gRPC (4317, mostly)"
    if protocol != "grpc":
        mostly = "HTTP (4318, mostly; 4317 wants OTEL_EXPORTER_OTLP_PROTOCOL=grpc)"
    return f"Is it running, is that its port for {mostly}, and is it encrypted as its address says?"


def _over_http(check: str, otlp: Otlp, where: str) -> Finding:
    url = httpx.URL(otlp.endpoint).copy_with(username=None, password=None)
    # No bytes at all are an empty request in Protocol Buffers.
    headers = {**otlp.headers, "content-type": "application/x-protobuf"}
    extensions = {"timeout": httpx.Timeout(TIMEOUT_S).as_dict()}
    request = httpx.Request("POST", url, headers=headers, content=b"", extensions=extensions)
    began = time.perf_counter()
    with httpx.HTTPTransport(proxy=proxy_for(url), verify=_tls(otlp)) as transport:
        response = transport.handle_request(request)
        response.close()
    status, took_ms = response.status_code, (time.perf_counter() - began) * 1000
    if 200 <= status < 300:
        return ok(check, f"{where} takes them, in {took_ms:.0f} ms")
    if status in (401, 403):
        return problem(check, f"{where} does not let them in ({status})", f"{_UNKNOWN}. {_MEANWHILE}")
    if status == 429 or status >= 500:
        return warning(check, f"{where} is there, and takes nothing now ({status})", "See its own log")
    return problem(check, f"{where} answers {status} to an export", f"Is {url.path} the path of a receiver?")


def _tls(otlp: Otlp) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=otlp.certificate)
    if otlp.client_certificate is not None:
        context.load_cert_chain(otlp.client_certificate, otlp.client_key)
    return context


def _over_grpc(check: str, signal: Signal, otlp: Otlp, where: str) -> Finding:
    import grpc

    began = time.perf_counter()
    with _channel(otlp) as channel:
        export = channel.unary_unary(f"/{_SERVICES[signal]}/Export")
        try:
            export(b"", timeout=TIMEOUT_S, metadata=[*otlp.headers.items()])
        except grpc.RpcError as error:
            return _refused(check, error.code(), where)
    return ok(check, f"{where} takes them (gRPC), in {(time.perf_counter() - began) * 1000:.0f} ms")


def _channel(otlp: Otlp) -> grpc.Channel:
    import grpc

    parts = urlsplit(otlp.endpoint if "://" in otlp.endpoint else f"//{otlp.endpoint}")
    target = parts.netloc.rpartition("@")[2]
    is_open = parts.scheme == "http" or (not parts.scheme and otlp.insecure)
    if is_open:
        return grpc.insecure_channel(target)
    key = otlp.client_key or otlp.client_certificate
    files = (
        None if path is None else Path(path).read_bytes() for path in (otlp.certificate, key, otlp.client_certificate)
    )
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*files))


def _refused(check: str, code: grpc.StatusCode, where: str) -> Finding:
    import grpc

    name = code.name
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return problem(check, f"{where} does not let them in ({name})", f"{_UNKNOWN}. {_MEANWHILE}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return problem(check, f"{where} speaks gRPC and takes no {check.removeprefix('OTLP ')}", "Is it a receiver?")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return problem(check, f"{where} cannot be reached ({name})", f"{_port('grpc')} {_MEANWHILE}")
    return warning(check, f"{where} is there, and takes nothing now ({name})", "See its own log")
