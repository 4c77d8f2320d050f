"""Keeps a stream of OpenAI Responses in agreement with itself, as it says everything several times."""

from __future__ import annotations

from collections.abc import Sequence

from luthien.formats import jsontext
from luthien.formats.format import Json, objects
from luthien.formats.openai_responses_stream import (
    ITEM,
    Said,
    item_key,
    item_keys,
    output_of,
    pieces,
    type_of,
    wholes,
)
from luthien.formats.sse import Chunk


class ResponsesRepeats:
    """Makes the whole texts, and the items of the response at the end, those that the client was given."""

    def __init__(self) -> None:
        self._said: dict[str, list[str]] = {}
        self._offered: set[str] = set()
        self._given: set[str] = set()

    def unsaid(self, chunk: Chunk) -> list[Chunk]:
        body = chunk.json or {}
        self._hear(body)
        missing: list[Chunk] = []
        for said in wholes(body):
            so_far, text = self._text(said.keys), said.slot.text
            if said.is_for_readers and len(text) > len(so_far) and text.startswith(so_far):
                key = next((key for key in said.keys if key in self._said), said.keys[0])
                self._said.setdefault(key, []).append(text[len(so_far) :])
                missing.append(_delta(said, key, text[len(so_far) :], body))
        return missing

    def offered(self, chunk: Chunk) -> None:
        body = chunk.json or {}
        if type_of(body).startswith(ITEM):
            self._offered.add(item_key(body))

    def agreed(self, chunk: Chunk) -> Chunk:
        body = chunk.json or {}
        if type_of(body).startswith(ITEM):
            self._given.add(item_key(body))
        self._hear(body)
        if all(said.slot.text == self._expected(said) for said in wholes(body)) and not self._is_withheld(body):
            return chunk
        body = jsontext.parse_object(chunk.data or b"")
        for said in wholes(body):
            text = self._expected(said)
            if said.slot.text != text:
                said.slot.set(text)
        if isinstance(body.get("response"), dict):
            self._agree(body["response"])
        return Chunk.of(body, chunk.event)

    def _hear(self, body: Json) -> None:
        for said in pieces(body):
            self._said.setdefault(said.keys[0], []).append(said.slot.text)

    def _text(self, keys: Sequence[str]) -> str:
        return "".join(next((self._said[key] for key in keys if key in self._said), ()))

    def _expected(self, said: Said) -> str:
        """The text of a tool's input may never have come in pieces: there is nothing that could have changed it."""
        is_known = said.is_for_readers or any(key in self._said for key in said.keys)
        return self._text(said.keys) if is_known else said.slot.text

    def _is_withheld(self, body: Json) -> bool:
        return bool(self._offered - self._given) and any(True for _ in output_of(body))

    def _agree(self, response: Json) -> None:
        withheld = self._offered - self._given
        output = response.get("output")
        if not isinstance(output, list):
            return
        response["output"] = [
            item
            for index, item in enumerate(output)
            if not (isinstance(item, dict) and withheld.intersection(item_keys(index, item)))
        ]
        if isinstance(response.get("output_text"), str):
            response["output_text"] = output_text(response)


def output_text(response: Json) -> str:
    """What some providers say once more beside the output: all its text in one."""
    items = [item for item in objects(response.get("output")) if item.get("type") == "message"]
    return "".join(
        part["text"]
        for item in items
        for part in objects(item.get("content"))
        if part.get("type") == "output_text" and isinstance(part.get("text"), str)
    )


def _delta(said: Said, key: str, text: str, body: Json) -> Chunk:
    """The event that says what was not said in pieces."""
    item, place, index = key.rsplit("/", 2)
    known_id = next(
        (other.rsplit("/", 2)[0][1:] for other in said.keys if other.startswith("#")), body.get("item_id")
    )
    value: Json = {"type": f"{said.kind}.delta", "item_id": known_id}
    if not item.startswith("#"):
        value["output_index"] = int(item)
    value["summary_index" if place == "summary" else "content_index"] = int(index)
    value["delta"] = text
    if "sequence_number" in body:
        value["sequence_number"] = body["sequence_number"]
    return Chunk.of(value, f"{said.kind}.delta")
