"""The `llm` command line tool, as its users set it up for a server that speaks OpenAI's protocol."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.clients.account import Account, Failure, account_of
from tests.integration.clients.adversity import ADVERSITIES, CHAT, PLAIN, STREAMS
from tests.integration.clients.setting import PROMPT, Script, Setting, Side, ended, final
from tests.playbook import answers, streams


def said_by(folder: Path, *options: str) -> Script:
    """What it prints, and what it says of an error."""

    def script(side: Side) -> Account:
        model = {"model_id": side.model, "model_name": side.model, "api_base": side.openai_url, "api_key_name": "x"}
        (folder / "extra-openai-models.yaml").write_text(yaml.safe_dump([model]))
        environment = os.environ | {"LLM_USER_PATH": str(folder), "LLM_LOAD_PLUGINS": ""}
        command = [sys.executable, "-m", "llm", "-m", side.model, "--no-log", "--key", "sk-client", *options, PROMPT]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        failure = Failure("exit", done.returncode, done.stderr.strip()) if done.returncode else None
        return Account(done.stdout.removesuffix("\n"), failure=failure)

    return script


@pytest.mark.parametrize("streaming", [False, True])
def test_an_answer(scene: Setting, tmp_path: Path, streaming: bool) -> None:
    play = streams(*STREAMS[CHAT]("Hel", "lo.")) if streaming else answers(PLAIN[CHAT]("Hello."))
    both = scene.compare(said_by(tmp_path, *([] if streaming else ["--no-stream"])), play)
    assert both.through == both.direct == Account("Hello.")
    assert both.through_turns[0].json == both.direct_turns[0].json
    assert both.through_turns[0].json.get("stream", False) is streaming
    assert ended(both.calls) == [("completed", None)]
    assert account_of(final(both.call)).text == "Hello."


def test_a_policy_in_a_stream(scene: Setting, tmp_path: Path) -> None:
    account, [call] = scene.recorded(
        said_by(tmp_path), streams(*STREAMS[CHAT]("the s", "ecr", "et!")), policies="replace"
    )
    assert account == Account("the [hidden]!")
    assert account_of(final(call)).text == "the [hidden]!"


def test_a_block_is_its_error(scene: Setting, tmp_path: Path) -> None:
    side = scene.through("limit")
    side = Side(side.url, f"{side.model}-forbidden")
    account, turns = scene.run(said_by(tmp_path), side, answers({}))
    assert account.failure is not None
    assert (account.failure.status, turns) == (1, [])
    assert f"the model {side.model!r} is not permitted" in account.failure.message.replace("\\'", "'")
    assert ended(scene.calls(side.model)) == [("blocked", "policy_blocked")]


def test_a_stream_that_breaks(scene: Setting, tmp_path: Path) -> None:
    adversity = ADVERSITIES["no end"]
    adversity.check(scene.compare(said_by(tmp_path), adversity.play(CHAT)))
