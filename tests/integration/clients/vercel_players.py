"""Calls with the Vercel AI SDK, all of them made by one Node process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.integration.clients.account import Account, Failure, Json
from tests.integration.clients.setting import PROMPT, Script, Side
from tests.node import NODE, installed
from tests.playbook import DEADLINE_S

Play = Callable[..., Script]
"""Makes a script of what the process is told."""


@contextmanager
def vercel_players() -> Iterator[Play]:
    script = installed(Path(__file__).parents[2] / "clients_js") / "clients.mjs"
    with subprocess.Popen([NODE, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sent, came = process.stdin, process.stdout

        def ask(side: Side, **asked: Any) -> Account:
            common = {"url": side.url, "model": side.model, "timeout_ms": side.timeout_s * 1000, "prompt": PROMPT}
            sent.write(json.dumps(common | asked) + "\n")
            sent.flush()
            return _account(json.loads(came.readline()))

        yield lambda **asked: partial(ask, **asked)
        sent.close()
        assert process.wait(DEADLINE_S) == 0


def _account(came: Json) -> Account:
    failure = came["failure"] and Failure(**came["failure"])
    tools = tuple((name, arguments) for name, arguments in came["tools"])
    made = came["object"] and {"object": came["object"]}
    return Account(came["text"], tools, came["thinking"], came["stop"], failure, made)
