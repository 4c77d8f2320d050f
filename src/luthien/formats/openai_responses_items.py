"""The items of OpenAI Responses and their blocks: each part of a message or of reasoning, and each other item.

A call that the client carries out is a tool call, also if it is one of a shell or of a computer; what the provider
did itself, such as a search, is `other`. An item of which nothing is left is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from luthien.formats import jsontext
from luthien.formats.blocks import Block, BlockKind, Json, object_of
from luthien.formats.format import text_or_none
from luthien.formats.openai_responses_events import PART_LISTS
from luthien.formats.openai_responses_stream import list_of, type_of

Place = tuple[str, int]
"""Where in its item a block stands: in which list of parts, and where there. Of an item without parts, `("", 0)`."""
WHOLE_ITEM: Place = ("", 0)

_CALLS = frozenset(
    {"function_call", "custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call", "computer_call"}
)
_INPUTS = ("arguments", "input", "action", "actions", "operation")
_TEXT_PARTS = frozenset({"output_text", "refusal"})
_KINDS = {"message": BlockKind.TEXT, "reasoning": BlockKind.REASONING}
_NEW_PARTS: dict[tuple[str, str], Json] = {
    ("message", "content"): {"type": "output_text", "annotations": [], "text": ""},
    ("reasoning", "summary"): {"type": "summary_text", "text": ""},
    ("reasoning", "content"): {"type": "reasoning_text", "text": ""},
}


def is_client_call(item: Json) -> bool:
    """Whether it is a call that the client carries out."""
    return type_of(item) in _CALLS


def is_made_of_parts(item: Json) -> bool:
    return type_of(item) in PART_LISTS


def places(item: Json) -> dict[Place, Block]:
    """The blocks of an item, which has at least one: of a message or reasoning without parts, one without text.

    Raises:
        ValueError: it has parts of which nobody can say what they are.
    """
    if not is_made_of_parts(item):
        return {WHOLE_ITEM: _block_of_item(item)}
    found: dict[Place, Block] = {}
    for listed in PART_LISTS[type_of(item)]:
        parts = item.get(listed)
        if parts is not None and not isinstance(parts, list):
            raise ValueError(f"the {listed} of an item is no list")
        for index, part in enumerate(parts or ()):
            found[listed, index] = block_of_part(item, object_of(part))
    return found or {(PART_LISTS[type_of(item)][0], 0): new_part(item)}


def new_part(item: Json) -> Block:
    """The block of a part of which nothing is known yet."""
    return Block(_KINDS[type_of(item)], 0)


def _block_of_item(item: Json) -> Block:
    if not is_client_call(item):
        return Block(BlockKind.OTHER, 0)
    value = item.get(input_key(item), "")
    text = value if isinstance(value, str) else jsontext.render(value).decode()
    return Block(BlockKind.TOOL_CALL, 0, text, tool_name(item))


def block_of_part(item: Json, part: Json) -> Block:
    kind, key = _KINDS[type_of(item)], _text_key(part)
    is_known = key in part or kind is BlockKind.REASONING or type_of(part) in _TEXT_PARTS
    return Block(kind if is_known else BlockKind.OTHER, 0, text_or_none(part.get(key)) or "")


def _text_key(part: Json) -> str:
    return "refusal" if "refusal" in part or type_of(part) == "refusal" else "text"


def input_key(item: Json) -> str:
    return next((key for key in _INPUTS if key in item), "arguments")


def tool_name(value: Json) -> str:
    """The name of the tool in its definition, in a choice of it or in a call; of one that has none, by its type."""
    return text_or_none(value.get("name")) or type_of(value).removesuffix("_call")


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of an item after changes, and the messages that stand in the place of what is not."""

    item: Json | None
    before: list[Json] = field(default_factory=list)
    after: list[Json] = field(default_factory=list)


def is_gone(item: Json, change: Block | None) -> bool:
    """Whether nothing is left of a block; in a message, a text may stand in its place."""
    return change is not None and change.is_dropped and not (type_of(item) == "message" and change.said)


def left_of(item: Json, changes: Mapping[Place, Block]) -> Left:
    """Applies changes to the blocks of an item.

    Raises:
        ValueError: a call cannot be what it is to be.
    """
    if not changes:
        return Left(item)
    if not is_made_of_parts(item):
        of_all = changes[WHOLE_ITEM]
        if of_all.is_dropped:
            return Left(None, [message_instead(item, WHOLE_ITEM, of_all.said)] if of_all.said else [])
        return Left(_changed_call(item, of_all))
    lists: dict[str, list[Json]] = {listed: [] for listed in PART_LISTS[type_of(item)] if listed in item}
    is_kept = False
    before: list[Json] = []
    after: list[Json] = []
    for place in places(item):
        change = changes.get(place)
        if change is not None and is_gone(item, change):
            said = [message_instead(item, place, change.said)] if change.said else []
            (after if is_kept else before).extend(said)
            continue
        is_kept = True
        listed, index = place
        parts = list_of(item.get(listed))
        part = parts[index] if index < len(parts) else None
        if change is not None:
            part = changed_part(item, listed, object_of(part), change)
        if part is not None:
            lists.setdefault(listed, []).append(part)
    return Left({**unsealed(item), **lists} if is_kept else None, before, after)


def unsealed(item: Json) -> Json:
    """Reasoning without what the provider said in it to itself, which does not hold for other texts."""
    return {key: value for key, value in item.items() if key != "encrypted_content"}


def changed_part(item: Json, listed: str, part: Json, change: Block) -> Json:
    """A part with another text: what annotated it, and the tokens beside it, do not hold for that."""
    new = _NEW_PARTS[type_of(item), listed]
    if change.is_dropped:
        return {**new, "text": change.said}
    known = part or new
    lists: Json = {name: [] for name in ("annotations", "logprobs") if name in known}
    return {**known, **lists, _text_key(known): change.text}


def _changed_call(item: Json, change: Block) -> Json:
    known = _block_of_item(item)
    if known.kind is BlockKind.OTHER:
        return item
    if change.name != known.name and "name" not in item:
        raise ValueError(f"a {type_of(item)} cannot be one of another tool")
    key = input_key(item)
    is_text = isinstance(item.get(key, ""), str)
    name = {"name": change.name} if "name" in item else {}
    return {**item, **name, key: change.text if is_text else jsontext.parse(change.text)}


def message_instead(item: Json, place: Place, said: str) -> Json:
    """A message in the place of what is gone. Its id is made of the item's, as a later request may bring it along."""
    listed, index = place
    suffix = f"_{listed[0]}{index}" if listed else ""
    return {
        "id": f"msg_{text_or_none(item.get('id')) or ''}{suffix}",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": said}],
    }
