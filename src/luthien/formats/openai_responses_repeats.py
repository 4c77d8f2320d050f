"""Keeps a stream of OpenAI Responses in agreement with itself, as it says everything several times."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence

from luthien.formats import jsontext
from luthien.formats.format import Json, count_or_none, objects
from luthien.formats.openai_responses_events import PART_LISTS, event, item_events, part_events
from luthien.formats.openai_responses_stream import (
    ITEM,
    PARTS,
    Said,
    is_terminal,
    item_key,
    item_keys,
    list_of,
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
        self._parts: set[str] = set()
        """Parts that have begun, as item/list/index."""
        self._spoken: set[str] = set()
        """Items of which something was said in pieces."""
        self._offered: dict[str, Json] = {}
        self._given: dict[str, Json] = {}
        self._agreed: dict[str, Json] = {}
        """Items that were given otherwise than the policy gave them, in agreement with their pieces."""
        self._ended: set[str] = set()
        self._numbers = _Numbers()
        self._places = _Places()

    # The stream as the provider sends it

    def unsaid(self, chunk: Chunk) -> list[Chunk]:
        body = chunk.json
        if body is None:
            return []
        self._numbers.came(body)
        self._hear(body)
        missing = [*self._unknown_items(body), *self._unknown_parts(body)]
        self._places.came(body)
        for each in missing:
            self._places.came(each.json or {})
            self._hear(each.json or {})
        for said in wholes(body):
            so_far, text = self._text(said.keys), said.slot.text
            if len(text) > len(so_far) and text.startswith(so_far):
                key = next((key for key in said.keys if key in self._said), said.keys[0])
                self._say(key, text[len(so_far) :])
                missing.append(_delta(said, key, text[len(so_far) :], body))
        missing += self._open_items(body)
        _note(body, self._offered)
        if type_of(body) == f"{ITEM}.done":
            self._ended.add(item_key(body))
        return missing

    def _unknown_items(self, body: Json) -> Iterator[Chunk]:
        """The events of items that are said whole without having begun."""
        item = body.get("item")
        if type_of(body) == f"{ITEM}.done" and isinstance(item, dict) and not self._is_known(item_key(body)):
            at = {"output_index": body["output_index"]} if "output_index" in body else {}
            yield from item_events(item, at)[:-1]
        for index, item in self._last_items(body):
            if not any(self._is_known(key) for key in item_keys(index, item)):
                yield from item_events(item, {"output_index": index})

    def _unknown_parts(self, body: Json) -> Iterator[Chunk]:
        """The events of parts that are said whole without having begun, in an item that has."""
        item, key = body.get("item"), item_key(body)
        if type_of(body) != f"{ITEM}.done" or not isinstance(item, dict) or not self._is_known(key):
            return
        at = {"output_index": body["output_index"]} if "output_index" in body else {}
        for listed in PART_LISTS.get(type_of(item), ()):
            for index, part in enumerate(list_of(item.get(listed))):
                if isinstance(part, dict) and not self._has_begun(key, listed, index):
                    yield from part_events(item, listed, index, part, at)

    def _has_begun(self, item: str, listed: str, index: int) -> bool:
        places = ("summary",) if listed == "summary" else ("text", "refusal")
        said = any(f"{item}/{place}/{index}" in self._said for place in places)
        return said or f"{item}/{listed}/{index}" in self._parts

    def _is_known(self, key: str) -> bool:
        return key in self._offered or key in self._spoken

    def _open_items(self, body: Json) -> Iterator[Chunk]:
        """The ends of items that began and have none."""
        for index, item in self._last_items(body):
            key = next((key for key in item_keys(index, item) if key in self._offered), None)
            if key is not None and key not in self._ended:
                at = {} if key.startswith("#") else {"output_index": index}
                yield event(f"{ITEM}.done", {**at, "item": item})

    @staticmethod
    def _last_items(body: Json) -> Iterator[tuple[int, Json]]:
        for index, item in enumerate(output_of(body) if is_terminal(body) else ()):
            if isinstance(item, dict):
                yield index, item

    # The stream as a policy was shown it and gave it on

    def offered(self, chunk: Chunk) -> None:
        _note(chunk.json or {}, self._offered)

    def agreed(self, chunk: Chunk) -> Chunk:
        body = chunk.json or {}
        _note(body, self._given)
        self._hear(body)
        if is_terminal(body) and output_of(body) and self._offered != self._given:
            return self._with_items(chunk)
        if all(said.slot.text == self._expected(said) for said in wholes(body)):
            return chunk
        body = jsontext.parse_object(chunk.data or b"")
        for said in wholes(body):
            text = self._expected(said)
            if said.slot.text != text:
                said.slot.set(text)
        _note(body, self._agreed)
        if isinstance(body.get("response"), dict):
            agree_text(body["response"])
        return Chunk.of(body, chunk.event)

    def _with_items(self, chunk: Chunk) -> Chunk:
        """The end marker with the items that were given, as these are not those that the policy was shown."""
        body = jsontext.parse_object(chunk.data or b"")
        given = sorted((self._given | self._agreed).items(), key=_order)
        body["response"]["output"] = [item for _, item in given]
        agree_text(body["response"])
        return chunk if body == chunk.json else Chunk.of(body, chunk.event)

    def _hear(self, body: Json) -> None:
        listed = PARTS.get(type_of(body).rpartition(".")[0])
        if listed:
            self._parts.add(f"{item_key(body)}/{listed}/{count_or_none(body.get(f'{listed}_index')) or 0}")
        for said in pieces(body):
            self._say(said.keys[0], said.slot.text)

    def _say(self, key: str, text: str) -> None:
        self._said.setdefault(key, []).append(text)
        self._spoken.add(key.rsplit("/", 2)[0])

    def _text(self, keys: Sequence[str]) -> str:
        return jsontext.paired("".join(next((self._said[key] for key in keys if key in self._said), ())))

    def _expected(self, said: Said) -> str:
        """The text of a tool's input may never have come in pieces: there is nothing that could have changed it."""
        is_known = said.is_for_readers or any(key in self._said for key in said.keys)
        return self._text(said.keys) if is_known else said.slot.text

    # The stream as the client is given it

    def numbered(self, chunk: Chunk) -> Chunk:
        return self._numbers.given(self._places.given(chunk))


def _note(body: Json, items: dict[str, Json]) -> None:
    """Keeps the item that an event is about, as it says it."""
    if type_of(body).startswith(ITEM) and isinstance(body.get("item"), dict):
        items[item_key(body)] = body["item"]


def _order(known: tuple[str, Json]) -> int:
    """Items without an index stay as they came."""
    return 0 if known[0].startswith("#") else int(known[0])


class _Numbers:
    """Counts the frames: as the provider does while they are its own, by one from the first that is not."""

    def __init__(self) -> None:
        self._due: deque[int | None] = deque()
        self._next: int | None = None
        self._is_own = False

    def came(self, body: Json) -> None:
        number = count_or_none(body.get("sequence_number"))
        if self._next is None:
            self._next = number
        if not self._is_own:
            self._due.append(number)

    def given(self, chunk: Chunk) -> Chunk:
        body = chunk.json
        if body is None:
            return chunk
        number = count_or_none(body.get("sequence_number"))
        if not self._is_own and self._due and self._due[0] == number:
            self._due.popleft()
            self._next = self._next if number is None else number + 1
            return chunk
        self._is_own = True
        self._due.clear()
        if self._next is None:
            return chunk  # the provider does not count
        due, self._next = self._next, self._next + 1
        if number == due:
            return chunk
        return Chunk.of({**body, "sequence_number": due}, chunk.event).standing_for(chunk.frame)


class _Places:
    """Where items stand: what follows one that was withheld moves up, as it does in the response at the end."""

    def __init__(self) -> None:
        self._offered: set[int] = set()
        self._withheld: list[int] = []
        """Those of which nothing was given yet, in order."""
        self._given: dict[int, int] = {}
        self._taken: set[int] = set()

    def came(self, body: Json) -> None:
        index = count_or_none(body.get("output_index"))
        if index is not None and index not in self._offered:
            self._offered.add(index)
            insort(self._withheld, index)

    def given(self, chunk: Chunk) -> Chunk:
        body = chunk.json or {}
        index = count_or_none(body.get("output_index"))
        if index is None:
            return chunk
        if index not in self._given:
            self._take(index)
        place = self._given[index]
        if place == index:
            return chunk
        return Chunk.of({**body, "output_index": place}, chunk.event).standing_for(chunk.frame)

    def _take(self, index: int) -> None:
        before = bisect_left(self._withheld, index)
        if self._withheld[before : before + 1] == [index]:
            del self._withheld[before]
        place = index - before
        if place in self._taken:  # it was withheld, so that others moved up, and comes after all
            place = max(self._taken) + 1
        self._given[index] = place
        self._taken.add(place)


def agree_text(response: Json) -> None:
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
    value: Json = {"item_id": known_id}
    if not item.startswith("#"):
        value["output_index"] = int(item)
    if said.is_for_readers:
        value["summary_index" if place == "summary" else "content_index"] = int(index)
    return event(f"{said.kind}.delta", {**value, "delta": text})
