"""Links between the documents lead somewhere, the index has all of them, and the README's configuration is one."""

from __future__ import annotations

import json
import re
from pathlib import Path

from luthien.config_file import ConfigFile
from luthien.policies.registry import load_chain
from tests.pictures import PICTURES

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "tests/corpus/README.md"]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")

PICTURE = re.compile(
    r'<source media="\(prefers-color-scheme: dark\)" srcset="(.*?)">\s*<img src="(.*?)" alt="(.*?)">'
)


def anchors(document: Path) -> set[str]:
    """What its headings are linked as."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    broken = []
    for document in DOCUMENTS:
        for path, anchor in LINK.findall(document.read_text(encoding="utf-8")):
            target = document.parent / path if path else document
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{document.relative_to(ROOT)}: {path}#{anchor}")
    assert broken == []


def test_every_picture_is_there_and_shown() -> None:
    """In light and in dark, each with words for those who do not see it. Dashboards are not drawn here."""
    shown = set()
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for dark, light, alt in PICTURE.findall(text):
            assert dark == light.replace("-light", "-dark")
            assert len(alt) > 20, light
            shown |= {(document.parent / dark).resolve(), (document.parent / light).resolve()}
        assert len(PICTURE.findall(text)) == text.count("<img")
    assert shown == set((ROOT / "docs" / "images").iterdir())
    names = {picture.name for picture in PICTURES} | {"dashboard-gateway", "dashboard-policies"}
    taken = {f"{name}-{theme}.png" for name in names for theme in ("light", "dark")}
    assert {path.name for path in shown} == taken


def test_the_index_has_every_document() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = {path for path, _ in LINK.findall(index)}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked


def test_every_dashboard_is_told_row_by_row() -> None:
    """Pictures show little of them: a reader goes by the names of the rows, or of panels where there are none."""
    text = (ROOT / "docs" / "dashboards.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        panels = dashboard["panels"]
        told = [each for each in panels if each["type"] == "row"] or [
            each for each in panels if each["type"] != "text"
        ]
        missing = [each["title"] for each in told if f"*{each['title']}*" not in text]
        assert missing == [], path.name


def test_the_example_in_the_readme_is_a_configuration() -> None:
    found = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    steps = load_chain(ConfigFile("luthien.yaml", found[1])).steps
    assert [step.name for step in steps] == ["replace_text", "redact", "add_system_message"]
