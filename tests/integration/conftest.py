"""A receiver of OTLP, and gateways that export to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from tests.otlp_receiver import OtlpReceiver, exports_unhurried, otlp_receiver
from tests.playbook import Gateway, ScriptedProvider, running_gateway

StartGateway = Callable[..., AbstractContextManager[Gateway]]


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as running:
        yield running


@pytest.fixture
def start(
    record_database: str, provider: ScriptedProvider, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> StartGateway:
    """Starts a gateway that exports to the receiver; all is exported once it has stopped."""
    exports_unhurried(monkeypatch, receiver)

    @contextmanager
    def started(policies: list[dict[str, Any]] | None = None, **settings: Any) -> Iterator[Gateway]:
        with running_gateway(record_database, provider.url, policies, **settings) as gateway:
            yield gateway

    return started
