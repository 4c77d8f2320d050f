"""Writes tables of documents from the conventions; the words around them stay as they are.

    python -m luthien.telemetry.document docs/telemetry.md docs/logs.md

A table stands between `<!-- table: spans -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from luthien.telemetry.conventions import (
    CALL_ID,
    CONVENTIONS,
    GEN_AI,
    ONLY_ON_METRICS,
    OTEL,
    OURS,
    SERVER_SPAN_ATTRIBUTES,
    Convention,
)
from luthien.telemetry.notes import NOTES

_SOURCES = {OURS: "Luthien", GEN_AI: f"[GenAI]({GEN_AI})", OTEL: f"[OpenTelemetry]({OTEL})"}
_PROMETHEUS_UNITS = {"s": "_seconds", "By": "_bytes", "ms": "_milliseconds"}
_NONE = "\N{EN DASH}"
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(text: str) -> str:
    """The document with its tables as the conventions have them; KeyError for a table that there is none of."""
    return _TABLE.sub(lambda found: f"{found[1]}{_TABLES[found[2]]()}{found[3]}", text)


def name_in_prometheus(metric: Convention) -> str:
    """What the metric is called there; of a histogram, what `_bucket`, `_sum` and `_count` are put after."""
    name = re.sub(r"[^a-zA-Z0-9]+", "_", metric.name)
    unit = _PROMETHEUS_UNITS.get(metric.unit, "")
    ending = "_total" if metric.instrument == "counter" else ""
    return f"{name}{'' if name.endswith(unit) else unit}{ending}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell or _NONE for cell in line)} |\n" for line in lines)


def _of_kind(kind: str) -> list[Convention]:
    return [each for each in CONVENTIONS.values() if each.kind == kind]


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _described(kind: str) -> Callable[[], str]:
    def table() -> str:
        rows = ((f"`{each.name}`", each.meaning, _SOURCES[each.source]) for each in _of_kind(kind))
        return _table((kind, "meaning", "source"), rows)

    return table


def _attributes() -> str:
    return _table(
        ("attribute", "unit", "where", "meaning", "source"),
        (
            (f"`{each.name}`", each.unit, _where(each), each.meaning, _SOURCES[each.source])
            for each in _of_kind("attribute")
        ),
    )


def _where(attribute: Convention) -> str:
    if attribute.name in ONLY_ON_METRICS:
        return "metrics only"
    return "exported" if attribute.exported else "record only"


def _server() -> str:
    return f"{_code(sorted(SERVER_SPAN_ATTRIBUTES))}\n"


def _metrics() -> str:
    return _table(
        ("metric", "in Prometheus", "instrument", "unit", "attributes", "meaning", "source"),
        (
            (
                f"`{each.name}`",
                f"`{name_in_prometheus(each)}`",
                each.instrument,
                each.unit,
                _code(each.attributes),
                NOTES.get(each.name, each.meaning),
                _SOURCES[each.source],
            )
            for each in _of_kind("metric")
        ),
    )


def _fields() -> str:
    """The fields that any log line may have."""
    of_some = {name for each in _of_kind("log") for name in each.attributes}
    of_any = [each for each in _of_kind("log") if each.name not in of_some and not each.attributes]
    fields = [*of_any, CONVENTIONS["attribute", CALL_ID]]
    return _table(("field", "meaning", "source"), ((f"`{e.name}`", e.meaning, _SOURCES[e.source]) for e in fields))


_TABLES: dict[str, Callable[[], str]] = {
    "spans": _described("span"),
    "events": _described("event"),
    "attributes": _attributes,
    "server": _server,
    "metrics": _metrics,
    "resource": _described("resource"),
    "fields": _fields,
}


if __name__ == "__main__":
    for document in map(Path, sys.argv[1:]):
        document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")
