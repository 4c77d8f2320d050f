"""Where pages find traces: Tempo, asked as a page asks it, and the Grafana that they link to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import httpx2 as httpx

from luthien.debug.tempo.breaker import Failure
from luthien.debug.tempo.transports import Direct, NoRoute, Transport, Unanswerable, fetch, transport_of
from luthien.doctor.finding import Finding, ok, problem, warning
from luthien.doctor.network import TIMEOUT_S, origin, wants_tls, words
from luthien.settings import Settings

_MEANWHILE = "Calls' pages have all but Tempo's spans meanwhile"


def examine(settings: Settings) -> Iterator[Finding]:
    way = transport_of(settings)
    if way is None:
        yield ok("Tempo", "not asked: neither LUTHIEN_TEMPO_URL nor LUTHIEN_GRAFANA_URL is set")
    else:
        yield _tempo(way)
    if settings.grafana_url is not None:
        yield _grafana(settings.grafana_url, is_link_only=settings.tempo_url is not None)


def _tempo(way: Transport) -> Finding:
    where = origin(way.base) if isinstance(way, Direct) else f"Grafana's data source at {origin(way.base)}"
    began = time.perf_counter()
    try:
        asyncio.run(_search(way))
    except NoRoute:
        return problem("Tempo", f"{where} has no API of Tempo's", f"{way.wrong_address}. {_MEANWHILE}")
    except (Failure, Unanswerable) as failure:
        return problem("Tempo", str(failure).rstrip("."), _MEANWHILE)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        todo = f"{way.unreachable[0].upper()}{way.unreachable[1:]} {_MEANWHILE}"
        return problem("Tempo", f"{where} cannot be reached: {words(error)}", todo)
    return ok("Tempo", f"{where} searches for traces, in {(time.perf_counter() - began) * 1000:.0f} ms")


async def _search(way: Transport) -> None:
    """Raises what `fetch` raises."""
    now = int(time.time())
    question = {"q": "{}", "start": str(now - 60), "end": str(now), "limit": "1"}
    async with httpx.AsyncClient(timeout=TIMEOUT_S, headers={"accept-encoding": "identity"}) as client:
        reply = await fetch(client, way, "/api/search", question, "application/json")
    if reply is None:
        raise NoRoute
    try:
        json.loads(reply.body)["traces"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Failure(f"What answers is no Tempo: {way.wrong_address}") from None


def _grafana(url: str, *, is_link_only: bool) -> Finding:
    """Its health, which it tells anybody."""
    where = origin(url)
    try:
        response = httpx.get(f"{url.rstrip('/')}/api/health", timeout=TIMEOUT_S)
        if wants_tls(url, response.status_code, response.content):
            return problem("Grafana", f"{where} is encrypted", "LUTHIEN_GRAFANA_URL must begin with https://")
        health = json.loads(response.content)
        version, database = health["version"], health["database"]
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        said = f"{where} cannot be reached from here: {words(error)}"
        if is_link_only:
            return warning("Grafana", said, "Pages only link there: of no matter if the browsers of readers reach it")
        return problem("Grafana", said, "Is it running, and does LUTHIEN_GRAFANA_URL lead to it from here?")
    except (ValueError, LookupError, TypeError, RecursionError):
        return problem("Grafana", f"what answers at {where} is no Grafana", "LUTHIEN_GRAFANA_URL must be its root")
    if database != "ok":
        return warning("Grafana", f"{where} has trouble with its database", "See its own log")
    return ok("Grafana", f"{where} is well, version {str(version)[:40]!r}")
