"""Where Grafana shows a call's trace: Explore, by the trace's id or by the call's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import quote
from uuid import UUID

from luthien.settings import Settings
from luthien.telemetry import conventions as names

_AROUND_S = 3600


@dataclass(frozen=True, slots=True)
class Times:
    """When a call began and ended, in seconds since the epoch."""

    started_s: float
    ended_s: float | None = None

    def around(self, seconds: float) -> tuple[float, float]:
        return self.started_s - seconds, (self.ended_s or self.started_s) + seconds


@dataclass(frozen=True, slots=True)
class Links:
    """Addresses in Grafana; None where there is none to lead to."""

    trace: str | None = None
    """The trace whose id the record has."""
    call: str | None = None
    """The search for spans of the call, whatever trace they are in."""

    def as_dict(self) -> dict[str, str | None]:
        return {"trace": self.trace, "call": self.call}


class Explore:
    """Grafana's Explore, as the settings say where it is."""

    def __init__(self, settings: Settings) -> None:
        self._grafana = settings.grafana_url.rstrip("/") if settings.grafana_url else None
        self._datasource = settings.tempo_datasource

    def links(self, call_id: UUID, trace_id: str | None, times: Times) -> Links:
        return Links(None if trace_id is None else self.of(trace_id, times), self.of(traceql_of(call_id), times))

    def of(self, query: str, times: Times) -> str | None:
        """What Explore finds with a trace's id, or with TraceQL; None when no Grafana is configured."""
        if self._grafana is None:
            return None
        start, end = (str(int(second * 1000)) for second in times.around(_AROUND_S))
        asked = {
            "refId": "A",
            "datasource": {"type": "tempo", "uid": self._datasource},
            "queryType": "traceql",
            "query": query,
        }
        panes = {"t": {"datasource": self._datasource, "queries": [asked], "range": {"from": start, "to": end}}}
        written = quote(json.dumps(panes, separators=(",", ":")), safe="")
        return f"{self._grafana}/explore?orgId=1&schemaVersion=1&panes={written}"


def traceql_of(call_id: UUID) -> str:
    """Each span of the call has its id."""
    return f'{{ span.{names.CALL_ID} = "{call_id}" }}'
