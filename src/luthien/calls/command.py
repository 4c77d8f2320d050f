"""`luthien calls`: words for people at a terminal, JSON for programs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar
from uuid import UUID

import typer

from luthien.calls import differing, showing
from luthien.calls.ink import plain
from luthien.calls.listing import table
from luthien.calls.options import with_filter
from luthien.calls.output import NOT_THERE, guarded, is_json, opened_output, output_ink, print_lines
from luthien.calls.record import NEWEST, find, opened
from luthien.config_file import read_config
from luthien.debug.call.call_json import call_as_dict, diffs_as_dict, row_as_dict
from luthien.debug.call.call_view import CallView, view_call
from luthien.debug.call.lookup import Listed, Lookup
from luthien.debug.call.stages import stage_named
from luthien.debug.diffing.values import dumps
from luthien.debug.export.forms import FORMS, export_call, whole_call
from luthien.debug.export.lines import as_lines
from luthien.debug.export.parties import Addresses, NotInRecord
from luthien.doctor.examination import known_dsn
from luthien.errors import ConfigError, StoreError
from luthien.exchange import STAGES
from luthien.settings import Settings, read_settings
from luthien.store.call_filter import CallFilter
from luthien.store.stored import Unindexed

_NDJSON = "ndjson"
_EVERYTHING = 10**9

T = TypeVar("T")
Wanted = Callable[[], CallFilter]
AsJson = Annotated[
    bool | None, typer.Option("--json/--words", help="For programs, or for people; as the output is, if not said.")
]
Call = Annotated[str, typer.Argument(help="A call's id, how it begins, or last for the newest.")]
Before = Annotated[str | None, typer.Option(help="Only calls older than the one with this id.")]

calls = typer.Typer(
    name="calls", help="The record in the terminal: calls, what they changed, and exports.", no_args_is_help=True
)


@calls.command("list")
@with_filter
def list_calls(
    wanted: Wanted,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    before: Before = None,
    as_json: AsJson = None,
) -> None:
    """Calls, newest first. JSON is a line for each."""

    with guarded():
        asked, older_than = wanted(), _id(before)

        async def ask(lookup: Lookup) -> tuple[list[Listed], Unindexed]:
            found = await lookup.calls(asked, older_than, limit + 1)
            last = found[limit - 1].row["call_id"] if len(found) > limit else None
            waiting = await lookup.unindexed(asked, older_than, last) if asked.needs_index else Unindexed(0)
            return found, waiting

        found, unsearched = _asked(ask)
        listed = found[:limit]
        if is_json(as_json):
            print_lines(
                dumps({**row_as_dict(each.row), "completeness": each.completeness.as_dict()}) for each in listed
            )
            _say_unsearched(unsearched, before is None)
            return
        ink, is_asked_for = output_ink(), asked != CallFilter() or before is not None
        print_lines(
            table(listed, ink) if listed else [f"no call is {'as asked for' if is_asked_for else 'in the record'}"]
        )
        if len(found) > limit:
            print_lines([ink(f"older ones: --before {listed[-1].row['call_id']}", "dim")])
        _say_unsearched(unsearched, before is None)


def _say_unsearched(waiting: Unindexed, are_newest: bool) -> None:
    """On the error stream: it is no call, and concerns programs, too."""
    if waiting.calls or waiting.or_more:
        which = " or more" if waiting.or_more else ""
        which += " of the newest calls" if are_newest else " of the calls before that one"
        is_one = waiting == Unindexed(1)
        typer.echo(f"{waiting.calls}{which} {'is' if is_one else 'are'} not searched yet", err=True)


@calls.command("show")
@with_filter
def show(
    wanted: Wanted,
    call: Call,
    stage: Annotated[str | None, typer.Option(help="Only what went through this stage: its exact bytes.")] = None,
    as_json: AsJson = None,
) -> None:
    """One call: its verdict, its facts, the decisions of policies, and its stages."""
    with guarded():
        view = _view(call, wanted)
        if stage is not None:
            _write_stage(view, stage, is_plain=not is_json(as_json))
        elif is_json(as_json):
            print_lines([dumps(call_as_dict(view))])
        else:
            print_lines(showing.in_words(view, output_ink()))


@calls.command("diff")
@with_filter
def diff(
    wanted: Wanted,
    call: Call,
    whole: Annotated[bool, typer.Option("--whole", help="Leave out nothing that is long.")] = False,
    as_json: AsJson = None,
) -> None:
    """What policies changed in a call, and which. Status 0 if nothing, 1 if something, 3 if that cannot be said."""
    with guarded():
        view = _view(call, wanted)
        as_json = is_json(as_json)
        print_lines(
            [dumps(diffs_as_dict(view))] if as_json else differing.diff_in_words(view, output_ink(), whole=whole)
        )
        changed = differing.has_changed(view)
        raise typer.Exit(NOT_THERE if changed is None else int(changed))


@calls.command("export")
@with_filter
def export(
    wanted: Wanted,
    call: Annotated[
        str | None, typer.Argument(help="A call's id, how it begins, or last; all that are asked for, if not given.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help=f"One of {', '.join([*FORMS, _NDJSON])}; json or ndjson if not given."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; standard output if not given.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many lines of NDJSON at most.")] = None,
    before: Before = None,
    payloads: Annotated[bool, typer.Option(help="Lines of NDJSON with what went through the stages.")] = True,
) -> None:
    """A call as a file of another tool, or all that are asked for as NDJSON."""
    with guarded():
        form = form or (_NDJSON if call is None else "json")
        if form not in (*FORMS, _NDJSON):
            raise ConfigError(f"--format {plain(form)!r} is none of {', '.join([*FORMS, _NDJSON])}")
        if form == _NDJSON:
            if call is not None:
                raise ConfigError("--format ndjson is for all that are asked for: leave out the call, or say --id")
            _write_lines(wanted, _id(before), limit or _EVERYTHING, payloads, output)
            return
        if call is None:
            raise ConfigError(f"--format {form} is of one call: say which, or last")
        settings = _settings()
        config = read_config(settings.config).config
        addresses = Addresses(_gateway(settings), config.upstream_url)

        asked = _only_last(call, wanted)

        async def ask(lookup: Lookup) -> str:
            whole = await whole_call(lookup, await find(lookup, call, asked), [form])
            return export_call(form, whole, addresses)[0]

        text = _asked(ask)
        with opened_output(output) as write:
            write(text.encode())


def _view(call: str, wanted: Wanted) -> CallView:
    asked = _only_last(call, wanted)

    async def ask(lookup: Lookup) -> CallView:
        found = await find(lookup, call, asked)
        return view_call(found.call, found.evidence)

    return _asked(ask)


def _only_last(call: str, wanted: Wanted) -> CallFilter:
    asked = wanted()
    if call not in NEWEST and asked != CallFilter():
        raise ConfigError("filters say which call is the last: say last in the place of its id")
    return asked


def _write_stage(view: CallView, name: str, *, is_plain: bool) -> None:
    known = stage_named(STAGES, name)
    if known is None:
        raise ConfigError(f"--stage {plain(name)!r} is none of {', '.join(STAGES)}")
    stage = view.stages[known]
    if stage.raw is None:
        raise NotInRecord(f"{known} is {stage.state.replace('_', ' ')}")
    if is_plain:
        print_lines([plain(stage.raw.decode("utf-8", "replace"))])
        return
    with opened_output(None) as write:
        write(stage.raw)


def _write_lines(wanted: Wanted, before: UUID | None, limit: int, payloads: bool, output: Path | None) -> None:
    asked = wanted()

    async def ask(lookup: Lookup) -> None:
        with opened_output(output) as write:
            async for line in as_lines(lookup, asked, before, limit, payloads=payloads):
                write(line.encode())
                if line.startswith('{"error":'):
                    raise StoreError(f"the export broke off: {json.loads(line)['error']}")

    _asked(ask)


def _asked(ask: Callable[[Lookup], Awaitable[T]]) -> T:
    """What the record answers."""
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # what went wrong is said once, in our words
    dsn = known_dsn(_settings())
    if dsn is None:
        raise StoreError("which database? DATABASE_URL is not set, and no `luthien up` runs here")

    async def run() -> T:
        async with opened(dsn) as lookup:
            return await ask(lookup)

    return asyncio.run(run())


def _settings() -> Settings:
    return read_settings()


def _gateway(settings: Settings) -> str:
    """Where a gateway with these settings is, for who asks on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _id(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        raise ConfigError(f"--before {plain(text)!r} is no id of a call") from None
