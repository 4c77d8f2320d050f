"""Postgres goes away under load, and comes back; the network to it breaks in every way."""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace

import pytest

from tests.acceptance.faults.account import account, wait_until_stored
from tests.acceptance.faults.deployment import Deployment
from tests.acceptance.faults.form import FORM
from tests.acceptance.faults.load import load
from tests.acceptance.faults.postgres import PostgresServer
from tests.acceptance.faults.scenario import report
from tests.acceptance.faults.telemetry import exporting, history, latest
from tests.otlp_receiver import otlp_receiver
from tests.tcp_proxy import TcpProxy, proxy_to

pytestmark = pytest.mark.timeout(600)

MIB = 1024 * 1024
# Small, so that the spool has to help out with its disk; enough for what each client can have on its way.
QUEUE_BYTES = FORM.clients * MIB
QUEUE_RECORDS = 2_000
# What a batch that is being written costs beside the queue, and what a process needs when it has more to do.
OTHER_BYTES = 96 * MIB


def test_postgres_is_away(deployment: Deployment, postgres: PostgresServer) -> None:
    """It crashes. No client notices, memory is bounded, and every response is stored once, as its client has it."""
    settings = {"LUTHIEN_QUEUE_MAX_BYTES": str(QUEUE_BYTES), "LUTHIEN_QUEUE_MAX_RECORDS": str(QUEUE_RECORDS)}
    with otlp_receiver() as collector, deployment.running({**settings, **exporting(collector)}) as gateway:
        with load(deployment.url, FORM.clients, seed=1) as ledger:
            ledger.wait_for(50)
            before_bytes = gateway.peak_bytes()
            postgres.crash()
            ends = time.monotonic() + FORM.outage_s
            while time.monotonic() < ends or latest(collector, "luthien.record.spool.size") <= QUEUE_BYTES:
                ledger.wait_for(1)
            postgres.start()
            ledger.wait_for(50)
        wait_until_stored(deployment.dsn, ledger)
        peak_bytes = deployment.weigh(gateway)
        assert gateway.stop() == 0, gateway.command.output
    found = account(deployment.dsn, ledger)
    report(1, f"Postgres crashes, away for {FORM.outage_s:.0f} s", found, deployment)
    assert not ledger.errors, ledger.errors[:3]
    found.assert_perfect()
    assert max(history(collector, "luthien.record.unsaved.size")) <= QUEUE_BYTES
    assert peak_bytes < before_bytes + QUEUE_BYTES + OTHER_BYTES
    assert deployment.segments() == [], "nothing waits any more"


def test_the_network_to_postgres_breaks(deployment: Deployment) -> None:
    """It stalls, lines are cut and reset, in the middle of what is being written too."""
    random_ = random.Random(2)
    with proxy_to(deployment.dsn) as proxy:
        behind = replace(deployment, dsn=proxy.dsn(deployment.dsn))
        with behind.running() as gateway:
            with load(behind.url, FORM.clients, seed=2) as ledger:
                ledger.wait_for(20)
                ends = time.monotonic() + FORM.network_s
                while time.monotonic() < ends:
                    break_somehow(proxy, random_)
                    ledger.wait_for(random_.randint(1, 40))
                heal(proxy)
            wait_until_stored(deployment.dsn, ledger)
            behind.weigh(gateway)
            assert gateway.stop() == 0, gateway.command.output
        lines = proxy.taken
    assert lines > 2, "nothing was broken"
    found = account(deployment.dsn, ledger)
    report(2, f"the network to Postgres breaks for {FORM.network_s:.0f} s", found, behind, f"{lines} connections")
    assert not ledger.errors, ledger.errors[:3]
    found.assert_perfect()


def break_somehow(proxy: TcpProxy, random_: random.Random) -> None:
    """All is well again, or the next thing goes wrong."""
    heal(proxy)
    match random_.randrange(7):
        case 0:
            proxy.stall()
        case 1:
            proxy.stall_after(random_.randint(1, 200_000))
        case 2:
            proxy.cut()
        case 3:
            proxy.reset()
        case 4:
            proxy.hang_up()


def heal(proxy: TcpProxy) -> None:
    proxy.stall_after(sys.maxsize)
    proxy.accept()
    proxy.resume()
