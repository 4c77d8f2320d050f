"""Sizes and ages as people say them."""

from __future__ import annotations

_SIZES = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
_AGES = (("d", 86_400), ("h", 3_600), ("min", 60))


def size(size_bytes: float) -> str:
    for unit, factor in _SIZES:
        if size_bytes >= factor:
            return f"{size_bytes / factor:,.1f} {unit}"
    return f"{size_bytes:.0f} bytes"


def age(seconds: float) -> str:
    for unit, factor in _AGES:
        if seconds >= factor:
            return f"{seconds / factor:.1f} {unit}"
    return f"{seconds:.0f} s"
