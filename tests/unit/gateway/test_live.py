"""A configuration is there for as long as a call goes by it; what it opened is closed after the last."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luthien.config import Config
from luthien.config_file import ConfigFile
from luthien.gateway.configuration import Configuration, configured
from luthien.gateway.live import Live
from luthien.policies.policy import Policy
from luthien.policies.registry import BUILTIN
from luthien.settings import Settings
from luthien.upstream.client import UpstreamClient

POLICY = "from luthien.policies.policy import Policy\nclass Mine(Policy): pass\n"


class Log(list[str]):
    @asynccontextmanager
    async def resource(self, name: str, *, fails: bool = False) -> AsyncIterator[None]:
        self.append(f"open {name}")
        if fails:
            raise OSError("no way there")
        yield
        self.append(f"close {name}")


def live() -> Live:
    return Live(UpstreamClient(Settings(), Config()).to)


def configuration(log: Log, name: str, *, fails: bool = False) -> Configuration:
    plain = configured(ConfigFile("l", f"# {name}"))
    return replace(plain, resources=(log.resource(f"{name}1"), log.resource(f"{name}2", fails=fails)))


async def test_a_call_keeps_what_it_took() -> None:
    log, lives = Log(), live()
    first, second = configuration(log, "a"), configuration(log, "b")
    await lives.swap(first)
    with lives.call() as early, lives.call() as also_early:
        await lives.swap(second)
        await lives.tidy()
        with lives.call() as late:
            assert [each.configuration for each in (early, also_early, late)] == [first, first, second]
        assert (lives.retired, log) == (1, ["open a1", "open a2", "open b1", "open b2"])
    await lives.tidy()
    assert (lives.retired, log[4:]) == (0, ["close a2", "close a1"])
    await lives.close()
    assert log[6:] == ["close b2", "close b1"]


async def test_what_cannot_be_opened_is_not_taken() -> None:
    log, lives = Log(), live()
    first = configuration(log, "a")
    await lives.swap(first)
    with pytest.raises(OSError, match="no way there"):
        await lives.swap(configuration(log, "b", fails=True))
    assert (lives.current, lives.retired) == (first, 0)
    await lives.close()


async def test_the_modules_of_policies_go_with_the_last_call(tmp_path: Path) -> None:
    file, config = tmp_path / "mine.py", "policies: [{policy: ./mine.py:Mine}]"
    lives = live()
    loaded: list[Configuration] = []
    for content in (POLICY, POLICY + "# another\n"):
        file.write_text(content)
        loaded.append(configured(ConfigFile(str(tmp_path / "luthien.yaml"), config)))
    old, new = loaded
    assert old.version != new.version
    assert old.modules | new.modules <= sys.modules.keys()
    await lives.swap(old)
    with lives.call():
        await lives.swap(new)
        await lives.tidy()
        assert old.modules <= sys.modules.keys()
    await lives.tidy()
    assert not old.modules & sys.modules.keys()
    assert new.modules <= sys.modules.keys()
    await lives.close()


def test_the_version_is_that_of_all_files_and_of_no_folder(tmp_path: Path) -> None:
    versions: list[str] = []
    for folder, content in (("a", POLICY), ("b", POLICY), ("c", POLICY + "#")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(content)
        file = ConfigFile(str(tmp_path / folder / "luthien.yaml"), "policies: [{policy: ./mine.py:Mine}]")
        versions.append(configured(file).version)
    assert versions[0] == versions[1] != versions[2]


async def test_what_policies_share_is_open_for_as_long_as_a_call_may_need_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, lives = Log(), live()

    class Sharing(Policy):
        @classmethod
        @asynccontextmanager
        async def sharing(cls, config: Any) -> AsyncIterator[Any]:
            async with log.resource("it"):
                yield

    monkeypatch.setitem(BUILTIN, "sharing", Sharing)
    both = "groups: [{name: a, match: {}, policies: [{policy: sharing}]}]\npolicies: [{policy: sharing}]"
    await lives.swap(configured(ConfigFile("l", both)))
    with lives.call():
        await lives.swap(configured(ConfigFile("l", "")))
        await lives.tidy()
        assert log == ["open it"] * 2
    await lives.tidy()
    assert log[2:] == ["close it"] * 2
    await lives.close()
