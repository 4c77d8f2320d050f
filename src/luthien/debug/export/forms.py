"""The forms in which one call can be had, by the names that addresses and the command line use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from luthien.debug.call.call_view import CallView, view_call
from luthien.debug.call.lookup import Found, Lookup
from luthien.debug.diff import Differ, diff_payloads
from luthien.debug.diffing.values import dumps
from luthien.debug.export.curl import as_curl
from luthien.debug.export.fixture import as_fixture, text_of
from luthien.debug.export.har import as_har
from luthien.debug.export.parties import Addresses, NotInRecord, Party, asked
from luthien.debug.export.pytest_case import as_pytest
from luthien.debug.export.whole import as_export


@dataclass(frozen=True, slots=True)
class Form:
    """One form: how its file is called behind the call's id, what it is, and who makes its text."""

    title: str
    ending: str
    media_type: str
    make: Callable[[CallView, Whole, Addresses], str]
    needs_asked: bool = False
    """Whether the calls in which its policies asked models belong to it."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A call, and the calls in which its policies asked models, as far as anybody wants those."""

    found: Found
    asked: tuple[Found, ...] = ()

    @property
    def asked_views(self) -> list[CallView]:
        return [view_call(each.call, each.evidence) for each in self.asked]


FORMS: dict[str, Form] = {
    "json": Form(
        "JSON", ".json", "application/json", lambda view, whole, _: dumps(as_export(view, whole.found.call)) + "\n"
    ),
    "har": Form("HAR", ".har", "application/json", lambda view, _, where: dumps(as_har(view, where)) + "\n"),
    "curl": Form(
        "curl, to the gateway",
        ".sh",
        "text/plain; charset=utf-8",
        lambda view, _, where: as_curl(asked(view, Party.CLIENT, where)),
    ),
    "curl-provider": Form(
        "curl, to the provider",
        "-provider.sh",
        "text/plain; charset=utf-8",
        lambda view, _, where: as_curl(asked(view, Party.PROVIDER, where)),
    ),
    "pytest": Form(
        "pytest",
        ".py",
        "text/plain; charset=utf-8",
        lambda view, whole, _: as_pytest(view, whole.asked_views),
        needs_asked=True,
    ),
    "fixture": Form(
        "policy fixture",
        ".case.json",
        "application/json",
        lambda view, whole, _: text_of(as_fixture(view, whole.asked_views)),
        needs_asked=True,
    ),
}


async def whole_call(lookup: Lookup, found: Found, names: Iterable[str]) -> Whole:
    """All that is needed of a call for these forms. Raises StoreError."""
    return Whole(found, await children(lookup, found, names))


async def children(lookup: Lookup, found: Found, names: Iterable[str]) -> tuple[Found, ...]:
    """The calls that a call's policies made, if these forms need them. Raises StoreError."""
    if not any(FORMS[name].needs_asked for name in names):
        return ()
    asked = [await lookup.call(child["call_id"]) for child in found.call.children]
    return tuple(each for each in asked if isinstance(each, Found))


def file_name(name: str, view: CallView) -> str:
    """What a download is called: a test is found by pytest, which wants a module's name."""
    return f"test_call_{view.call_id.hex}.py" if name == "pytest" else f"{view.call_id}{FORMS[name].ending}"


def export_call(name: str, whole: Whole, addresses: Addresses, differ: Differ = diff_payloads) -> tuple[str, str]:
    """A call in the form of that name, and what its file is called. Raises NotInRecord."""
    view = view_call(whole.found.call, whole.found.evidence, differ)
    return FORMS[name].make(view, whole, addresses), file_name(name, view)


def all_texts(
    whole: Whole, addresses: Addresses, names: Iterable[str], differ: Differ = diff_payloads
) -> dict[str, str | NotInRecord]:
    """A call in several forms, each as text, or why it cannot be had in that."""
    view = view_call(whole.found.call, whole.found.evidence, differ)
    texts: dict[str, str | NotInRecord] = {}
    for name in names:
        try:
            texts[name] = FORMS[name].make(view, whole, addresses)
        except NotInRecord as missing:
            texts[name] = missing
    return texts
