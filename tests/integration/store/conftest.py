"""A reader of the record."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from luthien.store.read import RecordReader
from tests.playbook import DEADLINE_S


@pytest.fixture
async def reader(record_database: str) -> AsyncIterator[RecordReader]:
    reader = RecordReader(record_database, timeout_s=DEADLINE_S)
    await reader.open()
    yield reader
    await reader.close()
