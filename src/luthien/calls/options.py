"""The filters of the pages as options: one for each field of `CallFilter`, under the name that addresses use."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_type_hints

import typer

from luthien.debug.search.filters import CHOICES, NAMES, read_filter
from luthien.store.call_filter import CallFilter

HELP: Mapping[str, str] = {
    "id": "How the call's id begins.",
    "session": "Of this session.",
    "model": "The model asked for, or the one used.",
    "provider": "The provider: openai or anthropic.",
    "format": "The wire format, as openai.chat_completions.",
    "key": "The name of a gateway key.",
    "policy": "A policy that looked at the call.",
    "version": "With --policy or --changed-by: that version of it.",
    "side": "With --policy, --changed-by, --part or --path: on this side.",
    "decided": "With --policy: what it decided.",
    "mode": "With --policy: enforced, or in shadow.",
    "outcome": "How it ended, or running; several with commas.",
    "changed": "What policies changed.",
    "since": "Not before this: 2026-11-22, 2026-11-22T15:00Z, or 1h, 30m, 7d ago.",
    "until": "Before this.",
    "text": "Words that all stand in what was sent or answered.",
    "changed_by": "A policy that changed something.",
    "part": "What was changed.",
    "path": "Where, as reports have it: /messages/*/content.",
    "without": "Those that have none of this; several with commas.",
}
_PANEL = "Which calls"


def option_of(name: str) -> str:
    """`--wire-format` for the format, since `--format` says in which form a call is exported."""
    return "--wire-format" if name == "format" else f"--{name.replace('_', '-')}"


def with_filter(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each filter; it takes what they ask for as `wanted`.

    Its FilterError is for the command's own guard.
    """

    def run(**given: Any) -> None:
        asked = [(name, given.pop(name)) for name in NAMES]
        command(wanted=lambda: _read(asked), **given)

    own = [each for each in inspect.signature(command).parameters.values() if each.name != "wanted"]
    hints = get_type_hints(command, include_extras=True)
    hints.pop("wanted")
    added = {name: Annotated[str | None, _option(name)] for name in NAMES}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = hints | added
    parameters = [each.replace(annotation=hints[each.name]) for each in own]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in added.items()
    ]
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters], return_annotation=None
    )
    return run


def _option(name: str) -> Any:
    choices = f" One of {', '.join(CHOICES[name])}." if name in CHOICES else ""
    return typer.Option(option_of(name), help=HELP[name] + choices, rich_help_panel=_PANEL)


def _read(asked: list[tuple[str, str | None]]) -> CallFilter:
    return read_filter([(name, value) for name, value in asked if value is not None])
