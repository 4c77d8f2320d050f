"""The wire formats Luthien speaks, each a stateless singleton."""

from __future__ import annotations

from luthien.formats.anthropic_messages import AnthropicMessages
from luthien.formats.format import WireFormat
from luthien.formats.openai_chat import OpenAIChat
from luthien.formats.openai_responses import OpenAIResponses

OPENAI_CHAT: WireFormat = OpenAIChat()
OPENAI_RESPONSES: WireFormat = OpenAIResponses()
ANTHROPIC_MESSAGES: WireFormat = AnthropicMessages()

FORMATS: tuple[WireFormat, ...] = (OPENAI_CHAT, OPENAI_RESPONSES, ANTHROPIC_MESSAGES)
