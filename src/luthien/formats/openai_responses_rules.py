"""The rules of a stream of OpenAI Responses: see `openai_responses_validity`."""

from __future__ import annotations

from luthien.formats.validity import EVENT_RULES, Rule

CREATED_FIRST = Rule("created_first", "`response.created` comes first")
CREATED_ONCE = Rule("created_once", "`response.created` comes once")
SEQUENCE = Rule("sequence_number", "sequence numbers grow", is_quirk=True)
SEQUENCE_GAP = Rule("sequence_number_gap", "sequence numbers grow by one", is_quirk=True)
SEQUENCE_MISSING = Rule("sequence_number_missing", "each event has a sequence number", is_quirk=True)
ITEM_INDEX = Rule("item_index", "output items are numbered from 0 without gaps")
ITEM_INDEX_MISSING = Rule("item_index_missing", "what belongs to an item has its index", is_quirk=True)
ITEM_NOT_ADDED = Rule("item_not_added", "an item is added before it is done", is_quirk=True)
ITEM_NOT_DONE = Rule("item_not_done", "each item that was added is done before the response is completed")
ITEM_ADDED_TWICE = Rule("item_added_twice", "an item is added once, and done once")
OUTSIDE_ITEM = Rule("outside_item", "parts and texts belong to an item that is open")
PART_INDEX = Rule("part_index", "the parts of an item are numbered from 0 without gaps")
OUTSIDE_PART = Rule("outside_part", "texts of a message or a summary belong to a part that is open")
PART_NOT_DONE = Rule("part_not_done", "each part that was added is done before its item is")
TEXT_DIFFERS = Rule("text_differs", "a text that is said whole is what its deltas said")
TEXT_WITHOUT_DELTA = Rule("text_without_delta", "a text that is said whole was said in deltas before", is_quirk=True)
OUTPUT_DIFFERS = Rule("output_differs", "the response at the end has the items that were given")
OUTPUT_UNTOLD = Rule("output_untold", "the items of the response at the end were given before", is_quirk=True)
OUTPUT_EMPTY = Rule("output_empty", "the response at the end has an output", is_quirk=True)
STATUS = Rule("terminal_status", "the status of the response at the end fits its event")

RULES = (
    *EVENT_RULES,
    CREATED_FIRST,
    CREATED_ONCE,
    SEQUENCE,
    SEQUENCE_GAP,
    SEQUENCE_MISSING,
    ITEM_INDEX,
    ITEM_INDEX_MISSING,
    ITEM_NOT_ADDED,
    ITEM_NOT_DONE,
    ITEM_ADDED_TWICE,
    OUTSIDE_ITEM,
    PART_INDEX,
    OUTSIDE_PART,
    PART_NOT_DONE,
    TEXT_DIFFERS,
    TEXT_WITHOUT_DELTA,
    OUTPUT_DIFFERS,
    OUTPUT_UNTOLD,
    OUTPUT_EMPTY,
    STATUS,
)
