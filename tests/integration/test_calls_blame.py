"""`luthien calls` blames for a change whom the call's page blames for it."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.playbook import ScriptedProvider, running_gateway, streams
from tests.wire import openai_request, openai_stream


def test_how_the_gateway_ended_a_stream_is_no_policys_doing(record_database: str, provider: ScriptedProvider) -> None:
    provider.will(streams(*openai_stream("a secret ", "and more ", "of it")[:3], then_cut=True))
    rules = [{"find": "secret", "replace": "[hidden]"}]
    with running_gateway(
        record_database, provider.url, [{"policy": "replace_text", "config": {"rules": rules}}]
    ) as gateway:
        call_id = gateway.post("/v1/chat/completions", openai_request(stream=True)).headers["luthien-call-id"]
        verdict = gateway.call(call_id)["verdict"]
    shown = subprocess.run(
        [sys.executable, "-m", "luthien", "calls", "diff", call_id, "--words"],
        capture_output=True,
        timeout=60,
        env=os.environ | {"DATABASE_URL": record_database},
        check=False,
    ).stdout.decode()
    assert "the gateway added an error; the provider's answer broke off" in verdict
    assert "@@ /error  add object  the gateway @@" in shown
    assert "@@ /choices/0/message/content  change text  replace_text @@" in shown
