"""The OTLP endpoint is away, refuses, or takes connections and never answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.acceptance.faults.account import account, wait_until_stored
from tests.acceptance.faults.deployment import Deployment, free_port
from tests.acceptance.faults.form import FORM
from tests.acceptance.faults.load import load
from tests.acceptance.faults.scenario import report

pytestmark = pytest.mark.timeout(300)

EXPORT_S = "3600"
"""What an export may take: far longer than a gateway may take to stop."""
SHUTDOWN_S = 25
"""More than it needs at most (`luthien.deadlines`: 15), and less than the SDK would wait for one signal (30)."""


@contextmanager
def refusing() -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


@contextmanager
def black_hole() -> Iterator[str]:
    """The kernel takes connections and what is sent on them, and nobody is there."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def away() -> Iterator[str]:
    yield "http://192.0.2.1:4318"  # for documentation (RFC 5737): routed nowhere


@pytest.mark.parametrize(
    ("number", "kind"), [(9, refusing), (10, black_hole), (11, away)], ids=["refusing", "black hole", "away"]
)
def test_the_collector_is_no_good(
    deployment: Deployment,
    number: int,
    kind: Callable[[], AbstractContextManager[str]],
    request: pytest.FixtureRequest,
) -> None:
    """Neither calls nor the record notice, and the gateway ends when it is asked to."""
    with kind() as endpoint:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_EXPORTER_OTLP_TIMEOUT": EXPORT_S,
        }
        with deployment.running(settings) as gateway:
            with load(deployment.url, FORM.clients, seed=number) as ledger:
                ledger.wait_for(20)
                time.sleep(FORM.load_s)
            wait_until_stored(deployment.dsn, ledger)
            deployment.weigh(gateway)
            began = time.monotonic()
            status = gateway.stop()
            took_s = time.monotonic() - began
    found = account(deployment.dsn, ledger)
    name = f"OTLP endpoint: {request.node.callspec.id}"
    report(number, name, found, deployment, f"stopped in {took_s:.1f} s")
    assert status == 0, gateway.command.output
    assert not ledger.errors, ledger.errors[:3]
    found.assert_perfect()
    assert took_s < SHUTDOWN_S
