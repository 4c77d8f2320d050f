"""The spool's disk is full, may not be used any further, or comes back damaged."""

from __future__ import annotations

import contextlib
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import psycopg
import pytest

from luthien.exchange import EventType, StageRecord
from luthien.record.frames import FrameReader
from tests.acceptance.faults import asks
from tests.acceptance.faults.account import Account, account, until_quiet, wait_until_stored
from tests.acceptance.faults.deployment import Deployment, GatewayProcess
from tests.acceptance.faults.form import FORM
from tests.acceptance.faults.load import load
from tests.acceptance.faults.postgres import PostgresServer
from tests.acceptance.faults.scenario import report
from tests.acceptance.faults.telemetry import exporting, latest
from tests.otlp_receiver import otlp_receiver

pytestmark = pytest.mark.timeout(600)

MIB = 1024 * 1024
DEADLINE_S = 120.0
Key = tuple[UUID, int]


def test_the_spool_reaches_its_limit(deployment: Deployment, postgres: PostgresServer) -> None:
    """With Postgres away: no call breaks, and what is not stored is a tombstone that says why, or is counted."""
    limit_bytes = 2 * MIB
    # However slow the machine is, no stream leaves a checkpoint, which would be one record more.
    settings = {"LUTHIEN_SPOOL_MAX_BYTES": str(limit_bytes), "LUTHIEN_CHECKPOINT_S": "600"}
    with otlp_receiver() as collector, deployment.running({**settings, **exporting(collector)}) as gateway:
        postgres.stop()
        with load(deployment.url, FORM.clients, seed=6, ask=asks.quick) as ledger:
            wait_until(lambda: latest(collector, "luthien.record.dropped", "spool_full") > 0)
            most_bytes = latest(collector, "luthien.record.spool.size")
            time.sleep(FORM.load_s)
        postgres.start()
        wait_until(lambda: latest(collector, "luthien.record.unsaved") == 0)
        deployment.weigh(gateway)
        assert gateway.stop() == 0, gateway.command.output
        refused = latest(collector, "luthien.record.dropped", "spool_full")
        tombstones = latest(collector, "luthien.record.tombstones")
    found = account(deployment.dsn, ledger)
    remark = f"{refused} records refused, {tombstones} tombstones"
    report(5, f"the spool may use {limit_bytes // MIB} MiB only, Postgres away", found, deployment, remark)
    assert not ledger.errors, ledger.errors[:3]
    assert not found.duplicated
    assert most_bytes <= limit_bytes
    told = [event for event in events(found) if "luthien.record.refused" in event.attributes]
    assert {event.attributes["luthien.record.refused"] for event in told} == {"spool_full"}
    assert len(told) == tombstones > 0
    # The four stages and the outcome, and of a stream its timeline.
    emitted = sum(6 if call.ask.chunks else 5 for call in ledger.whole)
    assert len(events(found)) + refused - tombstones == emitted, "some are neither stored nor counted"


@pytest.mark.parametrize("how", ["a small disk", "files may not grow"])
def test_the_disk_is_full(deployment: Deployment, postgres: PostgresServer, how: str) -> None:
    """With Postgres away: no call breaks, nothing is lost, and each record that a crash could have cost says so."""
    with contextlib.ExitStack() as stack:
        is_small = how == "a small disk" and stack.enter_context(small_disk(deployment.spool_dir, 2 * MIB))
        gateway = stack.enter_context(deployment.running())
        with load(deployment.url, FORM.clients, seed=7) as ledger:
            ledger.wait_for(20)
            postgres.stop()
            if not is_small:
                let_files_grow(gateway, to_bytes=0)
            gateway.command.wait_for("the spool cannot be written")
            ledger.wait_for(50)
            time.sleep(FORM.load_s)
            if not is_small:
                let_files_grow(gateway, to_bytes=None)
            postgres.start()
            gateway.command.wait_for("the spool can be written again")
            ledger.wait_for(20)
        wait_until_stored(deployment.dsn, ledger)
        deployment.weigh(gateway)
        assert gateway.stop() == 0, gateway.command.output
        left = deployment.segments()
    found = account(deployment.dsn, ledger)
    reasons = [event.attributes.get("luthien.record.not_crash_proof") for event in events(found)]
    in_memory = len(reasons) - reasons.count(None)
    name = "2 MiB of disk for the spool" if is_small else "the spool's files may not grow"
    number = 6 if how == "a small disk" else 7
    report(number, f"{name}, Postgres away", found, deployment, f"{in_memory} records only in memory")
    assert not ledger.errors, ledger.errors[:3]
    found.assert_perfect()
    assert {*reasons} == {None, "disk_full"}
    assert left == [], "nothing waits any more"


def test_what_a_dead_process_left_is_damaged(deployment: Deployment, postgres: PostgresServer) -> None:
    """Cut off and overwritten between a kill and the next start: it costs those records that were hit, and counts."""
    with deployment.running() as gateway:
        postgres.stop()
        with load(deployment.url, FORM.clients, seed=8) as ledger:
            ledger.wait_for(100)
            time.sleep(FORM.load_s)
            deployment.weigh(gateway)
            gateway.kill()
    segments = deployment.segments()
    left, hit = damage(segments, random.Random(8))
    assert hit
    postgres.start()
    with otlp_receiver() as collector, deployment.running(exporting(collector)) as gateway:
        until_quiet(lambda: stored(deployment.dsn), is_enough=lambda count: count == len(left))
        with load(deployment.url, FORM.clients, seed=9) as after:
            after.wait_for(20)
        wait_until_stored(deployment.dsn, after)
        deployment.weigh(gateway)
        assert gateway.stop() == 0, gateway.command.output
        counted = latest(collector, "luthien.record.dropped", "damaged")
        counted += latest(collector, "luthien.record.dropped", "torn")
    found = account(deployment.dsn, ledger)
    report(8, "the spool of a killed gateway is damaged", found, deployment, f"{len(hit)} records were hit")
    there = {(event.call_id, event.sequence) for event in events(found)}
    hit_calls = {call_id for call_id, _ in hit}
    assert there >= left
    assert not there & hit
    assert not found.duplicated
    assert {each.call_id for each in ledger.whole if each.call_id not in hit_calls} <= whole_calls(found)
    # The kill, too, may have met a segment that was being written.
    assert 0 < counted <= len(hit) + len(segments)
    assert "is damaged from byte" in gateway.command.output
    assert not after.errors
    account(deployment.dsn, after).assert_perfect()
    assert deployment.segments() == [], "nothing waits any more"


# What is done to the spool


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[bool]:
    """A file system of that size; where none can be mounted, there is only the folder, and it says False."""
    path.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    is_mounted = False
    if mount and umount:
        command = [mount, "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)]
        is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted and umount:
            subprocess.run([umount, str(path)], check=True)


def let_files_grow(gateway: GatewayProcess, to_bytes: int | None) -> None:
    """Limits the files that the process writes, for as long as it is not told otherwise."""
    _, hard = (process := psutil.Process(gateway.pid)).rlimit(resource.RLIMIT_FSIZE)
    process.rlimit(resource.RLIMIT_FSIZE, (hard if to_bytes is None else to_bytes, hard))


def damage(segments: list[Path], random_: random.Random) -> tuple[set[Key], set[Key]]:
    """Overwrites a few places of each segment and cuts off its end; the records that are left, and those hit."""
    left: set[Key] = set()
    hit: set[Key] = set()
    for path in segments:
        data = bytearray(path.read_bytes())
        end = len(data) - random_.randint(1, 400)
        places = [random_.randrange(end) for _ in range(8)]
        for (start, stop), record in frames_of(path):
            is_hit = stop > end or any(start <= place < stop for place in places)
            (hit if is_hit else left).add((record.call_id, record.sequence))
        for place in places:
            data[place] ^= 0xFF
        path.write_bytes(data[:end])
    return left, hit


def frames_of(path: Path) -> list[tuple[tuple[int, int], StageRecord]]:
    """The records in a segment, and where they are."""
    data = path.read_bytes()
    reader = FrameReader(lambda at, size: data[at : at + size], bytes.fromhex(path.stem.rpartition("-")[2]))
    found: list[tuple[tuple[int, int], StageRecord]] = []
    start = 0
    while (record := reader.next(len(data))) is not None:
        if isinstance(record, StageRecord):
            found.append(((start, reader.position), record))
        start = reader.position
    return found


# What is asked


def wait_until(fact: Callable[[], bool]) -> None:
    ends = time.monotonic() + DEADLINE_S
    while not fact():
        assert time.monotonic() < ends, "not in time"
        time.sleep(0.1)


def events(found: Account) -> list[Any]:
    return [event for call in found.kept.values() for event in call.events]


def stored(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        [(count,)] = conn.execute("SELECT count(*) FROM conversation_events").fetchall()
    return int(count)


def whole_calls(found: Account) -> set[UUID]:
    return {call_id for call_id, call in found.kept.items() if call.of(EventType.RESPONSE_FINAL)}
