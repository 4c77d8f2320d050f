"""All that `luthien.yaml` says, made ready to be gone by."""

from __future__ import annotations

import hashlib
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from luthien.config import Config
from luthien.config_file import ConfigFile, read_config
from luthien.errors import ConfigError
from luthien.gateway.keys import Keyring, load_keyring
from luthien.policies.groups import Groups, load_groups, policy_files, unreachable
from luthien.policies.reference import module_name

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a call takes at its beginning and goes by to its end."""

    version: str
    """12 digits of a hash of the file and of the policies' files that it names: the same wherever they are."""
    config: Config
    groups: Groups
    keyring: Keyring
    modules: frozenset[str] = frozenset()
    """The modules that policies' files were read as."""
    resources: tuple[AbstractAsyncContextManager[object], ...] = ()
    """What its calls share: opened before the first of them, closed after the last."""

    def described(self, path: Path) -> str:
        """In a line: the file that it is from, and the policies of calls that no group takes."""
        policies = ", ".join(each.policy for each in self.config.policies) or "no policy"
        where = str(path) if path.exists() else f"no {path}, so the defaults"
        return f"{where}: {policies}; version {self.version}"

    @property
    def warnings(self) -> list[str]:
        """What is no mistake and hardly meant."""
        return [
            f"the group {group.name!r} never matches: {taker.name!r}, before it, takes all of its calls"
            for group, taker in unreachable(self.config)
        ]

    @property
    def notes(self) -> list[str]:
        """What is well, and slower than one may expect."""
        steps = [step for chain in self.groups.chains() for step in chain.steps]
        holding = dict.fromkeys(step.name for step in steps if step.holds_whole_streams)
        if not holding:
            return []
        return [f"{', '.join(holding)}: streams are held until they are whole, with keep-alives meanwhile"]


@dataclass(frozen=True, slots=True)
class Sources:
    """What a configuration is made of, as it is on the disk at one moment; None for what cannot be read."""

    text: bytes | None
    files: dict[Path, bytes | None]

    @classmethod
    def read(cls, path: Path, files: list[Path]) -> Sources:
        return cls(_content(path), {file: _content(file) for file in files})

    @property
    def version(self) -> str:
        digest = hashlib.sha256(self.text or b"")
        for content in self.files.values():
            digest.update(b"\0" + hashlib.sha256(content or b"").digest())
        return digest.hexdigest()[:12]

    @property
    def modules(self) -> frozenset[str]:
        """What the policies' files are as modules, if they were imported."""
        return frozenset(module_name(file, content) for file, content in self.files.items() if content is not None)


def configured(file: ConfigFile) -> Configuration:
    """The configuration that a file describes.

    Raises:
        ConfigError: with line and key of every mistake.
    """
    for _ in range(_ATTEMPTS):
        sources = sources_of(file)
        groups, keyring = load_groups(file), load_keyring(file)
        file.check()
        if sources_of(file) == sources:  # else it is unknown what was imported
            return Configuration(sources.version, file.config, groups, keyring, sources.modules, (*groups.chains(),))
    raise ConfigError("the files of policies change while they are read; try again")


def load_configuration(path: Path, *, must_exist: bool = False) -> Configuration:
    """The configuration of a file; the defaults when there is none and none was asked for.

    Raises:
        ConfigError: it cannot be read, or has mistakes; each is named with line and key.
    """
    return configured(read_config(path, must_exist=must_exist))


def sources_of(file: ConfigFile) -> Sources:
    """What a file that was read is made of, with the policies' files as they are now."""
    return Sources(file.text.encode("utf-8", "surrogatepass"), {each: _content(each) for each in policy_files(file)})


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
