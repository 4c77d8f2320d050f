"""Runs the policies of one call in order, and keeps what each of them decided."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthien.errors import PolicyFailure
from luthien.exchange import Side
from luthien.formats import jsontext
from luthien.formats.format import BoundedAssembler
from luthien.formats.sse import Chunk
from luthien.policies.policy import Action, CallContext, Policy, Request, Response, Verdict

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """One policy of the chain as configured. `version` is a hash of its code and configuration."""

    name: str
    version: str
    policy: type[Policy]
    config: Any

    def overrides(self, hook: str) -> bool:
        return getattr(self.policy, hook) is not getattr(Policy, hook)


@dataclass(frozen=True, slots=True)
class Decision:
    """What one step decided on one side of a call.

    `output` is what the step gave on (a body; for a stream, the response it adds up to, or if it `is_capped`, its
    beginning); None when it changed nothing.
    """

    step: Step
    side: Side
    position: int
    verdict: Verdict
    changed: bool
    duration_s: float
    chunks: int | None = None
    output: bytes | None = None
    is_capped: bool = False

    @property
    def output_sha256(self) -> bytes | None:
        return None if self.output is None else hashlib.sha256(self.output).digest()


@dataclass(frozen=True, slots=True)
class Block:
    """Which policy ended the call, and why."""

    policy: str
    reason: str


@dataclass(frozen=True, slots=True)
class Chain:
    """The policies in the order in which they see requests; they see responses in the same order."""

    steps: tuple[Step, ...] = ()

    def open(self, call: CallContext) -> ChainRun:
        return ChainRun(self, call)


class ChainRun:
    """The chain's work on one call; `decisions` grows as it goes, also when a policy breaks."""

    def __init__(self, chain: Chain, call: CallContext) -> None:
        self.call = call
        self.decisions: list[Decision] = []
        self._policies = [
            (position, step, step.policy(step.config, call)) for position, step in enumerate(chain.steps)
        ]

    @property
    def reads_responses(self) -> bool:
        """Whether any policy must be shown the response."""
        return any(step.overrides("on_response") for _, step, _ in self._policies)

    @property
    def blocked(self) -> Block | None:
        """The block that ended this side of the call, if one did."""
        last = self.decisions[-1] if self.decisions else None
        return Block(last.step.name, last.verdict.reason) if last and last.verdict.action is Action.BLOCK else None

    async def on_request(self, body: bytes) -> bytes:
        """The request as the chain leaves it: the very same bytes when nobody changed it.

        Raises:
            PolicyFailure: a policy broke.
        """
        return await self._run(Side.REQUEST, "on_request", body)

    async def on_response(self, body: bytes) -> bytes:
        """The response as the chain leaves it; like `on_request`."""
        return await self._run(Side.RESPONSE, "on_response", body)

    def stream(self) -> StreamRun:
        return StreamRun(self, [link for link in self._policies if link[1].overrides("on_chunk")])

    async def _run(self, side: Side, hook: str, body: bytes) -> bytes:
        shown_as = Request if side is Side.REQUEST else Response
        for position, step, policy in self._policies:
            if not step.overrides(hook):
                continue
            started = time.perf_counter()
            output: bytes | None = None
            try:
                # A copy of its own: what a policy does to it counts only if it says so.
                shown = shown_as(self.call, jsontext.parse_object(body))
                verdict = await getattr(policy, hook)(shown)
                if verdict.action is Action.MODIFY:
                    rendered = jsontext.render(shown.body)
                    output = None if rendered == jsontext.render(jsontext.parse(body)) else rendered
            except (Exception, asyncio.CancelledError) as error:
                if _is_cancelled(error):
                    raise
                raise self.broken(step, side, position, started, error) from error
            duration_s = time.perf_counter() - started
            changed = output is not None
            self.decisions.append(Decision(step, side, position, verdict, changed, duration_s, output=output))
            if verdict.action is Action.BLOCK:
                break
            body = body if output is None else output
        return body

    def broken(self, step: Step, side: Side, position: int, started: float, error: BaseException) -> PolicyFailure:
        """Records that a policy broke; the failure to raise says which, and nothing of its data."""
        _log.error("policy %s broke on a %s: %s", step.name, side, type(error).__name__)
        verdict = Verdict(Action.ERROR, f"{type(error).__name__}: {error}")
        duration_s = time.perf_counter() - started
        self.decisions.append(Decision(step, side, position, verdict, False, duration_s))
        return PolicyFailure(f"the policy {step.name!r} failed, so the call was stopped")


class StreamRun:
    """The chain's work on one stream. After a block nothing more comes out."""

    def __init__(self, run: ChainRun, policies: list[tuple[int, Step, Policy]]) -> None:
        self._run = run
        links = [_Link(run, position, step, policy) for position, step, policy in policies]
        for link in links[:-1]:  # the last one's output is what the client is given, assembled anyway
            link.assembler = BoundedAssembler(run.call.format.assembler())
        self._links = links
        self._repeats = run.call.format.repeats() if links else None
        self._decided = False

    @property
    def is_empty(self) -> bool:
        return not self._links

    @property
    def blocked(self) -> Block | None:
        """The block that ended the stream, if one did."""
        blocks = (Block(link.name, link.blocked.reason) for link in self._links if link.blocked)
        return next(blocks, None)

    @property
    def changed(self) -> bool:
        return any(link.changed for link in self._links)

    async def feed(self, chunk: Chunk) -> Sequence[Chunk]:
        """The chunks that may go to the client now.

        Raises:
            PolicyFailure: a policy broke.
        """
        return await self._pass(0, (*self._unsaid(chunk), chunk))

    async def feed_unsaid(self, terminal: Chunk) -> Sequence[Chunk]:
        """What the end marker says that the policies were not shown; like `feed`."""
        unsaid = self._unsaid(terminal)
        return await self._pass(0, unsaid) if unsaid else ()

    def agreed(self, terminal: Chunk) -> Chunk:
        """The end marker in agreement with all that the policies gave on, after `finish`."""
        for link in self._links:
            terminal = link.agreed(terminal)
        return terminal

    def _unsaid(self, chunk: Chunk) -> Sequence[Chunk]:
        return () if self._repeats is None else self._repeats.unsaid(chunk)

    async def finish(self) -> list[Chunk]:
        """What was still held, now that the provider has finished; like `feed`."""
        released: list[Chunk] = []
        for index, link in enumerate(self._links):
            given = () if link.blocked else await link.end()
            if link.blocked:
                break
            released += await self._pass(index + 1, given)
        return released

    async def _pass(self, first: int, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        for link in self._links[first:]:
            given: list[Chunk] = []
            for chunk in chunks:
                given += await link.feed(chunk)
                if link.blocked:
                    break
            chunks = given
        return chunks

    def decide(self, final: bytes | None) -> None:
        """Adds each policy's decision over the whole stream; `final` is what the client was given.

        Once only: asked again, it changes nothing.
        """
        if self._decided:
            return
        self._decided = True
        broken = {decision.position for decision in self._run.decisions if decision.side is Side.RESPONSE}
        for link in self._links:
            if link.position not in broken:
                self._run.decisions.append(link.decision(final))


class _Link:
    """One policy in a stream: what went in, what came out, and how long it took."""

    def __init__(self, run: ChainRun, position: int, step: Step, policy: Policy) -> None:
        self.position = position
        self.assembler: BoundedAssembler | None = None
        self.blocked: Verdict | None = None
        self.changed = False
        self._run = run
        self.name = step.name
        self._step = step
        self._policy = policy
        self._chunks = 0
        self._duration_s = 0.0
        self._held: deque[Chunk] = deque()
        self._repeats = run.call.format.repeats()

    async def feed(self, chunk: Chunk) -> Sequence[Chunk]:
        if self.blocked:
            return ()
        self._chunks += 1
        if self._repeats is not None:
            self._repeats.offered(chunk)
        if not self.changed:
            self._held.append(chunk)
        return await self._call(self._policy.on_chunk, chunk)

    async def end(self) -> Sequence[Chunk]:
        given = await self._call(self._policy.on_stream_end)
        if self._held:
            self.changed = True  # something was never given on
        return given

    async def _call(self, hook: Any, *args: Chunk) -> Sequence[Chunk]:
        started = time.perf_counter()
        try:
            given = await hook(*args)
            if isinstance(given, Verdict):
                if given.action is not Action.BLOCK:
                    raise TypeError(f"a verdict on a chunk can only block, not {given.action}")
                self.blocked, given = given, ()
            self._duration_s += time.perf_counter() - started
            chunks: Sequence[Chunk] = [self._noticed(chunk) for chunk in given]
        except (Exception, asyncio.CancelledError) as error:
            if _is_cancelled(error):
                raise
            raise self._run.broken(self._step, Side.RESPONSE, self.position, started, error) from error
        return chunks

    def agreed(self, chunk: Chunk) -> Chunk:
        """The chunk in agreement with what the policy gave on, and part of what this step put out."""
        if self._repeats is not None:
            chunk = self._repeats.agreed(chunk)
        if self.assembler is not None:
            self.assembler.add(chunk)
        return chunk

    def _noticed(self, chunk: Chunk) -> Chunk:
        if not isinstance(chunk, Chunk):
            raise TypeError(f"a policy gives on chunks, not {type(chunk).__name__}")
        chunk = self.agreed(chunk)
        if self.changed:
            return chunk
        if self._held and self._held[0] is chunk:
            self._held.popleft()
        else:
            self.changed = True
            self._held.clear()
        return chunk

    def decision(self, final: bytes | None) -> Decision:
        return Decision(
            self._step,
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
        if self.blocked:
            return self.blocked
        try:
            verdict = self._policy.stream_verdict()
            is_bare = verdict.action is Action.ALLOW and self.changed
        except Exception as error:  # noqa: BLE001 - the policy guard
            _log.error("policy %s broke after a stream: %s", self.name, type(error).__name__)
            return Verdict(Action.ERROR, f"{type(error).__name__}: {error}")
        return Verdict.modify() if is_bare else verdict

    def _output(self, final: bytes | None) -> bytes | None:
        if self.assembler is None:
            return final
        assembled = self.assembler.result()
        return None if assembled is None else jsontext.render(assembled)


def _is_cancelled(error: BaseException) -> bool:
    """Whether this is the call being cancelled, and not a policy that raises what it got from a task of its own."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
