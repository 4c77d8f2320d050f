"""Speaking to providers: one pooled client, and errors in our own words."""

from __future__ import annotations

import copy
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.request import getproxies, proxy_bypass

import httpx2 as httpx
from opentelemetry.trace import Span, set_span_in_context

from luthien.config import Config
from luthien.errors import UpstreamError
from luthien.settings import Settings
from luthien.telemetry.propagation import Propagation, trace_headers
from luthien.upstream.decoding import OFFERED, codings_of

Headers = Iterable[tuple[bytes, bytes]]

# Providers close idle connections after some seconds to minutes; ours go first.
_KEEPALIVE_S = 15.0

# Between two neighbours only (RFC 9110, section 7.6.1), or rewritten on the way, or ours.
_NOT_FORWARDED = frozenset(
    {
        b"host",
        b"content-length",
        b"accept-encoding",
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
        b"cookie",
        # Of the trace the caller is in; ours is for those whom a setting names.
        b"traceparent",
        b"tracestate",
        b"baggage",
        b"b3",
        b"x-b3-traceid",
        b"x-b3-spanid",
        b"x-b3-parentspanid",
        b"x-b3-sampled",
        b"x-b3-flags",
        b"uber-trace-id",
        b"ot-tracer-traceid",
        b"ot-tracer-spanid",
        b"ot-tracer-sampled",
        b"x-amzn-trace-id",
        b"x-cloud-trace-context",
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-real-ip",
    }
)
_NOT_RETURNED = _NOT_FORWARDED | {
    b"content-encoding",
    b"date",  # our server's own
    b"set-cookie",
    b"alt-svc",
    b"strict-transport-security",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where calls to one path of a provider go, and over which connections."""

    url: httpx.URL
    transport: httpx.AsyncHTTPTransport
    is_told: bool
    """Whether it is sent the context of a call's trace."""

    @property
    def host(self) -> str:
        return self.url.host

    @property
    def port(self) -> int:
        return self.url.port or (443 if self.url.scheme == "https" else 80)


class UpstreamClient:
    """All providers. One per process; HTTP/1.1 with keep-alive.

    httpx's transports are used without its client: nothing here is to follow a redirect, keep a cookie or add a
    header. What the client would have done for `HTTPS_PROXY` and its like is done by `proxy_for`.
    """

    def __init__(self, settings: Settings, config: Config) -> None:
        self._config = config
        self.propagation = Propagation(settings.propagate_to)
        timeout = httpx.Timeout(
            connect=settings.connect_timeout_s,
            read=settings.read_timeout_s,
            write=settings.read_timeout_s,
            pool=settings.pool_timeout_s,
        )
        self._extensions = {"timeout": timeout.as_dict()}
        self._limits = httpx.Limits(
            max_connections=settings.max_connections,
            max_keepalive_connections=settings.max_connections,
            keepalive_expiry=_KEEPALIVE_S,
        )
        self._transports: dict[str | None, httpx.AsyncHTTPTransport] = {}
        self._endpoints: dict[tuple[str, str], Endpoint] = {}

    def to(self, config: Config) -> UpstreamClient:
        """The way to the providers of another configuration, over the same connections; `close` closes both."""
        twin = copy.copy(self)
        twin.__dict__ |= {"_config": config, "_endpoints": {}}
        return twin

    async def close(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()

    def endpoint(self, provider: str, path: str) -> Endpoint:
        """Where the provider's `path` is; both come from our own formats, never from a client."""
        endpoint = self._endpoints.get((provider, path))
        if endpoint is None:
            url = httpx.URL(self._config.upstream_url(provider) + path)
            is_told = self.propagation.reaches(str(url))
            endpoint = self._endpoints[provider, path] = Endpoint(url, self._transport(proxy_for(url)), is_told)
        return endpoint

    def passage(self, provider: str, path: str) -> Endpoint:
        """Where the provider has a path that a client named; not kept, since there is no end to them."""
        base = self.endpoint(provider, "")
        return replace(base, url=httpx.URL(self._config.upstream_url(provider) + path))

    def _transport(self, proxy: str | None) -> httpx.AsyncHTTPTransport:
        transport = self._transports.get(proxy)
        if transport is None:
            transport = self._transports[proxy] = httpx.AsyncHTTPTransport(limits=self._limits, proxy=proxy)
        return transport

    @asynccontextmanager
    async def send(
        self,
        endpoint: Endpoint,
        query: bytes,
        headers: Headers,
        body: bytes | AsyncIterator[bytes],
        *,
        span: Span,
        method: str = "POST",
        length: int | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """The provider's response, its body still to be read; closed when the block is left.

        A body that still comes has a `length` in bytes, or is sent in chunks. `span` is that of this request.

        Raises:
            UpstreamError: unreachable (502) or too slow (504).
        """
        url = endpoint.url.copy_with(query=query) if query else endpoint.url
        forwarded = [(name, value) for name, value in headers if name.lower() not in _NOT_FORWARDED]
        framing = [] if length is None else [(b"content-length", str(length).encode())]
        request = httpx.Request(
            method,
            url,
            headers=[*forwarded, *framing, *_trace_headers(endpoint, span), (b"accept-encoding", OFFERED)],
            content=body,
            extensions=self._extensions,
        )
        with translated_errors(endpoint.host):
            response = await endpoint.transport.handle_async_request(request)
        response.request = request
        try:
            yield response
        finally:
            await response.aclose()


def _trace_headers(endpoint: Endpoint, span: Span) -> list[tuple[bytes, bytes]]:
    if not endpoint.is_told:
        return []
    told = trace_headers(set_span_in_context(span))
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in told.items()]


def proxy_for(url: httpx.URL) -> str | None:
    """The proxy that the environment names for this address, as other HTTP clients understand it."""
    if proxy_bypass(url.host):
        return None
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


class translated_errors:  # noqa: N801 - used as a `with` block, like contextlib's own
    """Turns what httpx raises into an `UpstreamError` that names the host and nothing secret."""

    def __init__(self, host: str) -> None:
        self._host = host

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        match error:
            case httpx.PoolTimeout():
                raise UpstreamError(
                    "all connections to the provider are in use", status=504, code="upstream_pool_timeout"
                ) from error
            case httpx.TimeoutException():
                raise UpstreamError(
                    f"the provider {self._host} did not answer in time", status=504, code="upstream_timeout"
                ) from error
            case httpx.ConnectError():
                raise UpstreamError(f"the provider {self._host} cannot be reached") from error
            case httpx.DecodingError():
                raise UpstreamError(
                    f"the provider {self._host} sent a body that cannot be decoded", code="upstream_protocol"
                ) from error
            case httpx.HTTPError() | httpx.StreamError():
                raise UpstreamError(
                    f"the connection to the provider {self._host} broke", code="upstream_disconnected"
                ) from error


def returned_headers(response: httpx.Response) -> list[tuple[bytes, bytes]]:
    """The provider's headers that the client gets: all but those about this one connection."""
    return [
        (name.lower(), value)
        for name, value in response.headers.raw
        if name.lower() not in _NOT_RETURNED and not _UNFIT.search(value)
    ]


def is_event_stream(response: httpx.Response) -> bool:
    """Whether the provider answers with server-sent events."""
    content_type: str = response.headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


_UNFIT = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def check_passable(response: httpx.Response) -> None:
    """Refuses what cannot be handed on, or would lead the client around the gateway.

    Raises:
        UpstreamError: a redirect, an unknown status or an unknown content coding.
    """
    status = response.status_code
    if 300 <= status < 400:
        raise UpstreamError("the provider redirects: set its final address in luthien.yaml", code="upstream_redirect")
    if not 200 <= status < 600:
        raise UpstreamError(f"the provider answered with status {status}", code="upstream_protocol")
    codings_of(response.headers)
