"""Records to put into spools."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from luthien.exchange import StageRecord
from tests import records

WAIT_S = 10.0


def record(
    payload: bytes | None = b"{}", *, call_id: UUID | None = None, sequence: int = 0, **attributes: Any
) -> StageRecord:
    """A record with these attributes."""
    return records.record(call_id, sequence, payload=payload, attributes=attributes)
