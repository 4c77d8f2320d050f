"""Structured logs that name the call and the trace they belong to, and never carry a payload."""

from __future__ import annotations

import copy
import json
import logging
import logging.config
import re
import time
from collections import deque
from types import TracebackType
from typing import Any

from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

from luthien.telemetry import conventions as names
from luthien.telemetry.context import call_id_in

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_SURROGATES = re.compile("[\ud800-\udfff]")
_MAX_MESSAGE = 8192
_MAX_FRAMES = 64


class CallContextFilter(logging.Filter):
    """Puts the ids of the current call, trace and span on every record; a line may name another call itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        context = get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id = format_trace_id(context.trace_id)
            record.span_id = format_span_id(context.span_id)
        call_id = call_id_in(None)
        if call_id is not None and not hasattr(record, names.CALL_ID):
            setattr(record, names.CALL_ID, call_id)
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line. Of an exception: its type and where it came from, not its text."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            names.LOG_TIME: time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            names.LOG_LEVEL: record.levelname,
            names.LOG_LOGGER: record.name,
            names.LOG_MESSAGE: message_of(record),
        }
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        told = exception_of(record)
        try:
            return json.dumps(entry | extra | told, default=str, allow_nan=False)
        except Exception:  # noqa: BLE001 - what else stands on a line is anything at all, and the line is to be told
            return json.dumps(entry | told)


class TextFormatter(logging.Formatter):
    """Lines for people. Of an exception: its type and where it came from; its text may quote a payload."""

    def format(self, record: logging.LogRecord) -> str:
        said = copy.copy(record)
        said.msg, said.args, said.exc_text = _visible(message_of(record)), None, None
        return super().format(said)

    def formatException(  # noqa: N802 - the name is logging's
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        return "\n".join([ei[0].__name__ if ei[0] else "", *(f"  {frame}" for frame in _frames(ei[2]))])


def message_of(record: logging.LogRecord) -> str:
    """What the line says, bounded in length and fit for every encoder.

    Of a line whose arguments do not fit, only the words that it was to say: logging's own report quotes all of them.
    """
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - arguments are anything at all, and the line is to be told
        message = f"{record.msg if isinstance(record.msg, str) else ''} (what it says cannot be told)"
    return _clean(message[:_MAX_MESSAGE])


def exception_of(record: logging.LogRecord) -> dict[str, str]:
    """What may be told of the line's exception, by field: its type and its frames, and not its text."""
    if not record.exc_info or record.exc_info[0] is None:
        return {}
    frames = _clean("\n".join(_frames(record.exc_info[2])))
    return {names.EXCEPTION_TYPE: record.exc_info[0].__name__, names.EXCEPTION_FRAMES: frames}


def _frames(traceback: TracebackType | None) -> deque[str]:
    """The innermost ones, outermost first."""
    frames: deque[str] = deque(maxlen=_MAX_FRAMES)
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames


def _clean(text: str) -> str:
    return _SURROGATES.sub("\ufffd", text)


def _visible(text: str) -> str:
    """On one line, and without anything that a terminal would obey: a line must not be able to look like another."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


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
