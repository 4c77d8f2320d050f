"""Whoever takes traces, metrics and logs: each is sent an export of nothing, as the exporter would send it.

With its headers and certificates, since that is what is wrong most often. What comes back is told without them.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import httpx2 as httpx

from luthien.doctor.finding import Finding, ok, problem, warning
from luthien.doctor.network import TIMEOUT_S, in_time, origin, wants_tls, words
from luthien.errors import ConfigError
from luthien.otlp import Otlp, Signal
from luthien.settings import Settings
from luthien.telemetry.answers import is_a_page, partial_success
from luthien.upstream.client import proxy_for

if TYPE_CHECKING:
    import grpc

_MOST_BYTES: Final = 64 * 1024
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
        return in_time(lambda: _over_http(check, signal, otlp, where))
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return problem(check, f"{where} cannot be reached: {words(error)}", f"{_port(otlp.protocol)} {_MEANWHILE}")


def _port(protocol: str) -> str:
    """Most receivers have two ports beside each other, and are asked at the wrong one."""
    mostly = "gRPC (4317, mostly)"
    if protocol != "grpc":
        mostly = "HTTP (4318, mostly; 4317 wants OTEL_EXPORTER_OTLP_PROTOCOL=grpc)"
    return f"Is it running, is that its port for {mostly}, and is it encrypted as its address says?"


def _over_http(check: str, signal: Signal, otlp: Otlp, where: str) -> Finding:
    url = httpx.URL(otlp.endpoint).copy_with(username=None, password=None)
    # No bytes at all are an empty request in Protocol Buffers.
    headers = {**otlp.headers, "content-type": "application/x-protobuf"}
    extensions = {"timeout": httpx.Timeout(TIMEOUT_S).as_dict()}
    request = httpx.Request("POST", url, headers=headers, content=b"", extensions=extensions)
    began = time.perf_counter()
    with httpx.HTTPTransport(proxy=proxy_for(url), verify=_tls(otlp)) as transport:
        response = transport.handle_request(request)
        body = _body(response, began + TIMEOUT_S)
    status, took_ms = response.status_code, (time.perf_counter() - began) * 1000
    if 200 <= status < 300:
        if is_a_page(response.headers.get("content-type")):
            said = f"{where} answers {status} with a web page: no receiver of OTLP does"
            return problem(check, said, f"A proxy or a sign-in is in its place. {_MEANWHILE}")
        return _taken(check, signal, body, f"{where} takes them", f"in {took_ms:.0f} ms")
    if wants_tls(str(url), status, body):
        return problem(check, f"{where} is encrypted", f"Its address must begin with https://. {_MEANWHILE}")
    if status in (401, 403):
        return problem(check, f"{where} does not let them in ({status})", f"{_UNKNOWN}. {_MEANWHILE}")
    if status == 429 or status >= 500:
        return warning(check, f"{where} is there, and takes nothing now ({status})", "See its own log")
    return problem(check, f"{where} answers {status} to an export", f"Is {url.path} the path of a receiver?")


def _body(response: httpx.Response, until: float) -> bytes:
    """As much of it as an answer to an export may have, and as comes in time."""
    body = b""
    for part in response.iter_raw():
        body += part
        if len(body) > _MOST_BYTES or time.perf_counter() > until:
            break
    response.close()
    return body


def _taken(check: str, signal: Signal, body: bytes, takes: str, took: str) -> Finding:
    try:
        said = partial_success(signal, body)
    except ValueError:
        return warning(check, f"{takes}, and answers what is no answer to an export", "Is it a receiver of OTLP?")
    if said is None:
        return ok(check, f"{takes}, {took}")
    rejects = f", and rejects {said.rejected}" if said.rejected else ""
    return warning(check, f"{takes}{rejects}, but says: {said.words or 'nothing more'}", "See its own log")


def _tls(otlp: Otlp) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=otlp.certificate)
    if otlp.client_certificate is not None:
        context.load_cert_chain(otlp.client_certificate, otlp.client_key)
    return context


def _over_grpc(check: str, signal: Signal, otlp: Otlp, where: str) -> Finding:
    import grpc

    from luthien.telemetry.grpc_export import SERVICES, channel

    began = time.perf_counter()
    with channel(otlp) as way:
        export = way.unary_unary(f"/{SERVICES[signal]}/Export")
        try:
            body = export(b"", timeout=TIMEOUT_S, metadata=[*otlp.headers.items()])
        except grpc.RpcError as error:
            return _refused(check, error.code(), where)
    took_ms = (time.perf_counter() - began) * 1000
    return _taken(check, signal, body, f"{where} takes them (gRPC)", f"in {took_ms:.0f} ms")


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
