"""Whatever coding a body comes in: all of it is read, in bounded pieces, and half of it is no body."""

from __future__ import annotations

import gzip
import os
from collections.abc import AsyncIterator

import httpx2 as httpx
import pytest

from luthien.errors import UpstreamError
from luthien.upstream.decoding import decoded
from tests.codings import ENCODERS

PLAIN = b'{"a": "' + os.urandom(3000).hex().encode() + b'"}'


def response_of(coding: str, *parts: bytes) -> httpx.Response:
    async def content() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return httpx.Response(200, headers={"content-encoding": coding}, content=content())


async def pieces_of(coding: str, *parts: bytes) -> list[bytes]:
    return [piece async for piece in decoded(response_of(coding, *parts))]


@pytest.mark.parametrize("name", ENCODERS)
async def test_a_body_is_read_whole_however_it_is_cut_into_parts(name: str) -> None:
    coding, encode = ENCODERS[name]
    body = encode(PLAIN)
    assert b"".join(await pieces_of(coding, body)) == PLAIN
    assert b"".join(await pieces_of(coding, *(bytes([byte]) for byte in body))) == PLAIN


@pytest.mark.parametrize("name", ENCODERS)
async def test_a_body_that_breaks_off_anywhere_is_none(name: str) -> None:
    coding, encode = ENCODERS[name]
    body = encode(PLAIN)
    for kept in (1, 2, 7, len(body) // 2, len(body) - 5, len(body) - 1):
        with pytest.raises(UpstreamError) as raised:
            await pieces_of(coding, body[:kept])
        assert (raised.value.status, raised.value.code) == (502, "upstream_incomplete")


@pytest.mark.parametrize("name", ENCODERS)
async def test_a_body_of_nothing_is_whole(name: str) -> None:
    assert await pieces_of(ENCODERS[name][0]) == []


@pytest.mark.parametrize("name", ENCODERS)
async def test_what_is_not_in_that_coding_cannot_be_decoded(name: str) -> None:
    with pytest.raises(UpstreamError) as raised:
        await pieces_of(ENCODERS[name][0], b"\xff\xfeno such thing" * 10)
    assert raised.value.code == "upstream_protocol"


@pytest.mark.parametrize("name", ["gzip", "zstd"])
async def test_a_body_may_have_several_members(name: str) -> None:
    coding, encode = ENCODERS[name]
    body = encode(b"one") + encode(b"") + encode(b"two")
    assert b"".join(await pieces_of(coding, body)) == b"onetwo"
    with pytest.raises(UpstreamError):
        await pieces_of(coding, body[:-2])


@pytest.mark.parametrize("name", ENCODERS)
async def test_much_in_little_comes_in_pieces_of_bounded_size(name: str) -> None:
    coding, encode = ENCODERS[name]
    pieces = await pieces_of(coding, encode(bytes(20_000_000)))
    assert sum(map(len, pieces)) == 20_000_000
    assert max(map(len, pieces)) <= 256 * 1024


@pytest.mark.parametrize("coding", ["compress", "gzip, snappy", "gzip, gzip, gzip"])
async def test_a_coding_that_is_not_known_is_refused(coding: str) -> None:
    with pytest.raises(UpstreamError) as raised:
        await pieces_of(coding, gzip.compress(PLAIN))
    assert raised.value.code == "upstream_protocol"
