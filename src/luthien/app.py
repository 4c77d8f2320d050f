"""The composition root: everything is made, wired, opened and closed here, in order."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.metrics import NoOpMeterProvider
from starlette.types import ASGIApp

from luthien import __version__, deadlines
from luthien.debug.call.lookup import Lookup
from luthien.debug.diffing.cache import DiffCache
from luthien.debug.live import Feed
from luthien.debug.routes import debug_router
from luthien.debug.search.indexer import Indexer
from luthien.debug.signin import SignIn
from luthien.debug.tempo.client import Tempo
from luthien.debug.views import Views
from luthien.debug.web import answer_mistakes
from luthien.errors import ConfigError
from luthien.gateway.boundary import Boundary, link_caller
from luthien.gateway.configuration import Configuration, load_configuration
from luthien.gateway.health import health_router
from luthien.gateway.live import Live
from luthien.gateway.protocol import ON_STOP, WRITE_TIMEOUT_S
from luthien.gateway.reload import Reloader, log_warnings
from luthien.gateway.routes import call_routes
from luthien.otlp import Signal
from luthien.pipeline.ledger import Instruments
from luthien.pipeline.open_calls import OpenCalls
from luthien.pipeline.orchestrator import Orchestrator
from luthien.pipeline.passage import Passthrough
from luthien.record.chores import DefaultPartitions, partitions_ahead, retention
from luthien.record.folder import spool_root
from luthien.record.processes import forget_processes, heartbeat, notices
from luthien.record.queue import RecordQueue
from luthien.record.sink import DiscardingSink, RecordSink
from luthien.record.source import RecordSource
from luthien.record.spool import Spool, SpoolLimits
from luthien.record.upkeep import Chore, Upkeep
from luthien.record.writer import BatchLimits, RecordWriter
from luthien.settings import Settings, read_settings
from luthien.store.read import RecordReader
from luthien.telemetry.call_log import CallLog
from luthien.telemetry.log_export import LogExport, start_log_export
from luthien.telemetry.logs import configure_logging
from luthien.telemetry.metrics import (
    BatchMetrics,
    observe_default_partitions,
    observe_index,
    observe_losses,
    observe_record,
    reload_counter,
)
from luthien.telemetry.propagation import ensure_propagator
from luthien.telemetry.setup import Telemetry, start_telemetry
from luthien.upstream.client import UpstreamClient

if TYPE_CHECKING:
    from luthien.telemetry.scraping import Scraping

_log = logging.getLogger(__name__)

# Pages and health checks are no calls: they get no span and no call id.
_UNTRACED_PATHS = r"^https?://[^/]*/(?:debug|v2/debug|favicon\.ico|healthz|readyz)(?:/|$)"


@dataclass(slots=True)
class Running:
    """What exists while the app runs."""

    orchestrator: Orchestrator
    passthrough: Passthrough
    lookup: Lookup
    feed: Feed
    views: Views
    live: Live
    reloader: Reloader | None
    scraping: Scraping | None


class App:
    """The whole of Luthien as one ASGI application.

    Nothing is started before the server asks for it: threads and connections belong to the lifespan.

    Args:
        source: the file that the configuration is from, to be read again when it changes.
        processes: how many processes serve this app here.
    """

    def __init__(
        self, settings: Settings, configuration: Configuration, source: Path | None = None, processes: int = 1
    ) -> None:
        if settings.database_url is None:
            raise ConfigError("DATABASE_URL is not set: set it, or use `luthien up`, which brings a Postgres along")
        self._settings = settings
        self._configuration = configuration
        self._source = source
        self._processes = processes
        self._dsn = settings.database_url.get_secret_value()
        self._running: Running | None = None
        self._sign_in = SignIn(settings.debug_token)
        self._tempo = Tempo(settings)
        self._differ = DiffCache()
        self.api = FastAPI(
            title="Luthien",
            version=__version__,
            routes=call_routes(lambda: self._now.orchestrator, lambda: self._now.passthrough, lambda: self._now.live),
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            redirect_slashes=False,
        )
        self.api.include_router(health_router(lambda: self._now.lookup, self._configuration_state))
        self.api.include_router(
            debug_router(
                self._sign_in,
                lambda: self._now.lookup,
                lambda: self._now.feed,
                self._tempo,
                self._differ,
                lambda: self._now.views,
                self._upstream_url,
            )
        )
        answer_mistakes(self.api)
        ensure_propagator()
        self.asgi: ASGIApp = Boundary(
            self.api, settings.trusted_networks, lambda headers: self._now.live.current.keyring.trusts(headers)
        )

    @property
    def _now(self) -> Running:
        if self._running is None:
            raise RuntimeError("the app is not running")
        return self._running

    @property
    def metrics_url(self) -> str | None:
        """Where Prometheus finds the metrics of this process, if they are served."""
        scraping = self._now.scraping
        return scraping.url if scraping is not None else None

    def _upstream_url(self, provider: str) -> str:
        return self._now.live.current.config.upstream_url(provider)

    def _configuration_state(self) -> dict[str, object]:
        """`is_behind` says that the file on the disk has mistakes, so that this version is older."""
        now = self._now
        is_behind = now.reloader is not None and now.reloader.is_behind
        return {"version": now.live.current.version, "is_behind": is_behind}

    @asynccontextmanager
    async def _lifespan(self, api: FastAPI) -> AsyncIterator[dict[str, object]]:
        """Yields what the server does when it is told to stop, before it waits for responses to end."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            source = _source(settings, self._dsn)
            log_export = _export_logs(settings, source, stack)
            writer = RecordWriter(source, self._dsn, _limits(settings), keep=settings.keep)
            default_partitions = DefaultPartitions()
            if settings.record:
                chores = [*_chores(settings, source), default_partitions.chore()]
                await _start_record(source, Upkeep(self._dsn, chores), writer, stack)
            telemetry = _start_telemetry(settings, source, self._processes)
            indexer = Indexer(self._dsn)
            stack.push_async_callback(_stop_both, telemetry, indexer)
            if settings.record and settings.index:
                indexer.start()
            observe_record(telemetry.meter, source, lambda: telemetry.processor.lost_spans)
            observe_default_partitions(telemetry.meter, lambda: default_partitions.rows)
            writer.tell(BatchMetrics(telemetry.meter))
            _observe_losses(telemetry, log_export)
            _observe_indexer(telemetry, indexer)
            _instrument(api, telemetry)
            stack.callback(FastAPIInstrumentor.uninstrument_app, api)

            live = await self._go_live(stack)
            reader = RecordReader(self._dsn)
            await reader.open()
            stack.push_async_callback(reader.close, deadlines.READER_S)
            stack.push_async_callback(self._tempo.close)

            instruments = _instruments(telemetry, settings, source)
            orchestrator = Orchestrator(
                instruments, settings.max_body_bytes, settings.checkpoint_s, settings.keep_alive_s
            )
            passthrough = Passthrough(instruments, orchestrator.open_calls)
            reloader = self._reloader(live, telemetry)
            lookup = Lookup(reader, source, source.process_id)
            feed = Feed(lookup, self._dsn)
            feed.start()
            stack.push_async_callback(feed.stop)
            views = Views(self._dsn, self._differ)
            stack.push_async_callback(anyio.to_thread.run_sync, views.close)
            self._running = Running(
                orchestrator, passthrough, lookup, feed, views, live, reloader, telemetry.scraping
            )
            stack.push_async_callback(_end_calls, orchestrator.open_calls)
            if reloader is not None:
                await reloader.start()
                stack.push_async_callback(reloader.stop)
            _spare_collector()
            yield {ON_STOP: lambda: self._end_pages(feed, views), WRITE_TIMEOUT_S: settings.write_timeout_s}
            self._running = None

    async def _go_live(self, stack: AsyncExitStack) -> Live:
        """What calls go by from here on, and the client that takes them to the providers."""
        upstream = UpstreamClient(self._settings, self._configuration.config)
        stack.push_async_callback(upstream.close)
        live = Live(upstream.to)
        stack.push_async_callback(live.close)
        await live.swap(self._configuration)
        log_warnings(self._configuration)
        return live

    def _end_pages(self, feed: Feed, views: Views) -> None:
        feed.end()
        views.end()
        self._tempo.end()

    def _reloader(self, live: Live, telemetry: Telemetry) -> Reloader | None:
        if self._source is None:
            return None
        return Reloader(self._source, live, reload_counter(telemetry.meter), watches=self._settings.reload)


def create_app(processes: int = 1) -> ASGIApp:
    """The app as the environment describes it; for `uvicorn --factory` and its workers."""
    settings = read_settings()
    configure_logging(settings.log_level, settings.log_format)
    return build_app(settings, processes).asgi


def build_app(settings: Settings, processes: int = 1) -> App:
    """The app for these settings, one of so many processes that serve it.

    Raises:
        ConfigError: the settings or the configuration file are wrong.
    """
    return App(settings, configuration_of(settings), settings.config, processes)


def configuration_of(settings: Settings) -> Configuration:
    """What the file that the settings name says; it must be there only if they were told it.

    Raises:
        ConfigError: it has mistakes.
    """
    return load_configuration(settings.config, must_exist="config" in settings.model_fields_set)


async def _stop_both(telemetry: Telemetry, indexer: Indexer) -> None:
    async with anyio.create_task_group() as both:
        both.start_soon(anyio.to_thread.run_sync, telemetry.shutdown, deadlines.TELEMETRY_S)
        both.start_soon(anyio.to_thread.run_sync, indexer.stop, deadlines.INDEXER_S)


async def _end_calls(calls: OpenCalls) -> None:
    left = await calls.end(deadlines.CALLS_S)
    if left:
        _log.error("%d calls could not be ended in time", left)


def _source(settings: Settings, dsn: str) -> Spool | RecordQueue:
    """Where records wait for the database."""
    if not settings.spool:
        return RecordQueue(settings.queue_max_records, settings.queue_max_bytes)
    limits = SpoolLimits(settings.spool_max_bytes, settings.queue_max_records, settings.queue_max_bytes)
    root = spool_root(settings.spool_dir or settings.data_dir / "spool", dsn)
    return Spool(root, limits, sync=settings.spool_sync)


def _export_logs(settings: Settings, source: RecordSource, stack: AsyncExitStack) -> LogExport | None:
    """First of all and until the last, so that what is said of starting and stopping is exported as well."""
    try:
        export = start_log_export(settings, source.process_id)
    except ConfigError as error:
        _log.critical("%s", error)
        raise
    if export is not None:
        stack.push_async_callback(anyio.to_thread.run_sync, export.stop, deadlines.LOGS_S)
    return export


async def _start_record(source: RecordSource, upkeep: Upkeep, writer: RecordWriter, stack: AsyncExitStack) -> None:
    await anyio.to_thread.run_sync(source.start)
    # It stops after the writer, so that what it says last is said of all records.
    upkeep.start()
    stack.push_async_callback(anyio.to_thread.run_sync, upkeep.stop, deadlines.UPKEEP_S)
    writer.start()
    stack.push_async_callback(anyio.to_thread.run_sync, writer.stop, deadlines.RECORD_S)


def _start_telemetry(settings: Settings, source: Spool | RecordQueue, processes: int) -> Telemetry:
    sink: RecordSink = source if settings.record else DiscardingSink()
    try:
        return start_telemetry(settings, sink, source.process_id, processes)
    except ConfigError as error:
        _log.critical("%s", error)
        raise


def _chores(settings: Settings, source: RecordSource) -> list[Chore]:
    chores = [heartbeat(source), notices(source), partitions_ahead(), forget_processes()]
    return chores if settings.keep is None else [*chores, retention(settings.keep)]


def _instruments(telemetry: Telemetry, settings: Settings, source: RecordSource) -> Instruments:
    deadline_s = settings.receipt_deadline_ms / 1000
    call_log = CallLog(settings.log_calls)
    return Instruments.of(telemetry.tracer, telemetry.meter, deadline_s, source.process_id, call_log)


def _observe_losses(telemetry: Telemetry, logs: LogExport | None) -> None:
    losses: dict[Signal, Callable[[], dict[str, int]]] = {
        "traces": telemetry.processor.lost_on_the_way,
        "metrics": telemetry.lost_points,
    }
    if logs is not None:
        losses["logs"] = logs.lost_on_the_way
    observe_losses(telemetry.meter, losses)


def _observe_indexer(telemetry: Telemetry, indexer: Indexer) -> None:
    stats = indexer.stats
    observe_index(telemetry.meter, lambda: (stats.indexed, stats.failed), lambda: (stats.waiting, stats.lag_s))


def _limits(settings: Settings) -> BatchLimits:
    return BatchLimits(settings.batch_max_records, settings.batch_max_bytes, settings.batch_max_age_ms / 1000)


def _spare_collector() -> None:
    """What is there when a process of our own begins to serve stays: to look through it for garbage takes 80 ms, in
    which no stream goes on."""
    if threading.current_thread() is threading.main_thread():
        gc.collect()
        gc.freeze()


def _instrument(api: FastAPI, telemetry: Telemetry) -> None:
    FastAPIInstrumentor.instrument_app(
        api,
        tracer_provider=telemetry.tracer_provider,
        meter_provider=NoOpMeterProvider(),
        server_request_hook=link_caller,
        excluded_urls=_UNTRACED_PATHS,
        exclude_spans=["receive", "send"],
    )
    # The stack was built to run this lifespan; build it again with the instrumentation in it.
    api.middleware_stack = api.build_middleware_stack()
