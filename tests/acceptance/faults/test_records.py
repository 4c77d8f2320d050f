"""Odd records among good ones, several gateways on one spool folder, and a clock that goes back."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from luthien.exchange import StageRecord
from luthien.record.spool import Spool, SpoolLimits
from tests.acceptance.faults import asks
from tests.acceptance.faults.account import account, until_quiet, wait_until_stored, wait_until_taken_over
from tests.acceptance.faults.deployment import Deployment, GatewayProcess, free_port
from tests.acceptance.faults.form import FORM
from tests.acceptance.faults.load import Ledger, Received, load
from tests.acceptance.faults.postgres import PostgresServer
from tests.acceptance.faults.scenario import report
from tests.acceptance.faults.telemetry import exporting, latest
from tests.otlp_receiver import otlp_receiver
from tests.records import record, whole_call

pytestmark = pytest.mark.timeout(300)

HOSTILE_SESSION = b"\xff\xfe \x80 '; DROP TABLE conversation_calls; --" + b"s" * 3_000
POISON = b"poison"

# `luthien`, whose clock goes back an hour when it is told to.
STEPPING_BACK = """
import signal, sys, time
back_s = 0
now, now_ns = time.time, time.time_ns
def step_back(*_):
    global back_s
    back_s = 3600
signal.signal(signal.SIGUSR1, step_back)
time.time = lambda: now() - back_s
time.time_ns = lambda: now_ns() - back_s * 10**9
from luthien.cli import main
main()
"""


def test_poison_among_good_records(deployment: Deployment) -> None:
    """What Postgres refuses is set aside alone; names that it cannot hold as they are cost nothing."""
    poison = record(payload=POISON, attributes={"text": "\0"})  # which jsonb cannot hold
    leave_behind(deployment, [*whole_call(), poison, *whole_call()])
    headers = {b"luthien-session-id": HOSTILE_SESSION}
    with deployment.running() as gateway:
        with load(deployment.url, FORM.clients, seed=12, ask=asks.hostile, headers=headers) as ledger:
            ledger.wait_for(20)
            time.sleep(FORM.load_s)
        wait_until_stored(deployment.dsn, ledger)
        until_quiet(lambda: len(deployment.segments()), is_enough=lambda count: count == 1)
        deployment.weigh(gateway)
        assert gateway.stop() == 0, gateway.command.output
    found = account(deployment.dsn, ledger)
    report(12, "poison and hostile names", found, deployment, f"{found.quarantined} in quarantine")
    assert not ledger.errors, ledger.errors[:3]
    found.assert_perfect(quarantined=1)
    assert len(found.kept) == len(ledger.calls) + 2
    with psycopg.connect(deployment.dsn) as conn:
        assert conn.execute("SELECT payload FROM conversation_quarantine").fetchall() == [(POISON,)]
    assert deployment.segments() == [], "nothing waits any more"


def leave_behind(deployment: Deployment, records: Sequence[StageRecord]) -> None:
    """A spool with these records, as a gateway leaves it that stops while Postgres is away."""
    spool = Spool(deployment.spools, SpoolLimits(10**8, 1_000, 10**7))
    spool.start()
    spool.submit(records)
    assert spool.abandon("stopped") == 0


def test_two_gateways_take_over_what_others_left(deployment: Deployment, postgres: PostgresServer) -> None:
    """Each has taken over some when Postgres comes back, and both store them at once, under load."""
    with ExitStack() as clients:
        ledgers = [Ledger()]
        postgres.stop()
        for number in range(FORM.spools):
            with deployment.running() as gateway, load(deployment.url, FORM.clients, seed=130 + number) as ledger:
                ledger.wait_for(30)
                time.sleep(FORM.load_s / 2)
                deployment.weigh(gateway)
                gateway.kill()
            ledgers.append(ledger)
        later = put_aside(deployment, half=FORM.spools // 2)
        collectors = [clients.enter_context(otlp_receiver()) for _ in range(2)]
        ports = [deployment.port, free_port()]
        gateways: list[GatewayProcess] = []
        for port, collector in zip(ports, collectors, strict=True):
            gateways.append(clients.enter_context(deployment.running(exporting(collector), port=port)))
            for folder in later:
                folder.rename(deployment.spools / folder.name)
            later = []
        postgres.start()
        with (
            load(gateways[0].url, FORM.clients, seed=138) as one,
            load(gateways[1].url, FORM.clients, seed=139) as other,
        ):
            one.wait_for(20)
            other.wait_for(20)
        ledger = Ledger([call for each in (*ledgers, one, other) for call in each.calls])
        wait_until_stored(deployment.dsn, ledger)
        wait_until_taken_over(lambda: deployment.left_behind(alive=2))
        for gateway in gateways:
            deployment.weigh(gateway)
            assert gateway.stop() == 0, gateway.command.output
    adopted = [latest(collector, "luthien.record.adopted") for collector in collectors]
    replayed = sum(latest(collector, "luthien.record.replayed") for collector in collectors)
    found = account(deployment.dsn, ledger)
    remark = f"{' and '.join(map(str, adopted))} records taken over"
    report(13, f"two gateways take over {FORM.spools} spools", found, deployment, remark)
    assert not one.errors + other.errors
    found.assert_perfect()
    assert all(adopted), "one of them had nothing to do"
    assert replayed == 0, "no two processes had the same record"
    assert deployment.segments() == [], "nothing waits any more"


def put_aside(deployment: Deployment, half: int) -> list[Path]:
    """Takes so many spools away from where they are looked for; where they are now."""
    aside = deployment.folder / "aside"
    aside.mkdir()
    return [folder.rename(aside / folder.name) for folder in sorted(deployment.spools.iterdir())[:half]]


def test_the_clock_goes_back(deployment: Deployment) -> None:
    """An hour, under load: ids go on, and nothing is lost."""
    with deployment.running(program=("-c", STEPPING_BACK)) as gateway:
        with load(deployment.url, FORM.clients, seed=14) as ledger:
            ledger.wait_for(20)
            before = [*ledger.calls]
            gateway.command.process.send_signal(signal.SIGUSR1)
            ledger.wait_for(40)
            time.sleep(FORM.load_s)
        wait_until_stored(deployment.dsn, ledger)
        deployment.weigh(gateway)
        assert gateway.stop() == 0, gateway.command.output
    found = account(deployment.dsn, ledger)
    report(14, "the clock goes back an hour", found, deployment)
    assert not ledger.errors, ledger.errors[:3]
    found.assert_perfect()
    # Seeds count calls as they begin; so many may have been on their way when the clock was set.
    step = max(call.ask.seed for call in before) + FORM.clients
    after = [call for call in ledger.calls if call.ask.seed > step]
    assert max(ids_of(before)) < min(ids_of(after)), "ids never go back"
    times = [event.recorded_at for call in found.kept.values() for event in call.events]
    assert max(times) - min(times) > timedelta(minutes=50), "the clock did go back"


def ids_of(calls: Sequence[Received]) -> list[UUID]:
    return [call.call_id for call in calls if call.call_id]
