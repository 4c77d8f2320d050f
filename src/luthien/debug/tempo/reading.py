"""Tempo's answers: traces, as JSON and as Protocol Buffers, and what a search found. Pure.

They are from somebody else: every text in them is shown as a stranger's, and a long one is to be read where nobody
waits for it: eight megabytes of brackets, or of empty messages, take seconds and hundreds of megabytes.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from luthien.debug.showing.shown import plain
from luthien.debug.tempo.messages import TraceByIdResponse
from luthien.debug.tempo.trace import Span, chosen
from luthien.telemetry import conventions as names

JSON = "application/json"
PROTOBUF = "application/protobuf"
MOST_READ = 50_000
_NAME_CHARS = 200
_MESSAGE_CHARS = 300
_MOST_LINKS = 4
_HEX = re.compile(r"[0-9A-Fa-f]+")
_HOSTS = ("host.name", "service.instance.id")
_KINDS = {number: name for name, number in trace_pb2.Span.SpanKind.items()}
_UNREADABLE = AttributeError, KeyError, OverflowError, TypeError, ValueError, RecursionError, DecodeError


class TooManySpans(Exception):
    """A trace has more spans than are read: to read them all would take seconds, and hundreds of megabytes."""


class UnlikeTempo(Exception):
    """What answers does not speak as Tempo does."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be shown of one trace; no spans, if Tempo does not have it. `message` says why it is partial."""

    spans: Sequence[Span]
    is_partial: bool = False
    message: str = ""
    omitted: int = 0
    """More spans than these."""


def read_trace(content_type: str, body: bytes, call_id: str, *, is_wrapped: bool) -> Answer:
    """What Tempo answers to who asks for a trace by its id, as far as it is shown on the page of a call.

    Args:
        is_wrapped: whether a trace in Protocol Buffers is wrapped, as by the API's version 2. In JSON that shows.

    Raises:
        UnlikeTempo: it is no trace.
        TooManySpans: it is too big a one.
    """
    try:
        if _media_type(content_type) in {PROTOBUF, "application/x-protobuf"}:
            answer = _from_protobuf(body, is_wrapped=is_wrapped)
        else:
            answer = _from_json(body)
    except _UNREADABLE as error:
        raise UnlikeTempo from error
    spans, omitted = chosen(answer.spans, call_id)
    return replace(answer, spans=spans, omitted=omitted)


def read_search(body: bytes) -> list[str]:
    """The ids of the traces that a search found, most matches first, with the zeros that Tempo leaves out.

    Raises:
        UnlikeTempo: it is no answer to a search.
    """
    try:
        answer = _parsed(body)
        if "traces" not in answer and "metrics" not in answer:
            raise UnlikeTempo
        found = [(_padded(str(each["traceID"])), _matches(each)) for each in answer.get("traces") or ()]
    except _UNREADABLE as error:
        raise UnlikeTempo from error
    return [*dict.fromkeys(trace_id for trace_id, _ in sorted(found, key=lambda each: -each[1]))]


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _matches(trace: Mapping[str, Any]) -> int:
    sets = trace.get("spanSets") or [trace.get("spanSet") or {}]
    return sum(int(each.get("matched", 0)) for each in sets)


def _padded(trace_id: str) -> str:
    if len(trace_id) > 32 or _HEX.fullmatch(trace_id) is None:
        raise ValueError("not a trace id")
    return trace_id.lower().rjust(32, "0")


def _said(text: object) -> str:
    return plain(str(text)[:_MESSAGE_CHARS]) if text else ""


def _from_protobuf(body: bytes, *, is_wrapped: bool) -> Answer:
    if not is_wrapped:
        return Answer(_few(_of_batches(trace_pb2.TracesData.FromString(body))))
    answer = TraceByIdResponse.FromString(body)
    return Answer(_few(_of_batches(answer.trace)), answer.status == 1, _said(answer.message))


def _few(spans: Iterator[Span]) -> list[Span]:
    found = [*islice(spans, MOST_READ)]
    if next(spans, None) is not None:
        raise TooManySpans
    return found


def _of_batches(trace: trace_pb2.TracesData) -> Iterator[Span]:
    for batch in trace.resource_spans:
        resource = _texts_of(batch.resource.attributes)
        for scope in batch.scope_spans:
            for span in scope.spans:
                yield _span(
                    span_id=_id(span.span_id, 8),
                    parent=span.parent_span_id.hex(),
                    name=span.name,
                    kind=_kind(span.kind),
                    times=(span.start_time_unix_nano, span.end_time_unix_nano),
                    is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                    attributes=_texts_of(span.attributes),
                    resource=resource,
                    links=[link.trace_id.hex() for link in span.links],
                )


def _texts_of(attributes: Iterable[KeyValue]) -> dict[str, str]:
    return {each.key: each.value.string_value for each in attributes if each.value.HasField("string_value")}


def _from_json(body: bytes) -> Answer:
    value = _parsed(body)
    trace = value.get("trace", value)
    batches = trace.get("resourceSpans", trace.get("batches"))
    if batches is None:
        if trace is value:
            raise UnlikeTempo
        batches = []  # as an empty message is written
    if not isinstance(batches, list):
        raise UnlikeTempo
    spans = _few(span for batch in batches for span in _of_batch(batch))
    return Answer(spans, value.get("status") in ("PARTIAL", 1), _said(value.get("message")))


def _parsed(body: bytes) -> dict[str, Any]:
    value = json.loads(body)
    if not isinstance(value, dict):
        raise UnlikeTempo
    return value


def _of_batch(batch: Mapping[str, Any]) -> Iterator[Span]:
    resource = _attributes(batch.get("resource") or {})
    for scope in batch.get("scopeSpans") or batch.get("instrumentationLibrarySpans") or ():
        for span in scope.get("spans") or ():
            start = _nanoseconds(span["startTimeUnixNano"])
            yield _span(
                span_id=_hex(span["spanId"], 8),
                parent=_hex(span["parentSpanId"], 8) if span.get("parentSpanId") else "",
                name=str(span.get("name", "")),
                kind=_kind(span.get("kind", 0)),
                times=(start, _nanoseconds(span.get("endTimeUnixNano", start))),
                is_error=(span.get("status") or {}).get("code") in (2, "STATUS_CODE_ERROR"),
                attributes=_attributes(span),
                resource=resource,
                links=[_hex(link["traceId"], 16) for link in span.get("links") or ()],
            )


def _kind(value: object) -> str:
    return _KINDS.get(value, "") if isinstance(value, int) else str(value)


def _attributes(holder: Mapping[str, Any]) -> dict[str, str]:
    """Those that are text."""
    pairs = ((each["key"], each.get("value") or {}) for each in holder.get("attributes") or ())
    return {key: value["stringValue"] for key, value in pairs if isinstance(value.get("stringValue"), str)}


def _nanoseconds(value: object) -> int:
    """A 64-bit integer, which JSON has as text. Raises ValueError."""
    number = int(str(value)[:20])
    if not 0 <= number < 1 << 64:
        raise ValueError("not a time")
    return number


def _hex(written: object, size: int) -> str:
    """An id of so many bytes in hexadecimal digits, which JSON may have in Base64. Raises ValueError."""
    text = str(written)
    if len(text) == 2 * size and _HEX.fullmatch(text):
        return text.lower()
    return _id(base64.b64decode(text, validate=True), size)


def _id(raw: bytes, size: int) -> str:
    if len(raw) != size:
        raise ValueError("not an id")
    return raw.hex()


def _span(
    *,
    span_id: str,
    parent: str,
    name: str,
    kind: str,
    times: tuple[int, int],
    is_error: bool,
    attributes: Mapping[str, str],
    resource: Mapping[str, str],
    links: Sequence[str],
) -> Span:
    start, end = times
    return Span(
        id=span_id,
        parent=parent if parent.strip("0") else None,
        name=plain(name[:_NAME_CHARS]),
        service=plain(resource.get("service.name", "")[:_NAME_CHARS]),
        kind=plain(kind.removeprefix("SPAN_KIND_").lower().replace("unspecified", "")[:20]),
        start_ns=start,
        end_ns=max(start, end),
        is_error=is_error,
        call_id=_cut(attributes.get(names.CALL_ID)),
        parent_call_id=_cut(attributes.get(names.PARENT_CALL_ID)),
        host=next((resource[name] for name in _HOSTS if name in resource), "")[:_NAME_CHARS],
        links=tuple(links[:_MOST_LINKS]),
    )


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:_NAME_CHARS]
