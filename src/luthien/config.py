"""`luthien.yaml`: read with the line of every key, so that every mistake is named with its place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from luthien.errors import ConfigError
from luthien.open_paths import DEFAULT_OPEN, check_pattern

Loc = tuple[int | str, ...]

PUBLIC_UPSTREAMS = {"openai": "https://api.openai.com", "anthropic": "https://api.anthropic.com"}


_KEY_TAGS = frozenset({"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"})
_LIST, _MAPPING = "must be a list", "must be a mapping"
# pydantic's words are Python's; these are those of YAML.
_MESSAGES = {
    "extra_forbidden": "no such key",
    "missing": "is missing",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "tuple_type": _LIST,
    "frozen_set_type": _LIST,
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "model_type": _MAPPING,
}

Text = Annotated[str, StringConstraints(min_length=1)]
Flag = Annotated[bool, Field(strict=True)]


def _one_word(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value):
        raise ValueError("must be up to 64 letters, digits, dots, dashes and underscores")
    return value


def _digest(value: str) -> str:
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", value):
        raise ValueError("must be 64 hexadecimal digits, as `printf %s KEY | sha256sum` says them")
    return value.lower()


Name = Annotated[str, AfterValidator(_one_word)]


class UpstreamConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    """Where the provider's API begins, with or without the `/v1` that its SDK wants."""

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        parts = urlsplit(value)
        is_one_word = not any(char.isspace() for char in value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or not is_one_word or parts.port == 0:
            raise ValueError("must be an http:// or https:// address")
        if parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("must have no query, fragment or credentials")
        return value.rstrip("/").removesuffix("/v1")


class PolicyConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str
    """The name of a policy, or where its class is: `./my_policy.py:MyPolicy`, `package.module:MyPolicy`."""
    config: Mapping[str, Any] = Field(default_factory=dict)
    """Its own configuration."""
    on_error: Literal["block", "allow"] = "block"
    """Whether a call ends when the policy breaks, or goes on with what the policy was given."""
    mode: Literal["enforce", "shadow"] = "enforce"
    """In shadow, what the policy would have done is recorded, and the original is forwarded."""


class GroupPolicyConfig(PolicyConfig):
    """A policy of a group, or in its place a list that stands elsewhere in the file."""

    policy: str = ""
    use: str = ""
    """`default`, the policies of calls that no group takes, or the name of a group further up: its policies."""

    @model_validator(mode="after")
    def _is_one_of_them(self) -> GroupPolicyConfig:
        if bool(self.policy) == bool(self.use) or (self.use and self.model_fields_set != {"use"}):
            raise ValueError("must have `policy`, or `use` alone")
        return self


class MatchConfig(BaseModel):
    """Which calls a group takes: those for which all that is given here holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """Globs (`*`, `?`, `[ab]`) for the model that the client asks for, upper and lower case apart."""
    routes: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """Paths such as `/v1/messages`."""
    keys: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """Names of gateway keys."""


class GroupConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    match: MatchConfig
    policies: tuple[GroupPolicyConfig, ...]
    """The whole chain of the group's calls."""


class SecretConfig(BaseModel):
    """Where a secret is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: Text
    """The environment variable that holds it."""


class PresentedKeyConfig(BaseModel):
    """How a key that clients present is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: Text | None = None
    """The environment variable that holds it."""
    sha256: Annotated[str, AfterValidator(_digest)] | None = None
    """The SHA-256 of its UTF-8, in hexadecimal digits."""

    @model_validator(mode="after")
    def _is_one_of_them(self) -> PresentedKeyConfig:
        if (self.env is None) == (self.sha256 is None):
            raise ValueError("must have `env` or `sha256`")
        return self


class KeyConfig(BaseModel):
    """A gateway key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    """What the record calls it."""
    key: PresentedKeyConfig
    upstreams: dict[str, SecretConfig] = Field(default_factory=dict)
    """The provider's key that takes its place, by provider."""
    trusted: Flag = False
    """Whether the `traceparent` of who has it is joined instead of linked."""


class Config(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    upstreams: Annotated[dict[str, UpstreamConfig], Field(validate_default=True)] = Field(default_factory=dict)
    policies: tuple[PolicyConfig, ...] = ()
    passthrough: tuple[Annotated[str, AfterValidator(check_pattern)], ...] = DEFAULT_OPEN
    """What else is open below /v1/, without any policy; given, it replaces the default."""
    groups: tuple[GroupConfig, ...] = ()
    """The first one that matches a call says its policies; `policies` are for calls that none takes."""
    keys: tuple[KeyConfig, ...] = ()
    accept_provider_keys: Flag = True
    """Whether clients may bring a key of the provider's own, which is then passed on."""

    def upstream_url(self, provider: str) -> str:
        configured = self.upstreams.get(provider)
        return configured.url if configured else PUBLIC_UPSTREAMS[provider]


class _Loader(yaml.SafeLoader):
    """Says where a value stands that looks like a date or a number and is none."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise ConstructorError(None, None, str(error), node.start_mark) from None


class ConfigFile:
    """A parsed `luthien.yaml`, and where in it each key stands."""

    def __init__(self, name: str, text: str) -> None:
        self.path = Path(name)
        self.text = text
        self._name = name
        self._lines: dict[Loc, int] = {}
        self._mistakes: list[tuple[int, str]] = []
        self._indexed: set[yaml.Node] = set()
        self.config = Config()
        try:
            self.config = Config.model_validate(self._read(text))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            self._mistakes.append((mark.line + 1 if mark else 1, f"not YAML: {error.problem}"))
        except ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self._mistakes.append((line, f"not YAML: the character U+{ord(text[error.position]):04X}"))
        except RecursionError:
            self._mistakes.append((1, "nested too deeply to be read"))
        except ValidationError as error:
            self.blame(error, ())
        self._check_providers(("upstreams",), self.config.upstreams)
        for index, key in enumerate(self.config.keys):
            self._check_providers(("keys", index, "upstreams"), key.upstreams)
        self.check()

    def _check_providers(self, loc: Loc, named: Iterable[str]) -> None:
        for name in named:
            if name not in PUBLIC_UPSTREAMS:
                known = ", ".join(sorted(PUBLIC_UPSTREAMS))
                self.mistake((*loc, name), f"no such provider; known are {known}")

    def _read(self, text: str) -> Any:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return {}
        self._index(root, ())
        data = loader.construct_document(root)
        return {} if data is None else data

    def _index(self, node: yaml.Node, loc: Loc) -> None:
        self._lines.setdefault(loc, node.start_mark.line + 1)
        if node in self._indexed:  # by an alias, of which there may be very many, or one to what it is part of
            return
        self._indexed.add(node)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                at = (*loc, key.value if isinstance(key, yaml.ScalarNode) else "?")
                line = key.start_mark.line + 1
                if at in self._lines:
                    self._mistakes.append((line, f"{_path(at)}: given twice"))
                    continue
                if key.tag not in _KEY_TAGS:
                    self._mistakes.append((line, f"{_path(at)}: keys must be text; put it in quotes"))
                self._lines[at] = line
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
        items = error.errors(include_input=False, include_url=False)
        for item in items:
            where, kind = item["loc"], item["type"]
            # What is wrong inside is not counted, so that the whole then seems too short.
            is_echo = kind == "too_short" and any(len(other["loc"]) > len(where) for other in items)
            if is_echo or kind == "invalid_key" or "[key]" in where:
                continue
            message = _MESSAGES.get(kind) or item["msg"].removeprefix("Value error, ")
            self.mistake((*loc, *where), message[:1].lower() + message[1:])

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
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(f"there is no {path}; create it, or unset LUTHIEN_CONFIG") from None
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    return ConfigFile(str(path), text)
