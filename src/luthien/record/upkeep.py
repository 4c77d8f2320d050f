"""What the record needs from time to time, whether calls come or not: a thread that sees to it.

It has a connection of its own, so that nothing it waits for holds the writer up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from luthien.store.worker import Worker

_log = logging.getLogger(__name__)

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to be done every so many seconds, for the first time at once.

    `do` is given a connection in autocommit mode. What it raises is logged; the chore is tried again next time.
    `at_end` is done once more when the process stops in an orderly way, if the database is there.
    """

    name: str
    every_s: float
    do: Callable[[Connection], None]
    at_end: Callable[[Connection], None] | None = None


class Upkeep(Worker):
    """Does chores until it is stopped, and then what is to be done at the end."""

    def __init__(self, dsn: str, chores: Sequence[Chore]) -> None:
        super().__init__(dsn, "luthien-upkeep", _log)
        self._chores = chores
        self._due_at = [0.0] * len(chores)

    def _work(self) -> None:
        while not self._stopping.wait(max(0.0, min(self._due_at) - time.monotonic())):
            for number, chore in enumerate(self._chores):
                if self._due_at[number] <= time.monotonic() and not self._stopping.is_set():
                    self._attempt(chore.name, chore.do)
                    self._due_at[number] = time.monotonic() + chore.every_s
        for chore in self._chores:
            if chore.at_end is not None:
                self._attempt(chore.name, chore.at_end)

    def _attempt(self, name: str, do: Callable[[Connection], None]) -> None:
        try:
            do(self._connected())
        except Exception as error:  # noqa: BLE001 - the upkeep's loop: one chore that fails must not end the others
            self._disconnect()
            self._say_trouble(name, f"upkeep: {name} failed", error)
        else:
            self._troubled.discard(name)
