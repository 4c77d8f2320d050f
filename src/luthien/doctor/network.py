"""The providers that Luthien speaks to. No credential is sent: any answer says that somebody is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Final, TypeVar
from urllib.parse import urlsplit

import httpx2 as httpx

from luthien.config import PUBLIC_UPSTREAMS, Config
from luthien.doctor.finding import Finding, ok, problem, warning
from luthien.upstream.client import proxy_for

TIMEOUT_S = 5.0
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
"""What OpenSSL says, by its version, of an answer that is not encrypted."""

T = TypeVar("T")


def providers(config: Config, connect_timeout_s: float) -> Iterator[Finding]:
    """Each provider's list of models is asked for, by the way that calls take: proxies, names, certificates."""
    for name in PUBLIC_UPSTREAMS:
        url = httpx.URL(config.upstream_url(name) + "/v1/models")
        check, where = f"provider {name}", origin(str(url))
        try:
            status, took_s = in_time(partial(_ask, url, min(connect_timeout_s, TIMEOUT_S)))
        except httpx.HTTPError as error:
            said = f"{where} cannot be reached: {words(error)}"
            if name in config.upstreams:
                yield problem(check, said, "Its calls are answered with 502")
            else:
                yield warning(check, said, "Of no matter if it is not used")
            continue
        if 300 <= status < 400:
            yield problem(check, f"{where} redirects", "Set its final address in luthien.yaml")
        else:
            yield ok(check, f"{where} answers ({status}, without a key) in {took_s * 1000:.0f} ms")


def _ask(url: httpx.URL, timeout_s: float) -> tuple[int, float]:
    """The status of the answer, and how many seconds it took. The transport alone adds no header of its own."""
    timeout = httpx.Timeout(TIMEOUT_S, connect=timeout_s)
    bare = url.copy_with(username=None, password=None)
    request = httpx.Request("GET", bare, content=b"", extensions={"timeout": timeout.as_dict()})
    began = time.perf_counter()
    with httpx.HTTPTransport(proxy=proxy_for(url)) as transport:
        response = transport.handle_request(request)
        response.close()
    return response.status_code, time.perf_counter() - began


def in_time(ask: Callable[[], T]) -> T:
    """What it answers, within a time for all of it: a limit of httpx's begins anew with each byte.

    Raises:
        httpx.ReadTimeout: not in time. Whoever is asked keeps a thread busy that nobody waits for.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:  # noqa: BLE001 it is raised where the answer is waited for
            answer.set_exception(error)

    threading.Thread(target=run, name="luthien-doctor", daemon=True).start()
    try:
        return answer.result(TIMEOUT_S)
    except TimeoutError:
        if answer.done():
            raise
        raise httpx.ReadTimeout("") from None


def origin(url: str) -> str:
    """Scheme, host and port: an address may carry a credential anywhere else."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = None
    return f"{parts.scheme}://{parts.hostname or '?'}" + (f":{port}" if port else "")


def words(error: Exception) -> str:
    """What is wrong, with nothing of an address or a key in it."""
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {TIMEOUT_S:g} s"
    if isinstance(error, httpx.InvalidURL | ValueError):
        return "its address is not one"
    said = str(error)
    if any(each in said for each in _NO_TLS):
        return "what answers there is not encrypted: its address must begin with http://"
    return (said or type(error).__name__).rstrip(".")


def wants_tls(url: str, status: int, body: bytes) -> bool:
    """Whether it was asked in the clear and says that it is encrypted, as servers in Go do, and nginx."""
    return url.startswith("http:") and status == 400 and b"HTTPS" in body
