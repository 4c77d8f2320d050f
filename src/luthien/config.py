"""What may stand in `luthien.yaml`; `config_file` reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from luthien.open_paths import DEFAULT_OPEN, check_pattern

PUBLIC_UPSTREAMS = {"openai": "https://api.openai.com", "anthropic": "https://api.anthropic.com"}

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
