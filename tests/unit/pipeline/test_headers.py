"""The headers that are recorded: a few that are known, and no credential."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.pipeline.headers import kept_request_headers, kept_response_headers

CREDENTIALS = [
    *(b"authorization", b"Authorization", b"proxy-authorization", b"x-api-key", b"api-key", b"X-Api-Key", b"cookie"),
    *(b"set-cookie", b"x-goog-api-key", b"openai-organization", b"openai-project", b"x-forwarded-for", b"baggage"),
    *(b"traceparent", b"luthien-session-id", b"x-amz-security-token", b"www-authenticate"),
]
KNOWN = [
    *(b"accept", b"anthropic-beta", b"anthropic-version", b"content-type", b"openai-beta", b"user-agent"),
    *(b"anthropic-request-id", b"openai-processing-ms", b"openai-version", b"request-id", b"retry-after"),
    *(b"retry-after-ms", b"x-request-id", b"x-should-retry", b"x-stainless-lang", b"x-stainless-retry-count"),
    b"x-stainless-package-version",
]


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_header_that_is_not_known_to_be_harmless_is_not_kept(name: bytes) -> None:
    headers = [(name, b"secret"), (b"content-type", b"a/b")]
    assert kept_request_headers(headers) == '{"content-type": "a/b"}'
    assert kept_response_headers(headers) == '{"content-type": "a/b"}'


@given(st.lists(st.tuples(st.binary(max_size=12), st.just(b"secret")), max_size=6))
def test_so_it_is_for_names_of_any_kind(headers: list[tuple[bytes, bytes]]) -> None:
    unknown = [header for header in headers if header[0].lower() not in KNOWN]
    assert kept_request_headers(unknown) == kept_response_headers(unknown) == "{}"


def test_each_side_keeps_its_own() -> None:
    headers = [(name, b"1") for name in KNOWN]
    request, response = json.loads(kept_request_headers(headers)), json.loads(kept_response_headers(headers))
    assert request.keys() & response.keys() == {"content-type"}
    assert sorted(request | response) == sorted(name.decode() for name in KNOWN)


def test_names_are_kept_in_lower_case_and_values_as_they_came() -> None:
    assert kept_request_headers([(b"User-Agent", b"OpenAI/Python 2")]) == '{"user-agent": "OpenAI/Python 2"}'


@given(st.binary())
def test_a_value_of_any_bytes_is_kept_up_to_256_characters(value: bytes) -> None:
    kept = json.loads(kept_request_headers([(b"accept", value)]))
    assert kept == {"accept": value.decode("latin-1")[:256]}
