"""JSON in and out: what can be read is read as it is, and can be written again."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.formats import jsontext
from luthien.formats.jsontext import InvalidJson, Whole, paired, parse, parse_object, render

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12)  # lone surrogates too
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), ANY_TEXT),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_rendered_reads_back_as_the_same_value(value: Any) -> None:
    assert parse(render(value)) == value


@given(VALUES)
def test_what_is_rendered_is_compact_utf8_in_one_line(value: Any) -> None:
    text = render(value)
    assert b"\n" not in text
    assert b"\r" not in text
    assert len(text) <= len(json.dumps(value, separators=(",", ":")).encode())


@given(VALUES)
def test_rendering_twice_gives_the_same_bytes(value: Any) -> None:
    assert render(parse(render(value))) == render(value)


def test_text_beyond_ascii_is_not_escaped() -> None:
    assert render({"ä": "日本 🙂"}) == '{"ä":"日本 🙂"}'.encode()


def test_a_lone_surrogate_is_read_and_written_escaped() -> None:
    """UTF-8 has no bytes for it, but JSON has."""
    assert parse(rb'"\ud800"') == "\ud800"
    assert render("\ud800ä") == b'"\\ud800\\u00e4"'


def test_integers_beyond_64_bits_and_the_order_of_keys_are_kept() -> None:
    text = b'{"z":18446744073709551617,"a":-9223372036854775809}'
    assert render(parse(text)) == text


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_what_some_providers_send_for_numbers_without_a_json_form_is_kept(name: str) -> None:
    """A log probability of minus infinity must not cost the record of a whole response."""
    text = f'{{"logprob":{name}}}'.encode()
    value = parse(text)["logprob"]
    assert math.isnan(value) or math.isinf(value)
    assert render(parse(text)) == text


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert parse(b'\xef\xbb\xbf{"a":1}') == parse('\ufeff{"a":1}') == {"a": 1}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_in_any_encoding_but_utf8_is_refused(encoding: str) -> None:
    """Otherwise whoever searches the bytes would miss what the parser finds."""
    with pytest.raises(InvalidJson):
        parse('{"a":"b"}'.encode(encoding))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Expecting value at line 1, column 1"),
        (b'{"a":\n  }', "Expecting value at line 2, column 3"),
        (b'{"a":1} x', "Extra data at line 1, column 9"),
        (b'"\xff"', "byte 1 is not valid UTF-8"),
        (b"[" * 100_000, "nested too deeply to be read"),
        (b'"\x01"', "Invalid control character at at line 1, column 2"),
    ],
)
def test_a_text_that_is_not_json_is_refused_with_its_place(text: bytes, message: str) -> None:
    with pytest.raises(InvalidJson, match=f"^{message}$"):
        parse(text)


def test_an_integer_too_long_to_be_read_is_refused() -> None:
    with pytest.raises(InvalidJson):
        parse(b"1" * 10_000)


@given(st.binary(max_size=40))
def test_no_bytes_raise_anything_but_invalid_json(text: bytes) -> None:
    try:
        parse(text)
    except InvalidJson as error:
        assert str(error)


@pytest.mark.parametrize(
    ("text", "kind"),
    [(b"[]", "list"), (b"1", "int"), (b"null", "NoneType"), (b'"a"', "str")],
)
def test_what_must_be_an_object_is_refused_when_it_is_none(text: bytes, kind: str) -> None:
    with pytest.raises(InvalidJson, match=f"expected a JSON object, got {kind}"):
        parse_object(text)


class TestDepth:
    @given(VALUES, st.integers(0, 6))
    def test_a_text_is_refused_only_if_it_nests_deeper_than_asked(self, value: Any, depth: int) -> None:
        text = render(value)
        if depth_of(value) <= depth:
            assert parse(text, max_depth=depth) == value
        else:
            with pytest.raises(InvalidJson, match="nested too deeply"):
                parse(text, max_depth=depth)

    def test_brackets_in_strings_do_not_count(self) -> None:
        text = render({"a": '[[[{"\\', "b": ["]{", '\\"[[']})
        assert parse(text, max_depth=2) == parse(text)

    def test_many_values_side_by_side_are_not_deep(self) -> None:
        assert len(parse(b"[" + b"[],{}," * 500 + b"1]", max_depth=2)) == 1001

    def test_an_object_may_be_asked_to_be_flat_too(self) -> None:
        assert parse_object(b'{"a":1}', max_depth=1) == {"a": 1}
        with pytest.raises(InvalidJson):
            jsontext.parse_object(b'{"a":{}}', max_depth=1)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@pytest.mark.parametrize("part", ["[],", "{},", "0,", '"",'])
def test_a_text_of_too_many_values_is_refused_before_it_costs_a_hundred_times_its_size(part: str) -> None:
    with pytest.raises(InvalidJson, match="more than 2000000 values"):
        parse("[" + part * 3_000_000 + "0]")


def test_what_is_in_a_string_is_one_value_however_it_looks() -> None:
    text = "[{," * 3_000_000 + '\\"'
    assert parse(render({"csv": text})) == {"csv": text}


@given(ANY_TEXT)
def test_paired_is_what_a_reader_of_its_json_sees(text: str) -> None:
    assert paired(text) == json.loads(json.dumps(text))


def test_halves_of_a_pair_are_one_character() -> None:
    assert paired("a\ud83d" + "\ude00") == "a\U0001f600"
    assert paired("\ude00\ud83d") == "\ude00\ud83d"


class TestATextInPieces:
    @given(VALUES, st.lists(st.integers(0, 200)), st.booleans())
    def test_is_whole_when_it_is_an_object_or_a_list(self, value: Any, cuts: list[int], is_escaped: bool) -> None:
        text = json.dumps(value, ensure_ascii=is_escaped)
        places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
        pieces = [text[start:end] for start, end in pairwise(places)]
        whole = Whole()
        for count in range(len(pieces)):
            assert not whole.of(pieces[:count])
        assert whole.of(pieces) is isinstance(value, dict | list)
        assert whole.of([*pieces, "", " \n"]) is isinstance(value, dict | list)
        assert not whole.of([*pieces, "", " \n", "{}"])

    @pytest.mark.parametrize("text", ['{"a":}', "{]", '{"a": "\\', "}", "1", "", '"{}"', "{}{}", '{"a": NaN'])
    def test_is_not_whole_when_it_is_no_json_or_has_not_ended(self, text: str) -> None:
        assert not Whole().of([text])
        assert not Whole().of([*text])

    def test_is_looked_at_piece_by_piece(self) -> None:
        """To read it anew for each piece would take minutes."""
        whole, pieces = Whole(), ["["]
        for _ in range(50_000):
            pieces.append('{"a": "' + "b" * 100 + '"},')
            assert not whole.of(pieces)
        assert whole.of([*pieces, "{}]"])
