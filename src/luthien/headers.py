"""Headers as people list them in a setting."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

# What the OTLP exporters, which read their variables themselves, take without a word; a name is a token of HTTP.
_HEADER: Final = re.compile(
    r"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=(?P<value>[\x20\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+)"
)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def read_headers(text: str) -> dict[str, str]:
    """From `name=value,name=value`, encoded as in URLs where need be; names in small letters.

    ValueError if it is something else; what it says has nothing of the text.
    """
    headers = {}
    for number, part in enumerate(filter(None, map(str.strip, text.split(","))), 1):
        match = _HEADER.fullmatch(part)
        name, value = (unquote(piece.strip()) for piece in match.group("name", "value")) if match else ("", "")
        if not _TOKEN.fullmatch(name) or not value or not (value.isascii() and value.isprintable()):
            raise ValueError(
                f"must be name=value, separated by commas, with values percent-encoded: number {number} is not"
            )
        headers[name.lower()] = value
    return headers
