"""Log lines that do not reach their backend are counted, by why: each is either exported or lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult

from luthien.telemetry.log_export import CountingProcessor, LogExport

DEADLINE_S = 20.0
_log = logging.getLogger("luthien.test")


class Held(LogRecordExporter):
    """Exports when it may, and says of itself whether that went well."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.may_go_on = threading.Event()
        self.result: LogRecordExportResult | Exception = LogRecordExportResult.SUCCESS
        self.exported: list[str] = []

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        self.began.set()
        assert self.may_go_on.wait(DEADLINE_S)
        if isinstance(self.result, Exception):
            raise self.result
        self.exported += [str(line.log_record.body) for line in batch]
        return self.result

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def export(held: Held, monkeypatch: pytest.MonkeyPatch) -> Iterator[LogExport]:
    monkeypatch.setenv("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "4")
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "1")
    provider = LoggerProvider(shutdown_on_exit=False)
    processor = CountingProcessor(held, max_queue_size=10)
    provider.add_log_record_processor(processor)
    made = LogExport(provider, [processor], ["luthien.test"])
    yield made
    held.may_go_on.set()
    assert made.stop(DEADLINE_S)


def say(count: int) -> None:
    for number in range(count):
        _log.error("line %d", number)


def test_what_finds_the_queue_full_is_lost_and_all_else_is_exported(
    export: LogExport, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    say(4)
    assert held.began.wait(DEADLINE_S)  # one batch is on its way, and does not come to an end
    say(25)
    held.may_go_on.set()
    assert export.stop(DEADLINE_S)
    assert export.lost_on_the_way() == {"queue_full": 29 - len(held.exported), "export_failed": 0, "rejected": 0}
    assert held.exported[:5] == ["line 0", "line 1", "line 2", "line 3", "line 0"], "the oldest are kept"
    assert len(held.exported) < 15
    assert {record.name for record in caplog.records} == {"luthien.test"}, "the SDK had nothing to drop"


@pytest.mark.parametrize("result", [LogRecordExportResult.FAILURE, ConnectionError()])
def test_lines_whose_export_fails_are_lost(
    export: LogExport, held: Held, result: LogRecordExportResult | Exception
) -> None:
    held.result = result
    held.may_go_on.set()
    say(3)
    assert export.stop(DEADLINE_S)
    assert export.lost_on_the_way() == {"queue_full": 0, "export_failed": 3, "rejected": 0}
