"""How a policy asks a model, as part of the call that it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from luthien.formats.format import Json
from luthien.policies.credential import NO_CREDENTIAL, Shown


class ModelFailed(Exception):
    """A model did not answer as it should. `call_id` is that of the call it was asked in, if there was one."""

    def __init__(self, message: str, call_id: UUID | None = None) -> None:
        super().__init__(message)
        self.call_id = call_id


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What a model said, in its wire format, and in which call: it has a record of its own."""

    call_id: UUID
    body: Json


class Models(Protocol):
    """The models that a policy may ask, through the gateway and without any policy."""

    async def ask(
        self,
        format_name: str,
        body: Json,
        *,
        credential: Shown = NO_CREDENTIAL,
        timeout_s: float | None = None,
    ) -> ModelAnswer:
        """What the provider answers to a request in that wire format, which must not ask for a stream.

        It is a call of its own, recorded as a child of the one the policy looks at. It ends when that one ends, or
        is given up after `timeout_s`.

        Raises:
            ModelFailed: there was no answer, or none with status 200 that is a JSON object; or the policies of the
                call have asked as often as they may.
            ValueError: there is no such format, or the request is for a stream.
        """
        ...


class NoModels:
    """Where there is no gateway to ask through."""

    async def ask(
        self,
        format_name: str,
        body: Json,
        *,
        credential: Shown = NO_CREDENTIAL,
        timeout_s: float | None = None,
    ) -> ModelAnswer:
        raise ModelFailed("no model can be asked here")
