"""Pages of big calls are made in a process of their own, which is there only as long as it is needed."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest

from luthien.debug import apart as process
from luthien.debug.apart import Apart, CannotStart, Failed
from luthien.debug.call.completeness import Evidence
from luthien.debug.call.lookup import Found
from luthien.debug.diff import Differ
from luthien.debug.views import made_of_call
from luthien.errors import StoreError
from tests.playbook import DEADLINE_S, Gateway, ScriptedProvider, answers, call_id_of, eventually, running_gateway
from tests.wire import openai_request, openai_response

CHAT = "/v1/chat/completions"
POLICIES: list[dict[str, Any]] = [
    {"policy": "replace_text", "config": {"rules": [{"find": "needle", "replace": "pin"}]}}
]
OWNER = """
import asyncio, operator
from luthien.debug.apart import Apart

async def own():
    apart = Apart()
    await apart.run(operator.neg, 1)
    print(apart.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(own())
"""
EVIDENCE = Evidence(emitted=None, stored=0, stages_stored=0)


def records_of(found: Found, _differ: Differ) -> tuple[int, int]:
    return len(found.call.records), os.getpid()


def breaks() -> None:
    raise LookupError("secret")


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def never_ends(begun: Path) -> None:
    begun.touch()
    threading.Event().wait()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process is to make here stands in this module."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[3]), *sys.path]))


@pytest.fixture(scope="module")
def gateway(shared_record_database: str, shared_provider: ScriptedProvider) -> Iterator[Gateway]:
    with running_gateway(shared_record_database, shared_provider.url, POLICIES) as running:
        yield running


@pytest.fixture
def call_id(gateway: Gateway, shared_provider: ScriptedProvider) -> UUID:
    shared_provider.will(answers(openai_response()))
    response = gateway.post(CHAT, openai_request("a needle"))
    gateway.call(response)
    return UUID(call_id_of(response))


def children() -> set[int]:
    """The processes of big pages that this one has. Threads and processes may end while they are looked at."""
    found = set[int]()
    for each in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found |= {int(pid) for pid in each.read_text().split() if b"luthien.debug.apart" in command_of(pid)}
    return found


def command_of(pid: str) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_a_big_call_is_shown_as_a_small_one_is(gateway: Gateway, shared_provider: ScriptedProvider) -> None:
    shared_provider.will(answers(openai_response()))
    before = children()
    found: dict[str, str] = {}
    for name, padding in (("small", ""), ("big", "x" * 700_000)):
        response = gateway.post(CHAT, openai_request(f"a needle {padding}"))
        call = gateway.call(response)
        found[name] = call["verdict"]
        assert gateway.diff(response)["request"]["summary"]["changed"] == 1
        html = gateway.get(f"/debug/calls/{call_id_of(response)}", gateway.headers | {"accept": "text/html"})
        assert (html.status_code, "pin" in html.text) == (200, True)
        assert len(children() - before) == (1 if name == "big" else 0)
    assert found["small"] == found["big"] == "replace_text changed 1 of 1 message; response: no change"


def test_it_ends_with_a_gateway_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        process = psutil.Process(int(owner.stdout.readline()))
        assert process.is_running()
        owner.kill()

    def has_ended() -> bool:
        with suppress(psutil.NoSuchProcess):
            return process.status() == psutil.STATUS_ZOMBIE
        return True

    assert eventually(has_ended, bool)


@pytest.fixture
def apart() -> Iterator[Apart]:
    opened = Apart(memory_bytes=1024**3)
    yield opened
    opened.close()
    assert opened.pid is None


async def test_it_is_started_once_and_again_after_it_has_died(apart: Apart) -> None:
    first, again = [await apart.run(os.getpid) for _ in range(2)]
    assert first == again == apart.pid != os.getpid()
    with pytest.raises(Failed, match="ended over it"):
        await apart.run(dies)
    assert await apart.run(os.getpid) != first


async def test_a_stored_call_is_read_there(shared_record_database: str, call_id: UUID, apart: Apart) -> None:
    records, pid = await apart.run(made_of_call, shared_record_database, call_id, EVIDENCE, records_of, ())
    assert records >= 5
    assert pid == apart.pid
    with pytest.raises(StoreError, match="was removed from the record"):
        await apart.run(made_of_call, shared_record_database, UUID(int=1), EVIDENCE, records_of, ())


async def test_what_breaks_says_what_and_not_why(apart: Apart) -> None:
    with pytest.raises(Failed, match="LookupError") as raised:
        await apart.run(breaks)
    assert "secret" not in str(raised.value)
    with pytest.raises(Failed, match="MemoryError"):
        await apart.run(bytes, 2 * 1024**3)
    await apart.run(process._bound_memory, 2 * 1024**3)  # of a gateway that may have less
    assert await apart.run(resource.getrlimit, resource.RLIMIT_AS) == (1024**3, 1024**3)
    assert await apart.run(len, "four") == 4


async def test_it_ends_when_it_is_idle_and_comes_back() -> None:
    apart = Apart(idle_s=0.1)
    try:
        first = await apart.run(os.getpid)
        assert eventually(lambda: Path(f"/proc/{first}/stat").read_text().split()[2], lambda state: state == "Z")
        assert await apart.run(os.getpid) != first
    finally:
        apart.close()


def test_closed_it_finishes_nothing_and_begins_nothing(tmp_path: Path) -> None:
    """Neither what is being done there, which may be as long as a minute, nor what waits for that."""
    apart, begun = Apart(), tmp_path / "begun"
    with ThreadPoolExecutor(2) as pool:
        doing = [pool.submit(asyncio.run, apart.run(never_ends, begun)) for _ in range(2)]
        assert eventually(begun.exists, bool)
        pid = apart.pid
        apart.end()
        for each in doing:
            with pytest.raises(Failed, match="the gateway stops"):
                each.result(DEADLINE_S)
    with pytest.raises(Failed, match="the gateway stops"):
        asyncio.run(apart.run(os.getpid))
    apart.close()
    assert not Path(f"/proc/{pid}").exists()
    assert apart.pid is None


def test_it_ends_with_the_gateway(shared_record_database: str, shared_provider: ScriptedProvider) -> None:
    shared_provider.will(answers(openai_response()))
    before = children()
    with running_gateway(shared_record_database, shared_provider.url, POLICIES) as gateway:
        gateway.call(gateway.post(CHAT, openai_request("a needle" + "x" * 700_000)))
        assert len(children() - before) == 1
    assert children() <= before


def test_where_it_does_not_start_the_page_says_so_and_where_it_cannot_is_made_all_the_same(
    shared_record_database: str, shared_provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hangs = tmp_path / "python"
    hangs.write_text("#!/bin/sh\nexec sleep 600\n")
    hangs.chmod(0o700)
    shared_provider.will(answers(openai_response()))
    with running_gateway(shared_record_database, shared_provider.url, POLICIES) as gateway:
        apart = gateway.app._now.views._apart
        with monkeypatch.context() as patched:
            patched.setattr(process, "START_S", 0.2)
            patched.setattr(sys, "executable", str(hangs))
            response = gateway.post(CHAT, openai_request("a needle" + "x" * 700_000))
            page = f"/debug/calls/{call_id_of(response)}.json"
            hung = eventually(lambda: gateway.get(page), lambda each: each.status_code == 503)
            assert (hung.status_code, hung.json()["reason"], hung.headers["retry-after"]) == (503, "failed", "1")
            assert "did not start within" in hung.json()["error"]
            assert apart.pid is None, "it is still there"
            patched.setattr(sys, "executable", "/nonexistent/python")
            with pytest.raises(CannotStart):
                asyncio.run(Apart().run(os.getpid))
            call = gateway.call(response)
            assert json.dumps(call["verdict"]).startswith('"replace_text changed')
            assert apart.pid is None
        assert gateway.get(page).status_code == 200
        assert apart.pid is not None
