"""What the tests of all clients share."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import certifi
import pytest

from tests.integration.clients.setting import Setting, setting
from tests.integration.clients.vercel_players import Play, vercel_players


@pytest.fixture(scope="package")
def scene(shared_record_database: str, one_certificate: None) -> Iterator[Setting]:
    """The provider and its gateways, for all tests of this folder: each names its own model."""
    with setting(shared_record_database) as running:
        yield running


@pytest.fixture(scope="package")
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nobody here speaks TLS, and to load the certificates of the world for each client takes longer than a call."""
    path = tmp_path_factory.mktemp("tls") / "one.pem"
    end = "-----END CERTIFICATE-----\n"
    path.write_text(certifi.contents().partition(end)[0] + end)
    ssl.create_default_context(cafile=path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture(scope="package")
def play() -> Iterator[Play]:
    """The Vercel AI SDK, in a process of its own."""
    with vercel_players() as players:
        yield players
