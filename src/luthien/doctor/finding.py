"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, and what to do unless it is as it should be.

    Never with a credential or a piece of a payload.
    """

    check: str
    level: Level
    found: str
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.level:8} {self.check:18} {self.found}" + (f". {self.todo}" if self.todo else "")


def ok(check: str, found: str) -> Finding:
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, todo: str = "") -> Finding:
    return Finding(check, Level.WARNING, found, todo)


def problem(check: str, found: str, todo: str = "") -> Finding:
    return Finding(check, Level.PROBLEM, found, todo)
