"""Secrets of policies: named in `luthien.yaml`, and taken from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import PlainValidator, SecretStr

from luthien.settings import from_environment


def _named(value: object) -> SecretStr | None:
    """The secret that `{env: NAME}` means; None if it is written in another way."""
    if not isinstance(value, Mapping) or [*value] != ["env"] or not isinstance(value["env"], str):
        return None
    name = value["env"]
    secret = (from_environment(name) or "").strip()
    if not secret:
        raise ValueError(f"the environment variable {name} is not set")
    if not (secret.isascii() and secret.isprintable()):
        raise ValueError(f"the environment variable {name} holds what no header may hold")
    return SecretStr(secret)


def _secret(value: object) -> SecretStr:
    secret = value if isinstance(value, SecretStr) else _named(value)
    if secret is None:
        raise ValueError("must be {env: NAME}, the name of an environment variable")
    return secret


Secret = Annotated[SecretStr, PlainValidator(_secret)]
"""A secret in a policy's configuration: `{env: NAME}`."""


class Whose(StrEnum):
    """Whose credential a policy shows when it asks a model."""

    CLIENT = "client"
    """That of the client whose call it is; for a model of the same provider only."""
    NONE = "none"
    OWN = "own"
    """The one in the environment."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a policy shows to the provider of a model. `secret` is its own."""

    whose: Whose
    secret: SecretStr | None = None


def _shown(value: object) -> Shown:
    if isinstance(value, Shown):
        return value
    if isinstance(value, str) and value in (Whose.CLIENT, Whose.NONE):
        return Shown(Whose(value))
    secret = _named(value)
    if secret is None:
        raise ValueError("must be client, none or {env: NAME}, the name of an environment variable")
    return Shown(Whose.OWN, secret)


Credential = Annotated[Shown, PlainValidator(_shown)]
"""What a policy shows to a model's provider, in its configuration: `client`, `none` or `{env: NAME}`."""

NO_CREDENTIAL = Shown(Whose.NONE)
