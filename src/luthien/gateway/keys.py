"""Gateway keys: what a client shows instead of a provider's key, and what the provider is shown in its place."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from pydantic import SecretStr

from luthien.config import KeyConfig
from luthien.config_file import ConfigFile, Loc
from luthien.errors import ClientError
from luthien.settings import from_environment

Headers = list[tuple[bytes, bytes]]

_MIN_CHARS = 16
_BETWEEN_VALUES = re.compile(rb"[&;=]")
_SPACE = re.compile(rb"[ +]")
_SHOWN_IN = frozenset({b"authorization", b"x-api-key"})


@dataclass(frozen=True, slots=True)
class GatewayKey:
    """A key by its SHA-256, and the providers' keys that take its place, by provider."""

    name: str
    sha256: bytes
    provider_keys: Mapping[str, SecretStr]
    is_trusted: bool = False


@dataclass(frozen=True, slots=True)
class Admission:
    """What becomes of a request: the headers that go on, whose key it came with, and why it goes no further."""

    headers: Headers
    key: str | None = None
    refusal: ClientError | None = None


@dataclass(frozen=True, slots=True)
class Keyring:
    """All gateway keys, and whether clients may also bring a key of the provider's own."""

    keys: tuple[GatewayKey, ...] = ()
    accepts_provider_keys: bool = True

    def admit(self, headers: Headers, query: bytes, provider: str) -> Admission:
        """What becomes of a request to a provider."""
        if not self.keys and self.accepts_provider_keys:
            return Admission(headers)
        key, secret = self._find(headers)
        if key is None:
            refusal = None if self.accepts_provider_keys else _unknown_key()
            return Admission(headers, refusal=self._key_in(query) or refusal)
        # Wherever else the client put it, it does not go on.
        if secret in unquote_to_bytes(query) or self._key_in(query):
            return Admission([], key.name, _key_in_query())
        others = [(name, value) for name, value in headers if name not in _SHOWN_IN and secret not in value]
        provider_key = key.provider_keys.get(provider)
        if provider_key is None:
            return Admission(others, key.name, _no_provider_key(key.name, provider))
        return Admission([*others, _credential(provider, provider_key.get_secret_value())], key.name)

    def _key_in(self, query: bytes) -> ClientError | None:
        """Why a request with such a query goes no further: the URL is kept on the way, and would be passed on."""
        digests = {key.sha256 for key in self.keys}
        is_shown = any(hashlib.sha256(value).digest() in digests for value in _values_in(query))
        return _key_in_query() if is_shown else None

    def trusts(self, headers: Headers) -> bool:
        """Whether a request comes with a key whose holder's traces are joined."""
        key, _ = self._find(headers) if self.keys else (None, b"")
        return key is not None and key.is_trusted

    def _find(self, headers: Headers) -> tuple[GatewayKey | None, bytes]:
        """The key that a request came with, and how it is spelled. How long it takes says nothing of the keys."""
        found: GatewayKey | None = None
        spelled = b""
        for secret in filter(None, _shown(headers)):
            digest = hashlib.sha256(secret).digest()
            for key in self.keys:
                if hmac.compare_digest(digest, key.sha256) and found is None:
                    found, spelled = key, secret
        return found, spelled


def _shown(headers: Headers) -> Iterator[bytes]:
    """What the headers that clients of all formats use say, whichever of them this one is."""
    for name, value in headers:
        if name == b"x-api-key":
            yield value.strip()
        elif name == b"authorization":
            scheme, _, secret = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield secret.strip()


def _values_in(query: bytes) -> Iterator[bytes]:
    """All that may be a key there: each name and each value, and what follows a scheme in it."""
    for part in filter(None, _BETWEEN_VALUES.split(query)):
        value = unquote_to_bytes(part)
        yield value
        yield _SPACE.split(value)[-1]


def _credential(provider: str, secret: str) -> tuple[bytes, bytes]:
    value = secret.encode("latin-1")
    return (b"x-api-key", value) if provider == "anthropic" else (b"authorization", b"Bearer " + value)


def _unknown_key() -> ClientError:
    message = "a gateway key is wanted: as bearer token in `authorization`, or in `x-api-key`"
    return ClientError(message, status=401, code="invalid_api_key")


def _key_in_query() -> ClientError:
    message = (
        "a gateway key stands in the URL, where it is not kept secret: show it in `authorization` or `x-api-key`"
    )
    return ClientError(message, status=400, code="key_in_query")


def _no_provider_key(name: str, provider: str) -> ClientError:
    message = f"the gateway key {name!r} is not for {provider}: luthien.yaml gives it no key of that provider"
    return ClientError(message, status=403, code="no_provider_key")


def load_keyring(file: ConfigFile) -> Keyring:
    """The keys of a configuration file, their secrets from the environment; its `check` raises the mistakes."""
    config = file.config
    keys: list[GatewayKey] = []
    for index, entry in enumerate(config.keys):
        at = ("keys", index)
        if any(known.name == entry.name for known in config.keys[:index]):
            file.mistake((*at, "name"), f"{entry.name!r} is taken")
        providers = {
            name: _secret(file, (*at, "upstreams", name, "env"), secret.env)
            for name, secret in entry.upstreams.items()
        }
        sha256 = _sha256_of(file, (*at, "key"), entry)
        if sha256 is None:
            continue
        for known in keys:
            if hmac.compare_digest(known.sha256, sha256):
                file.mistake((*at, "key"), f"is the key {known.name!r} once more")
        keys.append(GatewayKey(entry.name, sha256, providers, entry.trusted))
    if not config.accept_provider_keys and not config.keys:
        file.mistake(("accept_provider_keys",), "without keys, nobody could make a call")
    return Keyring(tuple(keys), config.accept_provider_keys)


def _sha256_of(file: ConfigFile, at: Loc, entry: KeyConfig) -> bytes | None:
    """None when it is a mistake."""
    if entry.key.sha256 is not None:
        return bytes.fromhex(entry.key.sha256)
    variable = entry.key.env or ""
    secret = _secret(file, (*at, "env"), variable).get_secret_value()
    if 0 < len(secret) < _MIN_CHARS:
        file.mistake((*at, "env"), f"{variable} is too easy to guess: a key has at least {_MIN_CHARS} characters")
    return hashlib.sha256(secret.encode()).digest() if secret else None


def _secret(file: ConfigFile, at: Loc, variable: str) -> SecretStr:
    found = SecretStr(from_environment(variable) or "")
    secret = found.get_secret_value()
    if not secret:
        file.mistake(at, f"the environment variable {variable} is not set")
    elif not (secret.isascii() and secret.isprintable()) or " " in secret:
        file.mistake(at, f"the environment variable {variable} holds what no key has: a space, or no ASCII")
    return found


def environment_variables(keys: Sequence[KeyConfig]) -> set[str]:
    """The environment variables that keys are read from."""
    named = {secret.env for key in keys for secret in key.upstreams.values()}
    return named | {key.key.env for key in keys if key.key.env is not None}
