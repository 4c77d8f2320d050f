"""A stop takes no longer than is promised."""

from __future__ import annotations

import re
from pathlib import Path

from luthien import deadlines
from luthien.pipeline.ending import FAREWELL_S

DECISION = Path(__file__).parents[2] / "docs" / "decisions" / "0008-a-clean-stop.md"


def test_the_parts_of_a_stop_add_up_to_what_is_promised() -> None:
    each = {name: value for name, value in vars(deadlines).items() if name.endswith("_S") and name != "FAREWELL_S"}
    assert deadlines.INDEXER_S <= deadlines.TELEMETRY_S, "it stops beside it"
    assert sum(each.values()) - deadlines.INDEXER_S <= 15.0


def test_the_decision_says_how_long_each_part_has() -> None:
    text = " ".join(DECISION.read_text(encoding="utf-8").split())
    told = re.search(r"clients have ([\d.]+) seconds .* together ([\d.]+), the record ([\d.]+), logs ([\d.]+):", text)
    assert told is not None
    parts = (FAREWELL_S, deadlines.TELEMETRY_S, deadlines.RECORD_S, deadlines.LOGS_S)
    assert tuple(map(float, told.groups())) == parts
