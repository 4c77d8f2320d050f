"""docs/telemetry.md and docs/logs.md say what the conventions say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from luthien.telemetry import conventions as names
from luthien.telemetry.conventions import CONVENTIONS
from luthien.telemetry.document import name_in_prometheus, with_tables
from luthien.telemetry.notes import NOTES

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "telemetry.md"


@pytest.mark.parametrize("document", [DOCUMENT, DOCUMENT.with_name("logs.md")], ids=lambda path: path.name)
def test_it_is_not_stale(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert with_tables(text) == text, f"{document.name} is stale: run `make docs`"


@pytest.mark.parametrize("kind", ["attribute", "resource", "event", "span", "metric"])
def test_every_name_has_its_row(kind: str) -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    wanted = {name for each, name in CONVENTIONS if each == kind}
    assert wanted <= set(rows)


def test_a_row_says_where_an_attribute_is_found() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, where in (
        (names.OUTCOME, "exported"),
        (names.POLICY_REASON, "record only"),
        (names.DROP_REASON, "metrics only"),
        (names.POLICY_POSITION, "exported"),
    ):
        assert re.search(rf"^\| `{re.escape(name)}` \| \S+ \| {where} \|", text, re.MULTILINE), name


def test_what_is_said_in_more_words_is_said_of_a_metric() -> None:
    assert not [name for name in NOTES if ("metric", name) not in CONVENTIONS]


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (names.CALLS, "luthien_calls_total"),
        (names.SPOOL_BYTES, "luthien_record_spool_size_bytes"),
        (names.OPERATION_DURATION, "gen_ai_client_operation_duration_seconds"),
        (names.TOKEN_USAGE, "gen_ai_client_token_usage"),
        (names.INDEX_LAG, "luthien_index_lag_seconds"),
    ],
)
def test_a_metrics_name_in_prometheus(metric: str, name: str) -> None:
    assert name_in_prometheus(CONVENTIONS["metric", metric]) == name


def test_the_command_writes_what_is_stale_and_keeps_the_words(tmp_path: Path) -> None:
    copy = tmp_path / "telemetry.md"
    text = DOCUMENT.read_text(encoding="utf-8")
    copy.write_text(re.sub(r"^\| `luthien\.calls` .*\n", "", text, flags=re.MULTILINE), encoding="utf-8")
    assert copy.read_text(encoding="utf-8") != text
    subprocess.run([sys.executable, "-m", "luthien.telemetry.document", str(copy)], check=True, timeout=60)
    assert copy.read_text(encoding="utf-8") == text
