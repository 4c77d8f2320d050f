"""`luthien.yaml`: read with the line of every key, so that every mistake is named with its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from luthien.errors import ConfigError

Loc = tuple[int | str, ...]

PUBLIC_UPSTREAMS = {"openai": "https://api.openai.com", "anthropic": "https://api.anthropic.com"}


class UpstreamConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    """Where the provider's API begins, with or without the `/v1` that its SDK wants."""

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an http:// or https:// address")
        if parts.query or parts.fragment or parts.username:
            raise ValueError("must have no query, fragment or credentials")
        return value.rstrip("/").removesuffix("/v1")


class PolicyConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str
    """The name of the policy."""
    config: Mapping[str, Any] = Field(default_factory=dict)
    """Its own configuration."""


class Config(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    upstreams: Annotated[dict[str, UpstreamConfig], Field(validate_default=True)] = Field(
        default_factory=dict
    )
    policies: tuple[PolicyConfig, ...] = ()

    def upstream_url(self, provider: str) -> str:
        configured = self.upstreams.get(provider)
        return configured.url if configured else PUBLIC_UPSTREAMS[provider]


class ConfigFile:
    """A parsed `luthien.yaml`, and where in it each key stands."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._lines: dict[Loc, int] = {}
        self._mistakes: list[tuple[int, str]] = []
        self.config = Config()
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            data = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            self._mistakes.append((mark.line + 1 if mark else 1, f"not YAML: {error.problem}"))
            self.check()
        if root is not None:
            self._index(root, ())
        try:
            self.config = Config.model_validate({} if data is None else data)
        except ValidationError as error:
            self.blame(error, ())
        for name_ in self.config.upstreams:
            if name_ not in PUBLIC_UPSTREAMS:
                known = ", ".join(sorted(PUBLIC_UPSTREAMS))
                self.mistake(("upstreams", name_), f"no such provider; known are {known}")
        self.check()

    def _index(self, node: yaml.Node, loc: Loc) -> None:
        self._lines.setdefault(loc, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                at = (*loc, str(key.value))
                if at in self._lines:
                    self._mistakes.append((key.start_mark.line + 1, f"{_path(at)}: given twice"))
                self._lines[at] = key.start_mark.line + 1
                self._index(value, at)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._index(item, (*loc, index))

    def mistake(self, loc: Loc, message: str) -> None:
        """Notes a mistake at a key, or at the nearest key above it that is there."""
        found = loc
        while found and found not in self._lines:
            found = found[:-1]
        self._mistakes.append((self._lines.get(found, 1), f"{_path(loc)}: {message}"))

    def blame(self, error: ValidationError, loc: Loc) -> None:
        """Notes every mistake that pydantic found in what stands at `loc`."""
        for item in error.errors(include_input=False, include_url=False):
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                message = "no such key"
            self.mistake((*loc, *item["loc"]), message[:1].lower() + message[1:])

    def check(self) -> None:
        """Raises `ConfigError` with every mistake noted so far, in the order of the file."""
        if self._mistakes:
            lines = [f"  {self._name}:{line}: {text}" for line, text in sorted(self._mistakes)]
            raise ConfigError("\n".join(["the configuration has mistakes:", *lines]))


def _path(loc: Iterable[int | str]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".") or "the file"


def read_config(path: Path, *, must_exist: bool = False) -> ConfigFile:
    """The configuration file; the defaults when there is none and none was asked for.

    Raises:
        ConfigError: it cannot be read, or has mistakes; each is named with line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(f"there is no {path}; create it, or unset LUTHIEN_CONFIG") from None
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    return ConfigFile(str(path), text)
