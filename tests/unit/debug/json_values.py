"""Any JSON values, and pairs of them that are much alike."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from luthien.debug.diffing.values import Json, tokens

NUMBERS = st.one_of(
    st.integers(),
    st.integers(min_value=2**53 - 3, max_value=2**53 + 3),
    st.floats(),
    st.sampled_from([0, 1, 0.0, -0.0, 1.0, 10**400, -(10**400)]),
)
KEYS = st.one_of(st.sampled_from(["", "a", "b", "0", "1", "/", "~", "a/b", "a.b", "~1"]), st.text(max_size=4))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=12), st.sampled_from(["1", "a b c", "a x c"]))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=16,
)


@st.composite
def edited(draw: st.DrawFn, value: Any) -> Any:
    """A value much like another: here and there something is replaced, left out or put in."""
    fate = draw(st.integers(0, 5))
    if fate == 0:
        return draw(VALUES)
    if isinstance(value, dict):
        keys = draw(st.permutations(list(value))) if fate == 1 else list(value)
        kept = {key: draw(edited(value[key])) for key in keys if draw(st.integers(0, 4))}
        return kept | draw(st.dictionaries(KEYS, SCALARS, max_size=1))
    if isinstance(value, list):
        kept_items = [draw(edited(item)) for item in value if draw(st.integers(0, 4))]
        return draw(st.permutations(kept_items)) if fate == 1 else kept_items + draw(st.lists(SCALARS, max_size=1))
    return value


PAIRS = st.one_of(
    st.tuples(VALUES, VALUES),
    VALUES.flatmap(lambda value: st.tuples(st.just(value), edited(value))),
)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def resolve(document: Json, ptr: str | None) -> Any:
    assert ptr is not None
    value: Any = document
    for token in tokens(ptr):
        value = value[int(token)] if isinstance(value, list) else value[token]
    return value
