"""Every stream of the corpus is read as what it means, wherever it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthien.formats.sse import Chunk
from tests.corpus.cases import FORMATS, ROOT, Case, assembled, cases

EVERY_CUT_BYTES = 1500
"""Streams up to this length are cut in two at each byte."""


def said(chunks: list[Chunk]) -> list[tuple[bytes | None, str]]:
    return [(chunk.data, chunk.event) for chunk in chunks]


@pytest.mark.parametrize("case", cases(), ids=str)
def test_assembled(case: Case) -> None:
    chunks, rest = case.chunks(case.raw)
    assert b"".join(chunk.raw for chunk in chunks) + rest == case.raw
    assembler = case.format.assembler()
    for chunk in chunks:
        assembler.add(chunk)
    assert assembled(assembler.result()) == assembled(case.response)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_outcome(case: Case) -> None:
    chunks, _ = case.chunks(case.raw)
    has_failed = any(case.format.stream_error(chunk) for chunk in chunks)
    has_ended = any(case.format.is_terminal(chunk) for chunk in chunks)
    assert case.outcome == ("completed" if has_ended and not has_failed else "upstream_error")


@given(case=st.sampled_from(cases()), data=st.data())
@settings(max_examples=400)
def test_cut_anywhere(case: Case, data: st.DataObject) -> None:
    """How the network cut a stream changes neither its frames nor its bytes."""
    places = data.draw(st.lists(st.integers(0, len(case.raw)), max_size=12).map(sorted))
    pieces = [case.raw[start:end] for start, end in zip([0, *places], [*places, len(case.raw)], strict=True)]
    chunks, rest = case.chunks(*pieces)
    assert b"".join(chunk.raw for chunk in chunks) + rest == case.raw
    whole, _ = case.chunks(case.raw)
    assert said(chunks) == said(whole)


@pytest.mark.parametrize("case", [case for case in cases() if len(case.raw) <= EVERY_CUT_BYTES], ids=str)
def test_cut_at_each_byte(case: Case) -> None:
    whole, _ = case.chunks(case.raw)
    for place in range(len(case.raw)):
        chunks, rest = case.chunks(case.raw[:place], case.raw[place:])
        assert b"".join(chunk.raw for chunk in chunks) + rest == case.raw
        assert said(chunks) == said(whole)


@pytest.mark.parametrize("case", [case for case in cases() if case.name == "surrogate_halves"], ids=str)
def test_blocks_have_whole_characters(case: Case) -> None:
    if case.format.blocks is None:
        pytest.skip("this wire format is not cut into blocks yet")
    stream = case.format.blocks.stream()
    shown = [chunk for chunk in case.chunks(case.raw)[0] if not case.format.is_terminal(chunk)]
    frames = [stream.read(chunk) for chunk in shown]
    [text] = {piece.block.whole.text for frame in frames for piece in frame.pieces}
    assert text.startswith("Look: 😀")


@pytest.mark.parametrize("case", [case for case in cases() if case.name == "no_last_blank_line"], ids=str)
def test_an_end_marker_that_was_cut_off_is_none(case: Case) -> None:
    whole = case.raw.rstrip()
    for place in range(len(whole)):
        chunks, rest = case.chunks(whole[:place])
        assert not any(case.format.is_terminal(chunk) for chunk in chunks)
        assert b"".join(chunk.raw for chunk in chunks) + rest == whole[:place]
    for line_ends in (b"", b"\n", b"\r\n", b"\n\n"):
        assert case.format.is_terminal(case.chunks(whole + line_ends)[0][-1])


def test_each_case_is_two_files_in_the_folder_of_its_format() -> None:
    files = {path.relative_to(ROOT) for path in ROOT.glob("*/*") if path.suffix in {".sse", ".json"}}
    assert {path.with_suffix("") for path in files if path.suffix == ".sse"} == {
        path.with_suffix("") for path in files if path.suffix == ".json"
    }
    assert {str(path.parent) for path in files} == set(FORMATS)
    for folder in FORMATS:
        assert len(cases(folder)) >= 22
