"""What an exception looks like in the logs."""

from __future__ import annotations

import io
import json
import logging
from typing import NamedTuple

import pytest

from luthien.telemetry.logs import JsonFormatter, TextFormatter, logging_config


class Told(NamedTuple):
    """A logger that nobody else listens to, and what it has said."""

    log: logging.Logger
    stream: io.StringIO

    def __str__(self) -> str:
        return self.stream.getvalue()


@pytest.fixture(params=["text", "json"])
def told(request: pytest.FixtureRequest) -> Told:
    """In one of the forms."""
    said = Told(logging.Logger("test"), io.StringIO())  # noqa: LOG001 - nobody else is to listen
    handler = logging.StreamHandler(said.stream)
    form = logging_config("INFO", request.param)["formatters"]["text"]["fmt"]
    handler.setFormatter(TextFormatter(form) if request.param == "text" else JsonFormatter())
    said.log.addHandler(handler)
    return said


def test_an_exception_is_told_without_its_text_which_may_quote_a_payload(told: Told) -> None:
    try:
        json.loads("my secret")
    except ValueError as error:
        try:
            raise LookupError("my secret") from error
        except LookupError:
            told.log.exception("it broke")
    said = str(told)
    assert "it broke" in said
    assert "LookupError" in said
    assert "test_log_texts.py" in said
    assert "secret" not in said


def test_a_line_cannot_look_like_several_nor_talk_to_the_terminal(told: Told) -> None:
    told.log.warning("model %s", "a\nERROR forged\r\x1b[31m\x9b\u202e\ud800 é" + "x" * 100_000)
    [line] = str(told).splitlines()
    assert line.isprintable()
    assert "ERROR forged" in line
    assert len(line) < 10_000


class Unspeakable:
    def __str__(self) -> str:
        raise ValueError("my secret")


@pytest.mark.parametrize("arguments", [("my secret", "more"), (Unspeakable(),), ()])
def test_a_line_that_cannot_be_told_says_so_much(
    told: Told, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...]
) -> None:
    """Logging itself would leave the line out, and quote its arguments."""
    extra = {"number": float("nan"), "pair": {(1, 2): 3}, "object": Unspeakable()}
    told.log.warning("saw %s", *arguments, extra=extra)
    assert "saw %s" in str(told)
    assert "secret" not in str(told) + capsys.readouterr().err
