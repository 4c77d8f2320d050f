"""What the dashboards are made of: the data sources by their uids, queries, panels, and links to Luthien's pages."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models.dashboard import DataSourceRef

# The uids that otel/grafana/provisioning gives them.
PROMETHEUS: Final = DataSourceRef(type_val="prometheus", uid="prometheus")
TEMPO: Final = DataSourceRef(type_val="tempo", uid="tempo")
LOKI: Final = DataSourceRef(type_val="loki", uid="loki")
POSTGRES: Final = DataSourceRef(type_val="grafana-postgresql-datasource", uid="luthien-postgres")

TAG: Final = "luthien"


def dashboard(name: str, title: str, description: str) -> Dashboard:
    """An empty one, with the uid `luthien-{name}`, which links may rely on."""
    made = Dashboard(title).uid(f"luthien-{name}").description(description).tags([TAG])
    return made.refresh("30s").time("now-6h", "now").timezone("browser").readonly()


def promql(expression: str, legend: str, *, exemplars: bool = False) -> prometheus.Dataquery:
    """One query, whose series are named by `legend`, as in `{{luthien_outcome}}`."""
    query = prometheus.Dataquery().expr(expression).legend_format(legend).datasource(PROMETHEUS)
    return query.exemplar(True) if exemplars else query
