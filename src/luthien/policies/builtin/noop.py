"""`noop`: looks at everything and changes nothing; for measuring what policies cost."""

from __future__ import annotations

from collections.abc import Sequence

from luthien.formats.sse import Chunk
from luthien.policies.policy import Policy, Request, Response, Verdict


class Noop(Policy):
    async def on_request(self, request: Request) -> Verdict:
        return Verdict.allow()

    async def on_response(self, response: Response) -> Verdict:
        return Verdict.allow()

    async def on_chunk(self, chunk: Chunk) -> Sequence[Chunk]:
        return (chunk,)
