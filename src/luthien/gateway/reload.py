"""Taking a changed configuration while calls go on, and keeping the old one while it has mistakes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

from opentelemetry.metrics import Counter

from luthien.config_file import read_config
from luthien.errors import ConfigError, LuthienError
from luthien.gateway.configuration import Configuration, Sources, configured, sources_of
from luthien.gateway.live import Live
from luthien.policies.groups import policy_files
from luthien.telemetry import conventions as names

_log = logging.getLogger(__name__)

PERIOD_S = 1.0


class Reloader:
    """Looks at the file and the policies' files that it names, again and again and whenever SIGHUP comes.

    What they say is compared, and not when they were written: files are replaced, and links changed. A change counts
    when two looks in a row see the same, since who writes a file may be half way; after SIGHUP it counts at once.

    Args:
        watches: whether it looks without being told to.
    """

    def __init__(self, path: Path, live: Live, reloads: Counter, *, watches: bool) -> None:
        self._path = path
        self._live = live
        self._reloads = reloads
        self._watches = watches
        self._files: list[Path] = []
        self._seen: str | None = None
        self._refused: str | None = None
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._had_terminal = has_terminal()

    @property
    def is_behind(self) -> bool:
        """Whether what is on the disk has mistakes, so that something older is gone by."""
        return self._refused is not None

    async def start(self) -> None:
        with suppress(LuthienError):  # whoever calls has read it already, and may have read it before it was changed
            self._files = policy_files(await asyncio.to_thread(read_config, self._path))
        if _is_main_thread() and hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
        self._task = asyncio.create_task(self._run(), name="luthien-reload")  # noqa: TID251 - awaited in stop

    async def stop(self) -> None:
        if _is_main_thread() and hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _hang_up(self) -> None:
        if self._had_terminal and not has_terminal():
            signal.raise_signal(signal.SIGTERM)  # it was closed, and with it all that ran there
        else:
            self._asked.set()

    async def _run(self) -> None:
        while True:
            period_s = PERIOD_S if self._watches or self._live.retired else None
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), period_s)
            is_asked = self._asked.is_set()
            self._asked.clear()
            try:
                if is_asked or self._watches:
                    await self._look(is_asked)
                await self._live.tidy()
            except Exception:  # noqa: BLE001 - what others raise when they are closed must not end the watch
                _log.exception("looking after the configuration failed")

    async def _look(self, is_asked: bool) -> None:
        seen = (await asyncio.to_thread(Sources.read, self._path, self._files)).version
        is_settled, self._seen = seen == self._seen, seen
        if seen == self._live.current.version:
            if self.is_behind or is_asked:
                _log.info("the configuration is %s, as before", seen)
            self._refused = None
        elif is_asked or (is_settled and seen != self._refused):
            await self._take(seen)

    async def _take(self, seen: str) -> None:
        """Makes what is on the disk the configuration of the calls that come, if it has no mistakes."""
        sources: Sources | None = None
        try:
            file = await asyncio.to_thread(read_config, self._path, must_exist=True)
            if not file.config.model_fields_set:
                raise ConfigError(f"{self._path} says nothing: write `policies: []` for no policy")
            sources = await asyncio.to_thread(sources_of, file)
            self._files, seen = [*sources.files], sources.version
            configuration = await asyncio.to_thread(configured, file)
            if configuration.version != self._live.current.version:
                await self._live.swap(configuration)
        except Exception as error:  # noqa: BLE001 - other people's code: policies are imported here
            self._refused = seen
            if sources is not None:
                self._live.forget(sources.modules)
            self._reloads.add(1, {names.CONFIG_OUTCOME: "refused"})
            said = str(error) if isinstance(error, LuthienError) else f"{type(error).__name__}: {error}"
            _log.error("the configuration stays %s, since that on the disk is refused: %s", self._version, said)
            return
        self._refused = None
        self._reloads.add(1, {names.CONFIG_OUTCOME: "applied"})
        groups, keys = len(configuration.groups.named), len(configuration.keyring.keys)
        _log.info("the configuration is %s now, with %d groups and %d keys", self._version, groups, keys)
        log_warnings(configuration)

    @property
    def _version(self) -> str:
        return self._live.current.version


def log_warnings(configuration: Configuration) -> None:
    for warning in configuration.warnings:
        _log.warning("%s", warning)
    for note in configuration.notes:
        _log.info("%s", note)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def has_terminal() -> bool:
    """Whether this process has a terminal; one that was closed it has no more."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
