"""Holds a stream back for policies that need whole blocks, or the whole response, and no more than that."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from luthien.formats import jsontext
from luthien.formats.blocks import Frame, GrowingBlock, Json, check_readable
from luthien.formats.sse import Chunk
from luthien.policies.details import MAX_DETAILS, Details
from luthien.policies.policy import Action, Policy, Response, Verdict

_TOLD_REASONS = 5
AT_ONCE = 256
"""After so many chunks at a stretch other calls have their turn: a block may be very long."""


class Tally:
    """One verdict out of those on many blocks."""

    def __init__(self) -> None:
        self._verdicts: list[Verdict] = []

    def add(self, verdict: Verdict) -> None:
        if verdict.action is not Action.ALLOW or verdict.details:
            self._verdicts.append(verdict)

    def result(self) -> Verdict:
        """The block, if there is one; else how many changes there were, and why; else the remarks.

        Of details with the same name, the first is kept.
        """
        for action in (Action.BLOCK, Action.MODIFY, Action.ANNOTATE, Action.ALLOW):
            verdicts = [verdict for verdict in self._verdicts if verdict.action is action]
            if verdicts:
                reasons = list(dict.fromkeys(verdict.reason for verdict in verdicts if verdict.reason))
                more = ["…"] if len(reasons) > _TOLD_REASONS else []
                reason = "; ".join([*reasons[:_TOLD_REASONS], *more])
                return Verdict(
                    action,
                    reason,
                    sum(verdict.count for verdict in verdicts),
                    _first_of_each(verdict.details for verdict in verdicts),
                    verdicts[0].tell,
                )
        return Verdict.allow()


def _first_of_each(found: Iterable[Details]) -> Details:
    merged: dict[str, str | int | float | bool] = {}
    for details in found:
        for name, value in details.items():
            if len(merged) < MAX_DETAILS:
                merged.setdefault(name, value)
    return merged


async def judge_blocks(policy: Policy, response: Response) -> Verdict:
    """Shows a policy the blocks of a plain response, up to one that it blocks; changes the body as it says."""
    blocks = response.call.format.blocks
    judged = blocks.of_response(response.body)
    tally = Tally()
    for place, block in enumerate(judged):
        if block.kind not in policy.kinds:
            continue
        shown = replace(block)
        verdict = await policy.on_block(shown)
        tally.add(verdict)
        if verdict.action is Action.BLOCK:
            break
        if verdict.action is Action.MODIFY:
            judged[place] = shown
    verdict = tally.result()
    if verdict.action is Action.MODIFY:
        blocks.change_response(response.body, judged)
    return verdict


@dataclass(frozen=True, slots=True)
class Blocked:
    """A block, and what may still go on before it."""

    verdict: Verdict
    given: Sequence[Chunk]


class BlockReader:
    """For policies that need whole blocks: holds a block that they want to see, and what comes behind it."""

    def __init__(self, policy: Policy) -> None:
        self.held_bytes = 0
        self._policy = policy
        self._stream = policy.call.format.blocks.stream()
        self._frames: deque[Frame] = deque()
        self._judged: set[int] = set()
        self._released: list[Chunk] = []
        self._unreadable: list[Chunk] = []
        self._tally = Tally()
        self._has_given_up = False

    async def feed(self, chunk: Chunk) -> Sequence[Chunk] | Blocked:
        if self._has_given_up:
            return self._passed(chunk)
        self._unreadable = [chunk]
        frame = self._stream.read(chunk)
        self._unreadable.clear()
        self._frames.append(frame)
        self.held_bytes += len(chunk.raw)
        return await self._release()

    async def end(self, terminal: Chunk | None) -> Sequence[Chunk] | Blocked:
        self._stream.end()
        return await self._release()

    async def _release(self) -> Sequence[Chunk] | Blocked:
        turns = 0
        while self._frames and all(self._is_due(piece.block) for piece in self._frames[0].pieces):
            for piece in self._frames[0].pieces:
                verdict = await self._judge(piece.block)
                if verdict.action is Action.BLOCK:
                    return Blocked(verdict, self._taken())
            self._write(self._frames[0])
            self.held_bytes -= len(self._frames.popleft().chunk.raw)
            turns += 1
            if turns % AT_ONCE == 0:
                await asyncio.sleep(0)
        return self._taken()

    def _is_due(self, block: GrowingBlock) -> bool:
        return block.is_finished or block.kind not in self._policy.kinds

    async def _judge(self, block: GrowingBlock) -> Verdict:
        if block.index in self._judged or block.kind not in self._policy.kinds:
            return Verdict.allow()
        shown = block.whole
        verdict = await self._policy.on_block(shown)
        self._tally.add(verdict)
        if verdict.action is Action.MODIFY:
            block.settle(shown)
        self._judged.add(block.index)
        return verdict

    def _write(self, frame: Frame) -> None:
        self._released += self._stream.written(frame)
        for piece in frame.pieces:
            piece.block.texts.clear()  # nobody asks again, and there may be very many

    def _taken(self) -> list[Chunk]:
        taken, self._released = self._released, []
        return taken

    def give_up(self) -> Sequence[Chunk]:
        """As it came, but for the numbers of blocks, where others before them are gone."""
        self._has_given_up = True
        for frame in self._frames:
            for piece in frame.pieces:
                if piece.block.place is None:
                    piece.block.change = None
            self._write(frame)
        self._frames.clear()
        self.held_bytes = 0
        return [*self._taken(), *self._unreadable]

    def ended(self, terminal: Chunk) -> Chunk:
        return terminal

    def _passed(self, chunk: Chunk) -> Sequence[Chunk]:
        try:
            self._write(self._stream.read(chunk))
        except ValueError:
            return (chunk,)
        return self._taken()

    def verdict(self) -> Verdict:
        return self._tally.result()


class WholeReader:
    """For policies that need the whole response: holds everything until the provider has finished."""

    def __init__(self, policy: Policy) -> None:
        self.held_bytes = 0
        self._policy = policy
        self._blocks = policy.call.format.blocks
        self._held: list[Chunk] = []
        self._changed: Json | None = None
        self._has_given_up = False
        self._verdict = Verdict.allow()

    async def feed(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        if self._has_given_up:
            return (chunk,)
        self._held.append(chunk)
        self.held_bytes += len(chunk.raw)
        check_readable(chunk)
        return ()

    async def end(self, terminal: Chunk | None) -> Sequence[Chunk] | Verdict:
        assembler = self._policy.call.format.assembler()
        for chunk in self._held if terminal is None else (*self._held, terminal):
            assembler.add(chunk)
        body = assembler.result()
        if body is None:
            return self.give_up()
        before = jsontext.render(body)
        response = Response(self._policy.call, jsontext.parse_object(before))
        verdict = self._verdict = await self._policy.on_response(response)
        if verdict.action is Action.BLOCK:
            return verdict
        if verdict.action is Action.MODIFY and jsontext.render(response.body) != before:
            self._changed = response.body
            return self._blocks.as_stream(response.body)
        return tuple(self._held)

    def ended(self, terminal: Chunk) -> Chunk:
        return terminal if self._changed is None else self._blocks.as_end(self._changed, terminal)

    def give_up(self) -> Sequence[Chunk]:
        self._has_given_up = True
        self.held_bytes = 0
        held, self._held = self._held, []
        return held

    def verdict(self) -> Verdict:
        return self._verdict
