"""The dashboards' JSON, held against the models of the library that writes it, and against itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.parts import COLORS
from luthien.debug.search.filters import CHOICES, NAMES
from tests.stack.grafana import Json, dashboards, links, panels

BOARDS = dashboards()
WITHOUT_UNIT = {
    "logs": "lines have none",
    "stat": "several numbers in one panel, each with its own",
}
"""Kinds of panels that may have no unit for all they show, and why."""

WITHOUT_LINK = {
    "What the gateway said of calls": "the data source puts links on each line",
    "Tables": "a table of the database has no calls of its own",
}

UNITS = {each for each in vars(units).values() if isinstance(each, str)}
GRAFANAS = {"__from", "__to", "__range", "__interval", "__rate_interval", "__url_time_range"}


@pytest.mark.parametrize("uid", BOARDS)
def test_the_json_is_what_the_models_of_grafana_make_of_it(uid: str) -> None:
    register_default_plugins()
    made = json.loads(JSONEncoder().encode(Dashboard.from_json(BOARDS[uid])))
    assert made == BOARDS[uid]


def test_dashboards_are_those_that_links_rely_on() -> None:
    assert [*BOARDS] == ["luthien-calls", "luthien-gateway", "luthien-policies", "luthien-record"]
    for board in BOARDS.values():
        assert board["tags"] == ["luthien"]
        assert board["editable"] is False
        assert {"dashboards", "link"} == {link["type"] for link in board["links"]}


@pytest.mark.parametrize("uid", BOARDS)
def test_panels_and_queries_are_told_apart(uid: str) -> None:
    every = [panel["id"] for panel in BOARDS[uid]["panels"]]
    assert len(every) == len({*every})
    titles = [panel["title"] for panel in panels(BOARDS[uid])]
    assert len(titles) == len({*titles})
    for panel in panels(BOARDS[uid]):
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len({*letters}) > 0, panel["title"]


@pytest.mark.parametrize("uid", BOARDS)
def test_what_is_shown_has_a_unit_that_grafana_knows(uid: str) -> None:
    for panel in panels(BOARDS[uid]):
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        given = [defaults["unit"]] if defaults.get("unit") else []
        assert given or panel["type"] in WITHOUT_UNIT, panel["title"]
        given += [each["value"] for each in overridden(panel) if each["id"] == "unit"]
        assert {*given} <= UNITS | {"dateTimeAsIso", "string", "bool"}, panel["title"]
        if panel["type"] == "stat" and not defaults.get("unit"):
            assert [each for each in overridden(panel) if each["id"] == "unit"], panel["title"]


@pytest.mark.parametrize("uid", BOARDS)
def test_variables_are_defined_and_each_is_used(uid: str) -> None:
    board = BOARDS[uid]
    defined = {each["name"] for each in board["templating"]["list"]}
    used = set(variables(json.dumps([board["panels"], board["links"]])))
    assert used - defined - GRAFANAS == set()
    assert defined - used - variables_of_variables(board) == set()


def test_no_link_to_a_dashboard_says_where_its_links_lead() -> None:
    for board in BOARDS.values():
        [pages] = [each for each in board["templating"]["list"] if each["name"] == "luthien"]
        assert pages["skipUrlSync"] is True


@pytest.mark.parametrize("uid", BOARDS)
def test_links_to_lists_of_calls_use_filters_that_there_are(uid: str) -> None:
    urls = re.findall(r'"url": "([^"]+)"', json.dumps(BOARDS[uid]))
    lists = [url for url in urls if "/debug/calls?" in url]
    assert lists
    for url in lists:
        parameters = dict(each.split("=", 1) for each in url.split("?")[1].split("&"))
        assert parameters.keys() <= {*NAMES}, url
        assert {"since", "until"} <= parameters.keys(), url
        for name, values in parameters.items():
            for value in values.split(",") if name == "outcome" else [values]:
                assert "$" in value or value in CHOICES.get(name, (value,)), url


@pytest.mark.parametrize("uid", BOARDS)
def test_from_every_panel_a_link_leads_on(uid: str) -> None:
    for panel in panels(BOARDS[uid]):
        assert [*links(panel)] or panel["title"] in WITHOUT_LINK, panel["title"]


@pytest.mark.parametrize("uid", BOARDS)
def test_no_two_columns_of_a_table_have_one_name(uid: str) -> None:
    """Grafana's table keeps the values of a row by the names that are shown: the later column would stand in both."""
    for panel in panels(BOARDS[uid]):
        shown = [each["value"] for each in overridden(panel) if each["id"] == "displayName"]
        assert len(shown) == len({*shown}), panel["title"]


@pytest.mark.parametrize("uid", BOARDS)
def test_links_are_given_no_word_for_an_empty_cell(uid: str) -> None:
    """What is shown for no value is what Grafana writes into a link, too: `model=none` would find no call."""
    for panel in panels(BOARDS[uid]):
        if any("__data.fields" in url for _, url in links(panel)):
            assert "noValue" not in panel["fieldConfig"]["defaults"], panel["title"]
            assert all(each["id"] != "noValue" for each in overridden(panel)), panel["title"]


@pytest.mark.parametrize("uid", BOARDS)
def test_columns_that_links_use_have_no_unit_that_changes_them(uid: str) -> None:
    """Grafana writes a column into a link as it is shown: a number with its unit, a time in the reader's zone."""
    for panel in panels(BOARDS[uid]):
        used = {name for _, url in links(panel) for name in re.findall(r"__data\.fields\.(\w+)", url)}
        for override in panel.get("fieldConfig", {}).get("overrides", ()):
            if override["matcher"]["options"] in used:
                units = {each["value"] for each in override["properties"] if each["id"] == "unit"}
                assert units <= {"string"}, f"{panel['title']}: {override['matcher']['options']}"


@pytest.mark.parametrize("uid", BOARDS)
def test_an_outcome_has_one_colour_wherever_it_is_drawn(uid: str) -> None:
    for panel in panels(BOARDS[uid]):
        if panel["type"] == "timeseries" and {"calls by outcome", "outcomes"} & {panel["title"].lower()}:
            drawn = {each["value"]["fixedColor"] for each in overridden(panel) if each["id"] == "color"}
            assert drawn == {*COLORS.values()}, panel["title"]


@pytest.mark.parametrize("uid", BOARDS)
def test_points_of_latency_lead_to_traces(uid: str) -> None:
    for panel in panels(BOARDS[uid]):
        for target in panel["targets"]:
            if panel["type"] == "timeseries" and target.get("expr", "").startswith("histogram_quantile"):
                assert target["exemplar"], panel["title"]


@pytest.mark.parametrize("uid", BOARDS)
def test_links_to_dashboards_lead_to_one(uid: str) -> None:
    for name in re.findall(r'"/d/([\w-]+)', json.dumps(BOARDS[uid])):
        assert name in BOARDS


def overridden(panel: Json) -> Iterator[Json]:
    for override in panel.get("fieldConfig", {}).get("overrides", ()):
        yield from override["properties"]


def variables(text: str) -> Iterator[str]:
    """The names behind a $, without fields and macros of SQL."""
    for match in re.finditer(r"\$(?:\{(\w+)[^}]*\}|(\w+)(\()?)", text):
        name = match[1] or match[2]
        if match[3] is None and name not in ("__data", "__field"):
            yield name


def variables_of_variables(board: Json) -> set[str]:
    return {*variables(json.dumps([each.get("query") for each in board["templating"]["list"]]))}
