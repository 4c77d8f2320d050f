"""How a parent asks its processes whether they live."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import uvicorn
from uvicorn.supervisors.multiprocess import SIGNALS

from luthien import workers
from luthien.workers import Worker, Workers
from tests.playbook import eventually

LONG_S = 3600.0


async def _nothing(*_: object) -> None:
    pass


def configuration() -> uvicorn.Config:
    return uvicorn.Config(_nothing, lifespan="off", log_config=None, port=0, workers=2, timeout_graceful_shutdown=0)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(configuration(), [])
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


@pytest.fixture
def parent() -> Iterator[Workers]:
    """With two processes. It would take all signals of this one."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    parent = Workers(configuration(), [])
    parent.init_processes()
    yield parent
    for each in parent.processes:
        each.kill()
        each.join()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_another_takes_the_place_of_one_that_has_died(parent: Workers) -> None:
    dead, alive = parent.processes
    dead.kill()
    dead.join()
    parent.keep_subprocess_alive()
    assert parent.processes[0].process.is_alive()
    assert parent.processes[0].pid != dead.pid
    assert parent.processes[1] is alive
    assert not parent.should_exit.is_set()


def test_one_that_does_not_end_is_killed(parent: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, ends = parent.processes
    assert hangs.pid is not None
    assert eventually(lambda: hangs.is_ready(1), bool), "until then the system ends it without asking"
    os.kill(hangs.pid, signal.SIGSTOP)
    parent.terminate_all()
    ends.join()
    monkeypatch.setattr(workers, "_ENDS_S", 0.1)
    parent.join_all()
    assert hangs.exitcode == -signal.SIGKILL
