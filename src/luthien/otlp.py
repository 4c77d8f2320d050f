"""How each signal goes out over OTLP: the standard variables, as fields of the settings.

A field is named as its variable is, without `OTEL_EXPORTER_`: `otlp_traces_headers`. Those of one signal go before
those of all.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, AliasGenerator, Field, FilePath, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from luthien.errors import ConfigError
from luthien.headers import read_headers

Signal = Literal["traces", "metrics", "logs"]
SIGNALS: Final[tuple[Signal, ...]] = ("traces", "metrics", "logs")
Compression = Literal["gzip", "deflate", "none"]

_PROTOCOLS: Final = ("http/protobuf", "grpc")
_COMPRESSIONS: Final = ("gzip", "deflate", "none")
_TEMPORALITIES: Final = ("cumulative", "delta", "lowmemory")
_HISTOGRAMS: Final = ("explicit_bucket_histogram", "base2_exponential_bucket_histogram")

_GRPC_NAME: Final = re.compile(r"[0-9a-z_.-]+(?<!-bin)")

_Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
_SET_BY_THE_PROTOCOL: Final = frozenset(
    {"connection", "content-encoding", "content-length", "content-type", "te", "transfer-encoding"}
)


@dataclass(frozen=True, slots=True)
class Otlp:
    """Where and how one signal goes out; `endpoint` has the signal's path, where the protocol wants one."""

    endpoint: str
    protocol: str
    headers: Mapping[str, str] = field(repr=False)
    timeout_s: float
    compression: Compression
    certificate: str | None
    client_key: str | None
    client_certificate: str | None
    insecure: bool | None


def _variables(name: str) -> AliasChoices | None:
    return AliasChoices(f"OTEL_EXPORTER_{name.upper()}", name) if name.startswith("otlp_") else None


class OtlpSettings(BaseSettings):
    """Every `OTEL_EXPORTER_OTLP_*` variable."""

    model_config = SettingsConfigDict(
        alias_generator=AliasGenerator(validation_alias=_variables),  # type: ignore[arg-type] # None: no alias
        populate_by_name=True,
    )

    otlp_endpoint: str | None = None
    otlp_traces_endpoint: str | None = None
    otlp_metrics_endpoint: str | None = None
    otlp_logs_endpoint: str | None = None
    otlp_protocol: str = "http/protobuf"
    otlp_traces_protocol: str | None = None
    otlp_metrics_protocol: str | None = None
    otlp_logs_protocol: str | None = None
    otlp_headers: SecretStr | None = None
    otlp_traces_headers: SecretStr | None = None
    otlp_metrics_headers: SecretStr | None = None
    otlp_logs_headers: SecretStr | None = None
    otlp_timeout: _Seconds = 3.0
    otlp_traces_timeout: _Seconds | None = None
    otlp_metrics_timeout: _Seconds | None = None
    otlp_logs_timeout: _Seconds | None = None
    otlp_compression: str = "gzip"
    otlp_traces_compression: str | None = None
    otlp_metrics_compression: str | None = None
    otlp_logs_compression: str | None = None
    otlp_certificate: FilePath | None = None
    otlp_traces_certificate: FilePath | None = None
    otlp_metrics_certificate: FilePath | None = None
    otlp_logs_certificate: FilePath | None = None
    otlp_client_key: FilePath | None = None
    otlp_traces_client_key: FilePath | None = None
    otlp_metrics_client_key: FilePath | None = None
    otlp_logs_client_key: FilePath | None = None
    otlp_client_certificate: FilePath | None = None
    otlp_traces_client_certificate: FilePath | None = None
    otlp_metrics_client_certificate: FilePath | None = None
    otlp_logs_client_certificate: FilePath | None = None
    otlp_insecure: bool | None = None
    otlp_traces_insecure: bool | None = None
    otlp_metrics_insecure: bool | None = None
    otlp_logs_insecure: bool | None = None

    otlp_metrics_temporality_preference: str = "cumulative"
    otlp_metrics_default_histogram_aggregation: str = "explicit_bucket_histogram"

    @field_validator("otlp_metrics_temporality_preference")
    @classmethod
    def _is_a_temporality(cls, value: str) -> str:
        if value.lower() not in _TEMPORALITIES:
            raise ValueError("must be cumulative, delta or lowmemory")
        return value.lower()

    @field_validator("otlp_metrics_default_histogram_aggregation")
    @classmethod
    def _is_an_aggregation(cls, value: str) -> str:
        if value.lower() not in _HISTOGRAMS:
            raise ValueError("must be explicit_bucket_histogram or base2_exponential_bucket_histogram")
        return value.lower()

    @field_validator("otlp_protocol", "otlp_traces_protocol", "otlp_metrics_protocol", "otlp_logs_protocol")
    @classmethod
    def _is_spoken(cls, value: str | None) -> str | None:
        if value not in (*_PROTOCOLS, None):
            raise ValueError("must be http/protobuf or grpc; http/json is not spoken")
        return value

    @field_validator(
        "otlp_compression", "otlp_traces_compression", "otlp_metrics_compression", "otlp_logs_compression"
    )
    @classmethod
    def _compresses(cls, value: str | None) -> str | None:
        if value not in (*_COMPRESSIONS, None):
            raise ValueError("must be gzip, deflate or none")
        return value

    @field_validator("otlp_headers", "otlp_traces_headers", "otlp_metrics_headers", "otlp_logs_headers")
    @classmethod
    def _are_headers(cls, value: SecretStr | None) -> SecretStr | None:
        # The exporters would write what they do not understand into the log.
        if value is not None:
            for name in read_headers(value.get_secret_value()):
                if name in _SET_BY_THE_PROTOCOL or name.startswith("grpc-"):
                    raise ValueError(f"must not have {name}, which belongs to the protocol")
        return value

    def has_endpoint(self, signal: Signal) -> bool:
        return bool(self.otlp_endpoint or getattr(self, f"otlp_{signal}_endpoint"))

    def otlp(self, signal: Signal) -> Otlp:
        """What the variables say of one signal.

        Raises:
            ConfigError: its endpoint is no address or a header no name that its protocol could use, or a file no
                certificate.
        """
        own = {name: getattr(self, f"otlp_{signal}_{name}") for name in _OPTIONS}
        said = {name: getattr(self, f"otlp_{name}") if own[name] is None else own[name] for name in _OPTIONS}

        def variable(name: str) -> str:
            return f"OTEL_EXPORTER_OTLP_{'' if own[name] is None else f'{signal}_'}{name}".upper()

        protocol = said["protocol"]
        endpoint = _address(said["endpoint"] or "", variable("endpoint"), protocol)
        headers = {} if said["headers"] is None else read_headers(said["headers"].get_secret_value())
        if protocol == "grpc" and not all(map(_GRPC_NAME.fullmatch, headers)):
            must = "must have names of letters, digits, '_', '.' and '-', and none that ends in -bin, for gRPC"
            raise _wrong(variable("headers"), must)
        if protocol != "grpc" and own["endpoint"] is None:
            endpoint = f"{endpoint.rstrip('/')}/v1/{signal}"
        _check_certificates(said, variable)
        return Otlp(
            endpoint=endpoint,
            protocol=protocol,
            headers=headers,
            timeout_s=said["timeout"],
            compression=said["compression"],
            certificate=_text(said["certificate"]),
            client_key=_text(said["client_key"]),
            client_certificate=_text(said["client_certificate"]),
            insecure=said["insecure"],
        )


_OPTIONS: Final = (
    "endpoint",
    "protocol",
    "headers",
    "timeout",
    "compression",
    "certificate",
    "client_key",
    "client_certificate",
    "insecure",
)


def _check_certificates(said: Mapping[str, Any], variable: Callable[[str], str]) -> None:
    """gRPC would end the whole process over some of them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if said["certificate"] is not None:
        try:
            context.load_verify_locations(said["certificate"])
        except (OSError, ValueError):
            raise _wrong(variable("certificate"), "must be a file with certificates in PEM") from None
    if said["client_certificate"] is None:
        if said["client_key"] is not None:
            raise _wrong(variable("client_key"), "has no certificate: set that in CLIENT_CERTIFICATE, too")
        return
    try:
        context.load_cert_chain(said["client_certificate"], said["client_key"], password="")
    except (OSError, ValueError):
        key = "its key, if CLIENT_KEY is not set" if said["client_key"] is None else "CLIENT_KEY that of it"
        must = f"must be a file with a certificate in PEM, and {key}; the key without a password"
        raise _wrong(variable("client_certificate"), must) from None


def _address(endpoint: str, variable: str, protocol: str) -> str:
    try:
        parts = urlsplit(endpoint)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_web = False
    is_one_word = endpoint.isprintable() and " " not in endpoint
    if not endpoint or not is_one_word or (not is_web and (protocol != "grpc" or "://" in endpoint)):
        raise _wrong(variable, "must be an address that begins with http:// or https://")
    return endpoint


def _wrong(variable: str, must: str) -> ConfigError:
    return ConfigError(f"these settings are wrong:\n  {variable}: {must}")


def _text(path: object) -> str | None:
    return None if path is None else str(path)
