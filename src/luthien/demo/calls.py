"""The demo's eight calls, made as any program would make them: with the official SDKs.

A team keeps the name of a project and its address to itself. On the way out the policies give the model a cover name
and a placeholder; on the way back they put in again what the model never saw. Six calls say the same in all formats;
then a conversation goes on, at which a policy in shadow would have stopped it, and a key stops a call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from luthien.demo.model_server import MODEL_NAME
from luthien.errors import LuthienError

POLICIES = """\
policies:
  - policy: redact
    config:
      rules:
        - {kinds: [email], action: reversible}
        - {kinds: [api_key], action: block}
  - policy: replace_text
    config:
      rules:
        - {find: Project Nightingale, replace: Project Falcon, in: [request]}
        - {find: Project Falcon, replace: Project Nightingale, in: [response]}
  - policy: limit
    mode: shadow
    config: {max_messages: 3}
"""

REAL_NAME, COVER_NAME = "Project Nightingale", "Project Falcon"
EMAIL, PLACEHOLDER = "dana@example.com", "[email-1]"

_SYSTEM = "You help a product team write short, polite messages to customers."
_USER = f"Write one sentence to customers: {REAL_NAME} is delayed until Friday, and questions go to {EMAIL}."
_MAX_TOKENS = 64
_MORE = "Now write a second sentence."
_KEY = "sk-proj-" + "4fT9xLq2Vb7Nw1Zs8Rk3Yd6Hc5Mj0Pg"
_SESSION = {"luthien-session-id": "demo"}
# A small model on a busy machine; and a gateway that reports its errors better than a retry would.
_OPTIONS = {"api_key": "none-is-needed", "timeout": 300.0, "max_retries": 0}


class SdkMissing(LuthienError):
    def __init__(self) -> None:
        super().__init__("The demo calls with the official SDKs, which you install with: pip install 'luthien[demo]'")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got: the text, and the id of its call."""

    text: str
    call_id: str


class Ending(Enum):
    """What the policies should make of a call."""

    GIVEN_BACK = "the names are kept from the model, and put back into its answer"
    KEPT = "the names are kept from the model; its answer is its own, and the policy in shadow would have stopped it"
    BLOCKED = "it never reaches the model"


@dataclass(frozen=True, slots=True)
class DemoCall:
    """One call, which is made with the gateway's address."""

    name: str
    make: Callable[[str], Answer]
    ending: Ending = Ending.GIVEN_BACK


def demo_calls() -> list[DemoCall]:
    """The eight calls; each is made with the gateway's address.

    Raises:
        SdkMissing: an SDK is not installed.
    """
    try:
        import anthropic
        import openai
    except ImportError as error:
        raise SdkMissing from error

    told: list[str] = []

    def chat_plain(address: str) -> Answer:
        with openai.OpenAI(base_url=f"{address}/v1", **_OPTIONS) as client:  # type: ignore[arg-type]
            raw = client.chat.completions.with_raw_response.create(
                model=MODEL_NAME,
                messages=[{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}],
                temperature=0,
                max_completion_tokens=_MAX_TOKENS,
                extra_headers=_SESSION,
            )
            told.append(raw.parse().choices[0].message.content or "")
            return Answer(told[-1], raw.headers["luthien-call-id"])

    def chat_streamed(address: str) -> Answer:
        with (
            openai.OpenAI(base_url=f"{address}/v1", **_OPTIONS) as client,  # type: ignore[arg-type]
            client.chat.completions.create(
                model=MODEL_NAME,
                messages=[{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}],
                temperature=0,
                max_completion_tokens=_MAX_TOKENS,
                stream=True,
                stream_options={"include_usage": True},
            ) as stream,
        ):
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
            return Answer(text, stream.response.headers["luthien-call-id"])

    def responses_plain(address: str) -> Answer:
        with openai.OpenAI(base_url=f"{address}/v1", **_OPTIONS) as client:  # type: ignore[arg-type]
            raw = client.responses.with_raw_response.create(
                model=MODEL_NAME,
                instructions=_SYSTEM,
                input=_USER,
                temperature=0,
                max_output_tokens=_MAX_TOKENS,
            )
            return Answer(raw.parse().output_text, raw.headers["luthien-call-id"])

    def responses_streamed(address: str) -> Answer:
        with (
            openai.OpenAI(base_url=f"{address}/v1", **_OPTIONS) as client,  # type: ignore[arg-type]
            client.responses.create(
                model=MODEL_NAME,
                instructions=_SYSTEM,
                input=_USER,
                temperature=0,
                max_output_tokens=_MAX_TOKENS,
                stream=True,
            ) as stream,
        ):
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            return Answer(text, stream.response.headers["luthien-call-id"])

    def messages_plain(address: str) -> Answer:
        with anthropic.Anthropic(base_url=address, **_OPTIONS) as client:  # type: ignore[arg-type]
            raw = client.messages.with_raw_response.create(
                model=MODEL_NAME,
                system=_SYSTEM,
                messages=[{"role": "user", "content": _USER}],
                max_tokens=_MAX_TOKENS,
                extra_body={"temperature": 0},
            )
            text = "".join(block.text for block in raw.parse().content if block.type == "text")
            return Answer(text, raw.headers["luthien-call-id"])

    def messages_streamed(address: str) -> Answer:
        with (
            anthropic.Anthropic(base_url=address, **_OPTIONS) as client,  # type: ignore[arg-type]
            client.messages.stream(
                model=MODEL_NAME,
                system=_SYSTEM,
                messages=[{"role": "user", "content": _USER}],
                max_tokens=_MAX_TOKENS,
                extra_body={"temperature": 0},
            ) as stream,
        ):
            return Answer(stream.get_final_text(), stream.response.headers["luthien-call-id"])

    def second_turn(address: str) -> Answer:
        with (
            openai.OpenAI(base_url=f"{address}/v1", **_OPTIONS) as client,  # type: ignore[arg-type]
            client.chat.completions.create(
                model=MODEL_NAME,
                messages=[
                    {"role": "system", "content": _SYSTEM},
                    {"role": "user", "content": _USER},
                    {"role": "assistant", "content": told[-1] if told else _USER},
                    {"role": "user", "content": _MORE},
                ],
                temperature=0,
                max_completion_tokens=_MAX_TOKENS,
                stream=True,
                extra_headers=_SESSION,
            ) as stream,
        ):
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
            return Answer(text, stream.response.headers["luthien-call-id"])

    def with_a_key(address: str) -> Answer:
        with anthropic.Anthropic(base_url=address, **_OPTIONS) as client:  # type: ignore[arg-type]
            try:
                raw = client.messages.with_raw_response.create(
                    model=MODEL_NAME,
                    messages=[{"role": "user", "content": f"Why is the key {_KEY} refused?"}],
                    max_tokens=_MAX_TOKENS,
                )
            except anthropic.PermissionDeniedError as error:
                return Answer(str(error), error.response.headers["luthien-call-id"])
            return Answer("it was not blocked", raw.headers["luthien-call-id"])

    return [
        DemoCall("OpenAI Chat Completions, plain", chat_plain),
        DemoCall("OpenAI Chat Completions, streamed", chat_streamed),
        DemoCall("OpenAI Responses, plain", responses_plain),
        DemoCall("OpenAI Responses, streamed", responses_streamed),
        DemoCall("Anthropic Messages, plain", messages_plain),
        DemoCall("Anthropic Messages, streamed", messages_streamed),
        DemoCall("The first conversation goes on", second_turn, Ending.KEPT),
        DemoCall("A call with an API key in it", with_a_key, Ending.BLOCKED),
    ]
