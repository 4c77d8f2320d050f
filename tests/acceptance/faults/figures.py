"""What a scenario found: a line for people, a file for programs, a table for docs/reliability.md.

    python -m tests.acceptance.faults.figures DIRECTORY    prints the table of the figures that are there
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.acceptance.faults.form import FIGURES_DIR, FORM


@dataclass(frozen=True, slots=True)
class Figures:
    """One scenario's. `number` orders them; `cut` counts responses that began and did not come whole."""

    number: int
    scenario: str
    calls: int
    responses: int
    """That came whole."""
    cut: int
    stored: int
    """Of those that came whole."""
    lost: int
    duplicated: int
    peak_mib: int
    """The most resident memory that one gateway process had."""
    remark: str = ""

    def __str__(self) -> str:
        line = (
            f"{self.scenario}: {self.calls} calls, {self.responses} responses, {self.cut} cut, {self.stored} stored, "
            f"{self.lost} lost, {self.duplicated} duplicated, {self.peak_mib} MiB at most"
        )
        return f"{line}; {self.remark}" if self.remark else line


lines: list[str] = []
"""Of this run, shown at its end."""


def publish(figures: Figures) -> None:
    lines.append(str(figures))
    if FIGURES_DIR is not None:
        FIGURES_DIR.mkdir(parents=True, exist_ok=True)
        found = {"form": FORM.name, **asdict(figures)}
        (FIGURES_DIR / f"{figures.number:02}.json").write_text(json.dumps(found, indent=2) + "\n")


def as_table(directory: Path) -> str:
    """The figures in a directory as a table in Markdown."""
    rows = [
        "| scenario | calls | came whole | cut | stored | lost | twice | peak MiB | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(directory.glob("*.json")):
        found = json.loads(path.read_text())
        cells = [found[key] for key in ("scenario", "calls", "responses", "cut", "stored", "lost", "duplicated")]
        rows.append("| " + " | ".join(map(str, [*cells, found["peak_mib"], found["remark"]])) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.stdout.write(as_table(Path(sys.argv[1])) + "\n")
