"""The gateway is killed under load, or asked to stop."""

from __future__ import annotations

import contextlib
import random
import time
from contextlib import ExitStack
from uuid import UUID

import psutil
import psycopg
import pytest

from luthien.exchange import EventType
from tests.acceptance.faults import asks
from tests.acceptance.faults.account import Account, account, wait_until_stored, wait_until_taken_over
from tests.acceptance.faults.deployment import UNHURRIED, Deployment
from tests.acceptance.faults.form import FORM
from tests.acceptance.faults.load import Ledger, load
from tests.acceptance.faults.postgres import PostgresServer
from tests.acceptance.faults.scenario import report
from tests.playbook import eventually

pytestmark = pytest.mark.timeout(600)

GRACE_S = 6


def test_the_gateway_is_killed_again_and_again(deployment: Deployment) -> None:
    """While it serves, while it starts, while it takes over what the one before left."""
    random_ = random.Random(3)
    often = {"LUTHIEN_CHECKPOINT_S": "0.2"}
    with ExitStack() as clients:
        ledger = clients.enter_context(load(deployment.url, FORM.clients, seed=3))
        slow = clients.enter_context(load(deployment.url, 3, seed=17, ask=asks.slow))
        for number in range(FORM.kills):
            before = checkpointed(deployment.dsn)
            with deployment.running(often, is_awaited=False) as gateway:
                if number % 4 < 3:
                    gateway.wait_until_serving()
                    ledger.wait_for(random_.randint(1, 30))
                time.sleep(random_.uniform(0.0, 0.5))
                if number % 4 == 0:
                    wait_for_checkpoint(deployment.dsn, besides=before)
                deployment.weigh(gateway)
                gateway.kill()
        with deployment.running() as gateway:
            ledger.wait_for(20)
            slow.wait_for(1)
            clients.close()
            both = Ledger(ledger.calls + slow.calls)
            wait_until_stored(deployment.dsn, both)
            wait_until_taken_over(lambda: deployment.left_behind(alive=1))
            deployment.weigh(gateway)
            assert gateway.stop() == 0, gateway.command.output
    found = account(deployment.dsn, both)
    remark = f"checkpoints have a beginning of {found.checkpointed} cut streams"
    report(3, f"the gateway killed {FORM.kills} times", found, deployment, remark)
    found.assert_perfect()
    assert both.cut, "no kill met a response on its way"
    assert found.checkpointed, "no kill met a stream of which there was a checkpoint"
    assert deployment.segments() == [], "nothing waits any more"


_CHECKPOINTED = """
SELECT DISTINCT call_id
FROM conversation_events JOIN conversation_calls AS call USING (call_id)
WHERE event_type = 'response_partial' AND call.outcome IS NULL
"""


def wait_for_checkpoint(dsn: str, besides: set[UUID]) -> None:
    """Until there is one of another stream, which is open as far as is known."""
    assert eventually(lambda: checkpointed(dsn) - besides, bool), "no stream has a checkpoint"


def checkpointed(dsn: str) -> set[UUID]:
    """The streams that have not ended and of which there is a checkpoint."""
    with psycopg.connect(dsn) as conn:
        return {row[0] for row in conn.execute(_CHECKPOINTED)}


def test_the_gateway_is_asked_to_stop(deployment: Deployment) -> None:
    """What can end within the grace period does; what cannot is ended, and recorded as far as it came."""
    with (
        deployment.running({"LUTHIEN_GRACE_S": str(GRACE_S)}, program=UNHURRIED) as gateway,
        load(deployment.url, FORM.clients, seed=4) as brief,
        load(deployment.url, 3, seed=5, ask=asks.endless) as endless,
    ):
        brief.wait_for(30)
        endless.wait_for_begun(3)
        deployment.weigh(gateway)
        asked_s = time.monotonic()
        status = gateway.stop()
    found = account(deployment.dsn, Ledger(brief.calls + endless.calls))
    report(4, "SIGTERM", found, deployment, f"exit status {status}")
    assert status == 0, gateway.command.output
    found.assert_perfect()
    # Only a machine that stands still takes so long for them.
    assert [each for each in brief.cut if each.ended_s < asked_s + GRACE_S] == [], "there was time enough for these"
    assert len(endless.cut) == 3
    _assert_recorded_as_far_as_they_came(found)
    assert deployment.segments() == [], "nothing waits any more"


def test_the_gateway_is_asked_to_stop_while_postgres_is_away(
    deployment: Deployment, postgres: PostgresServer
) -> None:
    """It ends in time; what it could not store is stored by the next one."""
    with (
        deployment.running({"LUTHIEN_GRACE_S": "60"}) as gateway,
        load(deployment.url, FORM.clients, seed=15) as ledger,
    ):
        postgres.stop()
        ledger.wait_for(50)
        deployment.weigh(gateway)
        status = gateway.stop()
    assert deployment.segments(), "nothing waits"
    postgres.start()
    with deployment.running() as gateway:
        wait_until_stored(deployment.dsn, ledger)
        deployment.weigh(gateway)
        assert gateway.stop() == 0, gateway.command.output
    found = account(deployment.dsn, ledger)
    report(15, "SIGTERM, Postgres away", found, deployment, f"exit status {status}")
    assert status == 0, gateway.command.output
    found.assert_perfect()
    assert not ledger.cut, "there was time enough for these"
    assert deployment.segments() == [], "nothing waits any more"


def test_workers_are_killed(deployment: Deployment) -> None:
    """Others go on meanwhile, and each worker's successor stores what it left."""
    random_ = random.Random(16)
    with deployment.running(arguments=("--workers", "2")) as gateway:
        supervisor = psutil.Process(gateway.pid)
        with load(deployment.url, FORM.clients, seed=16) as ledger:
            kills = 0
            while kills < FORM.kills or not ledger.cut:  # until one has met a response on its way
                ledger.wait_for(random_.randint(1, 30))
                deployment.weigh(gateway)
                random_.choice(serving(supervisor)).kill()
                kills += 1
            ledger.wait_for(30)
        wait_until_stored(deployment.dsn, ledger)
        wait_until_taken_over(lambda: deployment.left_behind(alive=2))
        deployment.weigh(gateway)
        assert gateway.stop() == 0, gateway.command.output
    found = account(deployment.dsn, ledger)
    report(16, f"workers of two killed {kills} times", found, deployment)
    found.assert_perfect()
    assert deployment.segments() == [], "nothing waits any more"


def serving(supervisor: psutil.Process) -> list[psutil.Process]:
    """Its workers, once there is one."""
    return eventually(lambda: [each for each in supervisor.children() if is_worker(each)], bool)


def is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "spawn_main" in " ".join(process.cmdline())
    return False


def _assert_recorded_as_far_as_they_came(found: Account) -> None:
    for received in found.ledger.cut:
        assert received.call_id is not None
        call = found.kept[received.call_id]
        assert call.row.outcome is not None
        assert len(call.of(EventType.RESPONSE_FINAL)) == 1
        [final] = call.of(EventType.RESPONSE_FINAL)
        # What was released may still be lost on the way.
        assert final.wire_bytes > received.size_bytes or final.wire_sha256 == received.sha256
