"""What names the session of a call, and what comes first."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.pipeline.session import HEADERS, MAX_CHARS, session_of, user_of

UUID = "57a121ec-f78c-48c3-a745-e3036a3ecc33"
CLAUDE_CODE = f"user_{'5d' * 32}_account_0b1e-22_session_{UUID}"
CLAUDE_CODE_NEW = json.dumps({"device_id": "d", "account_uuid": "", "session_id": UUID})


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_names_it(name: bytes) -> None:
    assert session_of([(b"x-other", b"no"), (name, b" s-1 ")], {"user": "no"}) == "s-1"


def test_of_several_headers_the_first_of_the_list_counts() -> None:
    headers = [(name, name) for name in reversed(HEADERS)]
    assert session_of(headers, {}) == "luthien-session-id"
    assert session_of(headers[:-1], {}) == "x-claude-code-session-id"
    assert session_of([(b"session-id", b"a"), (b"session-id", b"b")], {}) == "a"


def test_a_header_that_says_nothing_does_not_count() -> None:
    assert session_of([(b"luthien-session-id", b"  "), (b"session_id", b"s")], {}) == "s"


@pytest.mark.parametrize(
    ("body", "session"),
    [
        ({"metadata": {"user_id": CLAUDE_CODE}}, UUID),
        ({"metadata": {"user_id": CLAUDE_CODE.replace("0b1e-22", "")}}, UUID),
        ({"metadata": {"user_id": CLAUDE_CODE_NEW}}, UUID),
        ({"user": CLAUDE_CODE, "prompt_cache_key": "no"}, UUID),
        ({"metadata": {"user_id": CLAUDE_CODE + "!"}}, None),
        ({"metadata": {"user_id": "{broken"}}, None),
        ({"metadata": {"user_id": "someone"}, "user": "u"}, None),
        ({"metadata": {"user_id": "someone", "session_id": "s"}}, "s"),
        ({"metadata": {"session_id": "s", "conversation_id": "c", "thread_id": "t"}}, "s"),
        ({"metadata": {"conversation_id": "c", "thread_id": "t"}, "conversation": "no"}, "c"),
        ({"metadata": {"thread_id": "t"}}, "t"),
        ({"conversation": "conv_1", "previous_response_id": "no"}, "conv_1"),
        ({"conversation": {"id": "conv_1"}}, "conv_1"),
        ({"previous_response_id": "resp_1", "prompt_cache_key": "no"}, "resp_1"),
        ({"prompt_cache_key": "k", "user": "no"}, "k"),
        ({"metadata": ["session_id"], "conversation": {"id": 7}, "user": None, "prompt_cache_key": ""}, None),
        ({}, None),
    ],
)
def test_a_body_names_it(body: dict[str, Any], session: str | None) -> None:
    assert session_of([], body) == session


def test_a_header_comes_before_the_body() -> None:
    assert session_of([(b"x-session-id", b"s")], {"metadata": {"user_id": CLAUDE_CODE}}) == "s"


def test_what_a_client_writes_is_cleaned_and_bounded() -> None:
    assert session_of([], {"conversation": "a\x00\n\ud800b"}) == "a\ufffd\ufffd\ufffdb"
    assert session_of([(b"session-id", b"\xff\x80")], {}) == "\u00ff\ufffd"
    assert session_of([], {"conversation": "s" * 10_000}) == "s" * MAX_CHARS
    assert session_of([], {"user": '{"session_id":' * 200_000}) is None


def test_a_user_is_no_session_and_told_apart() -> None:
    assert user_of({"user": " u\n", "metadata": {"user_id": "no"}}) == "u"
    assert user_of({"user": 7, "metadata": {"user_id": "v"}}) == "v"
    assert user_of({"metadata": "no"}) is None


@given(
    st.lists(st.tuples(st.sampled_from([*HEADERS, b"x"]), st.binary(max_size=9)), max_size=3),
    st.dictionaries(
        st.sampled_from(["metadata", "conversation", "user", "prompt_cache_key", "previous_response_id"]),
        st.recursive(
            st.none() | st.integers() | st.text(st.characters(exclude_categories=())),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from(["user_id", "session_id", "id"]), inner, max_size=3)
            ),
            max_leaves=5,
        ),
    ),
)
def test_whatever_is_sent_it_is_a_text_that_every_store_takes_or_nothing(
    headers: list[tuple[bytes, bytes]], body: dict[str, Any]
) -> None:
    session = session_of(headers, body)
    if session is not None:
        assert 0 < len(session) <= MAX_CHARS
        assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in session)
