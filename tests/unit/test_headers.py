"""Lists of headers are read as the exporters read theirs, and what is none is refused without being quoted."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.util.re import parse_env_headers

from luthien.headers import read_headers

READ = [
    ("X-Scope-OrgID=team-a", {"x-scope-orgid": "team-a"}),
    (" a=1 , Authorization=Basic%20dXNlcjpwYXNz, ", {"a": "1", "authorization": "Basic dXNlcjpwYXNz"}),
    ("Authorization=Bearer%20a=b", {"authorization": "Bearer a=b"}),
    ("Authorization = Bearer token==", {"authorization": "Bearer token=="}),
    ("x%2dkey=a%2Cb", {"x-key": "a,b"}),
    ("a=1,A=2", {"a": "2"}),
    (" , ", {}),
]


@pytest.mark.parametrize(("text", "headers"), READ)
def test_headers_are_read_as_exporters_read_them(
    text: str, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert read_headers(text) == headers == parse_env_headers(text.strip(), liberal=True)
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("hunter2", 1),
        ("=hunter2", 1),
        ("a=", 1),
        ("a b=hunter2", 1),
        ("a%20b=hunter2", 1),
        ("a=hunter2%0d%0ab: c", 1),
        ("a=hunter2%C3%A9", 1),
        ("a=hunter2\u00e9", 1),
        ('a="hunter2"', 1),
        ("a=hunter2;b", 1),
        ("a=1,,hunter2", 2),
    ],
)
def test_what_is_no_header_is_named_by_its_number_alone(text: str, number: int) -> None:
    with pytest.raises(ValueError, match=rf"must be name=value, .*: number {number} is not$") as refused:
        read_headers(text)
    assert "hunter2" not in str(refused.value)
