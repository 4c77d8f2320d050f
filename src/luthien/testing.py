"""Trying policies on calls without a gateway, a database or a provider: for tests of one's own.

    from luthien.testing import Case, play

    def test_names_do_not_go_out() -> None:
        case = Case.of("openai.chat_completions", {"model": "m", "messages": [{"role": "user", "content": "Ada"}]})
        assert "Ada" not in str(play(case, config="luthien.yaml").request)

A call that was recorded becomes a case with `luthien calls export --format fixture` or `--format pytest`.
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthien.config_file import read_config
from luthien.errors import ConfigError, PolicyFailure
from luthien.exchange import new_call_id
from luthien.formats import jsontext
from luthien.formats.format import BoundedAssembler, WireFormat
from luthien.formats.registry import FORMATS
from luthien.formats.sse import Chunk
from luthien.policies.chain import Chain, ChainRun, StreamRun
from luthien.policies.credential import NO_CREDENTIAL, Shown
from luthien.policies.groups import load_groups
from luthien.policies.models import ModelAnswer, ModelFailed, Models
from luthien.policies.policy import CallContext
from luthien.settings import read_settings

__all__ = ["Case", "Played", "RecordedModels", "lines", "play", "play_async"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """What policies are given: a request, and the provider's response unless they never see one.

    The rest is what came of it when it was recorded: None for what did not go on, or was not recorded.
    """

    format: WireFormat
    request: bytes
    response: bytes | None = None
    streamed: bool = False
    """Whether the response is shown to the policies as a stream."""
    group: str | None = None
    """The group of the configuration whose policies these are; None for those of calls that no group takes."""
    request_after: Any = None
    response_after: Any = None
    blocked_by: str | None = None
    broken_by: str | None = None
    models: tuple[tuple[str, Any, Any], ...] = ()
    """What policies asked of models: the name of a format, the request, and the answer, None if there was none."""

    @classmethod
    def of(cls, wire_format: str, request: Json, response: Json | None = None, *, streamed: bool = False) -> Case:
        """A case of one's own. The names of formats are those of the record, as `anthropic.messages`."""
        body = None if response is None else jsontext.render(response)
        return cls(_format(wire_format), jsontext.render(request), body, streamed)

    @classmethod
    def from_json(cls, text: str | bytes) -> Case:
        """A case as `luthien calls export --format fixture` writes it. Raises ValueError if it is none."""
        told = json.loads(text)
        if not isinstance(told, dict) or told.get("luthien_case") != 1:
            raise ValueError("this is no case: its luthien_case is not 1")
        request, response = told["request"], told.get("response") or {}
        return cls(
            _format(told["format"]),
            _payload(request["before"]),
            None if response.get("before") is None else _payload(response["before"]),
            response.get("streamed") is True,
            told.get("group"),
            _expected(request.get("after")),
            _expected(response.get("after")),
            told.get("blocked_by"),
            told.get("broken_by"),
            tuple(
                (each["format"], _expected(each["asked"]), _expected(each["answered"]))
                for each in told.get("models", ())
            ),
        )

    @classmethod
    def read(cls, path: Path | str) -> Case:
        """The case in a file."""
        return cls.from_json(Path(path).read_bytes())


class RecordedModels:
    """Answers as models did when a case was recorded: what was asked then, or else the next in order.

    One object is for one `play`.
    """

    def __init__(self, case: Case) -> None:
        self._left = [*case.models]

    async def ask(
        self, format_name: str, body: Json, *, credential: Shown = NO_CREDENTIAL, timeout_s: float | None = None
    ) -> ModelAnswer:
        """Raises ModelFailed when there is no answer, or was none."""
        alike = [each for each in self._left if each[0] == format_name]
        if not alike:
            raise ModelFailed("nothing more was asked of models when this case was recorded")
        found = next((each for each in alike if each[1] == body), alike[0])
        self._left.remove(found)
        if not isinstance(found[2], dict):
            raise ModelFailed("the model did not answer when this case was recorded")
        return ModelAnswer(new_call_id(), found[2])


@dataclass(slots=True)
class Played:
    """What came of a case. `request` and `response` are JSON as the provider and the client would have got them.

    None is what did not go on, because a policy blocked or broke, or, of a response, because the case has none.
    """

    request: Any = None
    response: Any = None
    blocked_by: str | None = None
    broken_by: str | None = None
    error: Exception | None = None
    """What it broke on."""
    reasons: list[str] = field(default_factory=list)
    """What each policy did on each side, and why."""


def play(case: Case, *, config: Path | str | None = None, models: Models | None = None) -> Played:
    """Shows a case to the policies of a configuration: `luthien.yaml`, or what LUTHIEN_CONFIG names.

    `models` answers what policies ask of models; without it they are answered as the case was recorded, if it was.
    Where an event loop runs, `play_async` does the same.

    Raises:
        ConfigError: the configuration has mistakes, or lacks the group.
    """
    return asyncio.run(play_async(case, config=config, models=models))


def lines(value: Any) -> str:
    """JSON with one item a line, so that pytest says which of them differ; equal only if values and types are."""
    return json.dumps(value, indent=2, sort_keys=True)


async def play_async(case: Case, *, config: Path | str | None = None, models: Models | None = None) -> Played:
    """Like `play`."""
    chain = _chain(Path(config) if config is not None else read_settings().config, case.group)
    request = jsontext.parse_object(case.request)
    model = request.get("model")
    call = CallContext(
        new_call_id(),
        case.format,
        model if isinstance(model, str) else "",
        request.get("stream") is True,
        models or RecordedModels(case),
    )
    played = Played()
    async with chain:
        run = chain.open(call)
        try:
            await _play(case, run, played)
        except PolicyFailure as failure:
            played.broken_by = next((each.step.name for each in reversed(run.decisions)), str(failure))
            played.error = failure
        played.reasons = [
            f"{each.step.name}, {each.side}: {each.verdict.action.value} {each.verdict.reason}".rstrip()
            for each in run.decisions
        ]
    return played


async def _play(case: Case, run: ChainRun, played: Played) -> None:
    request = await run.on_request(case.request)
    if run.blocked is not None:
        played.blocked_by = run.blocked.policy
        return
    played.request = jsontext.parse(request)
    if case.response is None:
        return
    if case.streamed:
        await _play_stream(case.format, jsontext.parse_object(case.response), run, played)
        return
    response = await run.on_response(case.response) if run.reads_responses else case.response
    if run.blocked is not None:
        played.blocked_by = run.blocked.policy
    else:
        played.response = jsontext.parse(response)


async def _play_stream(wire_format: WireFormat, body: Json, run: ChainRun, played: Played) -> None:
    """Shows the response as a stream that says it; what comes out is put together again."""
    stream, given = run.stream(), BoundedAssembler(wire_format.assembler())
    try:
        if stream.is_empty:
            played.response = body
        elif await _pass(wire_format, body, stream, given):
            played.response = given.result()
        elif stream.blocked is not None:
            played.blocked_by = stream.blocked.policy
    finally:
        stream.decide(jsontext.render(given.result()))


async def _pass(wire_format: WireFormat, body: Json, stream: StreamRun, given: BoundedAssembler) -> bool:
    """Whether the stream came to its end."""
    terminal = wire_format.blocks.as_end(body, _end_marker(wire_format, body))
    for chunk in wire_format.blocks.as_stream(body):
        _add(given, await stream.feed(chunk))
        if stream.blocked is not None:
            return False
    _add(given, await stream.feed_unsaid(terminal))
    if stream.blocked is None:
        _add(given, await stream.finish())
    if stream.blocked is None:
        given.add(stream.agreed(terminal))
    return stream.blocked is None


def _add(given: BoundedAssembler, chunks: Any) -> None:
    for chunk in chunks:
        given.add(chunk)


def _end_marker(wire_format: WireFormat, body: Json) -> Chunk:
    """As the provider would have written it."""
    if wire_format.provider == "anthropic":
        return Chunk.of({"type": "message_stop"}, "message_stop")
    if wire_format.name != "openai.responses":
        return Chunk(b"data: [DONE]\n\n", b"[DONE]")
    status = body.get("status")
    kind = f"response.{status if status in ('failed', 'incomplete') else 'completed'}"
    return Chunk.of({"type": kind, "response": body}, kind)


def _chain(path: Path, group: str | None) -> Chain:
    file = read_config(path, must_exist=True)
    groups = load_groups(file)
    file.check()
    if group is None:
        return groups.default.chain
    found = next((each for each in groups.named if each.name == group), None)
    if found is None:
        raise ConfigError(f"{path} has no group {group!r}, whose policies looked at this call")
    return found.chain


def _format(name: str) -> WireFormat:
    found = next((each for each in FORMATS if each.name == name), None)
    if found is None:
        raise ValueError(f"there is no format {name!r}; there are {', '.join(each.name for each in FORMATS)}")
    return found


def _payload(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and value.keys() == {"$base64"}:
        return base64.b64decode(value["$base64"])
    return jsontext.render(value)


def _expected(value: Any) -> Any:
    """As `Played` has it."""
    return None if value is None else jsontext.parse(_payload(value))
