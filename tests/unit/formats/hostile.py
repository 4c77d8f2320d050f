"""What the tests of all wire formats share: JSON of any shape under the names they know, and a count of the work."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from hypothesis import strategies as st

from luthien.formats.format import WireFormat
from luthien.formats.sse import Chunk

TEXTS = st.text(st.characters(exclude_categories=()), max_size=6)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([2**63, 10**40, 0.5, float("inf"), float("nan")]),
    TEXTS,
    st.sampled_from(["text", "0/content", "stop", "1/2/3"]),
)


def shaped_like(names: Sequence[str], words: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that have a format's own names in them, with values of any kind where others belong."""
    keys = st.one_of(st.sampled_from(names), st.sampled_from(names), TEXTS)
    values = st.recursive(
        SCALARS | st.sampled_from(words),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=20,
    )
    return st.dictionaries(keys, values, max_size=6)


def use_everything(wire_format: WireFormat, bodies: Sequence[dict[str, Any]]) -> None:
    """Hands what a client or a provider sent to every function of a format that reads it."""
    assembler = wire_format.assembler()
    for body in bodies:
        wire_format.request_attributes(body)
        wire_format.response_facts(body)
        for slot in (*wire_format.request_texts(body), *wire_format.response_texts(body)):
            assert isinstance(slot.text, str)
            assert isinstance(slot.role, str)
        chunk = Chunk.of(body)
        texts = wire_format.chunk_texts(body)
        wire_format.is_terminal(chunk)
        wire_format.stream_error(chunk)
        wire_format.ended_texts(chunk, [key for key, _ in texts])
        changed = wire_format.with_chunk_texts(chunk, [f"<{text}>" for _, text in texts])
        assert wire_format.chunk_texts(changed.json or {}) == [(key, f"<{text}>") for key, text in texts]
        assembler.add(chunk)
        assembler.result()
    for body in bodies:
        wire_format.add_system_message(body, "Be brief.")


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python it takes: a measure of the work that is the same on every machine."""
    count = 0

    def trace(_frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    gc.disable()  # others may have lines of their own run when it collects
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
        gc.enable()
    return count
