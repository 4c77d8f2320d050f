"""How a diff is shown to people: the two payloads walked as one document, what is unchanged folded. Pure.

Rows are made here; `templates/diff.html` writes them down. Takes time for large payloads.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from luthien.debug.diffing.documents import Documents
from luthien.debug.diffing.ops import Diff, Op, Summary
from luthien.debug.diffing.words import Budget, diff_words
from luthien.debug.showing.index import ABSENT, Maybe
from luthien.debug.showing.lines import Pen, Segment
from luthien.debug.showing.options import LAYOUTS, DiffOptions
from luthien.debug.showing.room import Room
from luthien.debug.showing.rows import Block, Field, Item, ShownDiff, Toggle
from luthien.debug.showing.shown import laid_out
from luthien.debug.showing.walk import Walk

_MAX_RAW_CHARS = 4_000_000
"""Payloads of more characters together are not laid out and compared once more; their bytes can be downloaded."""

__all__ = ["DiffOptions", "ShownDiff", "show_diff"]


def show_diff(
    name: str,
    before: bytes | None,
    after: bytes | None,
    diff: Diff | None,
    options: DiffOptions,
    *,
    title: str | None = None,
    labels: tuple[str, str] = ("before", "after"),
    raw: tuple[str | None, str | None] = (None, None),
    notes: Sequence[str] = (),
    unchanged: str = "No change.",
    redacted: bool = False,
    documents: Documents | None = None,
) -> ShownDiff:
    """Both payloads and their diff as rows.

    `name` begins every anchor, so it is unique on its page. `diff` is None where there is nothing to compare: `notes`
    say why. `raw` are the addresses of the exact bytes of both sides. `unchanged` is what to say if nothing differs,
    `redacted` that something did before credentials were masked. `documents` has the
    payloads as far as they have been read.
    """
    options = options if options.unfold.startswith((f"{name}/", f"{name}-", f"{name}@")) else options.with_unfold("")
    items, places = list[Item](), dict[str, str]()
    if before is not None or after is not None:
        if options.layout == "raw":
            items = _raw(name, before, after, options)
            unified = options.with_layout("unified").query()
            places = {op.id: f"{unified}#{name}-{op.id}" for op in ([] if diff is None else diff.ops)}
        if diff is not None and (options.layout != "raw" or not items):
            walk = Walk(name, f"{name}-", diff.ops, Room(options), options)
            items, places = walk.run(*_documents(before, after, diff, documents or Documents())), walk.places
    return ShownDiff(
        name,
        title or name.replace("-", " ").capitalize(),
        options.layout,
        labels,
        (*_sentences(diff, labels, unchanged, redacted=redacted), *notes),
        tuple(items),
        _toggles(name, options) if items else (),
        tuple((label, href) for label, href in zip(labels, raw, strict=True) if href is not None),
        places,
    )


def _sentences(diff: Diff | None, labels: tuple[str, str], unchanged: str, *, redacted: bool) -> list[str]:
    if diff is None:
        return ["Nothing to compare."]
    if not diff.ops:
        return [
            "Changed, content redacted: what differed was masked before it was recorded." if redacted else unchanged
        ]
    sentences = [_summed_up(diff.summary)]
    first = diff.ops[0]
    if first.before_ptr is None and first.after_ptr == "":
        sentences = [f"Only {labels[1]} is there, so there is nothing to compare it with."]
    elif first.after_ptr is None and first.before_ptr == "":
        sentences = [f"Only {labels[0]} is there, so there is nothing to compare it with."]
    if diff.degraded:
        sentences.append("Compared more coarsely than it could be, for its size.")
    return sentences


def _summed_up(summary: Summary) -> str:
    counts = (
        ("changed", summary.changed),
        ("added", summary.added),
        ("removed", summary.removed),
        ("moved", summary.moved),
    )
    told = ", ".join(f"{count:,} {what}" for what, count in counts if count)
    return f"{told}; {summary.same:,} {'value' if summary.same == 1 else 'values'} the same."


def _documents(before: bytes | None, after: bytes | None, diff: Diff, documents: Documents) -> tuple[Maybe, Maybe]:
    """Both payloads as they were compared: as JSON if both are, else as text."""
    whole = next((op for op in diff.ops if op.before_ptr in ("", None) and op.after_ptr in ("", None)), None)
    if whole is not None and whole.kind in ("text", "bytes"):
        return _as_whole(whole, before, after)
    values = [_read(payload, documents) for payload in (before, after)]
    return values[0], values[1]


def _as_whole(op: Op, before: bytes | None, after: bytes | None) -> tuple[Maybe, Maybe]:
    return ABSENT if before is None else op.before, ABSENT if after is None else op.after


def _read(payload: bytes | None, documents: Documents) -> Maybe:
    if payload is None:
        return ABSENT
    document = documents.read(payload)
    return payload.decode("utf-8-sig", "replace") if document.form == "bytes" else document.value


def _is_text(payload: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        return payload.decode("utf-8-sig", "surrogatepass") is not None
    return False


def _raw(name: str, before: bytes | None, after: bytes | None, options: DiffOptions) -> list[Item]:
    """Both payloads compared line by line; nothing if they are too big for that."""
    texts = [_raw_text(payload, exact=options.exact) for payload in (before, after)]
    if sum(map(len, texts)) > _MAX_RAW_CHARS:
        return []
    segments, _ = diff_words(texts[0], texts[1], Budget())
    anchor = f"{name}-raw"
    lines = Pen(Room(options), options).lines([Segment(tag, text) for tag, text in segments], anchor)
    what = "exactly as they passed" if options.exact else "laid out, one value a line"
    row = Field("", "changed", (None, None), lines, is_literal=True)
    return [Block(anchor, "both payloads", what, "same", (None, None), (row,))]


def _raw_text(payload: bytes | None, *, exact: bool) -> str:
    if payload is None:
        return ""
    text = payload.decode("utf-8", "surrogatepass" if _is_text(payload) else "replace")
    if exact:
        return text
    with suppress(ValueError, RecursionError):
        return laid_out(text.removeprefix("\ufeff"))
    return text


def _toggles(name: str, options: DiffOptions) -> tuple[tuple[Toggle, ...], ...]:
    here = f"#{name}-diff"
    layouts = tuple(
        Toggle(label, options.with_layout(layout).query() + here, layout == options.layout)
        for layout, label in LAYOUTS
    )
    white = Toggle("White space", options.with_whitespace(not options.whitespace).query() + here, options.whitespace)
    if options.layout != "raw":
        return layouts, (white,)
    return layouts, (white, Toggle("Exact text", options.with_exact(not options.exact).query() + here, options.exact))
