"""Metrics for Prometheus to fetch: `OTEL_METRICS_EXPORTER=prometheus`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from prometheus_client import CollectorRegistry, Metric, start_http_server

_log = logging.getLogger(__name__)
_STOP_S = 2.0


class Registry(CollectorRegistry):
    """A registry of one gateway's own, read by one at a time: the reader mixes up what two ask for at once."""

    def __init__(self) -> None:
        super().__init__()
        self._reading = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        with self._reading:
            return iter(list(super().collect()))


class Scrape(WSGIRequestHandler):
    """One connection: a thread, which whoever says nothing must not keep for ever."""

    timeout = 10.0

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is its server's
        pass


class Scraping:
    """Serves the metrics on the first free of some ports; a port that cannot be had stops nothing else.

    Args:
        ports: one for each process that serves at this host; 0 lets the system choose.
    """

    def __init__(self, host: str, ports: Sequence[int]) -> None:
        self._host = host
        self._ports = ports
        self._registry = Registry()
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None
        # One scope makes all of them, and Prometheus leaves it out of what comes over OTLP, too.
        self.reader = PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)

    @property
    def url(self) -> str | None:
        """Where the metrics are; None when they could not be served."""
        if self._server is None:
            return None
        host, port = self._server.server_address[:2]
        name = host if isinstance(host, str) else host.decode()
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/metrics"

    def start(self) -> None:
        refusals: list[str] = []
        for port in self._ports:
            try:
                self._server, self._thread = start_http_server(port, self._host, self._registry)
            except OSError as error:
                refusals.append(f"{self._host}:{port} ({error.strerror or error})")
                continue
            self._server.RequestHandlerClass = Scrape
            self._thread.name = "luthien-metrics"
            _log.info("metrics are served at %s", self.url)
            return
        _log.error("calls are served, but no metrics for Prometheus: cannot listen at %s", ", ".join(refusals))

    def stop(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_STOP_S)
        self._server = None


def ports_of(port: int, processes: int) -> Sequence[int]:
    """The ports that so many processes share: each takes the first that is free, as does who replaces it."""
    return (0,) if port == 0 else range(port, min(port + processes, 65_536))
