"""What the dashboards share that read the reports in Postgres: the range of ids, variables, and numbers in a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from grafana_foundation_sdk.builders import common, stat, table
from grafana_foundation_sdk.builders.dashboard import CustomVariable, DashboardLink, QueryVariable, TextBoxVariable
from grafana_foundation_sdk.models.common import BigValueColorMode, BigValueGraphMode
from grafana_foundation_sdk.models.dashboard import DynamicConfigValue, VariableOption, VariableRefresh, VariableSort

from dashboards import parts
from dashboards.parts import POSTGRES

IN_TIME: Final = "call_id >= luthien_first_id($__timeFrom()) AND call_id < luthien_first_id($__timeTo())"
"""The calls that began in the dashboard's time: a range of ids, so that Postgres looks into their days only."""

_EVERYTHING: Final = "'|.*|'"
"""What stands for all values of a variable: a text in SQL, and in PromQL an expression that everything matches."""


def chosen(variable: str, *columns: str) -> str:
    """A condition: one of the columns has a value that was chosen; true while all are."""
    return _one_of(variable, _EVERYTHING, *columns)


def chosen_overlap(variable: str, column: str) -> str:
    """The same of a column that is an array."""
    values = f"${{{variable}:sqlstring}}"
    return f"({_EVERYTHING} IN ({values}) OR {column} && ARRAY[{values}]::text[])"


def written(variable: str, column: str) -> str:
    """A condition: the column has the value that was written; true while nothing is."""
    return _one_of(variable, "''", column)


def _one_of(variable: str, *expressions: str) -> str:
    return "(" + " OR ".join(f"{each} IN (${{{variable}:sqlstring}})" for each in expressions) + ")"


def lacking(alias: str = "without", **columns: str) -> str:
    """A column for links: the filters that a row has no value for, as the filter `without` of calls takes them.

    Args:
        columns: what each filter's value is in the statement.
    """
    each = ", ".join(f"CASE WHEN COALESCE({column}, '') = '' THEN '{name}' END" for name, column in columns.items())
    return f"concat_ws(',', {each}) AS {alias}"


def report_variable(name: str, label: str, statement: str) -> QueryVariable:
    """The values that a statement finds: any number of them; all at first, and then what has none is not left out."""
    made = QueryVariable(name).label(label).datasource(POSTGRES).query(statement)
    made = made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    everything = VariableOption(text=["All"], value=["$__all"])
    return made.multi(True).include_all(True).all_value(_EVERYTHING).current(everything)


def choice_variable(name: str, label: str, values: Iterable[str]) -> CustomVariable:
    """Some of these values, all at first."""
    made = CustomVariable(name).label(label).values(",".join(values)).multi(True).include_all(True)
    return made.all_value(_EVERYTHING).current(VariableOption(text=["All"], value=["$__all"]))


def text_variable(name: str, label: str) -> TextBoxVariable:
    """A value to be written; nothing at first."""
    option = VariableOption(text="", value="")
    return TextBoxVariable(name).label(label).default_value("").current(option).options([option])


class Shown(NamedTuple):
    """How a column of a statement is shown."""

    title: str
    unit: str = "short"
    link: DashboardLink | None = None
    width: int | None = None


HIDDEN: Final = Shown("", "string")
"""Of a column that only links use."""


def figures(title: str, description: str, statement: str, columns: Mapping[str, Shown]) -> stat.Panel:
    """The columns of a statement's only row as numbers beside each other, each with its unit and link."""
    made = stat.Panel().title(title).description(description).span(24).height(4).datasource(POSTGRES)
    made = made.targets([parts.sql(statement)]).thresholds(parts.plain()).no_value("none")
    made = made.color_mode(BigValueColorMode.VALUE).graph_mode(BigValueGraphMode.NONE)
    made = made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("/.*/"))
    for name, shown in columns.items():
        made = made.override_by_name(name, _properties(shown))
    return made


def rows(title: str, description: str, statement: str, columns: Mapping[str, Shown]) -> table.Panel:
    """The rows of a statement."""
    made = parts.rows_of(title, description, [parts.sql(statement)])
    for name, shown in columns.items():
        made = made.override_by_name(name, _properties(shown))
    return made


def _properties(shown: Shown) -> list[DynamicConfigValue]:
    if shown is HIDDEN:
        return _values({"unit": shown.unit, "custom.hidden": True, "custom.hideFrom.viz": True})
    links = None if shown.link is None else [shown.link.build()]
    return _values({"displayName": shown.title, "unit": shown.unit, "links": links, "custom.width": shown.width})


def _values(given: Mapping[str, Any]) -> list[DynamicConfigValue]:
    return [DynamicConfigValue(id_val=key, value=value) for key, value in given.items() if value is not None]
