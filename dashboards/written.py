"""Which dashboards there are, and their JSON."""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

FOLDER = Path(__file__).parent


def dashboards() -> tuple[Dashboard, ...]:
    """All of them. The name of a file is the dashboard's uid without `luthien-`."""
    return ()


def written() -> dict[Path, str]:
    """The JSON of each, by the path where it belongs."""
    built = [dashboard.build() for dashboard in dashboards()]
    encoder = JSONEncoder(indent=2, sort_keys=True)
    return {FOLDER / f"{str(each.uid).removeprefix('luthien-')}.json": encoder.encode(each) + "\n" for each in built}
