"""What a scenario found: a line for people, a file for programs, a table for docs/reliability.md.

python -m tests.acceptance.faults.figures DIRECTORY    prints the table of the figures that are there
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tests.acceptance.faults.form import FIGURES_DIR, FORM


@dataclass(frozen=True, slots=True)
class Figures:
    """One scenario's; `number` orders them.

    Of the calls, `unanswered` got not even headers, as when nobody listens; `cut` are responses that began and did
    not come whole.
    """

    number: int
    scenario: str
    calls: int
    unanswered: int
    cut: int
    responses: int
    """That came whole."""
    stored: int
    """Of those that came whole."""
    lost: int
    duplicated: int
    peak_mib: int
    """The most resident memory that one gateway process had."""
    remark: str = ""

    def __str__(self) -> str:
        line = (
            f"{self.scenario}: {self.calls} calls, {self.unanswered} unanswered, {self.cut} cut, "
            f"{self.responses} responses, {self.stored} stored, {self.lost} lost, {self.duplicated} duplicated, "
            f"{self.peak_mib} MiB at most"
        )
        return f"{line}; {self.remark}" if self.remark else line


_COLUMNS = [each.name for each in fields(Figures) if each.name != "number"]

lines: list[tuple[int, str]] = []
"""Of this run, shown at its end."""


def publish(figures: Figures) -> None:
    lines.append((figures.number, str(figures)))
    if FIGURES_DIR is not None:
        FIGURES_DIR.mkdir(parents=True, exist_ok=True)
        found = {"form": FORM.name, **asdict(figures)}
        (FIGURES_DIR / f"{figures.number:02}.json").write_text(json.dumps(found, indent=2) + "\n")


def as_table(directory: Path) -> str:
    """The figures in a directory as a table in Markdown."""
    rows = [
        "| scenario | calls | unanswered | cut | came whole | stored | lost | twice | peak MiB | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(directory.glob("*.json")):
        found = json.loads(path.read_text())
        rows.append("| " + " | ".join(str(found[column]) for column in _COLUMNS) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.stdout.write(as_table(Path(sys.argv[1])) + "\n")
