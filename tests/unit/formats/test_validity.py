"""What holds of all validators: no bytes make one raise, and where a stream is cut makes no difference."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.formats import (
    anthropic_validity,
    openai_chat_validity,
    openai_responses_rules,
    openai_responses_validity,
)
from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, FORMATS, OPENAI_CHAT, OPENAI_RESPONSES
from luthien.formats.validity import MAX_DETAIL, Violation
from tests.validity import assert_valid, violations
from tests.wire import anthropic_stream, openai_stream, responses_stream, sse
from tests.wire_tools import anthropic_tools_stream, openai_tools_stream

STREAMS: dict[WireFormat, list[bytes]] = {
    OPENAI_CHAT: openai_tools_stream("Let me see ✓", ("get", {"a": ["é", 1]}), ("put", {})),
    OPENAI_RESPONSES: responses_stream("Hello ", "thére"),
    ANTHROPIC_MESSAGES: anthropic_tools_stream("Let me see ✓", ("get", {"a": ["é", 1]}), ("put", {})),
}
ALL_RULES = {*openai_chat_validity.RULES, *openai_responses_rules.RULES, *anthropic_validity.RULES}

# Values where others are meant, under the names and with the words of the protocols.
_WORDS = re.findall(r'"([\w.]+)"', " ".join(Path(str(module.__file__)).read_text() for module in (
    openai_chat_validity, openai_responses_validity, anthropic_validity)))  # fmt: skip
_NAMES = st.sampled_from(
    sorted({*_WORDS, "type", "index", "delta", "choices", "tool_calls", "item", "part", "response", "output", "text"})
)
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | _NAMES
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=5), max_leaves=12
)


def splits(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def bounded(found: list[Violation]) -> None:
    known = {rule.name: rule for rule in ALL_RULES}
    for each in found:
        assert len(each.detail) <= MAX_DETAIL
        assert known[each.rule].is_quirk == each.is_quirk


@given(st.sampled_from(FORMATS), st.lists(st.binary(max_size=40), max_size=8))
def test_no_bytes_make_a_validator_raise(wire_format: WireFormat, pieces: list[bytes]) -> None:
    bounded(violations(wire_format, *pieces))


@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.one_of(st.none(), _NAMES), st.dictionaries(_NAMES, _VALUES, max_size=6)), max_size=8),
    st.integers(0, 12),
)
def test_no_json_makes_a_validator_raise(
    wire_format: WireFormat, bodies: list[tuple[str | None, dict[str, object]]], begun: int
) -> None:
    strange = [sse(body | ({"type": kind} if kind else {}), kind) for kind, body in bodies]
    bounded(violations(wire_format, *STREAMS[wire_format][:begun], *strange))


@given(st.sampled_from(FORMATS), st.lists(st.tuples(st.integers(0), st.sampled_from(("drop", "double", "move")))))
def test_no_order_of_true_frames_makes_a_validator_raise(
    wire_format: WireFormat, edits: list[tuple[int, str]]
) -> None:
    frames = [*STREAMS[wire_format]]
    for place, edit in edits:
        if frames:
            frame = frames.pop(place % len(frames))
            places = {"drop": [], "double": [place, place], "move": [place // 7]}[edit]
            for each in places:
                frames.insert(each % (len(frames) + 1), frame)
    bounded(violations(wire_format, *frames))


@given(
    st.sampled_from(FORMATS), st.lists(st.integers(0, 10_000), max_size=6), st.sampled_from((b"\n", b"\r\n", b"\r"))
)
def test_a_valid_stream_is_valid_wherever_it_is_cut(wire_format: WireFormat, cuts: list[int], end: bytes) -> None:
    data = b"".join(STREAMS[wire_format]).replace(b"\n", end)
    assert violations(wire_format, *splits(data, cuts)) == []


@pytest.mark.parametrize("wire_format", FORMATS, ids=lambda each: each.name)
def test_a_stream_that_lacks_its_beginning_or_its_end_is_not_valid(wire_format: WireFormat) -> None:
    frames = STREAMS[wire_format]
    assert_valid(wire_format, b"".join(frames))
    for part in (frames[:-1], frames[1:], [*frames, *frames[-2:]], []):
        with pytest.raises(AssertionError, match=r"_|missing"):
            assert_valid(wire_format, b"".join(part))


def test_the_detail_of_a_violation_has_nothing_of_the_payload() -> None:
    secret = "sk-a-secret"
    chunk = json.dumps({"id": secret, "object": secret, "choices": [{"index": 0, "finish_reason": secret}]})
    for wire_format in FORMATS:
        for each in violations(wire_format, sse(chunk), sse({"type": secret}, secret), sse(secret)):
            assert secret not in each.detail


def test_plain_answers_keep_all_rules() -> None:
    assert_valid(OPENAI_CHAT, b"".join(openai_stream("a", "b")))
    assert_valid(ANTHROPIC_MESSAGES, b"".join(anthropic_stream("a", "b")))


def test_one_name_is_one_rule() -> None:
    assert len({rule.name for rule in ALL_RULES}) == len(ALL_RULES)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", rule.name) for rule in ALL_RULES)


def test_each_rule_is_documented_and_nothing_else_is() -> None:
    document = (Path(__file__).parents[3] / "docs" / "streams.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (yes|–) \|$", document, re.MULTILINE)
    assert sorted(rows) == sorted((rule.name, rule.meaning, "yes" if rule.is_quirk else "–") for rule in ALL_RULES)
