"""`add_system_message`: puts an instruction before all others."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from luthien.policies.policy import Policy, Request, Verdict


class AddSystemMessageConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    text: Annotated[str, StringConstraints(min_length=1)]
    """The instruction."""


class AddSystemMessage(Policy):
    Config = AddSystemMessageConfig

    async def on_request(self, request: Request) -> Verdict:
        self.call.format.add_system_message(request.body, self.config.text)
        return Verdict.modify("added a system message")
