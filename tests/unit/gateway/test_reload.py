"""When a changed file is taken: never half written, at once when somebody asks, and never again when refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from opentelemetry.metrics import NoOpMeter

from luthien.config import Config
from luthien.gateway.configuration import load_configuration
from luthien.gateway.live import Live
from luthien.gateway.reload import Reloader
from luthien.settings import Settings
from luthien.telemetry.metrics import reload_counter
from luthien.upstream.client import UpstreamClient

ONE, TWO = "policies: [{policy: noop}]\n", "policies: [{policy: noop}, {policy: noop}]\n"


class Stage:
    """A file and who looks at it; each look is the test's."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.live = Live(UpstreamClient(Settings(), Config()).to)
        self.reloader = Reloader(file, self.live, reload_counter(NoOpMeter("test")), watches=True)

    async def looks(self, text: str | bytes, *, asked: bool = False) -> int:
        """What the file says is looked at once; how many policies are live then."""
        self.file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return await self.looks_again(asked=asked)

    async def looks_again(self, *, asked: bool = False) -> int:
        await self.reloader._look(asked)
        return len(self.live.current.groups.default.chain.steps)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path / "luthien.yaml")
    stage.file.write_text(ONE)
    await stage.live.swap(load_configuration(stage.file))
    yield stage
    await stage.live.close()


async def test_what_is_still_being_written_is_not_taken(stage: Stage) -> None:
    """A file that is cut short may well be valid, and say less."""
    assert await stage.looks("policies: []\n") == 1
    assert await stage.looks(TWO[:11]) == 1
    assert await stage.looks(TWO) == 1
    assert await stage.looks_again() == 2
    assert not stage.reloader.is_behind


async def test_when_somebody_asks_it_is_taken_at_once(stage: Stage) -> None:
    assert await stage.looks(TWO, asked=True) == 2


@pytest.mark.parametrize("text", ["", " \n", "# nothing\n"])
async def test_a_file_that_says_nothing_is_never_taken(stage: Stage, text: str) -> None:
    """Who meant it would write that there are no policies."""
    assert await stage.looks(text, asked=True) == 1
    assert stage.reloader.is_behind
    assert await stage.looks("policies: []", asked=True) == 0


async def test_what_was_refused_is_not_tried_again_and_again(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        await stage.looks("policies: 1")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    await stage.looks_again(asked=True)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


@pytest.mark.parametrize("text", [TWO.replace("\n", "\r\n"), "\ufeff" + TWO, TWO.replace("policies", "'policies'")])
async def test_however_it_is_spelled_it_is_taken_once(
    stage: Stage, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for _ in range(5):
        await stage.looks(text)
    assert len(caplog.records) == 1
    assert await stage.looks_again() == 2


async def test_a_file_that_is_no_text_is_refused(stage: Stage) -> None:
    assert await stage.looks(b"policies: \xff", asked=True) == 1
    assert stage.reloader.is_behind


async def test_a_configuration_without_a_file_waits_for_one(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "luthien.yaml")
    await stage.live.swap(load_configuration(stage.file))
    for _ in range(3):
        assert await stage.looks_again() == 0
    assert not stage.reloader.is_behind
    assert await stage.looks(TWO) == 0
    assert await stage.looks_again() == 2


async def test_a_policys_file_that_was_refused_is_looked_at(stage: Stage) -> None:
    mine = stage.file.parent / "mine.py"
    mine.write_text("no Python")
    assert await stage.looks("policies: [{policy: ./mine.py:Mine}, {policy: noop}]", asked=True) == 1
    assert stage.reloader.is_behind
    mine.write_text("from luthien.policies.policy import Policy\nclass Mine(Policy): pass\n")
    assert await stage.looks_again() == 1
    assert await stage.looks_again() == 2


async def test_a_policy_that_breaks_oddly_when_it_is_configured_ends_nothing(stage: Stage) -> None:
    (stage.file.parent / "mine.py").write_text(
        "from luthien.policies.policy import Policy\n"
        "from pydantic import BaseModel, model_validator\n"
        "class Mine(Policy):\n"
        "    class Config(BaseModel):\n"
        "        @model_validator(mode='after')\n"
        "        def odd(self):\n"
        "            raise RuntimeError('odd')\n"
    )
    assert await stage.looks("policies: [{policy: ./mine.py:Mine}]", asked=True) == 1
    assert stage.reloader.is_behind
