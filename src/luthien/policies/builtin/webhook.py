"""`webhook`: an HTTP service decides. What it is asked and may answer is in docs/policies.md."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import httpx2 as httpx
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from luthien.formats import jsontext
from luthien.formats.format import Json
from luthien.policies.builtin.webhook_client import Terms, WebhookClient, WebhookFailed, signing_key
from luthien.policies.details import check_details
from luthien.policies.policy import Needs, Policy, Request, Response, Secret, Side, Verdict

_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_NOT_TO_BE_SET = re.compile(
    r"host|content-.*|transfer-encoding|connection|accept-encoding|webhook-.*|expect|te|trailer"
)
_MAX_REASON_CHARS = 1000


def _header_value(value: object) -> object:
    if isinstance(value, str):
        if not value or value != value.strip() or not (value.isascii() and value.isprintable()):
            raise ValueError("must be printable ASCII without spaces around it, or {env: NAME}")
        return SecretStr(value)
    return value


HeaderValue = Annotated[Secret, BeforeValidator(_header_value)]


class Send(StrEnum):
    """What a service is sent of a request or response."""

    BODY = "body"
    TEXTS = "texts"


class WebhookConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    sides: Annotated[tuple[Side, ...], Field(min_length=1)] = (Side.REQUEST, Side.RESPONSE)
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 5.0
    """For all attempts together."""
    retries: Annotated[int, Field(ge=0, le=10, strict=True)] = 2
    secret: Secret | None = None
    """What requests are signed with, as Standard Webhooks does it."""
    headers: Mapping[str, HeaderValue] = Field(default_factory=dict)
    send: Send = Send.BODY
    max_answer_bytes: Annotated[int, Field(gt=0, strict=True)] = 16 * 1024 * 1024

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0 or re.search(r"\s", value):
            raise ValueError("must be an http:// or https:// address")
        if "@" in parts.netloc or parts.fragment:
            raise ValueError("must have no credentials or fragment; use headers or secret")
        try:
            httpx.URL(value)
        except httpx.InvalidURL as error:
            raise ValueError(f"is no address that can be asked: {error}") from None
        return value

    @field_validator("secret")
    @classmethod
    def _is_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            signing_key(value.get_secret_value())
        return value

    @field_validator("headers")
    @classmethod
    def _are_ours_to_set(cls, headers: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
        lower = {name.lower(): value for name, value in headers.items()}
        for name in lower:
            if not _HEADER_NAME.fullmatch(name) or _NOT_TO_BE_SET.fullmatch(name):
                raise ValueError(f"the header {name!r} cannot be set")
        return lower


class WebhookAnswer(BaseModel):
    """What a service may answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    action: Literal["allow", "modify", "annotate", "block"]
    reason: str = ""
    body: dict[str, Any] | None = None
    """The whole new body, to modify what was sent as one."""
    texts: list[str] | None = None
    """The new texts, one for each that was sent, to modify them."""
    details: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @field_validator("details")
    @classmethod
    def _can_be_kept(cls, details: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        check_details(details)
        return details


_ANSWER = TypeAdapter(WebhookAnswer)


class Webhook(Policy):
    """Does what a service says. Whatever goes wrong breaks it, so that the call is stopped."""

    Config = WebhookConfig
    needs = Needs.WHOLE
    config: WebhookConfig
    shared: WebhookClient

    @classmethod
    @asynccontextmanager
    async def sharing(cls, config: WebhookConfig) -> AsyncIterator[WebhookClient]:
        """The connections to the service."""
        key = None if config.secret is None else signing_key(config.secret.get_secret_value())
        headers = {name: value.get_secret_value() for name, value in config.headers.items()}
        client = WebhookClient(
            Terms(config.url, headers, key, config.timeout_s, config.retries, config.max_answer_bytes)
        )
        try:
            yield client
        finally:
            await client.close()

    @classmethod
    def sides(cls, config: WebhookConfig) -> Collection[Side]:
        return config.sides

    async def on_request(self, request: Request) -> Verdict:
        return await self._decide(Side.REQUEST, request)

    async def on_response(self, response: Response) -> Verdict:
        return await self._decide(Side.RESPONSE, response)

    async def _decide(self, side: Side, shown: Request | Response) -> Verdict:
        question = jsontext.render(self._question(side, shown))
        answer = _read(await self.shared.ask(question, self.call.trace_headers(self.config.url)))
        verdict = self._verdict(answer, shown)
        return verdict.with_details(**answer.details) if answer.details else verdict

    def _question(self, side: Side, shown: Request | Response) -> Json:
        call = self.call
        asked: Json = {
            "call_id": str(call.call_id),
            "side": side.value,
            "wire_format": call.format.name,
            "model": call.model,
            "streaming": call.streaming,
            "policy": self.recorded_as.name,
            "version": self.recorded_as.version,
        }
        if self.config.send is Send.BODY:
            return asked | {"body": shown.body}
        return asked | {"texts": [{"role": slot.role, "text": slot.text} for slot in shown.texts()]}

    def _verdict(self, answer: WebhookAnswer, shown: Request | Response) -> Verdict:
        reason = answer.reason[:_MAX_REASON_CHARS]
        match answer.action:
            case "block":
                return Verdict.block(reason)
            case "annotate":
                return Verdict.annotate(reason)
            case "modify":
                return Verdict.modify(reason, self._change(answer, shown))
        return Verdict.allow()

    def _change(self, answer: WebhookAnswer, shown: Request | Response) -> int:
        """Makes of what was shown what the service says; returns how many changes that is."""
        if self.config.send is Send.BODY:
            if answer.body is None:
                raise WebhookFailed("the webhook's answer modifies, and has no body")
            shown.body.clear()
            shown.body.update(answer.body)
            return 1
        slots = shown.texts()
        if answer.texts is None or len(answer.texts) != len(slots):
            raise WebhookFailed(f"the webhook's answer modifies, and has not the {len(slots)} texts it was sent")
        changed = [(slot, text) for slot, text in zip(slots, answer.texts, strict=True) if slot.text != text]
        for slot, text in changed:
            slot.set(text)
        return len(changed)


def _read(body: bytes) -> WebhookAnswer:
    try:
        return _ANSWER.validate_python(jsontext.parse_object(body))
    except jsontext.InvalidJson as error:
        raise WebhookFailed(f"the webhook's answer is not a JSON object: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][:2])
        raise WebhookFailed(f"the webhook's answer is not as it should be: {where[:80]}: {first['msg']}") from None
