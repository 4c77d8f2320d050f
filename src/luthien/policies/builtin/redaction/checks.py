"""What tells a real value from a candidate that only looks like one: checksums, numbering plans, entropy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from types import ModuleType

import phonenumbers
import regex
from stdnum import luhn

Span = tuple[int, int]
Check = Callable[["regex.Match[str]"], "Span | None"]
"""Where in the text the value of a candidate stands; None when it is none."""

_SECRET_CHARS = 12
# Of each character, as Shannon counts them: words of a language have fewer in texts this short.
_SECRET_BITS = 3.0
# Of a number that is written without its country.
_NATIONAL_DIGITS = 9


def is_secret(value: str) -> bool:
    """Whether a value in the place of a secret looks like one: letters and digits, and hard to guess."""
    if len(value) < _SECRET_CHARS or value[0] in "$%/~" or "://" in value:
        return False
    has_both = any(char.isdigit() for char in value) and any(char.isalpha() for char in value)
    return has_both and _entropy_bits(value) >= _SECRET_BITS


def _entropy_bits(text: str) -> float:
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares)


def whole(match: regex.Match[str]) -> Span:
    start, end = match.span()
    return start, end


def secret(match: regex.Match[str]) -> Span | None:
    return match.span("value") if is_secret(match["value"]) else None


# Endings of file names that read like a domain: `logo@2x.png`.
_NO_DOMAINS = frozenset({"png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "py", "html"})


def email(match: regex.Match[str]) -> Span | None:
    local, _, domain = match.group().rpartition("@")
    is_address = domain.rpartition(".")[2].lower() not in _NO_DOMAINS and ".." not in local
    # `git@github.com:team/project` is where a repository is.
    return match.span() if is_address and local != "git" else None


# First digits from and to, and how many digits there are in all.
# https://en.wikipedia.org/wiki/Payment_card_number#Issuer_identification_number_(IIN)
_ISSUERS = (
    ("4", "4", {13, 16, 19}),
    ("51", "55", {16}),
    ("2221", "2720", {16}),
    ("34", "34", {15}),
    ("37", "37", {15}),
    ("300", "305", range(14, 20)),
    ("36", "36", range(14, 20)),
    ("38", "39", range(14, 20)),
    ("3528", "3589", range(16, 20)),
    ("60", "65", range(16, 20)),
    ("50", "50", range(16, 20)),
    ("56", "58", range(16, 20)),
    ("67", "67", range(16, 20)),
    ("81", "82", range(16, 20)),
)


def card(match: regex.Match[str]) -> Span | None:
    return longest(match, _is_card)


def _is_card(text: str) -> bool:
    digits = text.replace(" ", "").replace("-", "")
    is_issued = any(
        first <= digits[: len(first)] <= last and len(digits) in lengths for first, last, lengths in _ISSUERS
    )
    return is_issued and luhn.is_valid(digits)


def longest(match: regex.Match[str], is_valid: Callable[[str], bool]) -> Span | None:
    """A candidate may run on into the number behind it: the longest beginning that is valid is meant."""
    text = match.group()
    ends = [len(text), *(at for at in range(len(text) - 1, 0, -1) if text[at] in " -" and text[at - 1].isalnum())]
    end = next((end for end in ends if is_valid(text[:end])), None)
    return None if end is None else (match.start(), match.start() + end)


def checked(*modules: ModuleType) -> Check:
    def check(match: regex.Match[str]) -> Span | None:
        return match.span() if any(module.is_valid(match.group()) for module in modules) else None

    return check


@cache
def phone(regions: tuple[str | None, ...]) -> Check:
    return lambda match: longest(match, lambda text: any(_is_phone(text, region) for region in regions))


def _is_phone(text: str, region: str | None) -> bool:
    if region and sum(char.isdigit() for char in text) < _NATIONAL_DIGITS:
        return False
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(text, region))
    except phonenumbers.NumberParseException:
        return False
