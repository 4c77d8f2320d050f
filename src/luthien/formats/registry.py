"""The wire formats Luthien speaks, each a stateless singleton."""

from __future__ import annotations

from luthien.formats.anthropic_messages import AnthropicMessages
from luthien.formats.format import WireFormat
from luthien.formats.openai_chat import OpenAIChat

OPENAI_CHAT: WireFormat = OpenAIChat()
ANTHROPIC_MESSAGES: WireFormat = AnthropicMessages()

FORMATS: tuple[WireFormat, ...] = (OPENAI_CHAT, ANTHROPIC_MESSAGES)
