"""Texts that stand deeper in a message of OpenAI Chat Completions: a transcript, and reasoning in detail.

The second is OpenRouter's, and says what `reasoning` says once more: https://openrouter.ai/docs (reasoning tokens).
"""

from __future__ import annotations

from collections.abc import Iterator

from luthien.formats.format import Json, TextSlot, index_of, objects, text_or_none

REASONING = frozenset({"reasoning", "reasoning_content", "reasoning_details"})


def detail_slots(message: Json, role: str) -> Iterator[tuple[str, TextSlot]]:
    """Each with the field that it stands in, and behind a dot what it is called there."""
    audio = message.get("audio")
    if isinstance(audio, dict) and isinstance(audio.get("transcript"), str):
        yield "audio.transcript", TextSlot(audio, "transcript", role)
    for detail in objects(message.get("reasoning_details")):
        for key in () if _is_signed(detail) else ("text", "summary"):
            if isinstance(detail.get(key), str):
                yield f"reasoning_details.{index_of(detail)}.{key}", TextSlot(detail, key, role)


def _is_signed(detail: Json) -> bool:
    """In a stream the signature comes behind the text; whose format it is tells that it will."""
    return bool(detail.get("signature")) or (text_or_none(detail.get("format")) or "").startswith("anthropic")
