"""The configuration that calls begin with, and those that older calls still go by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field

from luthien.config import Config
from luthien.gateway.configuration import Configuration
from luthien.pipeline.client import Client
from luthien.pipeline.terms import Terms
from luthien.policies.reference import forget_modules
from luthien.upstream.client import UpstreamClient


@dataclass(slots=True, eq=False)
class InUse:
    """A configuration and what is open for it, for as long as it is the current one or a call goes by it."""

    configuration: Configuration
    upstream: UpstreamClient
    calls: int = 0
    resources: AsyncExitStack = field(default_factory=AsyncExitStack)

    def admit(self, client: Client, provider: str) -> Terms:
        """What a client's request to a provider goes by; nobody after this sees the gateway key it came with."""
        configuration = self.configuration
        admission = configuration.keyring.admit(client.headers, client.query, provider)
        client.headers = admission.headers
        return Terms(self.upstream, configuration.groups, configuration.version, admission.key, admission.refusal)


class Live:
    """Whose turn it is. Calls take the current configuration once; `swap` changes it for those that come later.

    Args:
        upstream: makes the way to the providers that a configuration names.
    """

    def __init__(self, upstream: Callable[[Config], UpstreamClient]) -> None:
        self._upstream = upstream
        self._current: InUse | None = None
        self._retired: list[InUse] = []

    @property
    def current(self) -> Configuration:
        return self._now.configuration

    @property
    def _now(self) -> InUse:
        if self._current is None:
            raise RuntimeError("no configuration is live")
        return self._current

    @property
    def retired(self) -> int:
        """How many older configurations are still in use."""
        return len(self._retired)

    @contextmanager
    def call(self) -> Iterator[InUse]:
        """What a call goes by, whatever comes meanwhile; it is there until the block is left."""
        taken = self._now
        taken.calls += 1
        try:
            yield taken
        finally:
            taken.calls -= 1

    async def swap(self, configuration: Configuration) -> None:
        """Makes it the current one, once all that it needs is open. Raises what opening that raises."""
        async with AsyncExitStack() as opening:
            for resource in configuration.resources:
                await opening.enter_async_context(resource)
            coming = InUse(configuration, self._upstream(configuration.config), resources=opening.pop_all())
        if self._current is not None:
            self._retired.append(self._current)
        self._current = coming

    async def tidy(self) -> None:
        """Closes what the last call of an older configuration has left."""
        over = [each for each in self._retired if not each.calls]
        self._retired = [each for each in self._retired if each.calls]
        await self._end(over)

    async def close(self) -> None:
        """Closes everything; no call goes on."""
        left, self._retired = [*self._retired, *filter(None, [self._current])], []
        self._current = None
        await self._end(left)

    def forget(self, modules: frozenset[str]) -> None:
        """Lets go of modules, but for those that somebody's policies are from."""
        forget_modules(modules - {name for each in self._in_use() for name in each.configuration.modules})

    def _in_use(self) -> Iterator[InUse]:
        yield from self._retired
        if self._current is not None:
            yield self._current

    async def _end(self, over: list[InUse]) -> None:
        async with AsyncExitStack() as closing:  # one that cannot be closed keeps no other open
            for each in over:
                self.forget(each.configuration.modules)
                closing.push_async_callback(each.resources.aclose)
