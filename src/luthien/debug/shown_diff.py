"""How a diff is shown to people: the two payloads walked as one document, what is unchanged folded. Pure.

Rows are made here; `templates/diff.html` writes them down. Takes time for large payloads.
"""

from __future__ import annotations

from collections.abc import Sequence

from luthien.debug.diff_options import LAYOUTS, DiffOptions
from luthien.debug.diff_rows import ShownDiff, Toggle
from luthien.debug.ops import Diff

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
) -> ShownDiff:
    """Both payloads and their diff as rows.

    `name` begins every anchor, so it is unique on its page. `diff` is None where there is nothing to compare: `notes`
    say why. `raw` are the addresses of the exact bytes of both sides. `unchanged` is what to say if nothing differs,
    `redacted` that something did before credentials were masked.
    """
    sentences = list(notes)
    if diff is None:
        sentences.insert(0, "Nothing to compare.")
    elif not diff.ops:
        sentences.insert(0, "Changed, content redacted." if redacted else unchanged)
    return ShownDiff(
        name,
        title or name.replace("-", " ").capitalize(),
        options.layout,
        labels,
        tuple(sentences),
        toggles=_toggles(name, options),
    )


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
