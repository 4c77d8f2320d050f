"""Content codings: a body without them, in pieces of bounded size, and never half of one as if it were whole.

httpx decodes them, too, but takes a brotli or gzip body that was cut off for a whole one, and drops what follows
the first member of a gzip file.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from typing import Protocol

import brotli
import httpx2 as httpx

from luthien.errors import UpstreamError

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

OFFERED = b"gzip, deflate"
"""What providers are asked for; the rest is understood when it comes unasked."""
MAX_CODINGS = 2
"""How many codings may be laid over each other: with each, a few bytes may become a thousand times more."""
_PIECE_BYTES = 64 * 1024


class Decoder(Protocol):
    """One coding of one body."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        """What these bytes say, in pieces of about `_PIECE_BYTES`."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether the body may end here."""
        ...


class _Zlib:
    """gzip, of any number of members, and deflate, with the zlib header that belongs to it or without."""

    def __init__(self, wbits: int | None) -> None:
        self._wbits = wbits
        self._head = b""
        self._inner = None if wbits is None else zlib.decompressobj(wbits)

    @property
    def is_whole(self) -> bool:
        return self._inner is not None and self._inner.eof

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._inner is None:
            data = self._head = self._head + data
            if len(data) < 2:
                return
            is_zlib = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self._inner = zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
        inner = self._inner
        while data:
            if inner.eof:
                if self._wbits is None:
                    raise zlib.error("there is something after its end")
                inner = self._inner = zlib.decompressobj(self._wbits)
            piece = inner.decompress(data, _PIECE_BYTES)
            data = inner.unused_data if inner.eof else inner.unconsumed_tail
            if piece:
                yield piece
        while not inner.eof and (piece := inner.decompress(b"", _PIECE_BYTES)):
            yield piece


class _Brotli:
    def __init__(self) -> None:
        self._inner = brotli.Decompressor()

    @property
    def is_whole(self) -> bool:
        return bool(self._inner.is_finished())

    def decode(self, data: bytes) -> Iterator[bytes]:
        # Once it is finished, more makes it raise; that it can accept more does not mean it has given all it has.
        while piece := self._inner.process(data, output_buffer_limit=_PIECE_BYTES):
            yield piece
            data = b""
            if self._inner.is_finished():
                return


class _Zstd:
    def __init__(self) -> None:
        self._inner = ZstdDecompressor()

    @property
    def is_whole(self) -> bool:
        return self._inner.eof

    def decode(self, data: bytes) -> Iterator[bytes]:
        while True:
            if self._inner.eof:
                self._inner = ZstdDecompressor()
            piece = self._inner.decompress(data, _PIECE_BYTES)
            if piece:
                yield piece
            data = self._inner.unused_data if self._inner.eof else b""
            if not data and (self._inner.eof or self._inner.needs_input):
                return


_GZIP = zlib.MAX_WBITS | 16
_BROKEN = (zlib.error, brotli.error, ZstdError)
_CODINGS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd"})


def _decoder(coding: str) -> Decoder:
    match coding:
        case "deflate":
            return _Zlib(None)
        case "br":
            return _Brotli()
        case "zstd":
            return _Zstd()
        case _:
            return _Zlib(_GZIP)


def codings_of(headers: httpx.Headers) -> list[str]:
    """The codings of a body in the order in which they were applied.

    Raises:
        UpstreamError: one is not known, or there are too many.
    """
    named = headers.get("content-encoding", "").split(",")
    codings = [coding for each in named if (coding := each.strip().lower()) not in {"", "identity"}]
    if not _CODINGS.issuperset(codings) or len(codings) > MAX_CODINGS:
        raise UpstreamError("the provider used a content encoding that is not known", code="upstream_protocol")
    return codings


async def decoded(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body's bytes without their codings, as they arrive.

    Raises:
        UpstreamError: they cannot be decoded, or break off in the middle.
    """
    decoders = [_decoder(coding) for coding in reversed(codings_of(response.headers))]
    has_come = False
    async with aclosing(response.aiter_raw()) as raw:
        async for data in raw:
            if not decoders:
                yield data
                continue
            has_come = has_come or bool(data)
            try:
                for piece in _through(decoders, data):
                    yield piece
            except _BROKEN as error:
                message = f"the provider sent a body that cannot be decoded: {error}"
                raise UpstreamError(message, code="upstream_protocol") from error
    if has_come and not all(decoder.is_whole for decoder in decoders):
        raise UpstreamError("the provider's compressed body ended before its end", code="upstream_incomplete")


def _through(decoders: Iterable[Decoder], data: bytes) -> Iterator[bytes]:
    pieces: Iterator[bytes] = iter((data,))
    for decoder in decoders:
        pieces = _each(decoder, pieces)
    return pieces


def _each(decoder: Decoder, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield from decoder.decode(piece)
