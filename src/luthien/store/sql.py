"""The named statements of queries.sql."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import LiteralString

_NAME = re.compile(r"^-- (name|part): (\w+)\n", re.MULTILINE)
_COMMENTS = re.compile(r"^--.*\n", re.MULTILINE)
_PLACE = re.compile(r"^( *)(.*?)<<(\w+)>>", re.MULTILINE)


@cache
def _statements() -> dict[str, str]:
    text = resources.files("luthien.store").joinpath("queries.sql").read_text(encoding="utf-8")
    found = _NAME.split(text)
    kinds = {"name": dict[str, str](), "part": dict[str, str]()}
    for kind, name, body in zip(found[1::3], found[2::3], found[3::3], strict=True):
        kinds[kind][name] = body.strip() if kind == "name" else _COMMENTS.sub("", body).strip()
    return {name: _put_together(statement, kinds["part"]) for name, statement in kinds["name"].items()}


def _put_together(statement: str, parts: dict[str, str]) -> str:
    """The statement with the parts that it names as `<<part>>` in their places, and those that these name."""

    def part(place: re.Match[str]) -> str:
        return place[1] + place[2] + _put_together(parts[place[3]], parts).replace("\n", f"\n{place[1]}")

    return _PLACE.sub(part, statement)


def query(name: str) -> LiteralString:
    """The statement of that name. Every one is our own text: values go in as parameters."""
    return _statements()[name]
