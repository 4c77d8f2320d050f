"""Programs that tests run and no wheel brings: each is in a package of Debian's."""

from __future__ import annotations

import os
import shutil

import pytest

PACKAGES = {
    "chromium": "chromium",
    "curl": "curl",
    "docker-compose": "docker-compose",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "promtool": "prometheus",
}


def program(name: str) -> str:
    """Where it is. Without it the test is skipped, and says what to install; in CI it fails."""
    path = shutil.which(name)
    if path is None:
        missing = f"{name} is not installed: it is in Debian's package {PACKAGES[name]}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return path
