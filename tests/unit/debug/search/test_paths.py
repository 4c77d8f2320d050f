"""Paths for counting: the formats' own words, and nobody else's."""

from __future__ import annotations

import pytest

from luthien.debug.search.paths import message_of, path_of
from luthien.exchange import Side


@pytest.mark.parametrize(
    ("ptr", "path"),
    [
        ("", "/"),
        ("/messages/0/content", "/messages/*/content"),
        ("/messages/12/content/3/text", "/messages/*/content/*/text"),
        ("/input/2/content/0/text", "/input/*/content/*/text"),
        ("/choices/0/message/tool_calls/1/function/arguments", "/choices/*/message/tool_calls/*/function/arguments"),
        ("/content/0/input", "/content/*/input"),
        ("/content/0/input/text", "/content/*/input/…"),
        ("/content/0/input/0", "/content/*/input/*"),
        ("/messages/1/content/0/input/iban of Dana", "/messages/*/content/*/input/…"),
        ("/tools/0/function/parameters/properties/name", "/tools/*/function/parameters/…"),
        ("/metadata/name", "/metadata/…"),
        ("/logit_bias/50256", "/logit_bias/*"),
        ("/response_format/json_schema/schema/properties/x", "/response_format/json_schema/schema/…"),
        ("/dana@example.com", "/…"),
        ("/messages/dana@example.com/content", "/messages/…"),
        ("/4111111111111111", "/*"),
        ("/٤", "/…"),
        ("/a~1b", "/…"),
        ("/messages" * 40, "/messages" * 12 + "/…"),
    ],
)
def test_a_path_has_only_keys_that_the_formats_define(ptr: str, path: str) -> None:
    assert path_of(ptr) == path


@pytest.mark.parametrize(
    ("ptr", "side", "message"),
    [
        ("/messages/3/content", Side.REQUEST, 3),
        ("/messages", Side.REQUEST, None),
        ("/system", Side.REQUEST, None),
        ("/input", Side.REQUEST, 0),
        ("/input/4/content/0", Side.REQUEST, 4),
        ("/messages/4111111111111111/content", Side.REQUEST, None),
        ("/content/2/text", Side.REQUEST, None),
        ("/choices/1/message/content", Side.RESPONSE, 1),
        ("/content/2/text", Side.RESPONSE, 0),
        ("/output/2/content/0/text", Side.RESPONSE, 2),
        ("/messages/3/content", Side.RESPONSE, None),
        ("", Side.REQUEST, None),
        ("", Side.RESPONSE, None),
    ],
)
def test_a_place_is_in_a_message_or_in_none(ptr: str, side: Side, message: int | None) -> None:
    assert message_of(ptr, side) == message
