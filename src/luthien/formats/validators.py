"""Which validator watches which wire format."""

from __future__ import annotations

from collections.abc import Callable

from luthien.formats.anthropic_messages import AnthropicMessages
from luthien.formats.anthropic_validity import AnthropicValidator
from luthien.formats.format import WireFormat
from luthien.formats.openai_chat import OpenAIChat
from luthien.formats.openai_chat_validity import OpenAIChatValidator
from luthien.formats.openai_responses import OpenAIResponses
from luthien.formats.openai_responses_validity import OpenAIResponsesValidator
from luthien.formats.validity import Validator

_KNOWN: dict[str, Callable[[], Validator]] = {
    OpenAIChat.name: OpenAIChatValidator,
    OpenAIResponses.name: OpenAIResponsesValidator,
    AnthropicMessages.name: AnthropicValidator,
}


def validator_of(wire_format: WireFormat) -> Validator | None:
    """One for one stream; None where nobody has said what holds of it."""
    known = _KNOWN.get(wire_format.name)
    return None if known is None else known()
