"""Structured logs that name the call and the trace they belong to, and never carry a payload."""

from __future__ import annotations

import json
import logging
import logging.config
import time
from types import TracebackType
from typing import Any

from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

from luthien.telemetry.context import call_id_in

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class CallContextFilter(logging.Filter):
    """Puts the ids of the current call, trace and span on every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        context = get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id = format_trace_id(context.trace_id)
            record.span_id = format_span_id(context.span_id)
        call_id = call_id_in(None)
        if call_id is not None:
            setattr(record, "luthien.call_id", call_id)
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line. Of an exception: its type and where it came from, not its text."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info and record.exc_info[0] is not None:
            entry["exception"] = record.exc_info[0].__name__
            entry["stack"] = _frames(record.exc_info[2])
        return json.dumps(entry, default=str)


class TextFormatter(logging.Formatter):
    """Lines for people. Of an exception: its type and where it came from; its text may quote a payload."""

    def formatException(  # noqa: N802 - the name is logging's
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        return "\n".join([ei[0].__name__ if ei[0] else "", *(f"  {frame}" for frame in _frames(ei[2]))])


def _frames(traceback: TracebackType | None) -> list[str]:
    frames: list[str] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames


def logging_config(level: str, log_format: str) -> dict[str, Any]:
    """A `logging.config.dictConfig` for Luthien and its server. Access lines are off: calls are recorded."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"call": {"()": CallContextFilter}},
        "formatters": {
            "json": {"()": JsonFormatter},
            "text": {
                "()": TextFormatter,
                "fmt": "%(asctime)s %(levelname)-7s %(name)s: %(message)s",
            },
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": log_format,
                "filters": ["call"],
            }
        },
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {
            "luthien": {"level": level},
            "uvicorn": {"level": "WARNING"},
            "uvicorn.access": {"level": "CRITICAL", "propagate": False},
            # A lost database is logged by the writer, once per change, and not at every attempt.
            "psycopg.pool": {"level": "ERROR"},
        },
    }


def configure_logging(level: str, log_format: str) -> None:
    logging.config.dictConfig(logging_config(level, log_format))
