"""The statements, as they are put together."""

from __future__ import annotations

import re

import pytest

from luthien.store.calls import CALL_COLUMNS
from luthien.store.sql import query

STATEMENTS = ["copy_calls", "merge_calls", "list_calls", "get_call", "feed_changes"]


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_statement_about_whole_calls_names_all_columns_in_the_order_in_which_they_are_copied(name: str) -> None:
    in_order = r",\s+".join(CALL_COLUMNS)
    assert re.search(rf"\b{in_order}\b", query(name))
    assert "<<" not in query(name)


@pytest.mark.parametrize("name", ["found_before", "found_after"])
def test_parts_may_be_made_of_parts(name: str) -> None:
    assert "calls.wire_format = %(format)s" in query(name)
    assert "<<" not in query(name)


def test_what_comes_in_has_the_columns_of_a_call_and_their_types() -> None:
    [listed] = re.findall(r"incoming_calls \((.*)\) ON COMMIT", query("stage_incoming_calls"), re.DOTALL)
    assert dict(column.split() for column in listed.split(",")) == CALL_COLUMNS


def test_a_merge_says_of_every_column_what_becomes_of_it() -> None:
    merged = re.findall(r"^    (\w+) = ", query("merge_calls"), re.MULTILINE)
    assert [*merged[:-1]] == [column for column in CALL_COLUMNS if column != "call_id"]
    assert merged[-1] == "stored_xid"
