"""The alert rules and their runbooks."""

from __future__ import annotations

import json
import re

import psycopg

from tests.prometheus import RULES, promtool, rules
from tests.stack.grafana import ROOT, RUNBOOKS, dashboards, panels

BOARDS = dashboards()
RUNBOOK_PANELS = json.loads((ROOT / "dashboards" / "runbooks.json").read_text())["panels"]
NO_PANELS = {"not\ncrash-proof", "Status → Targets"}
"""What the runbooks quote of pages of Luthien's and of Prometheus, not of dashboards."""


def test_the_rules_hold_what_their_tests_say() -> None:
    checked = promtool("check", "rules", RULES.name, cwd=RULES.parent)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tried = promtool("test", "rules", "luthien.test.yml", cwd=RULES.parent)
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_every_alert_is_tried_where_it_fires() -> None:
    text = (RULES.parent / "luthien.test.yml").read_text()
    fired = {*re.findall(r'alertname="(\w+)"', text)}
    assert fired == {rule["alert"] for rule in rules()}


def test_alerts_are_tried_with_series_that_they_look_at() -> None:
    """So that where one must not fire, it is not for a series that is spelt in another way."""
    text = (RULES.parent / "luthien.test.yml").read_text()
    series = {*re.findall(r"series: '?\"?(\w+)", text)}
    asked = " ".join(rule["expr"] for rule in rules())
    patterns = [*re.findall(r'__name__=~"([^"]+)"', asked), *re.findall(r"\b\w+\b", asked)]
    assert series
    assert [name for name in series if not any(re.fullmatch(each, name) for each in patterns)] == []


def test_every_alert_has_its_section_among_the_runbooks_and_every_section_an_alert() -> None:
    text = (ROOT / "docs" / "runbooks.md").read_text()
    alerts = {rule["alert"]: rule for rule in rules()}
    assert re.findall(r"^## (Luthien\w+)$", text, re.MULTILINE) == [*alerts]
    for name, rule in alerts.items():
        [panel] = [each for each in RUNBOOK_PANELS if each["title"] == name]
        shown = f"/d/{RUNBOOKS}?viewPanel=panel-{panel['id']}"
        assert rule["annotations"]["runbook_url"] == "{{ $externalLabels.grafana }}" + shown
        assert "**It is over when**" in panel["options"]["content"]
        assert rule["annotations"]["dashboard"].removeprefix("/d/") in BOARDS
        assert rule["labels"]["severity"] in {"critical", "warning"}
        section = text.split(f"## {name}\n")[1].split("\n## ")[0]
        for part in ("**What it means.**", "**At risk.**", "**Look at.**", "**Do.**", "**It is over when**"):
            assert part in section, f"{name}: {part}"


def test_statements_of_the_runbooks_run(module_record_database: str) -> None:
    text = (ROOT / "docs" / "runbooks.md").read_text()
    statements = re.findall(r"```sql\n(.+?)```", text, re.DOTALL)
    assert statements
    with psycopg.connect(module_record_database) as conn:
        for statement in statements:
            conn.execute(statement)


def test_runbooks_name_panels_that_there_are() -> None:
    text = (ROOT / "docs" / "runbooks.md").read_text()
    titles = {panel["title"] for board in BOARDS.values() for panel in panels(board)}
    assert {*re.findall(r"«([^»]+)»", text)} - titles == NO_PANELS
