"""A call as an HTTP Archive 1.2, for browsers' developer tools and whatever else reads those.

http://www.softwareishard.com/blog/har-12-spec/. The first entry is the client's exchange with the gateway, the second
the gateway's with the provider, if that was asked. What an archive has no field for is in fields named `_luthien`.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from luthien import __version__
from luthien.debug.call.call_json import row_as_dict
from luthien.debug.call.call_view import CallView
from luthien.debug.export.parties import Addresses, Answered, Asked, NotInRecord, Party, answered, asked
from luthien.exchange import EventType

_JSON, _STREAM = "application/json", "text/event-stream"


def as_har(view: CallView, addresses: Addresses) -> dict[str, object]:
    """The archive. Raises NotInRecord if not even the client's request is recorded."""
    entries = [_entry(view, asked(view, Party.CLIENT, addresses))]
    try:
        entries.append(_entry(view, asked(view, Party.PROVIDER, addresses)))
    except NotInRecord as missing:
        entries[0]["comment"] = str(missing)
    return {
        "log": {
            "version": "1.2",
            "creator": {"name": "Luthien", "version": __version__},
            "entries": entries,
            "_luthien": {
                "call": row_as_dict(view.row),
                "completeness": view.completeness.as_dict(),
                "verdict": view.verdict,
            },
        }
    }


def _entry(view: CallView, request: Asked) -> dict[str, Any]:
    party, response = request.party, answered(view, request.party)
    timings = _timings(view, party)
    return {
        "startedDateTime": _started(view, party),
        "time": timings["send"] + timings["wait"] + timings["receive"],
        "request": _request(request),
        "response": _response(response),
        "cache": {},
        "timings": timings,
        "_luthien": {
            "call_id": str(view.call_id),
            "party": party.value,
            "stages": {
                stage.name.value: {
                    "state": stage.state,
                    "wire_sha256": _hex(stage.record.wire_sha256) if stage.record else None,
                    "wire_bytes": stage.record.wire_bytes if stage.record else None,
                }
                for stage in (view.stages[name] for name in _STAGES[party])
            },
            "notes": {"request": request.notes, "response": response.notes},
        },
    }


_STAGES = {
    Party.CLIENT: (EventType.REQUEST_ORIGINAL, EventType.RESPONSE_FINAL),
    Party.PROVIDER: (EventType.REQUEST_FINAL, EventType.RESPONSE_ORIGINAL),
}


def _request(request: Asked) -> dict[str, Any]:
    data = request.body
    told = {
        "method": request.method,
        "url": request.url,
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": _pairs(request.headers),
        "queryString": _pairs(parse_qsl(urlsplit(request.url).query, keep_blank_values=True)),
        "headersSize": -1,
        "bodySize": len(data),
    }
    if data:
        text, encoding = _text(data)
        # The standard knows no encoding here.
        exact = {} if encoding is None else {"_luthien": {"encoding": encoding, "text": text}}
        plain = data.decode("utf-8", "replace") if encoding else text
        told["postData"] = {"mimeType": dict(request.headers).get("content-type", _JSON), "text": plain} | exact
    return told


def _response(response: Answered) -> dict[str, Any]:
    said = dict(response.headers).get("content-type", "")
    content: dict[str, Any] = {"size": -1, "mimeType": said or _JSON}
    if response.body is not None:
        text, encoding = _text(response.body)
        kind = _STREAM if response.is_stream else _JSON if said.startswith(_STREAM) else said or _JSON
        content = {"size": len(response.body), "mimeType": kind, "text": text}
        if encoding is not None:
            content["encoding"] = encoding
    if response.notes:
        content["comment"] = "; ".join(response.notes)
    return {
        "status": response.status,
        "statusText": _phrase(response.status),
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": _pairs(response.headers),
        "content": content,
        "redirectURL": "",
        "headersSize": -1,
        "bodySize": content["size"],
    }


def _timings(view: CallView, party: Party) -> dict[str, float]:
    """In milliseconds: until the first chunk, if that is known, and from there to the end."""
    row, side = view.row, "client" if party is Party.CLIENT else "upstream"
    total = row["duration_ms" if party is Party.CLIENT else "upstream_ms"] or 0.0
    first = row[f"{side}_first_chunk_ms"]
    wait = total if first is None else min(first, total)
    return {"send": 0.0, "wait": wait, "receive": total - wait}


def _started(view: CallView, party: Party) -> str:
    """When the call began, or when its request was ready for the provider."""
    record = view.stages[EventType.REQUEST_FINAL].record
    if party is Party.CLIENT or record is None:
        began: datetime = view.row["started_at"]
    else:
        began = datetime.fromtimestamp(record.recorded_at_ns // 1_000_000 / 1000, UTC)
    return began.isoformat(timespec="milliseconds")


def _text(data: bytes) -> tuple[str, str | None]:
    """The bytes as text; those that are none in base64, which is then their encoding."""
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return base64.b64encode(data).decode(), "base64"


def _pairs(items: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in items]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()
