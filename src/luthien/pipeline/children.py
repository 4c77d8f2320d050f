"""Child calls: a policy asks a model through the pipeline that its own call goes through, and is recorded like it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from uuid import UUID

from luthien.exchange import new_call_id
from luthien.formats import jsontext
from luthien.formats.format import Json, WireFormat
from luthien.formats.registry import FORMATS
from luthien.pipeline.client import Asker, ClientGone
from luthien.pipeline.ledger import Ledger, Parent
from luthien.policies.credential import NO_CREDENTIAL, Shown, Whose
from luthien.policies.models import ModelAnswer, ModelFailed
from luthien.telemetry.context import enter_call

Headers = list[tuple[bytes, bytes]]
Run = Callable[[UUID, WireFormat, Asker, Parent], Awaitable[None]]

_FORMATS = {wire_format.name: wire_format for wire_format in FORMATS}
_HEADERS = {
    "openai": [(b"content-type", b"application/json")],
    "anthropic": [(b"content-type", b"application/json"), (b"anthropic-version", b"2023-06-01")],
}
MAX_CHILDREN = 100
"""How often the policies of one call may ask models: one that does so in a loop must not go on for ever."""
# What says who a client is, at either provider.
_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"openai-organization", b"openai-project"})


class ChildCalls:
    """The models that the policies of one call may ask.

    Args:
        run: takes an exchange to its end.
        ledger: of the call.
        provider, headers: where its client's credential is for, and stands.
    """

    def __init__(self, run: Run, ledger: Ledger, provider: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._run = run
        self._ledger = ledger
        self._provider = provider
        self._headers = headers
        self._asked = 0

    async def ask(
        self,
        format_name: str,
        body: Json,
        *,
        credential: Shown = NO_CREDENTIAL,
        timeout_s: float | None = None,
    ) -> ModelAnswer:
        """As `luthien.policies.models.Models` says."""
        wire_format = _FORMATS.get(format_name)
        if wire_format is None:
            raise ValueError(f"there is no wire format {format_name!r}; known are {', '.join(sorted(_FORMATS))}")
        if body.get("stream"):
            raise ValueError("a policy cannot ask a model for a stream")
        headers = [*_HEADERS[wire_format.provider], *self._credential(wire_format.provider, credential)]
        asker = PolicyAsker(headers, jsontext.render(body))
        self._asked += 1
        if self._asked > MAX_CHILDREN:
            raise ModelFailed(f"the policies of one call may ask models {MAX_CHILDREN} times, and have done so")
        call_id = new_call_id()
        try:
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
                group.create_task(self._call(call_id, wire_format, asker), name="luthien-child-call")
        except TimeoutError:
            raise ModelFailed(f"the model did not answer within {timeout_s:g} s", call_id) from None
        return ModelAnswer(call_id, asker.answer(call_id))

    async def _call(self, call_id: UUID, wire_format: WireFormat, asker: PolicyAsker) -> None:
        enter_call(call_id)  # in a task of its own, so that nothing is left to be undone
        await self._run(call_id, wire_format, asker, self._ledger.as_parent())

    def _credential(self, provider: str, credential: Shown) -> Headers:
        if credential.whose is Whose.CLIENT:
            if provider != self._provider:
                raise ModelFailed(f"the client's credential is for {self._provider}, and the model is of {provider}")
            return [*_credentials_in(self._headers)]
        if credential.secret is None:
            return []
        secret = credential.secret.get_secret_value().encode()
        return [(b"x-api-key", secret)] if provider == "anthropic" else [(b"authorization", b"Bearer " + secret)]


def _credentials_in(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
    for name, value in headers:
        if name in _CREDENTIALS:
            yield name, value
        elif name == b"anthropic-beta":  # without it, the token of a person's subscription is not taken
            flags = [flag.strip() for flag in value.split(b",") if flag.strip().startswith(b"oauth-")]
            if flags:
                yield name, b",".join(flags)


class PolicyAsker:
    """Stands in an exchange where its client would: the policy that asks, and waits for the whole response."""

    hung_up = "the policy no longer waits"

    def __init__(self, headers: Headers, body: bytes) -> None:
        self.headers = headers
        self.query = b""
        self.started = False
        self._body = body
        self._status = 0
        self._given: list[bytes] = []

    async def body(self, max_bytes: int) -> bytes:
        return self._body

    @asynccontextmanager
    async def attentive(self) -> AsyncIterator[None]:
        """The task of a child call is cancelled when the policy, or its call, is: nobody waits any more."""
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            while task is not None and task.cancelling():
                task.uncancel()
            raise ClientGone from None

    def seal(self) -> None:
        pass

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._status, self.started = status, True

    async def send(self, data: bytes, *, last: bool = False) -> None:
        self._given.append(data)

    def answer(self, call_id: UUID) -> Json:
        """What the model answered. Raises `ModelFailed`, which says nothing of what a provider said in an error."""
        if self._status != 200:
            raise ModelFailed(f"the model could not be asked: status {self._status}", call_id)
        try:
            return jsontext.parse_object(b"".join(self._given))
        except jsontext.InvalidJson:
            raise ModelFailed("the model's answer is not a JSON object", call_id) from None
