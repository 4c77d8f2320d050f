"""Log lines over OTLP, made by allow-list: Luthien's own and its server's, and of them nothing that may be a payload.

See decision 19 for what is used of OpenTelemetry, which calls its logs unfinished in Python.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
)

from luthien.errors import ConfigError
from luthien.settings import Settings
from luthien.telemetry import conventions as names
from luthien.telemetry.answers import Answers
from luthien.telemetry.exporters import log_exporters
from luthien.telemetry.logs import CallContextFilter, exception_of, message_of
from luthien.telemetry.losses import OnTheWay
from luthien.telemetry.setup import resource_of
from luthien.telemetry.spans import safe_attributes

_log = logging.getLogger(__name__)

_OWN_LOGGERS = ("luthien", "uvicorn")
_SEVERITIES = (
    (logging.CRITICAL, SeverityNumber.FATAL),
    (logging.ERROR, SeverityNumber.ERROR),
    (logging.WARNING, SeverityNumber.WARN),
    (logging.INFO, SeverityNumber.INFO),
    (logging.DEBUG, SeverityNumber.DEBUG),
)

_exporting = threading.local()


class LogExport:
    """Takes the lines of some loggers to an exporter, from the moment it is made until it is stopped.

    Args:
        loggers: whose lines, and those of all loggers below them.
    """

    def __init__(
        self, provider: LoggerProvider, processors: Sequence[CountingProcessor], loggers: Iterable[str]
    ) -> None:
        self._provider = provider
        self._processors = processors
        self.handler = ExportingHandler(provider)
        self._loggers = [logging.getLogger(name) for name in _outermost(loggers)]
        for logger in self._loggers:
            logger.addHandler(self.handler)

    def lost_on_the_way(self) -> dict[str, int]:
        """How many lines did not reach those who should have got them, by why."""
        lost = Counter[str]()
        for processor in self._processors:
            lost.update(processor.on_the_way.lost)
        return dict(lost)

    def stop(self, deadline_s: float) -> bool:
        """Exports what is left; False when the deadline came first. The SDK's own limit does not hold."""
        for logger in self._loggers:
            logger.removeHandler(self.handler)
        thread = threading.Thread(target=self._provider.shutdown, name="luthien-stop-logs", daemon=True)
        thread.start()
        thread.join(deadline_s)
        if thread.is_alive():
            _log.warning("the last logs were not exported within %.1f s", deadline_s)
        return not thread.is_alive()


def start_log_export(settings: Settings, process_id: UUID | None = None) -> LogExport | None:
    """Exports log lines from now on, if the settings say so.

    Raises:
        ConfigError: a setting is wrong.
    """
    exporters = log_exporters(settings)
    if not exporters:
        return None
    try:
        provider = LoggerProvider(resource_of(settings, process_id), shutdown_on_exit=False)
        processors = [CountingProcessor(*each, max_queue_size=settings.max_queued_logs) for each in exporters]
    except ValueError as error:  # what the SDK read from OTEL_BLRP_* or OTEL_*_LIMIT itself
        raise ConfigError(f"logs cannot be exported: {error}") from error
    for processor in processors:
        provider.add_log_record_processor(processor)
    return LogExport(provider, processors, [*_OWN_LOGGERS, *settings.export_loggers])


class ExportingHandler(logging.Handler):
    """Makes a log record of each line, of what is on the allow-list. Nothing raised here reaches whoever logs."""

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self._provider = provider
        self.lost = 0
        """Lines that could not be exported, since they could not be made into records."""
        self.addFilter(CallContextFilter())

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(_exporting, "now", False):  # what an exporter says of its export would be exported, for ever
            return
        try:
            self._provider.get_logger(record.name).emit(_exported(record))
        except Exception:  # noqa: BLE001 - logging must not break what logs, and to log that would lead here again
            self.lost += 1


def _exported(record: logging.LogRecord) -> LogRecord:
    """Its trace and span are those of the current context."""
    said = vars(record)
    allowed = {key: value for key, value in said.items() if key in names.LOG_ATTRIBUTES}
    event = said.get(names.LOG_EVENT)
    return LogRecord(
        timestamp=int(record.created * 1e9),
        severity_text=record.levelname,
        severity_number=_severity(record.levelno),
        body=message_of(record),
        attributes={**safe_attributes(allowed), **exception_of(record)},
        event_name=event if ("log", event) in names.CONVENTIONS else None,
    )


def _severity(level: int) -> SeverityNumber:
    return next((severity for least, severity in _SEVERITIES if level >= least), SeverityNumber.TRACE)


class CountingProcessor(BatchLogRecordProcessor):
    """Takes lines to an exporter; those that find its queue full are lost, and counted."""

    def __init__(self, exporter: LogRecordExporter, answers: Answers | None = None, *, max_queue_size: int) -> None:
        self.on_the_way = OnTheWay(max_queue_size, answers)
        super().__init__(_QuietExporter(exporter, self.on_the_way), max_queue_size=max_queue_size)

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        if self.on_the_way.takes_one():
            super().on_emit(log_record)


class _QuietExporter(LogRecordExporter):
    """Marks its thread while it exports, so that what is logged there is not exported in turn."""

    def __init__(self, exporter: LogRecordExporter, on_the_way: OnTheWay) -> None:
        self._exporter = exporter
        self._on_the_way = on_the_way

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        with _marked():
            return self._on_the_way.export(batch, self._exporter.export, LogRecordExportResult.SUCCESS)

    def shutdown(self) -> None:
        with _marked():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


@contextmanager
def _marked() -> Iterator[None]:
    _exporting.now = True
    try:
        yield
    finally:
        _exporting.now = False


def _outermost(loggers: Iterable[str]) -> list[str]:
    """Each once, and none whose lines go to another of them as well."""
    wanted = [*dict.fromkeys(loggers)]
    return [name for name in wanted if not any(name.startswith(f"{other}.") for other in wanted)]
