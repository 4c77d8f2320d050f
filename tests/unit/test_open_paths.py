"""What may be passed through: nothing by another spelling, and nothing that leads around the policies."""

from __future__ import annotations

import pytest

from luthien.formats.registry import FORMATS
from luthien.open_paths import DEFAULT_OPEN, check_pattern, is_never_open, normal_path, open_pattern


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/v1/models", "/v1/models"),
        (b"/v1/models/gpt-4o.1_x~", "/v1/models/gpt-4o.1_x~"),
        (b"/v1/models/ft:gpt-4o:org::id", "/v1/models/ft:gpt-4o:org::id"),
        (b"/v1/models/ft%3Agpt%3aorg", "/v1/models/ft:gpt:org"),
        (b"/%761/m%6fdels", "/v1/models"),
        (b"/v1/models/a@b", "/v1/models/a@b"),
        (b"/v1/models/...x", "/v1/models/...x"),
    ],
)
def test_a_plain_path_has_one_spelling(raw: bytes, path: str) -> None:
    assert normal_path(raw) == path


@pytest.mark.parametrize(
    "raw",
    [
        b"/v1",
        b"/v1/",
        b"/V1/models",
        b"/v2/models",
        b"//v1/models",
        b"/v1//models",
        b"/v1/models/",
        b"/v1/models//x",
        b"/v1/models/.",
        b"/v1/models/..",
        b"/v1/models/../chat/completions",
        b"/v1/models/%2e%2e/chat/completions",
        b"/v1/models/%2E./chat/completions",
        b"/v1/models/.../x",
        b"/v1/models%2Fx",
        b"/v1/models%2fx",
        b"/v1/models%5cx",
        b"/v1/models\\x",
        b"/v1/models/%252e%252e",
        b"/v1/models/a%00",
        b"/v1/models/a%20b",
        b"/v1/models/a%0a",
        b"/v1/models/a\n",
        b"/v1/models;a=b",
        b"/v1/models/..;/chat",
        b"/v1/models/a%3Fb",
        b"/v1/models/a?b",
        b"/v1/models/a#b",
        b"/v1/models/%",
        b"/v1/models/%zz",
        b"/v1/models/%c3%a9",
        b"/v1/models/\xc3\xa9",
        b"/v1/models/*",
    ],
)
def test_an_odd_path_has_none(raw: bytes) -> None:
    assert normal_path(raw) is None


@pytest.mark.parametrize(
    ("method", "path", "template"),
    [
        ("GET", "/v1/models", "/v1/models"),
        ("GET", "/v1/models/gpt", "/v1/models/*"),
        ("POST", "/v1/embeddings", "/v1/embeddings"),
        ("POST", "/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("DELETE", "/v1/models/gpt", None),
        ("HEAD", "/v1/models", None),
        ("get", "/v1/models", None),
        ("GET", "/v1/Models", None),
        ("GET", "/v1/models/a/b", None),
        ("GET", "/v1/embeddings", None),
        ("POST", "/v1/embeddings/x", None),
        ("POST", "/v1/files", None),
        ("GET", "/v1/responses/resp_1", None),
        ("POST", "/v1/chat/completions", None),
        ("POST", "/v1/messages", None),
        ("POST", "/v1/messages/batches", None),
    ],
)
def test_the_default_opens_models_embeddings_and_token_counting(method: str, path: str, template: str | None) -> None:
    assert open_pattern(DEFAULT_OPEN, method, path) == template


@pytest.mark.parametrize(
    "pattern", [*DEFAULT_OPEN, "POST /v1/files", "GET /v1/files/*/content", "POST /v1/messages/*"]
)
def test_what_is_a_pattern(pattern: str) -> None:
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "/v1/models",
        "HEAD /v1/models",
        "get /v1/models",
        "GET  /v1/models",
        "GET /v1",
        "GET /v1/",
        "GET /v2/models",
        "GET /v1/models/",
        "GET /v1/models/..",
        "GET /v1/mod*",
        "GET /v1/**",
        "GET /v1/models?x=1",
        "GET /v1/a%2Fb",
        "GET /v1/models\n",
    ],
)
def test_what_is_none(pattern: str) -> None:
    with pytest.raises(ValueError, match="must be a method and a path"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/*",
        "/v1/*/*",
        "/v1/*/completions",
        "/v1/chat/*",
        "/v1/chat/*/*",
        "/v1/chat/completions/*",
        "/v1/Chat/Completions",
        "/v1/responses",
        "/v1/responses/*",
        "/v1/responses/*/input_items",
        "/v1/messages",
    ],
)
def test_no_pattern_opens_what_policies_look_at(path: str) -> None:
    with pytest.raises(ValueError, match="around the policies"):
        check_pattern(f"POST {path}")


def test_the_paths_of_all_formats_are_never_open() -> None:
    for wire_format in FORMATS:
        assert is_never_open(wire_format.path)
        assert open_pattern([f"POST {wire_format.path}"], "POST", wire_format.path) is None
