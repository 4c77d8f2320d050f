"""How long each part may take when Luthien stops, after the grace period: one after the other, 15 seconds in all.

The open calls are ended, then spans and metrics are exported, then the record is written, then what was logged of all
that is exported. What comes too late for the database stays in the spool. See decision 8.
"""

from __future__ import annotations

from luthien.pipeline.ending import FAREWELL_S

CALLS_S = FAREWELL_S + 0.5
READER_S = 0.5
TELEMETRY_S = 3.0
INDEXER_S = 1.0
"""Beside the telemetry."""
RECORD_S = 4.5
UPKEEP_S = 1.5
LOGS_S = 1.0
