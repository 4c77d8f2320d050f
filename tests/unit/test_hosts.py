"""Hosts as they stand in a setting."""

from __future__ import annotations

import pytest

from luthien.errors import ConfigError
from luthien.hosts import HostPattern
from luthien.settings import Settings, read_settings
from luthien.telemetry.propagation import Propagation


@pytest.mark.parametrize(
    ("pattern", "url", "is_told"),
    [
        ("example.com", "https://example.com/v1", True),
        ("Example.COM", "https://EXAMPLE.com./v1", True),
        ("example.com", "https://notexample.com", False),
        ("example.com", "https://example.com.evil.test", False),
        ("example.com", "https://api.example.com", False),
        ("*.example.com", "https://api.example.com", True),
        ("*.example.com", "https://a.b.example.com", True),
        ("*.example.com", "https://example.com", False),
        ("*.example.com", "https://badexample.com", False),
        ("example.com:8443", "https://example.com:8443/x", True),
        ("example.com:8443", "https://example.com/x", False),
        ("example.com:443", "https://example.com/x", True),
        ("example.com:80", "http://example.com/x", True),
        ("[::1]", "http://[::1]:9000/x", True),
        ("[::1]:9001", "http://[::1]:9000/x", False),
        ("127.0.0.1", "http://user@127.0.0.1:1/?host=example.com", True),
        ("example.com", "https://example.com@other.test/", False),
    ],
)
def test_who_is_told_of_traces(pattern: str, url: str, is_told: bool) -> None:
    assert Propagation([HostPattern.parse(pattern)]).reaches(url) is is_told


@pytest.mark.parametrize(
    "wrong", ["*", "*.", "https://example.com", "example.com/x", "a b", "*.*.com", "host:0", "host:99999", "::1", "-"]
)
def test_what_is_no_host_is_refused_with_the_variable(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIEN_PROPAGATE_TO", f"example.com, {wrong}")
    with pytest.raises(ConfigError, match=r"LUTHIEN_PROPAGATE_TO: .*is no host"):
        read_settings()


def test_nobody_is_told_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().propagate_to == ()
    monkeypatch.setenv("LUTHIEN_PROPAGATE_TO", " a.test , *.b.test:81 ,")
    assert read_settings().propagate_to == (HostPattern("a.test"), HostPattern("*.b.test", 81))
