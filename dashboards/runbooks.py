"""*Runbooks*: docs/runbooks.md, a panel a section, so that what an alert links to is there wherever Grafana is."""

from __future__ import annotations

import re
from pathlib import Path

from grafana_foundation_sdk.builders import text
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models.text import TextMode

from dashboards import parts

_DOCUMENT = Path(__file__).parents[1] / "docs" / "runbooks.md"
_OTHER_DOCUMENT = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]*\)")
_HEIGHT = 14


def runbooks() -> Dashboard:
    made = Dashboard("Luthien: runbooks").uid("luthien-runbooks").tags([parts.TAG]).readonly()
    made = made.description("What each alert means, and what to do.")
    for title, words in sections(_DOCUMENT.read_text(encoding="utf-8")):
        panel = text.Panel().title(title).mode(TextMode.MARKDOWN).content(words).span(24).height(_HEIGHT)
        made = made.with_panel(panel)
    return made


def sections(document: str) -> list[tuple[str, str]]:
    """Title and Markdown of each section, the introduction first; of links to other documents, the words alone."""
    introduction, *rest = re.split(r"^## ", _OTHER_DOCUMENT.sub(r"\1", document), flags=re.MULTILINE)
    parted = (each.partition("\n") for each in (introduction.removeprefix("# "), *rest))
    return [(title.strip(), words.strip() + "\n") for title, _, words in parted]
