"""A changed configuration is taken while calls go on: each ends as it began, and none is dropped."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from luthien.gateway import reload
from luthien.policies.policy import Policy
from tests.otlp_receiver import attributes_of, exports_unhurried, otlp_receiver
from tests.playbook import DEADLINE_S, Gateway, ScriptedProvider, Turn, answers, eventually, running_gateway
from tests.serving import serving
from tests.wire import openai_request, openai_response, openai_stream

OPENAI = "/v1/chat/completions"
IN_A_TERMINAL = """
import os, pty, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
process, terminal = pty.fork()
if not process:
    os.execv(sys.executable, [sys.executable, "-m", "luthien", *sys.argv[1:]])
signal.sigwait({signal.SIGUSR1})
os.close(terminal)
print("it ended with", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""
POLICY = """
from luthien.policies.policy import Policy, Request, Verdict

class Mine(Policy):
    async def on_request(self, request: Request) -> Verdict:
        request.body["user"] = "{user}"
        return Verdict.modify("said who asks")
"""


def replaces(word: str) -> dict[str, Any]:
    return {"policy": "replace_text", "config": {"rules": [{"find": "WORD", "replace": word}]}}


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "PERIOD_S", 0.02)


class Changing:
    """A gateway, and the file that it is configured by."""

    def __init__(self, gateway: Gateway, file: Path, provider: ScriptedProvider) -> None:
        self.gateway = gateway
        self.file = file
        self._provider = provider

    def text_with(self, *policies: dict[str, Any], **more: Any) -> str:
        upstreams = {name: {"url": self._provider.url} for name in ("openai", "anthropic")}
        return yaml.safe_dump({"upstreams": upstreams, "policies": [*policies], **more})

    def say(self, *policies: dict[str, Any], **more: Any) -> str:
        """Replaces the file as editors do; the version that is live then."""
        before = self.version
        self.replace(self.text_with(*policies, **more))
        return self.version_after(before)

    def replace(self, text: str) -> None:
        coming = self.file.with_suffix(".new")
        coming.write_text(text)
        coming.replace(self.file)

    def version_after(self, before: str) -> str:
        version = eventually(lambda: self.version, lambda now: now != before)
        assert version != before
        return version

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.gateway.get("/readyz", {}).json()["configuration"]
        return found

    @property
    def version(self) -> str:
        return str(self.state["version"])

    def is_refused(self) -> bool:
        return bool(eventually(lambda: self.state["is_behind"], bool))

    def word(self) -> str:
        """What is said to a client now."""
        self._provider.will(answers(openai_response("WORD")))
        response = self.gateway.post(OPENAI, openai_request())
        return str(response.json()["choices"][0]["message"]["content"])

    def user(self) -> str:
        """What `Mine` tells the provider now."""
        self._provider.will(answers(openai_response()))
        self.gateway.post(OPENAI, openai_request())
        return str(self._provider.turns[-1].json["user"])


@pytest.fixture
def changing(record_database: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Changing]:
    file = tmp_path / "luthien.yaml"
    with running_gateway(record_database, provider.url, [replaces("one")], file=file) as gateway:
        yield Changing(gateway, file, provider)


def test_each_of_fifty_open_streams_ends_as_it_began(changing: Changing, provider: ScriptedProvider) -> None:
    """They are open while the file changes twice; later calls go by what it says then."""
    gate = provider.gate()

    async def play(turn: Turn) -> None:
        frames = openai_stream("first WORD", " then WORD")
        await turn.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await turn.chunk(b"".join(frames[:2]))
        await gate.wait()
        await turn.chunk(b"".join(frames[2:]))
        await turn.send(b"0\r\n\r\n")

    async def one(client: httpx.AsyncClient, begun: asyncio.Semaphore) -> tuple[str, str]:
        body = openai_request(stream=True)
        async with client.stream("POST", OPENAI, json=body) as response:
            text, has_begun = "", False
            async for line in response.aiter_lines():
                text += said(line)
                if text and not has_begun:
                    has_begun = True
                    begun.release()
            return response.headers["luthien-call-id"], text

    async def wave(client: httpx.AsyncClient, tasks: asyncio.TaskGroup) -> list[asyncio.Task[tuple[str, str]]]:
        begun = asyncio.Semaphore(0)
        started = [tasks.create_task(one(client, begun)) for _ in range(50)]
        for _ in started:
            await begun.acquire()
        return started

    async def scene() -> dict[str, list[tuple[str, str]]]:
        limits, url = httpx.Limits(max_connections=200), changing.gateway.url
        waves: dict[str, list[asyncio.Task[tuple[str, str]]]] = {}
        async with (
            httpx.AsyncClient(base_url=url, timeout=DEADLINE_S, limits=limits) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for policies in ((), (replaces("two"),), (replaces("three"),)):
                version = await asyncio.to_thread(changing.say, *policies) if policies else changing.version
                waves[version] = await wave(client, tasks)
            assert changing.gateway.app._now.live.retired == 2
            gate.open()
        return {version: [task.result() for task in tasks_] for version, tasks_ in waves.items()}

    provider.will(play)
    waves = asyncio.run(scene())
    assert [{text for _, text in calls} for calls in waves.values()] == [
        *({f"first {word} then {word}"} for word in ("one", "two", "three")),
    ]
    for version, calls in waves.items():
        for call_id, _ in calls:
            call = changing.gateway.call(call_id)
            assert (call["outcome"], call["configuration"]) == ("completed", version)
    assert eventually(lambda: changing.gateway.app._now.live.retired, lambda retired: not retired) == 0


def said(line: str) -> str:
    if not line.startswith("data: {"):
        return ""
    choices = json.loads(line.removeprefix("data: "))["choices"]
    return str(choices[0]["delta"].get("content") or "") if choices else ""


@pytest.mark.parametrize(
    "broken",
    [
        "policies: [",
        "policies: [{policy: nonsense}]",
        "",
        "  \n",
        "keys: [{name: a, key: {env: SURELY_UNSET}}]",
        "policies: [{policy: ./nowhere.py:Mine}]",
    ],
)
def test_a_mistake_keeps_the_old_configuration(
    changing: Changing, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = changing.version
    changing.replace(broken)
    assert changing.is_refused()
    assert (changing.version, changing.word()) == (before, "one")
    [message] = [record.getMessage() for record in caplog.records if "is refused" in record.getMessage()]
    assert str(changing.file) in message
    assert before in message
    changing.say(replaces("mended"))
    assert changing.word() == "mended"
    assert not changing.state["is_behind"]


def test_a_mistake_that_is_taken_back_is_none(changing: Changing) -> None:
    text, before = changing.file.read_text(), changing.version
    changing.replace("policies: 1")
    assert changing.is_refused()
    changing.replace(text)
    assert eventually(lambda: changing.state, lambda state: not state["is_behind"]) == {
        "version": before,
        "is_behind": False,
    }


def test_a_file_that_is_deleted_keeps_the_old_configuration(changing: Changing) -> None:
    changing.file.unlink()
    assert changing.is_refused()
    assert changing.word() == "one"
    changing.say(replaces("again"))
    assert changing.word() == "again"


def test_a_link_that_leads_elsewhere_is_noticed(changing: Changing, tmp_path: Path) -> None:
    """As Kubernetes changes what is mounted: the file is a link through a folder that is a link."""
    before = changing.version
    for name, word in (("old", "mounted"), ("new", "mounted anew")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "luthien.yaml").write_text(changing.text_with(replaces(word)))
    (tmp_path / "now").symlink_to("old")
    changing.file.unlink()
    changing.file.symlink_to("now/luthien.yaml")
    before = changing.version_after(before)
    assert changing.word() == "mounted"
    (tmp_path / "coming").symlink_to("new")
    (tmp_path / "coming").replace(tmp_path / "now")
    changing.version_after(before)
    assert changing.word() == "mounted anew"


def test_a_policys_file_is_watched_too(changing: Changing, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(POLICY.format(user="first"))
    version = changing.say({"policy": "./mine.py:Mine"})
    assert changing.user() == "first"
    mine.write_text("this is no Python")
    assert changing.is_refused()
    assert changing.user() == "first"
    mine.write_text(POLICY.format(user="second"))
    changing.version_after(version)
    assert changing.user() == "second"


def test_all_else_that_the_file_says_changes_with_it(
    changing: Changing, record_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses of providers, keys, groups, and what is passed through."""
    monkeypatch.setenv("KEY_A", "lk-0123456789abcdef")
    monkeypatch.setenv("KEY_OPENAI", "sk-openai")
    other = ScriptedProvider()
    other.will(answers(openai_response("from elsewhere")))
    assert changing.gateway.post("/v1/files", {}).status_code == 403
    changing.say(
        upstreams={"openai": {"url": other.url}},
        passthrough=["POST /v1/files"],
        keys=[{"name": "a", "key": {"env": "KEY_A"}, "upstreams": {"openai": {"env": "KEY_OPENAI"}}}],
        accept_provider_keys=False,
        groups=[{"name": "a", "match": {"keys": ["a"]}, "policies": [{"policy": "noop"}]}],
    )
    assert changing.gateway.post("/v1/files", {}).status_code == 401
    shown = {"authorization": "Bearer lk-0123456789abcdef"}
    assert changing.gateway.post("/v1/files", {}, headers=shown).status_code == 200
    response = changing.gateway.post(OPENAI, openai_request(), headers=shown)
    assert response.json() == openai_response("from elsewhere")
    assert changing.gateway.call(response)["group"] == "a"
    assert {turn.headers["authorization"] for turn in other.turns} == {"Bearer sk-openai"}
    other.close()


def test_reloads_are_counted(
    record_database: str, provider: ScriptedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "luthien.yaml"
    with otlp_receiver() as receiver:
        exports_unhurried(monkeypatch, receiver)
        with running_gateway(record_database, provider.url, file=file) as gateway:
            changing = Changing(gateway, file, provider)
            changing.say(replaces("a"))
            changing.replace("a: 1")
            assert changing.is_refused()
            changing.say(replaces("b"))
        points = [
            point
            for each in receiver.metrics
            if each.name == "luthien.config.reloads"
            for point in each.sum.data_points
        ]
        counted = {attributes_of(point.attributes)["luthien.config.outcome"]: point.as_int for point in points}
    assert counted == {"applied": 2, "refused": 1}


def test_sixty_reloads_leave_nothing_behind(changing: Changing, tmp_path: Path) -> None:
    """Neither modules nor classes of policies, nor tasks, connections or open files."""
    mine = tmp_path / "mine.py"
    mine.write_text(POLICY.format(user="start"))
    version = changing.say({"policy": "./mine.py:Mine"})

    def turn_over(number: int) -> None:
        nonlocal version
        mine.write_text(POLICY.format(user=f"u{number}") if number % 10 else f"broken {number}(")
        if number % 10:
            version = changing.version_after(version)
            assert number % 20 != 1 or changing.user() == f"u{number}"
        else:
            assert changing.is_refused()

    for number in range(1, 11):
        turn_over(number)
    before = leftovers(changing)
    for number in range(11, 61):
        turn_over(number)
    assert eventually(lambda: leftovers(changing), lambda now: now <= before) <= before


def leftovers(changing: Changing) -> Counts:
    gc.collect()
    app, loop = changing.gateway.app._now, changing.gateway.server._loop
    assert loop is not None
    with app.live.call() as taken:
        transports = len(taken.upstream._transports)
    return Counts(
        modules=sum(name.startswith("luthien_policy_") for name in sys.modules),
        classes=sum(each.__name__ == "Mine" for each in Policy.__subclasses__()),
        tasks=len([task for task in asyncio.all_tasks(loop) if task.get_name().startswith("luthien")]),
        transports=transports,
        retired=app.live.retired,
        files=len([*Path("/proc/self/fd").iterdir()]),
    )


class Counts(dict[str, int]):
    def __le__(self, other: dict[str, int]) -> bool:
        return all(self[name] <= other[name] for name in other)


@contextmanager
def process(
    data_dir: Path, dsn: str, provider: ScriptedProvider, *arguments: str, **environment: str
) -> Iterator[Callable[[], list[str]]]:
    """`luthien serve`, whose policy says who asks; gives what was said in each of some calls."""
    provider.will(answers(openai_response()))
    (data_dir / "mine.py").write_text(POLICY.format(user="one"))
    policies = [{"policy": "./mine.py:Mine"}]
    with serving(data_dir, dsn, provider.url, *arguments, policies=policies, **environment) as running:

        def users() -> list[str]:
            before = len(provider.turns)
            for _ in range(8):
                assert httpx.post(running.url + OPENAI, json=openai_request(), timeout=DEADLINE_S).status_code == 200
            return [turn.json["user"] for turn in provider.turns[before:]]

        def hang_up() -> None:
            running.signal(signal.SIGHUP)

        users.hang_up = hang_up  # type: ignore[attr-defined]
        yield users


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")], ids=["one", "workers"])
def test_a_process_reloads_when_it_is_told_to(
    data_dir: Path, record_database: str, provider: ScriptedProvider, arguments: tuple[str, ...]
) -> None:
    """SIGHUP, although nothing is watched: it does not end, and all of its workers hear of it."""
    with process(data_dir, record_database, provider, *arguments, LUTHIEN_RELOAD="false") as users:
        assert set(users()) == {"one"}
        (data_dir / "mine.py").write_text(POLICY.format(user="two"))
        assert set(users()) == {"one"}
        users.hang_up()  # type: ignore[attr-defined]
        assert set(eventually(users, lambda said: set(said) == {"two"})) == {"two"}


def test_a_process_watches_its_files(data_dir: Path, record_database: str, provider: ScriptedProvider) -> None:
    with process(data_dir, record_database, provider, "--workers", "2") as users:
        assert set(users()) == {"one"}
        (data_dir / "mine.py").write_text(POLICY.format(user="two"))
        assert set(eventually(users, lambda said: set(said) == {"two"})) == {"two"}


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")], ids=["one", "workers"])
def test_a_process_ends_in_order_when_its_terminal_is_closed(
    data_dir: Path, record_database: str, provider: ScriptedProvider, arguments: tuple[str, ...]
) -> None:
    """That is SIGHUP, too, and nobody would be left to end it."""
    program = ("-c", IN_A_TERMINAL)
    with serving(data_dir, record_database, provider.url, *arguments, program=program) as running:
        running.signal(signal.SIGUSR1)
        running.command.wait_for("it ended with 0")
