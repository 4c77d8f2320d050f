"""Every query of the dashboards for Prometheus, and every alert, at a real Prometheus that scraped a real gateway.

So a metric or an attribute that gets another name fails here. What Grafana makes of its variables before it asks is
written from its documents; Grafana itself was not run.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from luthien.telemetry.conventions import CONVENTIONS, Convention
from tests.playbook import Gateway, ScriptedProvider, answers, eventually, running_gateway, streams
from tests.prometheus import Prometheus, prometheus, rules
from tests.stack.grafana import STERN, Json, dashboards, expanded, panels, provisioned
from tests.wire import openai_request, openai_response, openai_stream

CHAT = "/v1/chat/completions"
BOARDS = dashboards()

MAY_BE_EMPTY = {
    ("luthien-gateway", "Rules that streams broke", "A"): "nobody breaks one here, and there is no series before",
    (
        "luthien-record",
        "Not crash-proof, and late receipts",
        "A",
    ): "the disk is well; reasons come with the first record",
    (
        "luthien-record",
        "Not crash-proof, and late receipts",
        "B",
    ): "no receipt is late; the counter comes with the first",
    ("luthien-record", "In no day's partition", "A"): "is looked for some time after the start",
    ("luthien-record", "Telemetry that was lost", "A"): "nothing is exported here",
    ("luthien-record", "Payloads that the Collector found", "A"): "there is no Collector here",
    ("luthien-record", "The Collector's queues", "A"): "there is no Collector here",
}
"""Queries that may find nothing: dashboard, panel and query, and why."""

ELSEWHERE = {
    "luthien_collector_payloads_total": "the Collector counts it",
    "otelcol_exporter_queue_size": "the Collector's own",
    "otelcol_exporter_queue_capacity": "the Collector's own",
    "up": "Prometheus's own",
}
"""Metrics that no gateway makes, by the name that Prometheus has, and who does."""


class Asked(NamedTuple):
    """One query of one panel."""

    board: str
    panel: str
    letter: str
    expression: str
    is_instant: bool

    @property
    def place(self) -> tuple[str, str, str]:
        return self.board, self.panel, self.letter

    def __str__(self) -> str:
        return f"{self.board}, {self.panel!r}, {self.letter}: {self.expression}"


@dataclass(frozen=True)
class Watched:
    prometheus: Prometheus
    since_s: float

    def has_data(self, asked: Asked) -> bool:
        """Whether a query finds a number that Grafana would show."""
        if asked.is_instant:
            # Since the beginning, however long ago that is by now.
            expression = expanded(asked.expression, BOARDS[asked.board], __range="1h", __rate_interval="1h")
            return any(not math.isnan(value) for _, value in self.prometheus.now(expression))
        expression = expanded(asked.expression, BOARDS[asked.board])
        found = self.prometheus.over(expression, self.since_s, time.time(), 1)
        return any(not math.isnan(value) for _, values in found for value in values)


def asked_of_prometheus() -> Iterator[Asked]:
    for uid, board in BOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                if target["datasource"]["uid"] == "prometheus":
                    yield Asked(uid, panel["title"], target["refId"], target["expr"], target.get("instant", False))


ASKED = [*asked_of_prometheus()]


def metrics_of(expression: str) -> set[str]:
    """The names before each selector."""
    return {*re.findall(r"([a-zA-Z_]\w*)\{", re.sub(r'"[^"]*"', '""', expression))}


def grouped_by(expression: str) -> set[str]:
    return {label.strip() for labels in re.findall(r"by \(([^)]*)\)", expression) for label in labels.split(",")}


def labels_of(expression: str) -> set[str]:
    """What series are told apart and added up by."""
    return {*re.findall(r'(\w+) *(?:=~|!~|!=|=) *"', expression), *grouped_by(expression)}


def names_of(convention: Convention) -> set[str]:
    """What Prometheus calls a metric, whichever way it came."""
    unit = {"s": "_seconds", "By": "_bytes", "ms": "_milliseconds"}.get(convention.unit, "")
    name = convention.name.replace(".", "_").removesuffix(unit) + unit
    match convention.instrument:
        case "counter":
            return {f"{name}_total"}
        case "histogram":
            return {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
        case _:
            return {name}


OURS = {
    name: {attribute.replace(".", "_") for attribute in each.attributes}
    for each in CONVENTIONS.values()
    if each.kind == "metric"
    for name in names_of(each)
}
"""The labels of each metric, by the name that Prometheus has."""


@pytest.fixture(scope="module")
def watched(
    module_record_database: str, shared_provider: ScriptedProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """A gateway that has served calls of every kind, the second time while it was watched."""
    home = tmp_path_factory.mktemp("prometheus")
    (home / "own.py").write_text(STERN)
    policies: list[Json] = [
        {"policy": f"{home / 'own.py'}:Stern"},
        {"policy": "replace_text", "config": {"rules": [{"find": "old", "replace": "new"}]}},
    ]
    here: dict[str, Any] = {"metrics_exporter": "prometheus", "prometheus_host": "127.0.0.1", "prometheus_port": 0}
    since_s = time.time()
    with running_gateway(module_record_database, shared_provider.url, policies, **here) as gateway:
        target = str(gateway.app.metrics_url).removeprefix("http://").removesuffix("/metrics")
        with prometheus(home, [target]) as server:
            served = serve_calls(gateway, shared_provider)
            # What counts for the first time the second time does not increase.
            assert eventually(lambda: calls_in(server), lambda count: count == served) == served
            assert server.scrapes_again()
            serve_calls(gateway, shared_provider)
            yield Watched(server, since_s)


def calls_in(server: Prometheus) -> float:
    return sum(value for _, value in server.now("luthien_calls_total"))


def serve_calls(gateway: Gateway, provider: ScriptedProvider) -> int:
    """Plain, changed, streamed, blocked, broken by a policy, broken by the provider, and refused: how many."""
    fine = answers(openai_response("Fine, as old."))
    statuses = []
    for play, body in (
        (fine, openai_request("Hello")),
        (fine, openai_request("The old one")),
        (streams(*openai_stream("One", " two", " three")), openai_request("Hello", stream=True)),
        (fine, openai_request("This is forbidden")),
        (fine, openai_request("This is fragile")),
        (answers({"error": {"message": "no"}}, status=500), openai_request("Hello")),
    ):
        provider.will(play)
        statuses.append(gateway.post(CHAT, body).status_code)
    assert statuses == [200, 200, 200, 403, 500, 500]
    assert gateway.post(CHAT, b"{").status_code == 400
    return len(statuses) + 1


def test_every_query_is_understood_and_finds_something(watched: Watched) -> None:
    empty = [asked for asked in ASKED if asked.place not in MAY_BE_EMPTY]

    def still_empty() -> list[Asked]:
        empty[:] = [asked for asked in empty if not watched.has_data(asked)]
        return empty

    eventually(still_empty, lambda found: not found)
    assert not empty, "nothing for " + "; ".join(map(str, empty))
    for asked in ASKED:
        if asked.place in MAY_BE_EMPTY:
            watched.has_data(asked)


def test_a_policy_that_is_chosen_is_the_only_one_that_is_drawn(watched: Watched) -> None:
    board = BOARDS["luthien-policies"]
    asked = [each.expression for each in ASKED if each.board == "luthien-policies"]

    def policies(expression: str, **chosen: str) -> set[str]:
        found = watched.prometheus.now(expanded(expression, board, __rate_interval="1h", __range="1h", **chosen))
        return {labels["luthien_policy_name"] for labels, _ in found}

    for expression in asked:
        assert policies(expression, policy="(Stern|nobody)") <= {"Stern"}, expression
        assert "nobody" in expanded(expression, board, policy="nobody")
    both = {"Stern", "replace_text"}
    assert eventually(lambda: policies(asked[0]), lambda found: found == both) == both


def test_what_may_be_empty_is_there() -> None:
    assert MAY_BE_EMPTY.keys() <= {asked.place for asked in ASKED}


@pytest.mark.parametrize("uid", BOARDS)
def test_variables_have_values(watched: Watched, uid: str) -> None:
    for variable in BOARDS[uid]["templating"]["list"]:
        if (variable.get("datasource") or {}).get("uid") == "prometheus":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
            assert found, variable["query"]
            assert watched.prometheus.label_values(found[1], found[2]), variable["name"]


def test_the_metrics_that_dashboards_and_alerts_name_are_metrics_of_ours() -> None:
    expressions = [asked.expression for asked in ASKED] + [rule["expr"] for rule in rules()]
    named = {name for expression in expressions for name in metrics_of(expression)}
    assert named - OURS.keys() - ELSEWHERE.keys() == set()
    assert ELSEWHERE.keys() <= named


@pytest.mark.parametrize(
    "expression", [*{each.expression: None for each in ASKED}, *(each["expr"] for each in rules())]
)
def test_labels_are_attributes_of_the_metrics_that_are_asked_for(expression: str) -> None:
    metrics = metrics_of(expression)
    if metrics and metrics <= OURS.keys():
        known = {label for name in metrics for label in OURS[name]} | {"job", "instance", "le"}
        assert labels_of(expression) <= known


def test_legends_and_links_use_labels_that_the_series_have() -> None:
    for uid, board in BOARDS.items():
        for panel in panels(board):
            asked = [target["expr"] for target in panel["targets"] if target["datasource"]["uid"] == "prometheus"]
            left = {label for expression in asked for label in grouped_by(expression)}
            legends = re.findall(
                r"\{\{(\w+)\}\}", json.dumps([each.get("legendFormat") for each in panel["targets"]])
            )
            linked = re.findall(r"__field\.labels\.(\w+)", json.dumps(panel.get("fieldConfig")))
            assert {*legends, *linked} <= left, f"{uid}: {panel['title']}"


def test_alerts_are_evaluated_and_those_fire_that_should(watched: Watched) -> None:
    def state() -> dict[str, dict[str, Any]]:
        return {rule["name"]: rule for rule in watched.prometheus.rules()}

    def is_over(found: dict[str, dict[str, Any]]) -> bool:
        """Whether each was evaluated and ours fires: groups have their turns one after the other."""
        return {each["health"] for each in found.values()} == {"ok"} and (
            found["LuthienPolicyErrors"]["state"] == "firing"
        )

    found = eventually(state, is_over)
    unhealthy = {name: rule.get("lastError") for name, rule in found.items() if rule["health"] != "ok"}
    assert not unhealthy
    assert found.keys() == {rule["alert"] for rule in rules()}
    assert {name for name, rule in found.items() if rule["state"] == "firing"} == {"LuthienPolicyErrors"}
    [alert] = found["LuthienPolicyErrors"]["alerts"]
    assert alert["labels"]["luthien_policy_name"] == "Stern"
    assert alert["annotations"]["description"].startswith("The policy Stern (")
    assert "/d/luthien-runbooks?viewPanel=panel-" in alert["annotations"]["runbook_url"]


def test_queries_of_the_data_sources_are_understood(watched: Watched) -> None:
    queries = [
        each["query"]
        for source in provisioned()
        for each in source["jsonData"].get("tracesToMetrics", {}).get("queries", ())
    ]
    for query in queries:
        watched.prometheus.now(query.replace("$${__tags}", 'service_name="luthien"').replace("$${__span.name}", "x"))
