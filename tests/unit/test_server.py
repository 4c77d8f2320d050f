"""What the server is told."""

from __future__ import annotations

import uvicorn

from luthien.server import server_options
from luthien.settings import Settings


def test_a_worker_has_a_minute_to_load_its_modules() -> None:
    """As uvicorn takes it, whose own five seconds are too few for a busy machine."""
    options = server_options(Settings()) | {"log_config": None}
    assert uvicorn.Config("luthien.app:create_app", **options).timeout_worker_healthcheck == 60
