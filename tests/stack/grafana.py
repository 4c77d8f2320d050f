"""What Grafana makes of a dashboard before it asks a data source or opens a link, as its documents say it.

There is no Grafana here: this is written from the documents of its variables, its PostgreSQL macros and its links.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

ROOT = Path(__file__).parents[2]
RUNBOOKS = "luthien-runbooks"
STERN = '''
from luthien.policies.policy import NoConfig, Policy, Verdict


class Stern(Policy):
    """Blocks at one word, breaks at another, and notes a third."""

    async def on_request(self, request):
        said = str(request.body)
        if "forbidden" in said:
            return Verdict.block("not here")
        if "fragile" in said:
            raise RuntimeError("broke")
        return Verdict.annotate("noted") if "odd" in said else Verdict.allow()
'''
"""The file of a policy, for calls of every outcome."""
Json = dict[str, Any]
Value = str | Sequence[str]

ALL = "$__all"
_VARIABLE = re.compile(r"\$\{([\w.]+)(?::([\w:]+))?\}")
_MACRO = re.compile(r"\$(__\w+)\(([^)]*)\)")


@dataclass(frozen=True)
class View:
    """A dashboard as somebody looks at it: from when to when, and what they chose."""

    dashboard: Json
    since: datetime
    until: datetime
    chosen: Mapping[str, Value] = field(default_factory=dict)
    interval_s: int = 60

    def sql(self, text: str) -> str:
        """A statement as the data source is given it, and as that gives it to Postgres."""
        interpolated = _VARIABLE.sub(lambda match: self._variable(match[1], match[2] or "raw"), text)
        return _MACRO.sub(self._macro, interpolated.replace("$__interval", f"{self.interval_s}s"))

    def link(self, url: str, row: Mapping[str, object] | None = None) -> str:
        """A link's address, clicked on in that row."""

        def value(match: re.Match[str]) -> str:
            if match[1].startswith("__data.fields."):
                assert row is not None, url
                return _formatted(_shown(row[match[1].removeprefix("__data.fields.")]), match[2] or "raw")
            if match[1].startswith("__field.labels."):
                assert row is not None, url
                return _formatted(_shown(row.get(match[1].removeprefix("__field.labels."))), match[2] or "raw")
            return self._variable(match[1], match[2] or "raw")

        return _VARIABLE.sub(value, url)

    def _variable(self, name: str, form: str) -> str:
        if name in ("__from", "__to"):
            at = self.since if name == "__from" else self.until
            return rfc3339(at) if form.startswith("date") else str(int(at.timestamp() * 1000))
        if name == "__url_time_range":
            return f"from={self._variable('__from', 'raw')}&to={self._variable('__to', 'raw')}"
        [variable] = [each for each in self.dashboard["templating"]["list"] if each["name"] == name]
        value = self.chosen.get(name, variable["current"]["value"])
        if value in (ALL, [ALL]):
            return str(variable["allValue"])  # as it is, whatever the format
        return _formatted(value, form)

    def _macro(self, match: re.Match[str]) -> str:
        name, arguments = match[1], [each.strip() for each in match[2].split(",")]
        if name in ("__timeFrom", "__timeTo"):
            return f"'{rfc3339(self.since if name == '__timeFrom' else self.until)}'"
        if name == "__timeFilter":
            return f"{arguments[0]} BETWEEN '{rfc3339(self.since)}' AND '{rfc3339(self.until)}'"
        if name in ("__timeGroup", "__timeGroupAlias"):
            seconds = int(arguments[1].strip("'").removesuffix("s"))
            group = f"floor(extract(epoch from {arguments[0]})/{seconds})*{seconds}"
            return f'{group} AS "time"' if name.endswith("Alias") else group
        raise AssertionError(f"no macro {name}")


def rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _formatted(value: Value, form: str) -> str:
    values = [value] if isinstance(value, str) else [*value]
    if form == "sqlstring":
        return ",".join("'" + each.replace("'", "''") + "'" for each in values)
    if form == "percentencode":
        joined = values[0] if len(values) == 1 else "{" + ",".join(values) + "}"
        return quote(joined, safe="-_.~")
    assert form == "raw", form
    return ",".join(values)


def _shown(value: object) -> str:
    return "" if value is None else str(value)


def dashboards() -> dict[str, Json]:
    """Those with figures that Grafana is given, by their uid."""
    found = [json.loads(path.read_text()) for path in sorted((ROOT / "dashboards").glob("*.json"))]
    return {each["uid"]: each for each in found if each["uid"] != RUNBOOKS}


def panels(dashboard: Json) -> list[Json]:
    """All panels, those in folded rows included, without the rows."""
    flat = [inner for each in dashboard["panels"] for inner in (each, *each.get("panels", ()))]
    return [each for each in flat if each["type"] != "row"]


def statements(dashboard: Json) -> Iterator[tuple[str, str]]:
    """Every SQL statement of a dashboard, with the title of its panel or the name of its variable."""
    for variable in dashboard["templating"]["list"]:
        if (variable.get("datasource") or {}).get("uid") == "luthien-postgres":
            query = variable["query"]
            yield variable["name"], query if isinstance(query, str) else query["rawSql"]
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            if "rawSql" in target:
                yield panel["title"], target["rawSql"]


def links(panel: Json) -> Iterator[tuple[str | None, str]]:
    """Every link of a panel, with the column that it is on; None is the whole panel."""
    config = panel.get("fieldConfig", {})
    for link in config.get("defaults", {}).get("links", ()):
        yield None, link["url"]
    for override in config.get("overrides", ()):
        for each in override["properties"]:
            for link in each["value"] if each["id"] == "links" else ():
                yield override["matcher"]["options"], link["url"]


def expanded(expression: str, board: Json, **chosen: str) -> str:
    """As Grafana sends it when everything is chosen, but for what is given."""
    values = {
        "__rate_interval": "30s",
        "__range": "30s",
        "__interval": "1s",
        **{each["name"]: str(each.get("allValue")) for each in board["templating"]["list"]},
        **chosen,
    }
    found = re.sub(r"\$\{?(\w+)\}?", lambda match: values[match[1]], expression)
    assert "$" not in found, expression
    return found


def provisioned() -> list[Json]:
    files = (ROOT / "otel" / "grafana" / "provisioning" / "datasources").glob("*.yaml")
    return [source for file in files for source in yaml.safe_load(file.read_text())["datasources"]]
