"""Grafana's data sources lead to each other, and to Luthien's pages."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from dashboards import parts
from luthien.exchange import new_call_id
from luthien.telemetry import conventions as names
from tests.node import NODE
from tests.programs import program
from tests.stack.files import OTEL, collector, read

SOURCES: dict[str, Any] = {
    source["uid"]: source
    for source in read(OTEL / "grafana" / "provisioning" / "datasources" / "datasources.yaml")["datasources"]
}
PAGE = "$LUTHIEN_PUBLIC_URL/debug/calls/"


def test_the_uids_are_those_of_the_dashboards() -> None:
    used = [parts.PROMETHEUS, parts.TEMPO, parts.LOKI, parts.POSTGRES]
    assert {ref.uid: ref.type_val for ref in used} == {uid: source["type"] for uid, source in SOURCES.items()}
    assert [uid for uid, source in SOURCES.items() if source.get("isDefault")] == ["prometheus"]


def test_each_variable_of_grafana_is_escaped() -> None:
    """What is not is taken from the environment, where there is none of that name: an empty text."""
    text = (OTEL / "grafana" / "provisioning" / "datasources" / "datasources.yaml").read_text()
    said = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert set(re.findall(r"(?<!\$)\$(?!\$)(\w+)", said)) == {"LUTHIEN_PUBLIC_URL", "__file"}
    assert set(re.findall(r"\$\$\{([\w.]+)\}", said)) >= {"call_id", "__value.raw", "__tags", "__trace.traceId"}


def test_logs_exemplars_and_traces_lead_to_each_other() -> None:
    tempo, loki = SOURCES["tempo"]["jsonData"], SOURCES["loki"]["jsonData"]
    assert tempo["tracesToLogsV2"]["datasourceUid"] == "loki"
    assert tempo["tracesToMetrics"]["datasourceUid"] == "prometheus"
    (exemplar,) = SOURCES["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert (exemplar["name"], exemplar["datasourceUid"]) == ("trace_id", "tempo")
    fields = {field["matcherRegex"]: field for field in loki["derivedFields"]}
    assert fields["trace_id"]["datasourceUid"] == "tempo"
    assert all(re.fullmatch(pattern, pattern) for pattern in fields)


def test_a_call_of_a_line_leads_to_its_page() -> None:
    label = names.CALL_ID.replace(".", "_")
    (field,) = [each for each in SOURCES["loki"]["jsonData"]["derivedFields"] if each["matcherRegex"] == label]
    assert field["url"] == PAGE + "$${__value.raw}"


def test_a_line_of_a_call_is_found_by_the_name_that_loki_gives_its_id() -> None:
    logs = SOURCES["tempo"]["jsonData"]["tracesToLogsV2"]
    assert logs["tags"] == [{"key": names.CALL_ID, "value": names.CALL_ID.replace(".", "_")}]
    limits = read(OTEL / "loki.yaml")["limits_config"]
    assert limits["allow_structured_metadata"]
    assert limits["otlp_config"]["log_attributes"] == [
        {"action": "structured_metadata", "attributes": [names.CALL_ID]}
    ]


@pytest.mark.parametrize("order", [("key", "value", "type"), ("type", "value", "key"), ("value", "key", "type")])
def test_a_span_leads_to_the_page_of_its_call(order: tuple[str, ...]) -> None:
    """Its attributes are a list of objects; the expression is JavaScript's, and means the same here."""
    (link,) = SOURCES["tempo"]["correlations"]
    assert link["config"]["target"]["url"] == PAGE + "$${call_id}"
    (transformation,) = link["config"]["transformations"]
    assert (transformation["field"], transformation["mapValue"]) == ("tags", "call_id")
    call_id = str(new_call_id())
    said = {names.PARENT_CALL_ID: str(UUID(int=1)), names.CALL_ID: call_id, names.OUTCOME: "completed"}
    tags = [
        {word: {"key": key, "value": value, "type": "string"}[word] for word in order} for key, value in said.items()
    ]
    for written in (json.dumps(tags), json.dumps(tags[::-1], separators=(",", ":"))):
        found = re.search(transformation["expression"], written)
        assert found is not None
        assert found[1] == call_id
    others = [tag for tag in tags if tag["key"] != names.CALL_ID]
    assert re.search(transformation["expression"], json.dumps(others, separators=(",", ":"))) is None


def test_grafanas_own_language_finds_the_call_and_nothing_that_a_caller_wrote() -> None:
    """With the flags that Grafana gives the expression, and its rule that the last match counts."""
    (link,) = SOURCES["tempo"]["correlations"]
    (transformation,) = link["config"]["transformations"]
    call_id, other = str(new_call_id()), str(UUID(int=1))
    written = json.dumps([{"key": names.CALL_ID, "value": other}])
    tags = [
        {"type": "string", "key": names.REQUEST_MODEL, "value": written},
        {"type": "string", "key": names.CALL_ID, "value": call_id},
        {"type": "string", "key": names.URL_PATH, "value": f'}},{{"key":"{names.CALL_ID}","value":"{other}"'},
        {"type": "int64", "key": names.HTTP_STATUS, "value": 200},
    ]
    script = """
    const [expression, tags] = JSON.parse(require("fs").readFileSync(0, "utf-8"));
    const found = [...JSON.stringify(tags).matchAll(new RegExp(expression, "gi"))].map((match) => match[1]);
    process.stdout.write(JSON.stringify(found));
    """
    told = json.dumps([transformation["expression"], tags])
    said = subprocess.run([NODE, "-e", script], input=told, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(said.stdout) == [call_id]


def test_the_queries_of_a_span_are_promql_over_metrics_that_there_are(tmp_path: Path) -> None:
    queries = [each["query"] for each in SOURCES["tempo"]["jsonData"]["tracesToMetrics"]["queries"]]
    filled = [q.replace("$${__tags}", 'service_name="luthien"').replace("$${__span.name}", "chat m") for q in queries]
    rules = {"groups": [{"name": "g", "rules": [{"record": f"r{i}", "expr": q} for i, q in enumerate(filled)]}]}
    (tmp_path / "rules.yml").write_text(json.dumps(rules))
    command = [program("promtool"), "check", "rules", str(tmp_path / "rules.yml")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 0, said.stderr
    spans = collector("collector.yaml")["connectors"]["span_metrics"]
    assert (spans["namespace"], spans["histogram"]["unit"]) == ("traces.span.metrics", "s")
    made = {
        "traces_span_metrics_calls_total",
        "traces_span_metrics_duration_seconds_bucket",
        names.CALLS.replace(".", "_") + "_total",
    }
    assert set(re.findall(r"\b(?:traces|luthien)_\w+(?=\{|\[)", " ".join(filled))) == made


def test_traces_are_kept_as_long_as_their_lines() -> None:
    tempo, loki = read(OTEL / "tempo.yaml"), read(OTEL / "loki.yaml")
    assert (
        tempo["overrides"]["defaults"]["compaction"]["block_retention"] == loki["limits_config"]["retention_period"]
    )
