"""The two ways to Tempo's HTTP API, directly and through Grafana's data source proxy, and what is said on each when
something else than an answer comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import httpx2 as httpx

from luthien.debug.showing.shown import plain, size
from luthien.debug.tempo.breaker import Failure
from luthien.headers import read_headers
from luthien.settings import Settings

MAX_BYTES = 8 * 1024 * 1024
_TOLD_BYTES = 16 * 1024
"""How much is read of an answer that says no."""
_QUOTED_CHARS = 200
_NO_ROUTE = b"404 page not found"


class Unanswerable(Exception):
    """This one question has no answer, which says nothing of the next one; says why."""


class NoRoute(Exception):
    """There is nothing at this path: not this version of the API, or no Tempo at all."""


class Transport(Protocol):
    """A way to Tempo. Paths are added to `base`."""

    base: str
    headers: Mapping[str, str]
    wrong_address: str
    """What to do if something else than Tempo's API is there."""
    unreachable: str
    """What to do if nothing is."""

    def refused(self, status: int, said: str) -> str:
        """What to say of a status that is neither 200 nor 404."""

    def lacks(self, said: str) -> str | None:
        """What to say of a 404 that is not Tempo's, by what it says; None of one that may be."""


class Direct:
    """Tempo itself, or a proxy in front of it that knows who asks by a header."""

    wrong_address = "LUTHIEN_TEMPO_URL must be where Tempo's HTTP API answers, as http://tempo:3200"
    unreachable = "is it running, and does LUTHIEN_TEMPO_URL lead to it from here?"

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.base = url.rstrip("/")
        self.headers = headers

    def refused(self, status: int, said: str) -> str:
        if status in (401, 403):
            return (
                f"Tempo does not let Luthien in (status {status}{said}): LUTHIEN_TEMPO_HEADERS must say who asks, as"
                " X-Scope-OrgID=… for a tenant, or Authorization=… for a hosted Tempo."
            )
        return _refused(status, said, "its own log says why")

    def lacks(self, said: str) -> str | None:
        return None


class ThroughGrafana:
    """Grafana's proxy for a data source, with the token of a service account."""

    wrong_address = "LUTHIEN_GRAFANA_URL must be Grafana's root, and LUTHIEN_TEMPO_DATASOURCE the uid of its Tempo"
    unreachable = "is Grafana running, and does LUTHIEN_GRAFANA_URL lead to it from here?"

    def __init__(self, url: str, datasource: str, token: str | None) -> None:
        self._datasource = datasource
        self.base = f"{url.rstrip('/')}/api/datasources/proxy/uid/{quote(datasource, safe='')}"
        self.headers: Mapping[str, str] = {} if token is None else {"authorization": f"Bearer {token}"}

    def refused(self, status: int, said: str) -> str:
        if status == 401:
            return (
                f"Grafana does not know Luthien (status 401{said}): LUTHIEN_GRAFANA_TOKEN must be a service account's"
                " token that is valid."
            )
        if status == 403:
            return (
                f"Grafana does not let Luthien ask Tempo (status 403{said}): its service account must have the"
                f" permission to query the data source {plain(self._datasource)}."
            )
        if status in (502, 504):
            return (
                f"Grafana does not reach Tempo (status {status}{said}): the address in its data source"
                f" {plain(self._datasource)}, or Tempo itself, is at fault."
            )
        return _refused(status, said, "the logs of Grafana and Tempo say why")

    def lacks(self, said: str) -> str | None:
        if not said:
            return None
        return (
            f"Grafana has no data source with the uid {plain(self._datasource)} (status 404{said}):"
            " LUTHIEN_TEMPO_DATASOURCE must be the uid of its data source for Tempo."
        )


def _refused(status: int, said: str, where: str) -> str:
    if status == 429:
        return f"Tempo is asked for too much (status 429{said}): wait a little, or raise its limits."
    return f"Tempo answers with status {status}{said}: {where}."


def transport_of(settings: Settings) -> Transport | None:
    """The way that the settings say; None when they say of none."""
    if settings.tempo_url:
        headers = settings.tempo_headers
        return Direct(settings.tempo_url, {} if headers is None else read_headers(headers.get_secret_value()))
    if settings.grafana_url:
        token = settings.grafana_token
        secret = None if token is None else token.get_secret_value()
        return ThroughGrafana(settings.grafana_url, settings.tempo_datasource, secret)
    return None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back with status 200."""

    content_type: str
    body: bytes


async def fetch(
    client: httpx.AsyncClient,
    way: Transport,
    path: str,
    parameters: Mapping[str, str],
    accept: str,
    max_bytes: int = MAX_BYTES,
) -> Reply | None:
    """Tempo's answer; None when it says that there is no such thing.

    Raises:
        Failure, Unanswerable, NoRoute: another answer, or too much.
        httpx.HTTPError, OSError: none.
    """
    headers = {**way.headers, "accept": accept}
    async with client.stream("GET", f"{way.base}{path}", params=parameters, headers=headers) as response:
        status, kind = response.status_code, response.headers.get("content-type", "")
        if response.is_redirect:
            raise Failure(_led_away(way, status, response.headers.get("location", "")))
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Failure(f"Tempo answers in a coding that it was not asked for: {way.wrong_address}.")
        is_page = kind.startswith("text/html")
        if status == 200:
            if is_page:
                raise Failure(
                    f"An HTML page answers in Tempo's place, so it does not speak as Tempo does: {way.wrong_address}."
                )
            return Reply(kind, await _body_of(response, max_bytes))
        told = await _beginning_of(response)
    if status == 404:
        if is_page or told.startswith(_NO_ROUTE):
            raise NoRoute
        lacking = way.lacks(_quoted(kind, told))
        if lacking is not None:
            raise Failure(lacking)
        return None
    if status == 400:
        words = told[:_QUOTED_CHARS].decode("utf-8", "replace").strip()
        raise Unanswerable(f"Tempo does not take the question (status 400): {plain(words) or 'it does not say why'}")
    raise Failure(way.refused(status, _quoted(kind, told)))


async def _body_of(response: httpx.Response, max_bytes: int) -> bytes:
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > max_bytes:
            raise Unanswerable(
                f"Tempo's answer has more than {size(max_bytes)}, too much to be drawn here: look at the trace in"
                " Grafana."
            )
    return bytes(body)


async def _beginning_of(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) >= _TOLD_BYTES:
            break
    return bytes(body[:_TOLD_BYTES])


def _led_away(way: Transport, status: int, location: str) -> str:
    if "login" in location or "sign" in location:
        return (
            f"A sign-in page answers in Tempo's place (status {status}): {way.wrong_address},"
            " with credentials that are valid."
        )
    return f"What answers in Tempo's place leads elsewhere (status {status}): {way.wrong_address}."


def _quoted(content_type: str, body: bytes) -> str:
    """What a JSON answer says beside its status, to be put behind that."""
    if not content_type.startswith("application/json"):
        return ""
    try:
        message = json.loads(body)["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return f", “{plain(message[:_QUOTED_CHARS])}”" if isinstance(message, str) and message else ""
