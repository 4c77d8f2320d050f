"""What policies changed in a call, as a unified diff in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from luthien.calls.ink import Ink, one_line, plain
from luthien.debug.blaming.steps import GATEWAY
from luthien.debug.call.call_view import CallView, PolicyView
from luthien.debug.call.completeness import State
from luthien.debug.diffing.ops import Diff, Op
from luthien.debug.diffing.values import dumps
from luthien.debug.diffing.words import Segments
from luthien.debug.showing.shown import laid_out

_CONTEXT_LINES = 2
_MAX_LINES = 60
_SIDES = ("request", "response")
_MARKS = {"-": ("[-", "-]", "removed"), "+": ("{+", "+}", "added"), "=": ("", "", None)}


def has_changed(view: CallView) -> bool | None:
    """Whether the provider or the client got something else than came; None if that cannot be said."""
    diffs = [view.request, view.response]
    if any(diff is not None and diff.ops for diff in diffs):
        return True
    if view.row["request_changed"] or view.row["response_changed"]:
        return True
    if any(stage.state == "gateway_generated" for stage in view.stages.values()):
        return True
    is_known = view.completeness.state is State.COMPLETE and all(diff is not None for diff in diffs)
    return False if is_known else None


def diff_in_words(view: CallView, ink: Ink, *, whole: bool = False) -> Iterator[str]:
    """The lines; `whole` leaves nothing out."""
    yield f"{ink(f'Call {view.call_id}', 'bold')}"
    yield ink(one_line(view.verdict), "bold")
    for side, diff in zip(_SIDES, (view.request, view.response), strict=True):
        yield ""
        if diff is None:
            states = [f"{name} is {stage.state}" for name, stage in view.stages.items() if name.startswith(side)]
            yield f"{side}: nothing to compare: {', '.join(states).replace('_reached', ' reached')}"
        elif not diff.ops:
            yield f"{side}: {'changed, content redacted' if view.row[f'{side}_changed'] else 'no change'}"
        else:
            yield from _side(side, diff, view.decisions, ink, whole)


def _side(side: str, diff: Diff, decisions: Sequence[PolicyView], ink: Ink, whole: bool) -> Iterator[str]:
    made = diff.summary
    counts = {"changed": made.changed, "added": made.added, "removed": made.removed, "moved": made.moved}
    yield (
        f"{side}: {', '.join(f'{count} {word}' for word, count in counts.items() if count)}, {made.same} the same"
        + (", told coarser than it could be" if diff.degraded else "")
    )
    names = [each.policy for each in decisions if each.side == side and each.changed and not each.shadow]
    for op in diff.ops:
        yield from _op(op, names, ink, whole, "")


def _op(op: Op, names: Iterable[str], ink: Ink, whole: bool, within: str) -> Iterator[str]:
    yield ink(f"@@ {within}{_place(op)}  {op.op} {op.kind}{_flags(op)}  {_by(op, names)} @@", "dim")
    if op.inside:
        for inner in op.inside:
            yield from _op(inner, names, ink, whole, f"{within}{_place(op)} \N{RIGHTWARDS ARROW} ")
    elif op.op == "change" and op.text:
        yield from _shortened(_marked(op.text, ink), whole)
    else:
        if op.op in ("remove", "change"):
            yield from _shortened((ink(f"-{line}", "bad") for line in _lines(op.before)), whole)
        if op.op in ("add", "change"):
            yield from _shortened((ink(f"+{line}", "good") for line in _lines(op.after)), whole)


def _place(op: Op) -> str:
    before, after = (None if each is None else one_line(each) for each in (op.before_ptr, op.after_ptr))
    if op.op == "move":
        return f"{before} \N{RIGHTWARDS ARROW} {after}"
    return (before if after is None else after) or "the whole document"


def _flags(op: Op) -> str:
    return "".join(f", {flag.replace('_', ' ')}" for flag in op.flags)


def _by(op: Op, names: Iterable[str]) -> str:
    """The steps that made it; where that is not certain, why, and if nobody says, all that changed something here."""
    if op.reason == GATEWAY:
        return "the gateway"
    steps = [each.policy for each in op.by] or ([] if op.reason else [*names])
    known = ", ".join(dict.fromkeys(steps))
    unknown = f"not certain: {op.reason}" if op.policy is None and op.reason else ""
    return one_line("; ".join(part for part in (known, unknown) if part)) or "an unrecorded step"


def _lines(value: object) -> list[str]:
    text = value if isinstance(value, str) else laid_out(dumps(value))
    return plain(text).split("\n")


def _marked(segments: Segments, ink: Ink) -> Iterator[str]:
    """The lines of a text with what was removed and added in them; far from both, they are only counted."""
    lines: list[tuple[bool, str]] = [(False, "")]
    for tag, text in segments:
        opened, closed, style = _MARKS[tag]
        if ink.coloured:  # which strikes through what was removed, and underlines what was added
            opened = closed = ""
        for place, piece in enumerate(plain(text).split("\n")):
            if place:
                lines.append((False, ""))
            changed, so_far = lines[-1]
            marked = ink(f"{opened}{piece}{closed}", style) if piece or (tag != "=" and place) else ""
            lines[-1] = (changed or tag != "=", so_far + marked)
    yield from _folded(lines, ink)


def _folded(lines: Sequence[tuple[bool, str]], ink: Ink) -> Iterator[str]:
    near = {
        place + shift
        for place, (changed, _) in enumerate(lines)
        if changed
        for shift in range(-_CONTEXT_LINES, _CONTEXT_LINES + 1)
    }
    left_out = 0
    for place, (changed, line) in enumerate([*lines, (True, "")]):
        if place < len(lines) and place not in near:
            left_out += 1
            continue
        if left_out:
            yield ink(f"  \N{HORIZONTAL ELLIPSIS} {left_out} lines the same", "dim")
            left_out = 0
        if place < len(lines):
            yield f"{'~' if changed else ' '} {line}"


def _shortened(lines: Iterable[str], whole: bool) -> Iterator[str]:
    left_out = 0
    for place, line in enumerate(lines):
        if whole or place < _MAX_LINES:
            yield line
        else:
            left_out += 1
    if left_out:
        yield f"  \N{HORIZONTAL ELLIPSIS} {left_out} more lines: --whole shows them"
