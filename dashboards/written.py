"""Which dashboards there are, and their JSON."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from string import ascii_uppercase

from grafana_foundation_sdk.builders.dashboard import Dashboard as Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.runtime import UnknownDataquery
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from dashboards import calls, gateway, policies, record, runbooks

FOLDER = Path(__file__).parent


def dashboards() -> tuple[Builder, ...]:
    """All of them. The name of a file is the dashboard's uid without `luthien-`."""
    return (gateway.gateway(), policies.policies(), record.record(), calls.calls(), runbooks.runbooks())


def written() -> dict[Path, str]:
    """The JSON of each, by the path where it belongs."""
    built = [numbered(dashboard.build()) for dashboard in dashboards()]
    encoder = JSONEncoder(indent=2, sort_keys=True)
    return {FOLDER / f"{str(each.uid).removeprefix('luthien-')}.json": encoder.encode(each) + "\n" for each in built}


def numbered(dashboard: Dashboard) -> Dashboard:
    """Panels get their ids, and queries their letters, in the order in which they stand."""
    numbers = count(1)
    for panel in dashboard.panels or []:
        panel.id_val = next(numbers)
        if isinstance(panel, Panel):
            _letter(panel)
    return dashboard


def _letter(panel: Panel) -> None:
    for letter, query in zip(ascii_uppercase, panel.targets or [], strict=False):
        if isinstance(query, UnknownDataquery):
            query.data["refId"] = letter
        else:
            vars(query)["ref_id"] = letter
