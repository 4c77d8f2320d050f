"""Credentials in bodies: masked wherever they stand and however they are spelled, and nothing else touched."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.formats.credentials import MASK, masked, masked_frames
from luthien.formats.registry import FORMATS
from luthien.formats.sse import FrameReader
from tests.wire import (
    Json,
    anthropic_event,
    anthropic_request,
    anthropic_stream,
    openai_chunk,
    openai_request,
    openai_response,
    openai_stream,
    sse,
)

KEYS = ["authorization", "authorization_token", "api_key", "api-key", "x-api-key", "access_token"]


def mcp_request(**server: Any) -> Json:
    return anthropic_request(mcp_servers=[{"type": "url", "name": "m", **server}])


def after(body: Any) -> Any:
    """The body as it is recorded."""
    hidden = masked(json.dumps(body).encode())
    return body if hidden is None else json.loads(hidden)


class TestMasked:
    @pytest.mark.parametrize("key", [*KEYS, "Authorization", "X-API-Key", "API_KEY"])
    @pytest.mark.parametrize("place", ["tools", "mcp_servers"])
    def test_a_key_for_another_server_is_masked(self, place: str, key: str) -> None:
        tool = {"type": "mcp", "server_label": "m", key: "sk-secret", "allowed_tools": ["a"]}
        assert after(openai_request() | {place: [{"type": "function"}, tool]}) == openai_request() | {
            place: [{"type": "function"}, tool | {key: MASK}]
        }

    @pytest.mark.parametrize("value", ["", "x", 5, ["sk-secret"], {"token": "sk-secret"}, True])
    def test_so_it_is_whatever_its_kind(self, value: Any) -> None:
        assert after(mcp_request(authorization=value)) == mcp_request(authorization=MASK)

    @pytest.mark.parametrize(
        "headers", [{"Authorization": "secret", "X-Custom": ["secret"]}, ["secret"], "a: secret"]
    )
    def test_all_headers_for_another_server_are_masked(self, headers: Any) -> None:
        result = after(mcp_request(headers=headers))["mcp_servers"][0]["headers"]
        assert result == (dict.fromkeys(headers, MASK) if isinstance(headers, dict) else MASK)

    def test_it_may_stand_at_any_depth(self) -> None:
        server = {"nested": [{"deeper": {"connection": [{"access_token": "sk-secret"}]}}]}
        assert "sk-secret" not in str(after(mcp_request(**server)))

    @pytest.mark.parametrize("key", ["url", "server_url", "Server_URL"])
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("https://h/sse?api_key=sk-secret&b=c", f"https://h/sse?{MASK}"),
            ("https://h/sse?sk-secret#part", f"https://h/sse?{MASK}#part"),
            ("https://user:sk-secret@h:8080/sse", f"https://{MASK}@h:8080/sse"),
            ("https://sk-secret@h?k=sk-secret", f"https://{MASK}@h?{MASK}"),
            ("//u:sk-secret@h", f"//{MASK}@h"),
        ],
    )
    def test_what_an_address_carries_is_masked(self, key: str, url: str, expected: str) -> None:
        assert after(mcp_request(**{key: url})) == mcp_request(**{key: expected})

    @pytest.mark.parametrize(
        "spelled",
        [
            rb'{"tools":[{"\u0061uthorization":"sk-secret"}]}',
            rb'{"t\u006fols":[{"api_key":"sk-secret"}]}',
            rb'{"tools":[{"api\u005Fkey":"sk-secret"}]}',
            rb'{"tools":[{"api\u002dkey":"sk-secret"}]}',
            rb'{"tools":[{"HEADERS":{"a":"sk-secret"}}]}',
            rb'{"tools":[{"url":"https:\/\/h\/\u003fk=sk-secret"}]}',
            rb'{"tools":[{"url":"https:\/\/sk-secret\u0040h"}]}',
            rb'{"tools":[{"\u0075rl" : "https://h/?sk-secret"}]}',
            b'\xef\xbb\xbf{"tools":[{"api_key":"sk-secret"}]}',
        ],
    )
    def test_however_it_is_spelled(self, spelled: bytes) -> None:
        hidden = masked(spelled)
        assert hidden is not None
        assert b"sk-secret" not in hidden
        assert MASK.encode() in hidden

    @pytest.mark.parametrize(
        "body",
        [
            b'{"tools":[{"authorization":"sk-secret"}],}',
            b'{"tools":[{"authorization":"sk-secret',
            b'{"tools":[{"headers":{"a":"sk-secret"}}]}\xff',
            b'{"tools":[{"api_key":"sk-secret"}],"a":' + b"[" * 100_000,
            b'{"tools":' + b"[" * 700 + b'{"api_key":"sk-secret"}' + b"]" * 700 + b"}",
        ],
        ids=["comma", "cut", "encoding", "endless", "deep"],
    )
    def test_a_body_that_may_hold_one_and_cannot_be_read_is_masked_as_a_whole(self, body: bytes) -> None:
        hidden = masked(body)
        assert hidden is not None
        assert b"sk-secret" not in hidden

    @given(st.sampled_from(KEYS), st.text(min_size=1, max_size=8), st.booleans())
    def test_what_is_masked_is_nowhere_else_in_the_body(self, key: str, text: str, escaped: bool) -> None:
        secret = f"sk-{text}-secret"
        body = mcp_request(**{key: secret})
        hidden = masked(json.dumps(body, ensure_ascii=escaped).encode())
        assert hidden is not None
        assert json.loads(hidden) == mcp_request(**{key: MASK})


class TestKept:
    @pytest.mark.parametrize(
        "body",
        [
            openai_request(),
            openai_response("my authorization_token and api_key"),
            openai_request('{"tools": [{"authorization": "quoted"}]}'),
            openai_request(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]),
            mcp_request(url="https://h/sse"),
            mcp_request(authorization_token=None),
            openai_request(metadata={"api_key": "not one of another server"}),
            {"tools": "none", "authorization": "x"},
            {"tools": [], "mcp_servers": {}, "headers": {"a": "b"}},
        ],
    )
    def test_a_body_without_any_is_kept_as_it_came(self, body: Json) -> None:
        assert masked(json.dumps(body).encode()) is None

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b'"tools authorization"', b'["tools","authorization"]', b"\xff\xfe"]
    )
    def test_so_is_what_is_no_request(self, body: bytes) -> None:
        assert masked(body) is None

    @pytest.mark.parametrize("schema", ["parameters", "input_schema"])
    def test_the_schema_of_a_tool_describes_keys_and_holds_none(self, schema: str) -> None:
        properties = {"api_key": {"type": "string", "default": "x"}, "headers": {"type": "object"}, "url": "?"}
        tool = {"name": "f", schema: {"type": "object", "properties": properties}}
        assert masked(json.dumps(openai_request(tools=[tool])).encode()) is None
        assert masked(json.dumps(openai_request(tools=[{"type": "function", "function": tool}])).encode()) is None

    def test_all_else_in_the_body_stays_and_in_its_order(self) -> None:
        body = (
            rb'{"z":1,"tools":[{"b":18446744073709551617,"api_key":"x","a":"\ud800"}],"a":{"api_key":"y"},"n":-0.0}'
        )
        hidden = masked(body)
        assert hidden == body.replace(b'"x"', f'"{MASK}"'.encode())

    def test_masking_what_is_masked_changes_nothing_more(self) -> None:
        once = masked(json.dumps(mcp_request(url="https://u:p@h?q#f", headers={"a": "b"}, api_key="c")).encode())
        assert once is not None
        assert json.loads(masked(once) or once) == json.loads(once)

    @given(st.recursive(st.none() | st.text(max_size=3), lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["tools", "mcp_servers", "url", "a", "parameters"]), inner), max_leaves=8))  # fmt: skip
    def test_what_has_no_key_that_matters_is_never_changed(self, body: Any) -> None:
        before = copy.deepcopy(body)
        assert after(body) == before


SERVERS = [{"type": "url", "url": "https://h", "authorization_token": "sk-secret"}]


class TestMaskedFrames:
    """A stream's frames are masked one by one: what they add up to is masked as a whole."""

    def test_frames_without_any_are_kept_as_they_came(self) -> None:
        raw = b"".join([*openai_stream("tools", '"authorization"'), *anthropic_stream("mcp_servers"), b": ping\n\n"])
        assert masked_frames(raw) is None

    @pytest.mark.parametrize(
        "frame",
        [
            openai_chunk({"content": "a"}, mcp_servers=SERVERS),
            sse({"type": "response.created", "response": {"tools": SERVERS}}),
            anthropic_event({"type": "message_start", "message": {"id": "m", "mcp_servers": SERVERS}}),
            anthropic_event({"type": "message_delta", "delta": {"mcp_servers": SERVERS}}),
        ],
    )
    def test_only_the_frame_that_has_one_is_changed(self, frame: bytes) -> None:
        before, after_it = openai_chunk({"content": "\\u0061 [\u007b"}), openai_chunk({"content": "b"})
        hidden = masked_frames(before + frame + after_it)
        assert hidden is not None
        assert b"sk-secret" not in hidden
        assert hidden.startswith(before)
        assert hidden.endswith(after_it)
        kept = [chunk.json for chunk in FrameReader(1 << 20).feed(frame.replace(b"sk-secret", MASK.encode()))]
        assert [chunk.json for chunk in FrameReader(1 << 20).feed(hidden)][1:-1] == kept

    @pytest.mark.parametrize("cut", [b"\n\n", b""])
    def test_what_cannot_be_read_and_may_hold_one_is_masked_as_a_whole(self, cut: bytes) -> None:
        raw = b'data: {"tools": [{"authorization": "sk-secret"' + cut
        assert masked_frames(raw) == f": {MASK}\n\n".encode()

    @given(st.lists(st.sampled_from(["message", "response", "delta", "tools", "mcp_servers", "x"]), max_size=3))
    def test_what_is_masked_of_the_whole_is_masked_of_its_parts(self, path: list[str]) -> None:
        """Whatever the assembler of a format puts together, a checkpoint shows no more than the whole does."""
        value: Any = SERVERS
        for key in reversed(path):
            value = {key: value}
        if not isinstance(value, dict):
            return
        for kind in ("message_start", "message_delta", "content_block_start", None):
            frame = sse(value if kind is None else {"type": kind} | value)
            for wire_format in FORMATS:
                assembler = wire_format.assembler()
                for chunk in FrameReader(1 << 20).feed(frame):
                    assembler.add(chunk)
                whole = json.dumps(assembler.result()).encode()
                if "sk-secret" not in (masked(whole) or whole).decode() and b"sk-secret" in whole:
                    assert b"sk-secret" not in (masked_frames(frame) or frame)
