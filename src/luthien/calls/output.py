"""Where a command's output goes, and how what goes wrong is said.

Status: 0 when all is well, 1 when `diff` found a change, 2 for a mistake in what was asked or in the settings, 3 when
there is no such call or what is asked for is not in its record, 4 when the database cannot be asked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from luthien.calls.ink import VARIABLES, Ink, ink_for, plain
from luthien.calls.record import NoSuchCall
from luthien.debug.export.parties import NotInRecord
from luthien.debug.search.filters import FilterError
from luthien.errors import LuthienError, StoreError
from luthien.settings import from_environment

MISTAKE, NOT_THERE, AWAY, PIPE_CLOSED = 2, 3, 4, 141


@contextmanager
def guarded() -> Iterator[None]:
    """Every failure in one line of words and with its status; a reader who has had enough is none."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes
        raise typer.Exit(PIPE_CLOSED) from None
    except FilterError as error:
        _fail(f"--{error.parameter.replace('_', '-')}{str(error).removeprefix(error.parameter)}", MISTAKE)
    except (NoSuchCall, NotInRecord) as missing:
        _fail(str(missing), NOT_THERE)
    except StoreError as error:
        _fail(str(error), AWAY)
    except LuthienError as error:
        _fail(str(error), MISTAKE)
    except OSError as error:
        _fail(str(error), MISTAKE)


def _fail(message: str, status: int) -> None:
    typer.echo(f"luthien: {plain(message)}", err=True)
    raise typer.Exit(status)


def is_json(as_json: bool | None) -> bool:
    return not sys.stdout.isatty() if as_json is None else as_json


def output_ink() -> Ink:
    return ink_for(sys.stdout, {name: from_environment(name) or "" for name in VARIABLES})


def print_lines(lines: Iterable[str]) -> None:
    """Lines as they come, in whatever encoding there is."""
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")


@contextmanager
def opened_output(output: Path | None) -> Iterator[Callable[[bytes], object]]:
    """Where bytes go. A file is there only once it is whole, unless it is a device or a pipe."""
    if output is None:
        sys.stdout.flush()
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    if output.exists() and not output.is_file():
        with output.open("wb") as device:
            yield device.write
        return
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        # A record is other people's secrets.
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file.write
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
