"""What went through the stages of a call: the exact bytes, and text to read, a piece at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from luthien.debug.call.completeness import state_of
from luthien.debug.call.lookup import Found, Lookup
from luthien.debug.call.stages import StageView, kinds_for, some_stages, stage_named
from luthien.debug.pages.call import find_call, unknown_call
from luthien.debug.showing.shown import laid_out, plain
from luthien.debug.web import json_response
from luthien.exchange import STAGES

PIECE_CHARS = 200_000
"""How much of a payload is shown at once."""
_MAX_LAID_OUT_CHARS = 4_000_000
"""Of longer ones, the lines are those of the payload itself."""


def add_stages(router: APIRouter, lookup: Callable[[], Lookup]) -> None:
    """Below a call's address: stages/{stage}/raw and stages/{stage}/text."""

    @router.get("/debug/calls/{call_id}/stages/{stage}/raw")
    async def raw(call_id: str, stage: str) -> Response:
        shown = await _stage(lookup(), call_id, stage)
        if isinstance(shown, Response):
            return shown
        payload = shown.raw
        if payload is None:
            return json_response({"error": f"{shown.name} is {shown.state}"}, status=404)
        kind = "capped.bin" if shown.is_capped else "bin" if shown.partial is None else "partial.sse"
        headers = {"content-disposition": f'attachment; filename="{call_id.lower()}-{shown.name}.{kind}"'}
        if shown.note is not None:
            headers["luthien-note"] = shown.note
        return Response(payload, media_type="application/octet-stream", headers=headers)

    @router.get("/debug/calls/{call_id}/stages/{stage}/text")
    async def text(call_id: str, stage: str, start: Annotated[int, Query(ge=0)] = 0) -> Response:
        """Laid out for reading. `luthien-next` is where the next piece starts, if there is one."""
        shown = await _stage(lookup(), call_id, stage)
        if isinstance(shown, Response):
            return shown
        payload = shown.payload
        if payload is None:
            return json_response({"error": f"{shown.name} is {shown.state}"}, status=404)
        piece, following = await asyncio.to_thread(_piece, payload, start)
        headers = {} if following is None else {"luthien-next": str(following)}
        return Response(piece, media_type="text/plain; charset=utf-8", headers=headers)


async def _stage(lookup: Lookup, call_id: str, stage: str) -> StageView | Response:
    name = stage_named(STAGES, stage)
    found = None if name is None else await find_call(lookup, call_id, kinds_for(name))
    if not isinstance(found, Found) or name is None:
        return unknown_call(call_id, found is not None)
    stages = await asyncio.to_thread(some_stages, found.call, [name], state_of(found.evidence))
    return stages[name]


def _piece(payload: bytes, start: int) -> tuple[bytes, int | None]:
    """A piece of the text, and where the next one starts. Lone surrogates are shown: UTF-8 has no bytes for them."""
    text = payload.decode("utf-8", "replace")
    if len(text) <= _MAX_LAID_OUT_CHARS:
        with suppress(ValueError, RecursionError):
            text = laid_out(text)
    end = start + PIECE_CHARS
    return plain(text[start:end]).encode("utf-8", "replace"), end if end < len(text) else None
