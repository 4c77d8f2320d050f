"""How a diff is shown: rows made of two payloads and their operations."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.debug.align import by_position
from luthien.debug.diff import diff_payloads
from luthien.debug.diffing.ops import Blame, Diff, Op, Summary
from luthien.debug.diffing.values import Json, canonical, parse, tokens
from luthien.debug.showing.rows import Block, Field, Fold, Gap, Item, Line, Span
from luthien.debug.showing.shown_diff import DiffOptions, ShownDiff, show_diff
from luthien.debug.web import templates

_PAGE = templates.from_string(
    '{% from "diff.html" import diff_of %}{% for each in shown %}{{ diff_of(each) }}{% endfor %}'
)
_LAYOUTS = "unified", "side"


def _bytes(value: object) -> bytes:
    return json.dumps(value).encode()


def _shown(before: object, after: object, **options: Any) -> ShownDiff:
    old, new = _bytes(before), _bytes(after)
    return show_diff("request", old, new, diff_payloads(old, new), DiffOptions(**options))


def _with_ops(before: object, after: object, *ops: Op, **options: Any) -> ShownDiff:
    diff = Diff("by-hand", Summary(), degraded=False, ops=ops)
    return show_diff("request", _bytes(before), _bytes(after), diff, DiffOptions(**options))


def _html(*shown: ShownDiff) -> str:
    return _PAGE.render(shown=shown)


def _all(items: Any) -> Iterator[Item]:
    for item in items:
        yield item
        if isinstance(item, Field):
            yield from _all(item.lines)
        if not isinstance(item, Line):
            yield from _all(item.items)


def _blocks(shown: ShownDiff) -> list[Block]:
    return [item for item in _all(shown.items) if isinstance(item, Block)]


def _fields(shown: ShownDiff) -> list[Field]:
    return [item for item in _all(shown.items) if isinstance(item, Field)]


def _folds(shown: ShownDiff) -> list[Fold]:
    return [item for item in _all(shown.items) if isinstance(item, Fold)]


def _field(shown: ShownDiff, label: str) -> Field:
    (found,) = [field for field in _fields(shown) if field.label == label]
    return found


def _pieces(items: Any, side: int) -> Iterator[Span | Gap]:
    """What stands on one side, in order."""
    for item in items:
        if isinstance(item, Fold):
            yield from _pieces(item.items, side)
        elif item.mark == ("added", "removed")[side]:
            continue
        elif len(item.cells) == 1:
            yield from (piece for piece in item.cells[0] if piece.tag != "+-"[side])
        else:
            yield from item.cells[side] or ()


def _text(field: Field, side: int) -> str:
    return "".join(piece.text for piece in _pieces(field.lines, side))


def _ids(html: str) -> list[str]:
    return re.findall(r' id="([^"]*)"', html)


def _leaves(value: Json, ptr: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{ptr}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{ptr}/{index}")
    else:
        yield ptr


def _at(value: Any, ptr: str) -> Json:
    for token in tokens(ptr):
        value = value[int(token)] if isinstance(value, list) else value[token]
    found: Json = value
    return found


_KEYS = st.sampled_from(["messages", "content", "role", "tools", "a.b", "", "x/y~", "système"]) | st.text(max_size=3)
_SCALARS = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=12) | st.sampled_from(["a\nb\n", "\n", " x "])
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.parametrize("layout", _LAYOUTS)
@given(before=_VALUES, after=_VALUES)
def test_the_rows_hold_every_value_of_both_payloads_and_every_operation_once(
    layout: Any, before: Any, after: Any
) -> None:
    """What a field says of a place is what the payload has there, and no place is left out."""
    old, new = _bytes(before), _bytes(after)
    diff = diff_payloads(old, new)
    shown = show_diff("request", old, new, diff, DiffOptions(layout=layout))
    documents = parse(old.decode()), parse(new.decode())
    covered: tuple[list[str], list[str]] = ([], [])
    for field in _fields(shown):
        for side in (0, 1):
            ptr = field.pointers[side]
            if ptr is None or not field.lines or (field.mark == "added" and side == 0):
                continue
            _assert_says(field, side, _at(documents[side], ptr))
            covered[side].append(ptr)
    for side in (0, 1):
        for leaf in _leaves(documents[side]):
            assert any(leaf == ptr or leaf.startswith(ptr + "/") for ptr in covered[side]), (side, leaf)
    html = _html(shown)
    ids = Counter(_ids(html))
    assert [name for name, times in ids.items() if times > 1] == []
    assert all(shown.places[op.id] == f"#request-{op.id}" and ids[f"request-{op.id}"] == 1 for op in diff.ops)


def _assert_says(field: Field, side: int, value: Json) -> None:
    text = _text(field, side)
    if isinstance(value, str) and text == value:
        return
    assert canonical(parse(text)) == canonical(value)


def test_blocks_are_named_as_people_name_them() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    before = {
        "model": "m",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "tool_calls": [call]},
        ],
        "tools": [{"type": "function", "function": {"name": "get_weather"}}],
    }
    after = json.loads(json.dumps(before).replace('"a"', '"b"').replace('"{}"', '"{ }"').replace("get_w", "got_w"))
    after["model"] = "n"
    titles = [(block.title, block.detail) for block in _blocks(_shown(before, after))]
    assert titles == [
        ("model and parameters", ""),
        ("messages 0", "user"),
        ("content 0", "text"),
        ("messages 1", "assistant"),
        ("tool_calls 0", "function · got_weather · call_1"),
        ("tools 0", "function · got_weather"),
    ]


def test_what_is_unchanged_is_folded_with_its_count() -> None:
    messages = [{"role": "user", "content": str(n)} for n in range(14)]
    before = {"messages": messages, "seed": 1, "user": "x", "stop": None}
    after = {**before, "messages": [*messages[:12], {"role": "user", "content": "other"}, messages[13]]}
    assert [fold.label for fold in _folds(_shown(before, after))] == [
        "3 unchanged fields: seed, user, stop",
        "12 unchanged messages",
        "1 unchanged message",
    ]


def test_a_long_text_shows_three_lines_around_a_change() -> None:
    lines = [f"line {n}\n" for n in range(60)]
    changed = [*lines[:30], "LINE 30\n", *lines[31:]]
    shown = _shown({"system": "".join(lines)}, {"system": "".join(changed)})
    field = _field(shown, "")
    assert [item.label if isinstance(item, Fold) else "line" for item in field.lines] == [
        "27 unchanged lines",
        *["line"] * 7,
        "26 unchanged lines",
    ]
    assert _text(field, 0) == "".join(lines)
    assert _text(field, 1) == "".join(changed)


def test_a_long_line_shows_the_words_around_a_change() -> None:
    before = "word " * 2_000 + "secret" + " word" * 2_000
    shown = _shown({"system": before}, {"system": before.replace("secret", "gone")})
    (line,) = _field(shown, "").lines
    assert isinstance(line, Line)
    assert line.cells[0] is not None
    assert [piece.tag + ("…" if isinstance(piece, Gap) else "") for piece in line.cells[0]] == [
        "=…",
        "=",
        "-",
        "+",
        "=",
        "=…",
    ]
    assert sum(len(piece.html or "") for piece in line.cells[0] if isinstance(piece, Span)) < 1_000


def test_two_columns_are_level_after_each_common_line() -> None:
    before, after = "a\nb\nc\nsame\nend", "A\nsame\nend\nmore"
    segments = (("-", "a\nb\nc\n"), ("+", "A\n"), ("=", "same\nend"), ("+", "\nmore"))
    op = Op("r1", "change", "text", "/t", "/t", before, after, segments)  # type: ignore[arg-type]
    field = _field(_with_ops({"t": before}, {"t": after}, op, layout="side"), "t")
    rows = [
        tuple(None if cell is None else "".join(piece.text for piece in cell) for cell in line.cells)
        for line in field.lines
        if isinstance(line, Line)
    ]
    assert rows == [
        ("a\n", "A\n"),
        ("b\n", None),
        ("c\n", None),
        ("same\n", "same\n"),
        ("end", "end\n"),
        (None, "more"),
    ]


def test_a_move_is_told_at_both_places() -> None:
    messages: list[Any] = [{"role": "user", "content": f"text {n}"} for n in range(4)]
    after: list[Any] = [messages[0], {"role": "user", "content": "text three"}, messages[1], messages[2]]
    ops = (
        Op("r1", "change", "text", "/messages/3/content", "/messages/1/content", "text 3", "text three",
           (("=", "text "), ("-", "3"), ("+", "three"))),
        Op("r2", "move", "object", "/messages/3", "/messages/1", messages[3], after[1]),
    )  # fmt: skip
    shown = _with_ops({"messages": messages}, {"messages": after}, *ops)
    here, there = [block for block in _blocks(shown) if block.mark == "moved"]
    assert here.anchor == "request/messages/1"
    assert here.ops[0].link == ("#request-before/messages/3", "from messages 3")
    assert there.anchor == "request-before/messages/3"
    assert there.link == ("#request-r2", "moved to messages 1")
    (changed,) = [field for field in _fields(shown) if field.mark == "changed"]
    assert (_text(changed, 0), _text(changed, 1)) == ("text 3", "text three")
    assert not there.items


def test_json_in_a_string_is_opened_with_its_own_operations() -> None:
    before, after = '{"city":"Paris","unit":"c"}', '{"city":"London","unit":"c"}'
    inner = Op("r1.r1", "change", "text", "/city", "/city", "Paris", "London", (("-", "Paris"), ("+", "London")))
    op = Op("r1", "change", "text", "/arguments", "/arguments", before, after, (), inside=(inner,))
    shown = _with_ops({"arguments": before}, {"arguments": after}, op)
    field = _field(shown, "arguments")
    assert "a string on the wire, which holds JSON: compared as JSON" in field.ops[0].notes
    assert [note.anchor for each in _fields(shown) for note in each.ops] == ["request-r1", "request-r1.r1"]
    assert _text(_field(shown, "city"), 1) == "London"


def test_what_was_added_with_json_in_a_string_shows_it_laid_out() -> None:
    shown = _shown({}, {"arguments": '{"a":"x\\ny"}', "twice": '{"a":1,"a":2}'})
    assert _field(shown, "arguments").chips == ("JSON in a string",)
    assert _text(_field(shown, "a"), 1) == "x\ny"
    assert _text(_field(shown, "twice"), 1) == '{\n  "a": 1,\n  "a": 2\n}'


def test_base64_never_spills_into_the_page() -> None:
    image = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8).decode()
    shown = _shown({"url": "x", "data": "y"}, {"url": f"data:image/webp;base64,{image}", "data": image})
    assert _text(_field(shown, "data"), 1).startswith("image/png, 2.0 KiB, SHA-256 ")
    assert _text(_field(shown, "url"), 1).startswith("image/webp, 2.0 KiB, SHA-256 ")
    assert image[:80] not in _html(shown)
    text = "a" * 5_000
    assert text[:1000] in _html(_shown({}, {"system": text}))


def test_each_segment_of_a_string_shows_whose_it_is() -> None:
    blames = Blame("redact", "1.0", "found a key", 4), Blame("tone", "2", "politer", 5)
    segments = (("-", "a"), ("+", "b"), ("=", " "), ("-", "c"), ("+", "d"))
    op = Op("r1", "change", "text", "/t", "/t", "a c", "b d", segments, by=blames, authors=(0, 0, None, 1, 1))  # type: ignore[arg-type]
    shown = _with_ops({"t": "a c"}, {"t": "b d"}, op)
    html = _html(shown)
    assert '<ins>b<sup class="who" title="redact">1</sup></ins>' in html
    assert '<ins>d<sup class="who" title="tone">2</sup></ins>' in html
    assert 'href="#decision-4"' in html
    assert 'href="#decision-5"' in html
    assert "found a key" in html
    assert "politer" in html


def test_a_change_that_is_traced_to_nobody_says_why() -> None:
    op = Op("r1", "change", "text", "/t", "/t", "a", "b", reason="a step is lost; it was <redact> or limit")
    assert "a step is lost; it was &lt;redact&gt; or limit" in _html(_with_ops({"t": "a"}, {"t": "b"}, op))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"a": 1}, {"a": "1"}, "was a number, is text"),
        ({}, {"a": None}, "null now; it was absent before, which is not the same"),
        ({"a": None}, {}, "was null; it is absent now, which is not the same"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, "the order of its keys differs: a and b before, b and a after"),
    ],
)
def test_what_two_values_do_not_say_is_said_in_words(before: Any, after: Any, said: str) -> None:
    assert said in _html(_shown(before, after))


def test_numbers_and_white_space_written_otherwise_are_told() -> None:
    diff = diff_payloads(b'{"a":1.0}', b'{"a":1.00}')
    assert "the same number, written differently" in _html(
        show_diff("x", b'{"a":1.0}', b'{"a":1.00}', diff, DiffOptions())
    )
    diff = diff_payloads(b'{"a":1}', b'{ "a":1}')
    assert "the same JSON, but for white space or escapes: 7 bytes" in _html(
        show_diff("x", b'{"a":1}', b'{ "a":1}', diff, DiffOptions())
    )


def test_flags_are_told() -> None:
    op = Op("r1", "change", "text", "/t", "/t", "\u00e9", "e\u0301", flags=("normalization_only",))
    html = _html(_with_ops({"t": "\u00e9"}, {"t": "e\u0301"}, op))
    assert "the same text in another Unicode normal form: NFC before, NFD after" in html


def test_white_space_that_changed_always_leaves_a_mark() -> None:
    shown = _shown({"t": "a b"}, {"t": "a  b\n"})
    assert "·" in _html(shown)
    assert "↵" in _html(shown)
    assert "·" not in _html(_shown({"t": "a b c"}, {"t": "a b d"}))
    assert "·" in _html(_shown({"t": "a b c"}, {"t": "a b d"}, whitespace=True))


def test_hostile_text_is_escaped_and_shown() -> None:
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(1)>\u202e\u0000'
    html = _html(
        _shown({evil: evil, "messages": [{"role": evil}]}, {evil: evil + "x", "messages": [{"role": "u", evil: 1}]})
    )
    assert "<script" not in html
    assert "<img" not in html
    assert "\u202e" not in html
    assert "U+202E" in html
    assert all(not re.search(r"[\s<>]", name) for name in _ids(html))


def test_payloads_that_are_no_json_are_compared_as_text() -> None:
    before, after = b"data: one\n\ndata: two\n", b"data: one\n\ndata: three\n"
    shown = show_diff("response", before, after, diff_payloads(before, after), DiffOptions())
    assert _text(_fields(shown)[0], 0).encode() == before
    assert _text(_fields(shown)[0], 1).encode() == after


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (b"\xff\x00", b"\xff\x01", "not text, so compared by hash: 2 bytes"),
        (None, b'{"a":1}', "Only after is there"),
        (b'{"a":1}', None, "Only before is there"),
        (b'{"a":1}', b'{"a":1}', "No change."),
        (b"\xff", b"\xff", "No change."),
    ],
)
@pytest.mark.parametrize("layout", ["unified", "side", "raw"])
def test_every_state_is_told(before: bytes | None, after: bytes | None, said: str, layout: Any) -> None:
    shown = show_diff("response", before, after, diff_payloads(before, after), DiffOptions(layout=layout))
    if layout != "raw" or "hash" not in said:
        assert said in _html(shown)


def test_nothing_to_compare_and_redacted_are_no_lack_of_change() -> None:
    nothing = show_diff("request", None, None, None, DiffOptions(), notes=["The call ended before this stage."])
    assert nothing.sentences == ("Nothing to compare.", "The call ended before this stage.")
    diff = diff_payloads(b"{}", b"{}")
    (said,) = show_diff("request", b"{}", b"{}", diff, DiffOptions(), redacted=True).sentences
    assert said.startswith("Changed, content redacted")


def test_raw_compares_both_payloads_line_by_line() -> None:
    shown = _shown({"a": 1, "b": "x"}, {"a": 2, "b": "x"}, layout="raw")
    (field,) = _fields(shown)
    assert [
        (line.mark, "".join(p.text for p in line.cells[0] or ())) for line in field.lines if isinstance(line, Line)
    ] == [
        ("same", "{\n"),
        ("removed", '  "a": 1,\n'),
        ("added", '  "a": 2,\n'),
        ("same", '  "b": "x"\n'),
        ("same", "}"),
    ]
    assert shown.places == {"r1": "?#request-r1"}
    exact = _shown({"a": 1}, {"a": 2}, layout="raw", exact=True)
    assert _text(_fields(exact)[0], 0) == '{"a": 1}'


def test_options_are_in_the_address_and_keep_what_else_is_there() -> None:
    options = DiffOptions.from_query({"layout": "side", "whitespace": "1", "a": "1&2", "unfold": "request/a@1"})
    assert options == DiffOptions("side", whitespace=True, unfold="request/a@1", others=(("a", "1&2"),))
    assert options.query() == "?a=1%262&layout=side&whitespace=1&unfold=request%2Fa%401"
    assert DiffOptions.from_query({"layout": "nonsense"}) == DiffOptions()
    toggles = [toggle for group in _shown({}, {"a": 1}, others=(("a", "1"),)).toggles for toggle in group]
    assert [toggle.href for toggle in toggles][:2] == ["?a=1#request-diff", "?a=1&layout=side#request-diff"]
    assert [toggle.is_current for toggle in toggles] == [True, False, False, False]


def _conversation(count: int, chars: int) -> dict[str, Any]:
    return {
        "model": "m",
        "messages": [{"role": "user", "content": f"{n} " + "word " * (chars // 5)} for n in range(count)],
    }


def test_a_huge_conversation_is_left_behind_links_and_each_link_leads_there() -> None:
    """10,000 operations are more than a page holds; each is on the page that its address names."""
    before = _conversation(2_500, 20)
    after = _conversation(2_500, 20)
    for message in after["messages"]:
        message.update(role="tool", name="x", content=message["content"] + "!", extra=None)
    old, new = _bytes(before), _bytes(after)
    diff = diff_payloads(old, new, pairing=by_position)
    assert len(diff.ops) == 10_000
    shown = show_diff("request", old, new, diff, DiffOptions())
    assert len(_html(shown)) < 1_000_000
    assert shown.places.keys() == {op.id for op in diff.ops}
    last = next(op for op in diff.ops if op.after_ptr == "/messages/2400/content")
    query, _, anchor = shown.places[last.id].partition("#")
    assert query == "?unfold=request%2Fmessages%2F2400%2Fcontent"
    there = _html(show_diff("request", old, new, diff, DiffOptions(unfold="request/messages/2400/content")))
    assert anchor in _ids(there)
    assert len(there) < 2_000_000


def test_a_line_of_thirty_megabytes_with_one_change_is_a_small_page() -> None:
    line = "lorem ipsum " * 2_500_000
    shown = _shown({"system": line}, {"system": line[:15_000_000] + "X" + line[15_000_000:]})
    html = _html(shown)
    assert len(html) < 20_000
    assert "15,000,000" not in html
    assert "unchanged characters" in html
    (gap, *_) = [p for f in _fields(shown) for p in _pieces(f.lines, 0) if isinstance(p, Gap)]
    opened = _html(_shown({"system": line}, {"system": line + "X"}, unfold=gap.anchor))
    assert 200_000 < len(opened) < 1_000_000
    assert "more characters, which only the exact bytes show" in opened


def test_folds_too_big_for_the_page_are_behind_a_link_that_opens_them() -> None:
    before = _conversation(200, 4_000)
    after = {**before, "model": "n"}
    (fold,) = [fold for fold in _folds(_shown(before, after)) if fold.label == "200 unchanged messages"]
    assert fold.items == ()
    assert fold.link == "?unfold=request%2Fmessages%2F0%40same#request/messages/0@same"
    (opened,) = [fold for fold in _folds(_shown(before, after, unfold=fold.anchor)) if fold.anchor == fold.anchor][:1]
    assert opened.is_open
    assert opened.items


def test_deep_nesting_neither_overflows_nor_is_left_out() -> None:
    before = b'{"a":' + b"[" * 900 + b"1" + b"]" * 900 + b"}"
    after = before.replace(b"1", b"2")
    diff = diff_payloads(before, after)
    shown = show_diff("request", before, after, diff, DiffOptions())
    assert all(op.id in shown.places for op in diff.ops)
    assert "request-r1" in _ids(_html(shown))


def test_several_diffs_on_one_page_share_no_anchor() -> None:
    first = _shown({"a": 1, "m": [{"b": 1}]}, {"a": 2, "m": [{"b": 2}]})
    second = replace(
        show_diff("shadow-1", b'{"a":1}', b'{"a":2}', diff_payloads(b'{"a":1}', b'{"a":2}'), DiffOptions())
    )
    ids = Counter(_ids(_html(first, second)))
    assert max(ids.values()) == 1


def test_what_is_invisible_or_long_in_every_place_makes_no_huge_page() -> None:
    """Each such character takes some 60 in HTML, wherever it stands: in values, in keys, where it is asked for."""
    hidden = "\u202e\u200b" * 150_000
    shown = _shown({"system": "x"}, {"system": hidden})
    (rest,) = [piece for field in _fields(shown) for piece in _pieces(field.lines, 1) if isinstance(piece, Gap)]
    asked = _html(_shown({"system": "x"}, {"system": hidden}, unfold=rest.anchor))
    assert 300_000 < len(asked) < 1_500_000
    keys = {f"{n}{hidden[:3_000]}": {"a": n} for n in range(400)}
    after = {key: {"a": -1} for key in keys}
    assert len(_html(_shown(keys, after))) < 1_000_000
    assert len(_html(_shown({"a": 1, **keys}, {"a": 2, **keys}))) < 1_000_000
    assert max(len(anchor) for anchor in _ids(_html(_shown({}, {"k" * 1_000_000: {"a": 1}})))) < 100
