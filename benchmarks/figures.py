"""What a benchmark of gateways found: medians, ratios within the rounds, and how both are shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

TARGET = 1.6
"""How many times the CPU of a bare pass-through a recorded call may take at most."""

SPOOL_TARGET_US = 60
"""How many microseconds of CPU a call the spool may take at most, over a queue in memory."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one gateway did in one round, or the medians of several."""

    cpu_us_per_call: float
    """With many connections."""
    calls_per_s: float
    busy: float
    """Which part of the time under load its core was used: well below 1, something else was the limit."""
    cpu_us_per_call_alone: float
    """With one connection."""
    added_latency_us: float
    """With one connection, against a client that calls the provider directly; from the medians of all calls."""
    chunks_per_s: float
    cpu_us_per_chunk: float


_COLUMNS = {
    "cpu_us_per_call": "CPU us/call",
    "calls_per_s": "calls/s",
    "busy": "busy",
    "cpu_us_per_call_alone": "CPU us alone",
    "added_latency_us": "added us",
    "chunks_per_s": "chunks/s",
    "cpu_us_per_chunk": "CPU us/chunk",
}
_FORMATS = {"busy": ".0%", "cpu_us_per_chunk": ".1f"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ratios of one gateway's figures to another's: each the median of the ratios within the rounds."""

    of: str
    to: str
    ratios: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """CPU time a call in microseconds, with many connections and with one."""

    together: float
    alone: float


Rounds = Mapping[str, Sequence[Figures]]
"""Each gateway's figures, round by round, under its name."""


def medians(rounds: Sequence[Figures]) -> Figures:
    rows = [asdict(figures) for figures in rounds]
    return Figures(**{name: median(row[name] for row in rows) for name in _COLUMNS})


def compare(rounds: Rounds, of: str, to: str) -> Comparison:
    pairs = [(asdict(ours), asdict(theirs)) for ours, theirs in zip(rounds[of], rounds[to], strict=True)]
    names = [name for name in _COLUMNS if name != "busy"]
    return Comparison(of, to, {name: median(ours[name] / theirs[name] for ours, theirs in pairs) for name in names})


def median_difference(rounds: Rounds, of: str, to: str) -> Difference:
    """What one gateway takes more than another: the medians of the differences within the rounds."""
    pairs = [*zip(rounds[of], rounds[to], strict=True)]
    return Difference(
        median(ours.cpu_us_per_call - theirs.cpu_us_per_call for ours, theirs in pairs),
        median(ours.cpu_us_per_call_alone - theirs.cpu_us_per_call_alone for ours, theirs in pairs),
    )


def as_text(rounds: Rounds, comparisons: Sequence[Comparison]) -> str:
    """For people: the medians, then the ratios, in the same columns."""
    names = [*rounds, *(f"{each.of} / {each.to}" for each in comparisons)]
    width = max(map(len, names)) + 2
    lines = [" " * width + "".join(f"{column:>14}" for column in _COLUMNS.values())]
    for name, found in rounds.items():
        row = asdict(medians(found))
        lines.append(f"{name:{width}}" + "".join(f"{row[key]:>14{_FORMATS.get(key, '.0f')}}" for key in _COLUMNS))
    lines.append("")
    for name, each in zip(names[len(rounds) :], comparisons, strict=True):
        cells = (f"{each.ratios[key]:.2f}" if key in each.ratios else "" for key in _COLUMNS)
        lines.append(f"{name:{width}}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def as_json(rounds: Rounds, comparisons: Sequence[Comparison], recorded_calls: int) -> str:
    """For programs."""
    found = {
        "medians": {name: asdict(medians(figures)) for name, figures in rounds.items()},
        "ratios": [asdict(each) for each in comparisons],
        "rounds": {name: [asdict(each) for each in figures] for name, figures in rounds.items()},
        "recorded_calls": recorded_calls,
        "target": TARGET,
    }
    return json.dumps(found, indent=2)
