"""Trace context on its way out: only hosts that are named get it, and never baggage.

A trace id tells whoever gets it which calls belong together, so nobody is told by default, providers neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from opentelemetry import baggage, propagate
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)

from luthien.hosts import HostPattern

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Propagation:
    """Who is told of traces, in the form that `OTEL_PROPAGATORS` says."""

    def __init__(self, hosts: Iterable[HostPattern] = ()) -> None:
        self._hosts = tuple(hosts)

    def reaches(self, url: str) -> bool:
        """Whether what is at this address is told."""
        if not self._hosts:
            return False
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".").lower()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return any(pattern.matches(host, port) for pattern in self._hosts)

    def headers(self, context: Context, url: str) -> Mapping[str, str]:
        """The headers that tell it of the context's span; none if it is not to know."""
        return trace_headers(context) if self.reaches(url) else NOTHING


def trace_headers(context: Context) -> dict[str, str]:
    """A span's context as headers."""
    headers: dict[str, str] = {}
    propagate.inject(headers, baggage.clear(context))
    return headers


class NoPropagation(TextMapPropagator):
    """Neither in nor out."""

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        return Context() if context is None else context

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        pass

    @property
    def fields(self) -> set[str]:
        return set()


def ensure_propagator() -> None:
    """With `OTEL_PROPAGATORS=none`, OpenTelemetry's own extracts None, on which every look at a context fails."""
    if propagate.extract({}) is None:
        propagate.set_global_textmap(NoPropagation())
