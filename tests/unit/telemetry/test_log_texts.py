"""What an exception looks like in the logs."""

from __future__ import annotations

import io
import json
import logging
import logging.config
from typing import Any

import pytest

from luthien.telemetry.logs import logging_config


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_is_told_without_its_text_which_may_quote_a_payload(form: str) -> None:
    config = logging_config("INFO", form)
    formatter: dict[str, Any] = {form: config["formatters"][form]}
    stream = io.StringIO()
    handler = {"class": "logging.StreamHandler", "stream": stream, "formatter": form}
    logger = {"handlers": ["here"], "propagate": False}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": formatter,
            "handlers": {"here": handler},
            "loggers": {"test": logger},
        }
    )
    try:
        json.loads("my secret")
    except ValueError as error:
        try:
            raise LookupError("my secret") from error
        except LookupError:
            logging.getLogger("test").exception("it broke")
    told = stream.getvalue()
    assert "it broke" in told
    assert "LookupError" in told
    assert "test_log_texts.py" in told
    assert "secret" not in told
