"""Where a change is, said so that it may be counted and shown to people who must not see a payload. Pure.

A pointer names keys, and a key may be anybody's text: arguments of tools, schemas and metadata are objects of
others. So only keys that the wire formats define are said; an index is `*`, and what is inside an object of others,
or below a key that no format has, is `…`.
"""

from __future__ import annotations

from typing import Final

from luthien.debug.diffing.values import tokens
from luthien.exchange import Side

UNSAID: Final = "…"
_MAX_KEYS: Final = 12
_MAX_INDEX_DIGITS: Final = 9

_WORDS: Final = """
    action allowed_tools annotations arguments audio background budget_tokens cache_control
    cache_creation_input_tokens cache_read_input_tokens cached_tokens call_id choices citations code
    completion_tokens completion_tokens_details container content context_management conversation created created_at
    custom data delta description detail display_height display_width effort encrypted_content end_index error file
    file_data file_id file_url filename finish_reason format frequency_penalty function function_call functions
    grammar id image_url include include_usage incomplete_details index input input_audio input_schema input_tokens
    input_tokens_details instructions is_error json_schema logit_bias logprobs max_completion_tokens
    max_output_tokens max_tokens max_tool_calls mcp_servers media_type message messages metadata modalities model n
    name object output output_config output_tokens output_tokens_details parallel_tool_calls param parameters phase
    prediction presence_penalty previous_response_id prompt prompt_cache_key prompt_tokens prompt_tokens_details
    queries reason reasoning reasoning_content reasoning_details reasoning_effort reasoning_tokens refusal
    response_format results role safety_identifier schema seed server_label service_tier signature source
    start_index status stop stop_reason stop_sequence stop_sequences store stream stream_options strict summary
    system system_fingerprint temperature text thinking title token tool_call_id tool_calls tool_choice tool_use_id
    tools top_k top_logprobs top_p total_tokens truncation ttl type url usage user verbosity version
    web_search_options
"""
_KNOWN: Final = frozenset(_WORDS.split())
_OF_OTHERS: Final = frozenset(
    {
        "action",
        "arguments",
        "input",
        "input_schema",
        "logit_bias",
        "mcp_servers",
        "metadata",
        "parameters",
        "prompt",
        "results",
        "schema",
    }
)
"""Objects whose keys are not the format's. The `input` of a whole request is a list of messages."""


def path_of(ptr: str) -> str:
    """An RFC 6901 pointer as a path for counting; `/` for the whole document."""
    path = ""
    for place, token in enumerate(tokens(ptr)):
        if token.isascii() and token.isdigit():
            path += "/*"
        elif token not in _KNOWN or place >= _MAX_KEYS or _is_of_others(tokens(ptr)[:place]):
            return f"{path}/{UNSAID}"
        else:
            path += f"/{token}"
    return path or "/"


def _is_of_others(above: list[str]) -> bool:
    return any(key in _OF_OTHERS and (place > 0 or key != "input") for place, key in enumerate(above))


def message_of(ptr: str, side: Side) -> int | None:
    """Which message that is in, counted from 0 on its side; None where it is in none."""
    top, *rest = [*tokens(ptr), ""]
    index = int(rest[0]) if rest and _is_index(rest[0]) else None
    if side is Side.REQUEST:
        if top == "input":
            return 0 if index is None else index  # a string is one message
        return index if top == "messages" else None
    if top == "content":
        return 0
    return index if top in ("choices", "output") else None


def _is_index(token: str) -> bool:
    return token.isascii() and token.isdigit() and len(token) <= _MAX_INDEX_DIGITS
