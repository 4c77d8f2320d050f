"""Every metric is documented, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

from luthien.telemetry.conventions import CONVENTIONS

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_each_metric_has_its_row_with_its_unit() -> None:
    rows = re.findall(
        r"^\| `([\w.]+)` \| (?:counter|updowncounter|gauge|histogram) \| (\S+) \|", DOCUMENT.read_text(), re.MULTILINE
    )
    metrics = {name: each.unit for (kind, name), each in CONVENTIONS.items() if kind == "metric"}
    assert dict(rows) == metrics
    assert len(rows) == len(metrics)
