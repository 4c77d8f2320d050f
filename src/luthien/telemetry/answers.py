"""What receivers say of exports that they took: how much of them they rejected, which is lost and not sent again.

https://opentelemetry.io/docs/specs/otlp/#partial-success
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from luthien.otlp import Signal

_log = logging.getLogger(__name__)
_COUNTS: dict[Signal, str] = {
    "traces": "rejected_spans",
    "metrics": "rejected_data_points",
    "logs": "rejected_log_records",
}
_MAX_WORDS = 200
_LEAST_BETWEEN_S = 60.0


@dataclass(frozen=True, slots=True)
class PartialSuccess:
    """What a receiver took with reservations; with 0 items rejected it only warns."""

    rejected: int
    words: str
    """Why: the receiver's own words, on one line, bounded, and of characters that can be seen."""


def partial_success(signal: Signal, body: bytes) -> PartialSuccess | None:
    """What the answer to an export says beside "taken".

    Raises:
        ValueError: this is no answer to an export.
    """
    from google.protobuf.message import DecodeError

    try:
        said = _response(signal).FromString(body).partial_success
    except DecodeError as error:
        raise ValueError("no answer to an export") from error
    rejected = max(0, getattr(said, _COUNTS[signal]))
    return PartialSuccess(rejected, one_line(said.error_message)) if rejected or said.error_message else None


def _response(signal: Signal) -> Any:
    """The message of that signal's answers; who exports nothing need not load it."""
    if signal == "traces":
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

        return ExportTraceServiceResponse
    if signal == "metrics":
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

        return ExportMetricsServiceResponse
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

    return ExportLogsServiceResponse


def is_a_page(content_type: str | None) -> bool:
    """Whether this is what browsers are sent: a proxy or a sign-in stands where the receiver should be."""
    return (content_type or "").partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")


def one_line(text: str) -> str:
    """A receiver's words, bounded, and without anything that a terminal or a page would obey."""
    text = " ".join(text[: 4 * _MAX_WORDS].split())[:_MAX_WORDS]
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


class Answers:
    """Reads the answers to the exports of one signal, each in the thread that exports."""

    def __init__(self, signal: Signal) -> None:
        self._signal = signal
        self._rejected = 0
        self.all_rejected = 0
        self._may_speak_at = float("-inf")

    def read(self, body: bytes) -> None:
        """Notes what the answer rejects. What cannot be read rejects nothing: the status said that it was taken."""
        try:
            said = partial_success(self._signal, body)
        except ValueError:
            return
        if said is not None:
            self._rejected = said.rejected
            self._tell(said)

    def take_rejected(self, of: int) -> int:
        """How many of the items that were just exported were rejected; each is told once."""
        rejected, self._rejected = min(self._rejected, of), 0
        self.all_rejected += rejected
        return rejected

    def _tell(self, said: PartialSuccess) -> None:
        now = time.monotonic()
        if now < self._may_speak_at:
            return
        self._may_speak_at = now + _LEAST_BETWEEN_S
        _log.warning(
            "the receiver of %s rejected %d of what it was sent (%d before): %s",
            self._signal,
            said.rejected,
            self.all_rejected,
            said.words or "it does not say why",
        )
