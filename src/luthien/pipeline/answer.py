"""What came of calling the provider."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx2 as httpx
from opentelemetry.trace import Span

from luthien.errors import UpstreamError
from luthien.exchange import EventType
from luthien.formats import jsontext
from luthien.formats.format import ResponseFacts, WireFormat
from luthien.pipeline.headers import kept_response_headers
from luthien.pipeline.ledger import Ledger
from luthien.pipeline.stream import StreamPass
from luthien.telemetry import conventions as names
from luthien.telemetry.spans import Wire


class Answer:
    """A provider's answer while it comes, plain or as a `stream`; ended once, with what there is by then.

    After the end `payload` is what was recorded of it, and `sequence` the number of that record: None when
    nothing came.
    """

    def __init__(self, ledger: Ledger, wire_format: WireFormat, span: Span, endpoint: Mapping[str, Any]) -> None:
        self.stream: StreamPass | None = None
        self.payload = b""
        self.sequence: int | None = None
        self._ledger = ledger
        self._format = wire_format
        self._span = span
        self._endpoint = endpoint
        self._response: httpx.Response | None = None
        self._parts: list[bytes] = []
        self._is_open = True

    @property
    def status(self) -> int | None:
        """The provider's HTTP status; None while it has not answered."""
        return None if self._response is None else self._response.status_code

    def begin(self, response: httpx.Response) -> None:
        """The provider's status and headers are here."""
        self._response = response
        self._span.set_attribute(names.HTTP_STATUS, response.status_code)

    async def read(self, data: AsyncGenerator[bytes, None], max_bytes: int) -> None:
        """Reads a plain body to its end.

        Raises:
            UpstreamError: it is larger than `max_bytes`, or breaks off.
        """
        timings = self._ledger.timings
        size = 0
        since = time.perf_counter()
        try:
            async for part in data:
                if not self._parts:
                    timings.first_chunk()
                self._parts.append(part)
                size += len(part)
                if size > max_bytes:
                    message = f"the provider's response is larger than {max_bytes} bytes"
                    raise UpstreamError(message, code="upstream_response_too_large")
        finally:
            timings.waited(since)

    def end(self, error: str | None = None) -> None:
        """Records what came and ends the span of the provider's call; does nothing the second time."""
        if not self._is_open:
            return
        self._is_open = False
        facts = ResponseFacts() if self._response is None else self._record(self._response)
        self._ledger.answered(self._span, facts, self._endpoint, error)
        self._ledger.end(names.CHAT, error)

    def _record(self, response: httpx.Response) -> ResponseFacts:
        violations: list[str] | None = None
        if self.stream is None:
            self.payload = b"".join(self._parts)
            wire, chunks, facts, is_capped = Wire.of(self.payload), None, self._plain_facts(), False
        else:
            original = self.stream.sides.original
            self.payload, wire, chunks = original.payload(), original.wire, original.chunks
            facts, is_capped = self._format.response_facts(original.response or {}), original.is_capped
            violations = self._ledger.violated("upstream", self.stream.sides.upstream_violations)
        self.sequence = self._ledger.stage(
            self._span,
            EventType.RESPONSE_ORIGINAL,
            self.payload,
            wire=wire,
            scalars={
                names.HTTP_STATUS: response.status_code,
                names.CHUNKS: chunks,
                names.CAPPED: is_capped or None,
                names.VIOLATIONS: violations,
                names.CHECKPOINTS: self._ledger.checkpoints,
                names.RESPONSE_MODEL: facts.model,
                names.RESPONSE_ID: facts.response_id,
                names.FINISH_REASONS: facts.finish_reasons or None,
                names.INPUT_TOKENS: facts.input_tokens,
                names.OUTPUT_TOKENS: facts.output_tokens,
                names.CACHED_TOKENS: facts.cached_tokens,
                names.REASONING_TOKENS: facts.reasoning_tokens,
                names.RESPONSE_HEADERS: kept_response_headers(response.headers.raw),
            },
        )
        return facts

    def _plain_facts(self) -> ResponseFacts:
        try:
            return self._format.response_facts(jsontext.parse_object(self.payload))
        except jsontext.InvalidJson:
            return ResponseFacts()
