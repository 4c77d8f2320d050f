"""One policy in a stream: what went in, what came out, and what is owed when it breaks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from luthien.errors import PolicyFailure
from luthien.exchange import Side
from luthien.formats import jsontext
from luthien.formats.format import BoundedAssembler
from luthien.formats.sse import Chunk
from luthien.policies.holding import AT_ONCE, Blocked
from luthien.policies.policy import Action, Policy, Verdict
from luthien.policies.readers import Answer, Pending, reader_of
from luthien.policies.step import Decision, Step, error_verdict, is_cancelled
from luthien.policies.trail import Due, Trail

_log = logging.getLogger(__name__)

MAX_HELD_BYTES = 16 * 1024 * 1024
"""How much of one stream a policy may hold, in bytes of chunks; one that would hold more counts as broken."""

Broken = Callable[[Step, Side, BaseException], PolicyFailure]


class HeldTooMuch(Exception):
    """A policy would hold more of a stream than there may be."""


class Link:
    """One policy in a stream. In shadow it is shown everything, and everything passes it by.

    Args:
        broken: says in the log that the policy broke, and returns the failure to raise.
        trail: is told what the policy holds and rewrites.
    """

    def __init__(
        self,
        step: Step,
        position: int,
        policy: Policy,
        broken: Broken,
        max_held_bytes: int,
        trail: Trail | None = None,
    ) -> None:
        self.name = step.name
        self.step = step
        self.position = position
        self.assembler: BoundedAssembler | None = None
        self.blocked: Verdict | None = None
        """The verdict that ended the stream."""
        self.changed = False
        self._broken = broken
        self._max_held_bytes = max_held_bytes
        self._chunks = 0
        self._duration_s = 0.0
        self._pending = Pending()
        self._reader = reader_of(step, policy, self._pending)
        self._last_word: Verdict | None = None
        self._repeats = policy.call.format.repeats()
        self._due = None if trail is None or step.is_shadow else Due(trail, position)

    async def feed(self, chunk: Chunk) -> Sequence[Chunk]:
        """What may go on now."""
        if self.blocked:
            return ()
        shown = () if self._is_over else await self._show(chunk)
        return (chunk,) if self.step.is_shadow else shown

    async def end(self, terminal: Chunk | None = None) -> Sequence[Chunk]:
        """What was still held; `terminal` is the end marker that this policy will not be shown."""
        if self._is_over:
            return ()
        given = await self._call(lambda: self._reader.end(terminal))
        if self._pending.chunks:
            self.changed = True  # something was never given on
        if self._due is not None:
            self._due.ended()
        return () if self.step.is_shadow else given

    @property
    def _is_over(self) -> bool:
        """Whether a policy in shadow has nothing left to say."""
        return self.step.is_shadow and self._last_word is not None

    async def _show(self, chunk: Chunk) -> Sequence[Chunk]:
        self._chunks += 1
        if self._repeats is not None:
            self._repeats.offered(chunk)
        if not self.changed or self.step.fails_open:
            self._pending.add(chunk)
        return await self._call(lambda: self._reader.feed(chunk), chunk)

    async def _call(self, ask: Callable[[], Awaitable[Answer]], shown: Chunk | None = None) -> Sequence[Chunk]:
        started = time.perf_counter()
        if self._due is not None and shown is not None:
            self._due.shown(shown.frame, started)
        given: tuple[Chunk, ...] = ()
        try:
            given = await self._noticed_in_turns(self._checked(await ask()))
            if self._reader.held_bytes > self._max_held_bytes:
                raise HeldTooMuch(f"more than {self._max_held_bytes} bytes of the stream would be held")
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            self._last_word = error_verdict(error)
            if not (self.step.fails_open or self.step.is_shadow):
                raise self._broken(self.step, Side.RESPONSE, error) from error
            given = (*given, *self._give_up(error))
        finally:
            self._duration_s += time.perf_counter() - started
        if self.blocked and self._due is not None:
            self._due.ended()
        return given

    def _checked(self, answer: object) -> tuple[Chunk, ...]:
        if isinstance(answer, Blocked):
            self._checked(answer.verdict)
            return tuple(answer.given)
        if isinstance(answer, Verdict):
            if answer.action is not Action.BLOCK:
                raise TypeError(f"a verdict on a chunk can only block, not {answer.action}")
            self._last_word = answer
            self.blocked = None if self.step.is_shadow else answer
            return ()
        given: tuple[Chunk, ...] = tuple(answer)  # type: ignore[arg-type]
        for chunk in given:
            if not isinstance(chunk, Chunk):
                raise TypeError(f"a policy gives on chunks, not {type(chunk).__name__}")
        return given

    def _give_up(self, error: BaseException) -> Sequence[Chunk]:
        """The policy broke, and the stream goes on: with what it held, if it matters."""
        _log.error("policy %s broke on a response: %s", self.name, type(error).__name__)
        if self.step.is_shadow:
            return ()
        return self._noticed(self._reader.give_up())

    def agreed_end(self, terminal: Chunk) -> Chunk:
        """The end marker in agreement with what the policy gave on; a policy in shadow changes nothing."""
        agreed = self._agreed(self._reader.ended(terminal))
        return terminal if self.step.is_shadow else agreed

    def _agreed(self, chunk: Chunk) -> Chunk:
        """The chunk in agreement with what the policy gave on, and part of what this step put out."""
        if self._repeats is not None:
            chunk = self._repeats.agreed(chunk)
        if self.assembler is not None:
            self.assembler.add(chunk)
        return chunk

    async def _noticed_in_turns(self, given: tuple[Chunk, ...]) -> tuple[Chunk, ...]:
        if len(given) <= AT_ONCE:
            return self._noticed(given)
        noticed: list[Chunk] = []
        for start in range(0, len(given), AT_ONCE):
            noticed += self._noticed(given[start : start + AT_ONCE])
            await asyncio.sleep(0)
        return tuple(noticed)

    def _noticed(self, given: Sequence[Chunk]) -> tuple[Chunk, ...]:
        now = time.perf_counter()
        return tuple([self._noticed_one(chunk, now) for chunk in given])

    def _noticed_one(self, chunk: Chunk, now: float) -> Chunk:
        agreed = self._agreed(chunk)
        if not self.changed or self.step.fails_open:
            is_due = self._pending.settle(chunk)
            if not is_due or agreed is not chunk:
                self.changed = True
                if not self.step.fails_open:
                    self._pending.clear()
        return agreed if self._due is None else self._due.answered(chunk, agreed, now)

    def decision(self, final: bytes | None) -> Decision:
        return Decision(
            self.step,
            Side.RESPONSE,
            self.position,
            self._verdict(),
            self.changed,
            self._duration_s,
            self._chunks,
            self._output(final) if self.changed else None,
            is_capped=self.changed and self.assembler is not None and self.assembler.is_capped,
        )

    def _verdict(self) -> Verdict:
        """What the policy says of the whole stream, which has passed: breaking here ends nothing any more."""
        if self._last_word is not None:
            return self._last_word
        try:
            verdict = self._reader.verdict()
            if verdict.action is Action.BLOCK:
                raise TypeError("a stream that has passed can be blocked no more")
        except Exception as error:  # noqa: BLE001 - the policy guard
            _log.error("policy %s broke after a stream: %s", self.name, type(error).__name__)
            return error_verdict(error)
        is_told = not self.changed or verdict.action is Action.MODIFY
        return verdict if is_told else replace(verdict, action=Action.MODIFY, count=max(1, verdict.count))

    def _output(self, final: bytes | None) -> bytes | None:
        if self.assembler is None:
            return final
        assembled = self.assembler.result()
        return None if assembled is None else jsontext.render(assembled)
