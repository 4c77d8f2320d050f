"""A call as the two HTTP exchanges that it was: the client with the gateway, and the gateway with the provider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from luthien.config import PUBLIC_UPSTREAMS
from luthien.debug.call.call_view import CallView
from luthien.debug.call.stages import StageView
from luthien.debug.diffing.values import parse
from luthien.exchange import EventType
from luthien.formats.format import WireFormat
from luthien.formats.registry import FORMATS

_HEADER_CHARS = 256
"""Longer values of headers are cut in the record."""


class Party(StrEnum):
    """Whom the gateway spoke with."""

    CLIENT = "client"
    PROVIDER = "provider"


class NotInRecord(Exception):
    """What is asked for is not in the record; the message says why."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the gateway and the providers are, as far as anybody knows now: the record has no addresses."""

    gateway: str
    """Without a slash at its end."""
    provider: Callable[[str], str] = PUBLIC_UPSTREAMS.__getitem__


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was sent. Of its headers the record has some (`pipeline.headers`), and no credential."""

    party: Party
    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes
    provider: str
    gateway_key: str | None
    """The name of the gateway key that it came with."""
    is_masked: bool
    """Whether credentials in the body are masked."""
    notes: list[str]
    """Why it is not exactly what went over the wire, if it is not."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A response; status 0 when there was none, None for a body that is not in the record."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | None
    is_stream: bool
    """Whether it came as a stream, and `body` is those bytes."""
    notes: list[str]


def wire_format_of(view: CallView) -> WireFormat | None:
    """None for what was passed through."""
    return next((each for each in FORMATS if each.name == view.row["wire_format"]), None)


def asked(view: CallView, party: Party, addresses: Addresses) -> Asked:
    """The request of one side.

    Raises:
        NotInRecord: it was not sent, or is not recorded.
    """
    name = EventType.REQUEST_ORIGINAL if party is Party.CLIENT else EventType.REQUEST_FINAL
    stage, original = view.stages[name], view.stages[EventType.REQUEST_ORIGINAL]
    if stage.state == "not_reached":
        raise NotInRecord(_NOT_SENT[party])
    if stage.payload is None or stage.record is None:
        raise NotInRecord(f"{name} is {stage.state}: what was sent is not in the record")
    method, path = _target(view)
    provider = view.row["provider"] or _provider(view)
    base = addresses.gateway if party is Party.CLIENT else addresses.provider(provider)
    headers = _headers(original, "luthien.request.headers")
    return Asked(
        party,
        method,
        base.rstrip("/") + path,
        headers,
        stage.payload,
        provider,
        view.row["gateway_key"],
        _is(stage, "luthien.credentials_masked"),
        [*_flaws(stage), *_cut(headers)],
    )


_NOT_SENT = {
    Party.CLIENT: "the call was turned away before its request was read",
    Party.PROVIDER: "the request was never sent to the provider",
}


def answered(view: CallView, party: Party) -> Answered:
    """The response of one side, as far as there is one."""
    name = EventType.RESPONSE_FINAL if party is Party.CLIENT else EventType.RESPONSE_ORIGINAL
    stage, original = view.stages[name], view.stages[EventType.RESPONSE_ORIGINAL]
    status = _count(stage, "http.response.status_code")
    if status is None and party is Party.CLIENT:
        status = view.row["http_status"]
    headers = _headers(original, "luthien.response.headers") if stage.state != "gateway_generated" else []
    is_streamed = _count(stage, "luthien.chunks") is not None or stage.partial is not None
    notes = _flaws(stage)
    if is_streamed and stage.partial is None:
        notes = ["a stream, as the plain response that it adds up to"]
    if stage.note is not None:
        notes = [stage.note]
    if stage.state == "missing":
        notes = [f"{name} is missing: what was answered is not in the record"]
    return Answered(status or 0, headers, stage.raw, stage.partial is not None, notes)


def _target(view: CallView) -> tuple[str, str]:
    """Method and path: of what was passed through, those of its record."""
    known = wire_format_of(view)
    if known is not None:
        return "POST", known.path
    record = view.stages[EventType.REQUEST_ORIGINAL].record
    get: Any = {}.get if record is None else record.attributes.get
    method, path = get("http.request.method"), get("url.path")
    if not isinstance(method, str) or not isinstance(path, str):
        raise NotInRecord("where the request went is not in the record")
    return method, path


def _provider(view: CallView) -> str:
    known = wire_format_of(view)
    if known is not None:
        return known.provider
    names = {name for name, _ in _headers(view.stages[EventType.REQUEST_ORIGINAL], "luthien.request.headers")}
    return "anthropic" if "anthropic-version" in names else "openai"


def _headers(stage: StageView, attribute: str) -> list[tuple[str, str]]:
    text = None if stage.record is None else stage.record.attributes.get(attribute)
    try:
        found = parse(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        found = {}
    kept = found if isinstance(found, dict) else {}
    return [(name, value) for name, value in kept.items() if isinstance(value, str)]


def _cut(headers: list[tuple[str, str]]) -> list[str]:
    cut = [name for name, value in headers if len(value) == _HEADER_CHARS]
    return [f"the record has the first {_HEADER_CHARS} characters of {', '.join(cut)}"] if cut else []


def _flaws(stage: StageView) -> list[str]:
    """Why the recorded bytes may not be those that passed."""
    record = stage.record
    if stage.note is not None:
        return [stage.note]
    if _is(stage, "luthien.credentials_masked"):
        return ["credentials in the body are masked in the record"]
    if record is not None and record.wire_sha256 not in (None, record.payload_sha256):
        return ["the recorded bytes are not those that passed: their hashes differ"]
    return []


def _is(stage: StageView, attribute: str) -> bool:
    return stage.record is not None and stage.record.attributes.get(attribute) is True


def _count(stage: StageView, attribute: str) -> int | None:
    value = None if stage.record is None else stage.record.attributes.get(attribute)
    return value if isinstance(value, int) else None
