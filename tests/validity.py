"""Whether what a test sees on the wire keeps to the protocol."""

from __future__ import annotations

from luthien.formats.format import WireFormat
from luthien.formats.registry import FORMATS
from luthien.formats.validators import validator_of
from luthien.formats.validity import Violation, violations_of


def violations(wire_format: WireFormat, *pieces: bytes) -> list[Violation]:
    """What the bytes of a whole stream violate, however they were cut; quirks as well."""
    validator = validator_of(wire_format)
    assert validator is not None, f"nobody has said what holds of {wire_format.name}"
    return violations_of(validator, pieces)


def assert_valid(spoken: WireFormat | str, raw: bytes) -> None:
    """These bytes are a whole stream that violates nothing, and has no quirk either.

    `spoken` is a wire format, or the path of its endpoint.
    """
    wire_format = next(each for each in FORMATS if each.path == spoken) if isinstance(spoken, str) else spoken
    found = violations(wire_format, raw)
    assert not found, [f"{each.rule}: {each.detail}" for each in found]
