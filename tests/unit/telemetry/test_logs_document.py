"""Every field of a log line is documented, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

from luthien.telemetry import conventions as names
from luthien.telemetry.conventions import CONVENTIONS

DOCUMENT = Path(__file__).parents[3] / "docs" / "logs.md"


def test_each_field_and_each_attribute_has_its_row() -> None:
    rows = re.findall(r"^\| (`.+?) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    fields = {name for kind, name in CONVENTIONS if kind == "log"} - {names.CALL_ENDED}
    assert sorted(documented) == sorted(fields | names.LOG_ATTRIBUTES)
