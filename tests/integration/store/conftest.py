"""A reader of the record."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from luthien.store.read import RecordReader


@pytest.fixture
async def reader(record_database: str) -> AsyncIterator[RecordReader]:
    reader = RecordReader(record_database)
    await reader.open()
    yield reader
    await reader.close()
