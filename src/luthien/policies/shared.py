"""What the policies of a chain share between calls: opened before the first one, closed after the last."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any

from luthien.policies.step import Step


class Shared:
    """What each step of one chain has opened. Before `open` and after `close`, that is nothing."""

    def __init__(self) -> None:
        self._opened: list[Any] = []
        self._stack = AsyncExitStack()

    async def open(self, steps: Iterable[Step]) -> None:
        """Opens for each step what its policy asks for; if one fails, those before it are closed."""
        async with AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(step.policy.sharing(step.config)) for step in steps]
            self._opened, self._stack = opened, stack.pop_all()

    async def close(self) -> None:
        self._opened = []
        await self._stack.aclose()

    def of(self, position: int) -> Any:
        """What the step at this place of the chain has opened."""
        return self._opened[position] if position < len(self._opened) else None
