"""What a policy notes beside its reason: a few names and values, of a size that every record can bear."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

Details = Mapping[str, str | int | float | bool]

MAX_DETAILS = 12
MAX_CHARS = 1000
"""How long all of them together may be, as JSON; the longest texts among them are cut."""
_MAX_INT = 2**63
_NAME = re.compile(r"[A-Za-z_]\w{0,31}", re.ASCII)
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CUT = "…"


def check_details(details: Details) -> None:
    """Raises ValueError when they are too many, or one has a name or value that cannot be kept."""
    if len(details) > MAX_DETAILS:
        raise ValueError(f"there are {len(details)} details, and at most {MAX_DETAILS} are kept")
    for name, value in details.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"a detail's name is up to 32 letters, digits and underscores, not {name[:40]!r}")
        if not _is_fit(value):
            raise ValueError(f"the detail {name} must be a text, a number of 64 bits or a boolean")


def _is_fit(value: object) -> bool:
    if isinstance(value, int):
        return -_MAX_INT <= value < _MAX_INT
    return isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))


def details_as_json(details: Details) -> str | None:
    """A JSON object of at most `MAX_CHARS` characters; None when there is nothing to say."""
    if not details:
        return None
    kept = {
        name: _UNFIT.sub("\ufffd", value[:MAX_CHARS]) if isinstance(value, str) else value
        for name, value in details.items()
    }
    while len(text := json.dumps(kept, ensure_ascii=False, separators=(",", ":"))) > MAX_CHARS:
        longest = max(kept, key=lambda name: len(value) if isinstance(value := kept[name], str) else -1)
        said = str(kept[longest]).removesuffix(_CUT)
        # What is left of it is a guess: characters that JSON escapes count twice.
        kept[longest] = said[: max(0, len(said) - max(1, (len(text) - MAX_CHARS) // 2) - 1)] + _CUT
    return text
