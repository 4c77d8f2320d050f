"""One call in words: what its page says above the diffs, and its stages."""

from __future__ import annotations

from collections.abc import Iterator

from luthien.calls.ink import Ink, one_line
from luthien.calls.listing import STYLES, outcome_of
from luthien.debug.call.call_view import CallView, PolicyView
from luthien.debug.call.completeness import State
from luthien.debug.call.lookup import Listed
from luthien.debug.call.stages import StageView
from luthien.debug.showing.shown import duration, size

_ACTIONS = {"block": "bad", "error": "bad", "modify": "warn"}
_STATES = {"recorded": "good", "missing": "bad", "partial": "warn", "awaited": "warn"}


def in_words(view: CallView, ink: Ink) -> Iterator[str]:
    """The lines."""
    outcome = outcome_of(Listed(view.row, view.completeness))
    status = f" {view.row['http_status']}" if view.row["http_status"] else ""
    yield f"{ink(f'Call {view.call_id}', 'bold')}  {ink(outcome.replace('_', ' '), STYLES.get(outcome))}{status}"
    yield ink(one_line(view.verdict), "bold")
    record = view.completeness
    state = ink(record.state.value, "good" if record.state is State.COMPLETE else "bad")
    yield f"{state}: {one_line(record.sentence)}" + (f" {one_line(record.advice)}" if record.advice else "")
    yield from (one_line(sentence) for sentence in view.answers.trust)
    yield ""
    for name, value in _facts(view):
        yield f"{ink(f'{name:13}', 'dim')} {value}"
    yield ""
    yield ink("Decisions", "bold")
    yield from _decisions(view, ink)
    yield ""
    yield ink("Stages", "bold")
    for stage in view.stages.values():
        yield _stage(stage, ink)


def _facts(view: CallView) -> Iterator[tuple[str, str]]:
    row = view.row
    used = row["model_used"] if row["model_used"] != row["model_requested"] else None
    models = [one_line(each) for each in (row["model_requested"], used) if each]
    yield "Model", " \N{RIGHTWARDS ARROW} ".join(models) or "\N{EN DASH}"
    endpoint = f": {one_line(view.endpoint)}" if view.endpoint else ""
    yield "Format", f"{one_line(row['wire_format'] or '')}{', streamed' if row['streaming'] else ''}{endpoint}"
    yield "Started", f"{row['started_at'].strftime('%Y-%m-%d %H:%M:%S.%f')[:-3]} UTC"
    provider, policies, gateway = (duration(row[f"{each}_ms"]) for each in ("upstream", "policy", "gateway"))
    yield "Time", f"{duration(row['duration_ms'])} (provider {provider}, policies {policies}, gateway {gateway})"
    first = duration(row["upstream_first_chunk_ms"]), duration(row["client_first_chunk_ms"])
    yield "First chunk", f"from the provider {first[0]}, to the client {first[1]}"
    if view.answers.cost:
        yield "Cost", one_line(" ".join(view.answers.cost))
    given, made = row["input_tokens"], row["output_tokens"]
    yield "Tokens", "not reported" if given is None and made is None else f"{given} in, {made} out"
    others = {
        "Gateway key": row["gateway_key"],
        "Session": row["session_id"],
        "Trace": row["trace_id"],
        "Asked by": row["parent_call_id"],
        "Configuration": view.configuration,
        "Group": view.group,
    }
    yield from ((name, one_line(value)) for name, value in others.items() if value)
    if row["error_type"]:
        yield "Error", one_line(f"{row['error_type']}: {row['error_message'] or ''}")
    for child in view.children:
        yield (
            "Asked",
            f"{child['call_id']} {one_line(child['model_requested'] or '')} {child['outcome'] or 'running'}",
        )


def _decisions(view: CallView, ink: Ink) -> Iterator[str]:
    if not view.decisions:
        is_whole = view.completeness.state is State.COMPLETE
        yield "  no policy looked at this call" if is_whole else "  no decision is recorded"
    names = max((len(one_line(each.policy)) for each in view.decisions), default=0)
    for each in view.decisions:
        yield _decision(each, names, ink)
        yield from (f"  {ink(one_line(name), 'dim')} {one_line(text)}" for name, text in each.noted)


def _decision(each: PolicyView, width: int, ink: Ink) -> str:
    told = ink(f"{one_line(each.told):8}", None if each.shadow else _ACTIONS.get(each.action))
    cells = [f"  {one_line(each.policy):{width}}", ink(one_line(each.version), "dim"), f"{one_line(each.side):8}"]
    return " ".join([*cells, told, f"{duration(each.duration_ms):>8}", one_line(each.reason)]).rstrip()


def _stage(stage: StageView, ink: Ink) -> str:
    state = ink(f"{stage.state.replace('_', ' '):17}", _STATES.get(stage.state))
    told = f"  {stage.name.value:17} {state}"
    if stage.record is not None:
        digest = stage.record.payload_sha256
        told += f" {size(stage.record.payload_bytes):>9}  {ink(digest.hex() if digest else '', 'dim')}"
    more = [each for each in (stage.note, stage.reason) if each]
    return "  ".join([told.rstrip(), *(one_line(each) for each in more)])
