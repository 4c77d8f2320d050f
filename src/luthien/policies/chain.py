"""Runs the policies of one call in order, and keeps what each of them decided."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from luthien.errors import PolicyFailure
from luthien.exchange import Side
from luthien.formats import blocks, jsontext
from luthien.formats.format import BoundedAssembler
from luthien.formats.sse import Chunk
from luthien.policies.extent import extent_between, extent_in_turns
from luthien.policies.holding import judge_blocks
from luthien.policies.link import MAX_HELD_BYTES, Link
from luthien.policies.policy import Action, CallContext, Policy, RecordedAs, Request, Response, Verdict
from luthien.policies.shared import Shared
from luthien.policies.step import Decision, Step, error_verdict, is_cancelled
from luthien.policies.trail import Trail

__all__ = ["Block", "Chain", "ChainRun", "Decision", "Step", "StreamRun"]

_log = logging.getLogger(__name__)

# Responses of streams above this are not compared: it is done in one go.
_MAX_MEASURED_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Block:
    """Which policy ended the call, and why, as the client is told."""

    policy: str
    reason: str


@dataclass(frozen=True, slots=True)
class Chain:
    """The policies in the order in which they see requests; they see responses in the same order."""

    steps: tuple[Step, ...] = ()
    max_held_bytes: int = MAX_HELD_BYTES
    shared: Shared = field(default_factory=Shared, compare=False, repr=False)
    """What the calls have in common, from `start` to `stop`."""

    async def __aenter__(self) -> Chain:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Opens what the policies share between calls; whatever that raises, nothing is left open."""
        await self.shared.open(self.steps)

    async def stop(self) -> None:
        """Closes it, when no call needs it any more."""
        await self.shared.close()

    def open(self, call: CallContext) -> ChainRun:
        return ChainRun(self, call)


class ChainRun:
    """The chain's work on one call; `decisions` grows as it goes, also when a policy breaks."""

    def __init__(self, chain: Chain, call: CallContext) -> None:
        self.call = call
        self.decisions: list[Decision] = []
        self._max_held_bytes = chain.max_held_bytes
        self._policies = [
            (position, step, _made(step, call, chain.shared.of(position)))
            for position, step in enumerate(chain.steps)
        ]

    @property
    def reads_responses(self) -> bool:
        """Whether any policy must be shown the response."""
        return any(step.looks_at(Side.RESPONSE, step.response_hook) for _, step, _ in self._policies)

    @property
    def blocked(self) -> Block | None:
        """The block that ended this side of the call, if one did."""
        last = self.decisions[-1] if self.decisions else None
        if last is None or last.verdict.action is not Action.BLOCK or last.step.is_shadow:
            return None
        return Block(last.step.name, last.verdict.told)

    async def on_request(self, body: bytes) -> bytes:
        """The request as the chain leaves it: the very same bytes when nobody changed it.

        Raises:
            PolicyFailure: a policy broke.
        """
        return await self._run(Side.REQUEST, body)

    async def on_response(self, body: bytes) -> bytes:
        """The response as the chain leaves it; like `on_request`."""
        return await self._run(Side.RESPONSE, body)

    def stream(self, trail: Trail | None = None) -> StreamRun:
        """The policies' work on a stream; `trail` is told what they hold and rewrite of its frames."""
        return StreamRun(
            self.call,
            self.decisions,
            [
                Link(step, position, policy, _broken, self._max_held_bytes, trail)
                for position, step, policy in self._policies
                if step.looks_at(Side.RESPONSE, step.stream_hook)
            ],
        )

    async def _run(self, side: Side, body: bytes) -> bytes:
        for position, step, policy in self._policies:
            hook = "on_request" if side is Side.REQUEST else step.response_hook
            # One that could not be made says so at once, whatever it would have looked at.
            if not step.looks_at(side, hook) and not (hook == "on_request" and isinstance(policy, _Unmade)):
                continue
            started = time.perf_counter()
            try:
                verdict, before, output = await self._ask(side, hook, policy, body)
            except (Exception, asyncio.CancelledError) as error:
                if is_cancelled(error):
                    raise
                duration_s = time.perf_counter() - started
                self.decisions.append(Decision(step, side, position, error_verdict(error), False, duration_s))
                failure = _broken(step, side, error)
                if step.fails_open or step.is_shadow:
                    continue
                raise failure from error
            duration_s = time.perf_counter() - started
            changed = output is not None
            self.decisions.append(Decision(step, side, position, verdict, changed, duration_s, output=output))
            if step.is_shadow:
                continue
            if verdict.action is Action.BLOCK:
                break
            if output is not None:
                body = output
                extent = await extent_in_turns(before, output)
                self.decisions[-1] = replace(self.decisions[-1], extent=extent)
        return body

    async def _ask(self, side: Side, hook: str, policy: Policy, body: bytes) -> tuple[Verdict, bytes, bytes | None]:
        """The policy's verdict, what it was given without its formatting, and what it gave on: None if that's it."""
        shown_as = Request if side is Side.REQUEST else Response
        # A copy of its own: what a policy does to it counts only if it says so.
        shown: Any = shown_as(self.call, jsontext.parse_object(body))
        ask = judge_blocks(policy, shown) if hook == "on_block" else getattr(policy, hook)(shown)
        verdict: Verdict = await ask
        if verdict.action is not Action.MODIFY:
            return verdict, b"", None
        before, rendered = jsontext.render(jsontext.parse(body)), jsontext.render(shown.body)
        return verdict, before, None if rendered == before else rendered


class StreamRun:
    """The chain's work on one stream. After a block nothing more comes out."""

    def __init__(self, call: CallContext, decisions: list[Decision], links: list[Link]) -> None:
        self._decisions = decisions
        self._links = links
        # The last one's output is what the client is given, assembled anyway.
        last = next((link for link in reversed(links) if not link.step.is_shadow), None)
        for link in links:
            link.assembler = None if link is last else BoundedAssembler(call.format.assembler())
        self._repeats = call.format.repeats() if links else None
        self._may_change = last is not None
        self._terminal: Chunk | None = None
        self._decided = False

    @property
    def is_empty(self) -> bool:
        return not self._links

    @property
    def blocked(self) -> Block | None:
        """The block that ended the stream, if one did."""
        blocks = (Block(link.name, link.blocked.told) for link in self._links if link.blocked)
        return next(blocks, None)

    @property
    def changed(self) -> bool:
        return any(link.changed and not link.step.is_shadow for link in self._links)

    async def feed(self, chunk: Chunk) -> Sequence[Chunk]:
        """The chunks that may go to the client now.

        Raises:
            PolicyFailure: a policy broke.
        """
        given = await self._pass(0, (*self._unsaid(chunk), chunk))
        return self._numbered(given if self._may_change else (chunk,))

    async def feed_unsaid(self, terminal: Chunk) -> Sequence[Chunk]:
        """What the end marker says that the policies were not shown; like `feed`."""
        self._terminal = terminal
        given = await self._pass(0, self._unsaid(terminal))
        return self._numbered(given) if self._may_change else ()

    def agreed(self, terminal: Chunk) -> Chunk:
        """The end marker in agreement with all that the policies gave on, after `finish`."""
        [agreed] = self._numbered([terminal if self._terminal is None else self._terminal])
        return agreed if agreed is terminal else agreed.standing_for(terminal.frame)

    def _unsaid(self, chunk: Chunk) -> Sequence[Chunk]:
        unsaid = () if self._repeats is None else self._repeats.unsaid(chunk)
        return [each.standing_for(chunk.frame) for each in unsaid]

    def _numbered(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        repeats = self._repeats
        return chunks if repeats is None else [repeats.numbered(chunk) for chunk in chunks]

    async def finish(self) -> list[Chunk]:
        """What was still held, now that the provider has finished; like `feed`."""
        released: list[Chunk] = []
        for index, link in enumerate(self._links):
            if link.blocked:
                break
            released += await self._pass(index + 1, await link.end(self._terminal))
            if link.blocked:
                break
            if self._terminal is not None:
                self._terminal = link.agreed_end(self._terminal)
        return [*self._numbered(released)]

    async def _pass(self, first: int, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        for link in self._links[first:]:
            given: list[Chunk] = []
            for chunk in chunks:
                given += await link.feed(chunk)
                if link.blocked:
                    break
            chunks = given
        return chunks

    def decide(self, final: bytes | None, original: bytes | None = None) -> None:
        """Adds each policy's decision over the whole stream; `final` is what the client was given.

        `original` is what the provider sent, if all of both is known: then so is how much each policy changed.
        Once only: asked again, it changes nothing.
        """
        if self._decided:
            return
        self._decided = True
        self._decisions += _measured([link.decision(final) for link in self._links], original)


def _measured(decisions: Sequence[Decision], given: bytes | None) -> list[Decision]:
    """The decisions on a stream, with how much each changed of what the one before it gave on."""
    measured: list[Decision] = []
    for decision in decisions:
        output = decision.output
        if decision.changed and not decision.step.is_shadow:
            if given is not None and output is not None and max(len(given), len(output)) <= _MAX_MEASURED_BYTES:
                decision = replace(decision, extent=extent_between(given, output))
            given = None if decision.is_capped else output
        measured.append(decision)
    return measured


def _broken(step: Step, side: Side, error: BaseException) -> PolicyFailure:
    """The failure to raise when a policy broke: it says which one, and nothing of its data."""
    _log.error("policy %s broke on a %s: %s", step.name, side, type(error).__name__)
    return PolicyFailure(f"the policy {step.name!r} failed, so the call was stopped")


class _Unmade(Policy):
    """Stands for a policy that could not even be made for a call: whatever it is asked, it breaks."""

    def __init__(self, error: Exception, step: Step, call: CallContext) -> None:
        super().__init__(step.config, call)
        self._error = error

    async def on_request(self, request: Request) -> Verdict:
        raise self._error

    async def on_response(self, response: Response) -> Verdict:
        raise self._error

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk] | Verdict:
        raise self._error

    async def on_block(self, block: blocks.Block) -> Verdict:
        raise self._error


def _made(step: Step, call: CallContext, shared: Any) -> Policy:
    try:
        policy = step.policy(step.config, call)
        policy.shared, policy.recorded_as = shared, RecordedAs(step.name, step.version)
    except Exception as error:  # noqa: BLE001 - the policy guard
        return _Unmade(error, step, call)
    return policy
