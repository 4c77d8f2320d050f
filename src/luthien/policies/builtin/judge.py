"""`judge`: another model decides, and its answer is recorded with its probability and explanation."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from luthien.formats.format import Json
from luthien.policies.builtin.question import (
    Dialect,
    Judgement,
    NoJudgement,
    limit_field,
    question_body,
    read_judgement,
    transcript,
)
from luthien.policies.policy import (
    Credential,
    ModelAnswer,
    ModelFailed,
    Needs,
    Policy,
    Request,
    Response,
    Side,
    Verdict,
)

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Probability = Annotated[float, Field(ge=0, le=1)]

_OURS = frozenset({"model", "messages", "input", "instructions", "system", "stream"})
_MAX_TOLD_CHARS = 500


class OnViolation(StrEnum):
    BLOCK = "block"
    ANNOTATE = "annotate"


class JudgeConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Text
    format: Dialect = Dialect.CHAT
    """The wire format in which it is asked, which says at which provider."""
    question: Text
    """What to decide, in words; yes is a violation."""
    credential: Credential
    """What its provider is shown."""
    sides: Annotated[tuple[Side, ...], Field(min_length=1)] = (Side.REQUEST, Side.RESPONSE)
    threshold: Probability = 0.5
    """A violation is what has at least this probability."""
    annotate_above: Probability | None = None
    """Below the threshold, what has at least this probability gets a remark in the record."""
    action: OnViolation = OnViolation.BLOCK
    max_chars: Annotated[int, Field(ge=100, strict=True)] = 100_000
    """How much of the conversation the judge is shown."""
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    max_tokens: Annotated[int, Field(gt=0, strict=True)] | None = None
    extra: Mapping[str, Any] = Field(default_factory=dict)
    """Other fields of the request to the judge; null takes one out."""
    block_text: str = "not permitted"
    """What the client is told of a block."""
    tell_client: bool = False
    """Whether it is told the explanation instead."""

    @field_validator("extra")
    @classmethod
    def _leaves_ours_alone(cls, extra: Mapping[str, Any]) -> Mapping[str, Any]:
        if ours := sorted(_OURS & {*extra}):
            raise ValueError(f"cannot set {', '.join(ours)}")
        return extra

    @model_validator(mode="after")
    def _has_an_order(self) -> JudgeConfig:
        if self.annotate_above is not None and self.annotate_above >= self.threshold:
            raise ValueError("annotate_above must be below threshold")
        return self


class Judge(Policy):
    """Shows the conversation to another model and does as its probability says. A judge that fails breaks it."""

    Config = JudgeConfig
    needs = Needs.WHOLE
    config: JudgeConfig
    _request: Json

    @classmethod
    def sides(cls, config: JudgeConfig) -> Collection[Side]:
        """To judge a response it must have seen the request."""
        return {Side.REQUEST, *config.sides}

    async def on_request(self, request: Request) -> Verdict:
        self._request = request.body
        return await self._judge(Side.REQUEST) if Side.REQUEST in self.config.sides else Verdict.allow()

    async def on_response(self, response: Response) -> Verdict:
        return await self._judge(Side.RESPONSE, response.body)

    async def _judge(self, side: Side, response: Json | None = None) -> Verdict:
        config = self.config
        shown = transcript(self._request, response, config.max_chars)
        nonce = secrets.token_hex(8)
        body = question_body(config.format, config.model, config.question, side, shown.text, nonce)
        if config.max_tokens is not None:
            body[limit_field(config.format)] = config.max_tokens
        body = {name: value for name, value in {**body, **config.extra}.items() if value is not None}
        answer = await self.call.models.ask(
            config.format, body, credential=config.credential, timeout_s=config.timeout_s
        )
        judgement = self._read(answer)
        verdict = self._verdict(judgement).with_details(
            probability=judgement.probability,
            explanation=judgement.explanation,
            judge=config.model,
            asked_call_id=str(answer.call_id),
        )
        return verdict.with_details(left_out_chars=shown.left_out_chars) if shown.left_out_chars else verdict

    def _read(self, answer: ModelAnswer) -> Judgement:
        try:
            return read_judgement(self.config.format, answer.body)
        except NoJudgement as error:
            raise ModelFailed(str(error), answer.call_id) from None

    def _verdict(self, judgement: Judgement) -> Verdict:
        config, probability = self.config, judgement.probability
        reason = f"probability {probability:g}, the threshold is {config.threshold:g}"
        if probability >= config.threshold and config.action is OnViolation.BLOCK:
            told = judgement.explanation[:_MAX_TOLD_CHARS] if config.tell_client else config.block_text
            return Verdict.block(reason, tell=told)
        remarkable = config.threshold if config.annotate_above is None else config.annotate_above
        if probability >= remarkable:
            return Verdict.annotate(reason)
        return Verdict.allow()
