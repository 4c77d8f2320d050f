"""Policies in a file, as anybody may write them."""

from __future__ import annotations

from luthien.policies.policy import Block, BlockKind, Needs, Policy, Response, Verdict

TOOLS = frozenset({"tide_at", "write_note", "ping", "notepad"})
"""What the requests of the corpus offer."""


class UpperBlocks(Policy):
    """Whole texts in capitals."""

    needs = Needs.BLOCKS
    kinds = frozenset({BlockKind.TEXT})

    async def on_block(self, block: Block) -> Verdict:
        block.text = block.text.upper()
        return Verdict.modify("capitals")


class UpperWhole(Policy):
    """All that a reader sees in capitals, once all of it is there."""

    needs = Needs.WHOLE

    async def on_response(self, response: Response) -> Verdict:
        for slot in response.texts():
            slot.set(slot.text.upper())
        return Verdict.modify("capitals")


class NoReasoning(Policy):
    """Takes all reasoning out."""

    needs = Needs.BLOCKS
    kinds = frozenset({BlockKind.REASONING})

    async def on_block(self, block: Block) -> Verdict:
        block.drop()
        return Verdict.modify("no reasoning")


class OtherTexts(Policy):
    """Has other texts in the place of those that are there."""

    needs = Needs.BLOCKS
    kinds = frozenset({BlockKind.TEXT})

    async def on_block(self, block: Block) -> Verdict:
        block.drop("(withheld)")
        return Verdict.modify("withheld")


class OwnArguments(Policy):
    """Gives each call of a tool of the client's another name and other arguments."""

    needs = Needs.BLOCKS
    kinds = frozenset({BlockKind.TOOL_CALL})

    async def on_block(self, block: Block) -> Verdict:
        if block.name not in TOOLS:
            return Verdict.allow()
        block.name, block.text = "safe_tool", '{"said": "a \\"b\\"\\n", "n": [1, 2]}'
        return Verdict.modify("safe")
