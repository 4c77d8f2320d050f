"""What Luthien speaks to over the network: the providers, and whoever takes its traces and metrics.

No credential is sent: any answer says that somebody is there.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2 as httpx

from luthien.config import PUBLIC_UPSTREAMS, Config
from luthien.doctor.finding import Finding, ok, problem, warning
from luthien.settings import Settings
from luthien.upstream.client import proxy_for

_TIMEOUT_S = 5.0


def providers(config: Config, connect_timeout_s: float) -> Iterator[Finding]:
    """Each provider's list of models is asked for, by the way that calls take: proxies, names, certificates."""
    for name in PUBLIC_UPSTREAMS:
        url = httpx.URL(config.upstream_url(name) + "/v1/models")
        check, where = f"provider {name}", _origin(str(url))
        try:
            status, took_s = _ask("GET", url, min(connect_timeout_s, _TIMEOUT_S))
        except httpx.HTTPError as error:
            said = f"{where} cannot be reached: {_words(error)}"
            if name in config.upstreams:
                yield problem(check, said, "Its calls are answered with 502")
            else:
                yield warning(check, said, "Of no matter if it is not used")
            continue
        if 300 <= status < 400:
            yield problem(check, f"{where} redirects", "Set its final address in luthien.yaml")
        else:
            yield ok(check, f"{where} answers ({status}, without a key) in {took_s * 1000:.0f} ms")


def otlp(settings: Settings) -> Iterator[Finding]:
    """An export of nothing is sent to whoever traces and metrics are exported to."""
    wanted = {
        "traces": (settings.exports_traces, settings.otlp_traces_endpoint),
        "metrics": (settings.exports_metrics, settings.otlp_metrics_endpoint),
    }
    for signal, (is_exported, own_endpoint) in wanted.items():
        check = f"OTLP {signal}"
        if not is_exported:
            yield ok(check, "not exported: OTEL_EXPORTER_OTLP_ENDPOINT is not set, or the exporter is `none`")
            continue
        base = (settings.otlp_endpoint or "").rstrip("/")
        try:
            if settings.otlp_protocol == "grpc":
                yield _line(check, own_endpoint or base)
            else:
                yield _export(check, httpx.URL(own_endpoint or f"{base}/v1/{signal}"))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            where = _origin(own_endpoint or base)
            todo = "Calls are served and recorded all the same; what could not be exported is lost"
            yield problem(check, f"{where} cannot be reached: {_words(error)}", todo)


def _export(check: str, url: httpx.URL) -> Finding:
    # No bytes at all are an empty request in protobuf.
    status, took_s = _ask("POST", url, _TIMEOUT_S, {"content-type": "application/x-protobuf"})
    where = _origin(str(url))
    if 200 <= status < 300:
        return ok(check, f"{where} takes them, in {took_s * 1000:.0f} ms")
    if status in (401, 403):
        return ok(check, f"{where} answers {status}: it wants OTEL_EXPORTER_OTLP_HEADERS, which were not sent")
    return warning(check, f"{where} answers {status} to an export", f"Is {url.path} the path of a receiver?")


def _line(check: str, endpoint: str) -> Finding:
    """For gRPC it is enough that somebody takes the line."""
    parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
    with socket.create_connection((parts.hostname or "", parts.port or 4317), _TIMEOUT_S):
        return ok(check, f"{_origin(endpoint)} takes connections (gRPC)")


def _ask(method: str, url: httpx.URL, timeout_s: float, headers: dict[str, str] | None = None) -> tuple[int, float]:
    """The status of the answer, and how many seconds it took. The transport alone adds no header of its own."""
    timeout = httpx.Timeout(_TIMEOUT_S, connect=timeout_s)
    bare = url.copy_with(username=None, password=None)
    request = httpx.Request(method, bare, headers=headers, content=b"", extensions={"timeout": timeout.as_dict()})
    began = time.perf_counter()
    with httpx.HTTPTransport(proxy=proxy_for(url)) as transport:
        response = transport.handle_request(request)
        response.close()
    return response.status_code, time.perf_counter() - began


def _origin(url: str) -> str:
    """Scheme, host and port: an address may carry a credential anywhere else."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = None
    return f"{parts.scheme}://{parts.hostname or '?'}" + (f":{port}" if port else "")


def _words(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {_TIMEOUT_S:g} s"
    if isinstance(error, httpx.InvalidURL | ValueError):
        return "its address is not one"
    return (str(error) or type(error).__name__).rstrip(".")
