"""What Loki and Tempo are asked, read by Grafana's own grammars of their languages."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import chain
from pathlib import Path

from luthien.debug.tempo.links import traceql_of
from luthien.exchange import new_call_id
from tests.node import NODE, installed
from tests.stack.grafana import ROOT, Json, dashboards, expanded, panels, provisioned

BOARDS = dashboards()


def queries_for_grammars() -> dict[str, list[str]]:
    """What dashboards, data sources, the gateway and its links ask, and what the documents say that one may ask."""
    logql = [
        expanded(target["expr"], board)
        for board in BOARDS.values()
        for panel in panels(board)
        for target in panel["targets"]
        if target["datasource"]["uid"] == "loki"
    ]
    for source in provisioned():
        query = source["jsonData"].get("tracesToLogsV2", {}).get("query", "")
        query = query.replace("$${__trace.traceId}", "0af7651916cd43dd8448eb211c80319c")
        logql += [query.replace("$${__tags}", 'luthien_call_id="x"')] if query else []
    traceql = [
        target["query"]
        for board in BOARDS.values()
        for panel in panels(board)
        for target in panel["targets"]
        if target["datasource"]["uid"] == "tempo"
    ]
    said = documented()
    return {
        "logql": [*logql, *(query for query in said if query.startswith("{service_name"))],
        "traceql": [*traceql, traceql_of(new_call_id()), *(query for query in said if "span." in query)],
    }


def documented() -> list[str]:
    documents = chain(ROOT.glob("*.md"), (ROOT / "docs").glob("*.md"))
    return [query for path in documents for query in re.findall(r"`(\{[^`]+)`", path.read_text())]


def wrong(queries: dict[str, list[str]]) -> list[Json]:
    script = installed(Path(__file__).parents[1] / "queries_js") / "parse.mjs"
    found = subprocess.run(
        [NODE, script], input=json.dumps(queries), capture_output=True, text=True, check=True, timeout=60
    )
    answer: list[Json] = json.loads(found.stdout)
    return answer


def test_queries_for_loki_and_tempo_are_taken_by_their_grammars() -> None:
    queries = queries_for_grammars()
    assert len(queries["logql"]) > 2
    assert len(queries["traceql"]) > 2
    broken = {"logql": ['{service_name="luthien"} | luthien_call_id !!= ""'], "traceql": ["{ span.a = }"]}
    found = wrong({language: [*queries[language], *broken[language]] for language in broken})
    assert [each for each in found if each["query"] not in broken[each["language"]]] == []
    assert {each["language"] for each in found} == {"logql", "traceql"}
