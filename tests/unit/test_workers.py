"""How a parent asks its processes whether they live."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import uvicorn

from luthien.workers import Worker
from tests.playbook import eventually

LONG_S = 3600.0


async def _nothing(*_: object) -> None:
    pass


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(uvicorn.Config(_nothing, lifespan="off", log_config=None, port=0), [])
    worker.start()
    yield worker
    worker.kill()
    worker.join()


def test_one_that_answers_lives(worker: Worker) -> None:
    assert worker.is_alive(LONG_S)
    for _ in range(2):
        assert eventually(worker.parent_conn.poll, bool), "it answers"
        assert worker.is_alive(0), "the answer counts, however late it is looked at, and it is asked again"


def test_one_that_does_not_answer_is_not_waited_for(worker: Worker) -> None:
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    assert worker.is_alive(LONG_S), "it has time, and meanwhile its parent has other things to do"
    assert not worker.is_alive(0), "it has had its time"


def test_one_that_dies_before_it_answers_is_known_to_have(worker: Worker) -> None:
    assert worker.is_alive(LONG_S)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    assert eventually(lambda: not worker.is_alive(LONG_S), bool)
