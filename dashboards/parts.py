"""What the dashboards are made of: the data sources by their uids, queries, panels, and links to Luthien's pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from grafana_foundation_sdk.builders import common, logs, loki, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    QueryVariable,
    TextBoxVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.runtime import UnknownDataquery
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    LogsDedupStrategy,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DashboardSpecialValueMapOptions,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Panel,
    SpecialValueMap,
    SpecialValueMatch,
    Threshold,
    ThresholdsMode,
    ValueMappingResult,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

# The uids that otel/grafana/provisioning gives them.
PROMETHEUS: Final = DataSourceRef(type_val="prometheus", uid="prometheus")
TEMPO: Final = DataSourceRef(type_val="tempo", uid="tempo")
LOKI: Final = DataSourceRef(type_val="loki", uid="loki")
POSTGRES: Final = DataSourceRef(type_val="grafana-postgresql-datasource", uid="luthien-postgres")

TAG: Final = "luthien"
COLORS: Final = {
    "completed": "green",
    "blocked": "orange",
    "client_disconnected": "purple",
    "upstream_error": "red",
    "policy_error": "dark-red",
    "rejected": "yellow",
    "running": "blue",
}
"""The outcomes, and how they look."""
PUBLIC_URL: Final = "http://localhost:8080"
"""Where Luthien's pages are unless somebody writes another address into the dashboard's variable."""

# Which series: every process, or those of the chosen instances; and of these the chosen providers and models.
INSTANCES: Final = 'job="luthien", instance=~"$instance"'
MODELS: Final = f'{INSTANCES}, gen_ai_provider_name=~"$provider", gen_ai_request_model=~"$model"'
NO_CHILDREN: Final = 'luthien_child!="true"'
"""Only what clients asked, not what policies did."""

# The dashboard's own times, as filters of calls understand them.
TIMES: Final = "since=${__from:date:iso}&until=${__to:date:iso}"

# What a share of nothing is, and a quantile of it.
_NOTHING: Final = SpecialValueMap(
    DashboardSpecialValueMapOptions(SpecialValueMatch.NULL_AND_NAN, ValueMappingResult(text="none"))
)

_MIN_WIDTH: Final = 80
"""Of a column, in pixels: with Grafana's own 150 the last columns of wide tables are out of sight."""

AnyPanel: TypeAlias = Builder[Panel]
Query: TypeAlias = Builder[Dataquery]


def dashboard(name: str, title: str, description: str) -> Dashboard:
    """An empty one, with the uid `luthien-{name}`, which links may rely on, and links to the others of its tag."""
    made = Dashboard(title).uid(f"luthien-{name}").description(description).tags([TAG])
    made = made.refresh("30s").time("now-6h", "now").timezone("browser").readonly()
    made = made.tooltip(DashboardCursorSync.CROSSHAIR).with_variable(pages_variable())
    others = DashboardLink("Dashboards").type(DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True)
    return made.link(others.include_vars(True)).link(page_link("Calls", f"/debug/calls?{TIMES}"))


class _Fixed(TextBoxVariable):
    """Takes no value from the address of a dashboard: who made a link to one would decide where its links lead."""

    def build(self) -> VariableModel:
        made = super().build()
        made.skip_url_sync = True
        return made


def pages_variable() -> TextBoxVariable:
    """`${luthien}`: where Luthien's pages are, without a slash at the end."""
    option = VariableOption(text=PUBLIC_URL, value=PUBLIC_URL)
    return _Fixed("luthien").label("Luthien").default_value(PUBLIC_URL).current(option).options([option])


def label_variable(name: str, label: str, metric: str, of: str) -> QueryVariable:
    """The values of a label in a metric: any number of them; all at first, series without the label included."""
    made = QueryVariable(name).label(label).datasource(PROMETHEUS).query(f"label_values({metric}, {of})")
    made = made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    everything = VariableOption(text=["All"], value=["$__all"])
    return made.multi(True).include_all(True).all_value(".*").current(everything)


def instance_variable() -> QueryVariable:
    """Gateway processes."""
    return label_variable("instance", "Process", 'luthien_record_appended_total{job="luthien"}', "instance")


def page_link(title: str, path: str) -> DashboardLink:
    """To one of Luthien's pages, in a new tab."""
    return DashboardLink(title).type(DashboardLinkType.LINK).url("${luthien}" + path).target_blank(True)


def calls_link(title: str, filters: str = "") -> DashboardLink:
    """To the list of the calls of the dashboard's time that `filters` let through, as in `outcome=blocked`."""
    return page_link(title, f"/debug/calls?{filters}{'&' if filters else ''}{TIMES}")


def dashboard_link(title: str, name: str) -> DashboardLink:
    """To another of Luthien's dashboards, at the same time."""
    url = f"/d/luthien-{name}?${{__url_time_range}}"
    return DashboardLink(title).type(DashboardLinkType.LINK).url(url)


def series_label(label: str) -> str:
    """A label of the series that was clicked on, written for an address; nothing where the series has none."""
    return f"${{__field.labels.{label}:percentencode}}"


def column(name: str) -> str:
    """What another column of the row that was clicked on says, written for an address."""
    return f"${{__data.fields.{name}:percentencode}}"


def promql(expression: str, legend: str, *, exemplars: bool = False) -> prometheus.Dataquery:
    """One query over time, whose series are named by `legend`, as in `{{luthien_outcome}}`."""
    query = prometheus.Dataquery().expr(expression).legend_format(legend).datasource(PROMETHEUS).range()
    return query.exemplar(True) if exemplars else query


def promql_now(expression: str, legend: str) -> prometheus.Dataquery:
    """One query for the end of the dashboard's time: one value a series."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).datasource(PROMETHEUS).instant()


def promql_table(expression: str) -> prometheus.Dataquery:
    """The same, a row a series, with a column for each label."""
    return promql_now(expression, "").format(PromQueryFormat.TABLE)


def grown(metric: str, selector: str, window: str) -> str:
    """By how much a counter grew, a series' first value included, which `increase` does not count.

    A series that came up in the window grew from nothing; one that has ended in it counts with its last value. Over a
    day is looked back for what was before, so that a gap in the metrics is not taken for a new series.
    """
    last = f"max_over_time({metric}{{{selector}}}[{window}])"
    before = f"last_over_time({metric}{{{selector}}}[1d] offset {window})"
    return f"({last} - ({before} or {last} * 0))"


def quantile(q: float, histogram: str, selector: str, by: str = "") -> str:
    """A quantile of a histogram, per value of the labels `by`."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket{{{selector}}}[$__rate_interval])))"


def quantiles(histogram: str, selector: str) -> list[Query]:
    """p50, p95 and p99 of a histogram over time, with exemplars."""
    return [promql(quantile(q, histogram, selector), f"p{round(q * 100)}", exemplars=True) for q in (0.5, 0.95, 0.99)]


class _Sql(Builder[Dataquery]):
    def __init__(self, statement: str, form: str) -> None:
        self._data: dict[str, Any] = {
            "datasource": POSTGRES,
            "editorMode": "code",
            "format": form,
            "rawQuery": True,
            "rawSql": statement.strip(),
        }

    def build(self) -> Dataquery:
        return UnknownDataquery(dict(self._data))


def sql(statement: str, form: str = "table") -> Query:
    """A query of the views that Grafana may read; `form` is table or time_series."""
    return _Sql(statement, form)


def logql(expression: str, lines: int) -> loki.Dataquery:
    return loki.Dataquery().expr(expression).max_lines(lines).datasource(LOKI)


def source_of(queries: Sequence[Query]) -> DataSourceRef:
    """The data source of queries that all have the same."""
    built = queries[0].build()
    found = built.data["datasource"] if isinstance(built, UnknownDataquery) else vars(built)["datasource"]
    if not isinstance(found, DataSourceRef):
        raise TypeError("a query has no data source")
    return found


def graph(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    link: DashboardLink | None = None,
    bars: bool = False,
    bad_above: float | None = None,
    many: bool = False,
    width: int = 12,
    height: int = 9,
) -> timeseries.Panel:
    """Series over time: lines, or stacked bars for what is counted. A line is drawn at `bad_above`.

    Below it stand mean and highest value of each series: nine rows have room for three. Of `many`, only the names.
    """
    mode = LegendDisplayMode.LIST if many else LegendDisplayMode.TABLE
    legend = common.VizLegendOptions().display_mode(mode).placement(LegendPlacement.BOTTOM)
    calcs = [] if many else ["mean", "max"]
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    made = timeseries.Panel().title(title).description(description).unit(unit).span(width).height(height)
    made = made.datasource(source_of(queries)).targets(list(queries)).min(0).tooltip(tooltip)
    made = made.legend(legend.show_legend(True).calcs(calcs)).no_value("none")
    made = made.show_points(VisibilityMode.NEVER).fill_opacity(80 if bars else 8)
    if bars:
        made = made.draw_style(GraphDrawStyle.BARS).line_width(0)
        made = made.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if unit == "locale":
        made = made.axis_soft_max(1)  # of a counter that is 0, not up to 100
    if bad_above is not None:
        style = common.GraphThresholdsStyleConfig()
        made = made.thresholds(steps((bad_above, "red")))
        made = made.thresholds_style(style.mode(GraphThresholdsStyleMode.DASHED))
    return made.data_links([link]) if link is not None else made


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    thresholds: ThresholdsConfig,
    *,
    link: DashboardLink | None = None,
    width: int = 4,
    decimals: int | None = None,
) -> stat.Panel:
    """One value, coloured by its thresholds."""
    made = stat.Panel().title(title).description(description).unit(unit).span(width).height(4)
    made = made.datasource(source_of([query])).targets([query]).thresholds(thresholds).no_value("none")
    made = made.color_mode(BigValueColorMode.VALUE).graph_mode(BigValueGraphMode.AREA).mappings([_NOTHING])
    made = made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    if decimals is not None:
        made = made.decimals(decimals)
    return made.data_links([link]) if link is not None else made


def rows_of(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    width: int = 24,
    height: int = 9,
) -> table.Panel:
    """A table; its columns are named, given units and linked by `column_of`.

    An empty cell stays empty: Grafana writes a word for it, if there is one, into the links of its row, too.
    """
    made = table.Panel().title(title).description(description).unit(unit).span(width).height(height)
    return made.datasource(source_of(queries)).targets(list(queries)).filterable(True).min_width(_MIN_WIDTH)


def column_of(
    panel: table.Panel,
    name: str,
    *,
    shown: str | None = None,
    unit: str | None = None,
    link: DashboardLink | None = None,
    width: int | None = None,
    decimals: int | None = None,
    hidden: bool = False,
) -> table.Panel:
    """What is special about the column `name` of a table. No two may be `shown` alike: one has the other's values."""
    given = {
        "displayName": shown,
        "unit": unit,
        "links": [link.build()] if link is not None else None,
        "custom.width": width,
        "decimals": decimals,
        "custom.hidden": hidden or None,
        "custom.hideFrom.viz": hidden or None,  # the same since Grafana 12
    }
    properties = [DynamicConfigValue(id_val=key, value=value) for key, value in given.items() if value is not None]
    return panel.override_by_name(name, properties)


def coloured_outcomes(panel: timeseries.Panel) -> timeseries.Panel:
    """Each series that is named by an outcome in its colour."""
    for outcome, color in COLORS.items():
        fixed = DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})
        panel = panel.override_by_name(outcome, [fixed])
    return panel


def log_lines(title: str, description: str, query: Query, *, width: int = 24, height: int = 9) -> logs.Panel:
    """Lines of logs, newest first, whose fields carry the data source's links."""
    made = logs.Panel().title(title).description(description).span(width).height(height)
    made = made.datasource(source_of([query])).targets([query]).show_time(True).wrap_log_message(True)
    return made.enable_log_details(True).dedup_strategy(LogsDedupStrategy.NONE)


def steps(*above: tuple[float, str]) -> ThresholdsConfig:
    """Green, and from each value on another colour."""
    found = [Threshold(value=None, color="green"), *(Threshold(value=value, color=color) for value, color in above)]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(found)


def steps_down(red_below: float, orange_below: float) -> ThresholdsConfig:
    """Red below the first, orange below the second, green from there on."""
    found = [Threshold(value=None, color="red"), Threshold(value=red_below, color="orange")]
    return (
        ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps([*found, Threshold(value=orange_below, color="green")])
    )


def plain() -> ThresholdsConfig:
    """For what is neither good nor bad."""
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps([Threshold(value=None, color="blue")])


def trace_link(trace_column: str = "trace_id") -> DashboardLink:
    """To a call's trace in Explore, by the id in a column of its row."""
    query = {
        "refId": "A",
        "datasource": {"type": TEMPO.type_val, "uid": TEMPO.uid},
        "queryType": "traceql",
        "query": "TRACE",
    }
    panes = {"t": {"datasource": TEMPO.uid, "queries": [query], "range": {"from": "FROM", "to": "TO"}}}
    written = quote(json.dumps(panes, separators=(",", ":")), safe="")
    for name, variable in (("TRACE", f"__data.fields.{trace_column}"), ("FROM", "__from"), ("TO", "__to")):
        written = written.replace(name, f"${{{variable}}}")
    return DashboardLink("Its trace").type(DashboardLinkType.LINK).url(f"/explore?schemaVersion=1&panes={written}")


def merged(*, without: Sequence[str]) -> list[DataTransformerConfig]:
    """Makes one table of several queries whose series have the same labels."""
    return [
        DataTransformerConfig(id_val="merge", options={}),
        DataTransformerConfig(id_val="organize", options={"excludeByName": dict.fromkeys(without, True)}),
    ]
