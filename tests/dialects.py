"""The wire formats as tests speak them: where each is asked, and what clients and providers say in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_RESPONSES
from tests.playbook import Play, answers, streams
from tests.wire import (
    anthropic_request,
    anthropic_response,
    anthropic_stream,
    openai_request,
    openai_response,
    openai_stream,
    responses_request,
    responses_response,
    responses_stream,
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One wire format: a request and a response that say a text, and a stream that says it in pieces."""

    format: WireFormat
    request: Callable[..., dict[str, Any]]
    response: Callable[..., dict[str, Any]]
    stream: Callable[..., list[bytes]]

    @property
    def path(self) -> str:
        return self.format.path

    def play(self, *texts: str, streamed: bool) -> Play:
        """A provider that says these texts: as pieces of a stream, or in one plain response."""
        return streams(*self.stream(*texts)) if streamed else answers(self.response("".join(texts)))


CHAT = Dialect(OPENAI_CHAT, openai_request, openai_response, openai_stream)
RESPONSES = Dialect(OPENAI_RESPONSES, responses_request, responses_response, responses_stream)
MESSAGES = Dialect(ANTHROPIC_MESSAGES, anthropic_request, anthropic_response, anthropic_stream)
DIALECTS = (CHAT, RESPONSES, MESSAGES)


def in_dialects(*dialects: Dialect) -> pytest.MarkDecorator:
    """A test with a `dialect`, for each of these; without any, for all."""
    return pytest.mark.parametrize("dialect", dialects or DIALECTS, ids=lambda each: each.format.name)
