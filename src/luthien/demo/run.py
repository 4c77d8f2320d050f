"""`luthien demo`: a real model behind the gateway, eight real calls, and what became of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from luthien.app import App
from luthien.config_file import ConfigFile
from luthien.demo.calls import COVER_NAME, EMAIL, PLACEHOLDER, POLICIES, REAL_NAME, DemoCall, Ending, demo_calls
from luthien.demo.model import find_weights, local_model
from luthien.errors import LuthienError
from luthien.gateway.configuration import configured
from luthien.server import Server, address_of, listen, sign_in_link
from luthien.settings import Settings

Say = Callable[[str], None]

_STAGES = ("request_original", "request_final", "response_original", "response_final")
_STORED_WITHIN_S = 30.0


def check_installed() -> None:
    """Raises ModelMissing or SdkMissing, which name the command that installs what is missing."""
    find_weights()
    demo_calls()


def run_demo(settings: Settings, *, exit_after_calls: bool, say: Say) -> int:
    """Serves until stopped, or until the calls are made; returns the exit status: 0 if all is as expected."""
    calls = demo_calls()
    with local_model(progress=say) as model, listen(settings) as listener:
        address = address_of(listener)
        config = ConfigFile(
            "the demo's configuration",
            f"upstreams:\n  openai: {{url: '{model}'}}\n  anthropic: {{url: '{model}'}}\n{POLICIES}",
        )
        say("The example policies, as they would stand in luthien.yaml:")
        for line in POLICIES.splitlines():
            say(f"    {line}")
        teller = _Teller(address, settings, calls, say)

        def finished() -> None:
            if exit_after_calls:
                server.stop()
            else:
                say(f"Serving on {address}. All calls: {sign_in_link(address, settings)}  (Ctrl-C ends)")

        def make_calls() -> None:
            try:
                teller.make_calls()
            finally:
                finished()

        caller = threading.Thread(target=make_calls, name="luthien-demo-calls", daemon=True)
        server = Server(App(settings, configured(config)).asgi, settings, caller.start)
        server.run(sockets=[listener])
        caller.join(timeout=5.0)
    return 0 if teller.all_is_well else 1


class _Teller:
    """Makes the calls and says what became of them."""

    def __init__(self, address: str, settings: Settings, calls: list[DemoCall], say: Say) -> None:
        token = settings.debug_token.get_secret_value() if settings.debug_token else ""
        self._address = address
        self._settings = settings
        self._calls = calls
        self._say = say
        self._debug = httpx.Client(
            base_url=address, headers={"authorization": f"Bearer {token}"}, timeout=30.0, trust_env=False
        )
        self._well = 0

    @property
    def all_is_well(self) -> bool:
        return self._well == len(self._calls)

    def make_calls(self) -> None:
        with self._debug:
            for call in self._calls:
                try:
                    self._tell(call)
                except Exception as error:  # noqa: BLE001 - whatever an SDK raises, the next call is made
                    self._say(f"{call.name}: failed: {type(error).__name__}: {error}")

    def _tell(self, call: DemoCall) -> None:
        answer = call.make(self._address)
        page = f"/debug/calls/{answer.call_id}"
        seen, diff = self._stored(f"{page}.json"), self._stored(f"{page}/diff.json")
        ms = seen["ms"]
        self._say("")
        self._say(f"{call.name}: {answer.text!r}")
        self._say(f"  {seen['verdict']}")
        for side, passed, gave in (("request", "you said", "it read"), ("response", "it said", "you read")):
            for op in diff[side]["ops"] if diff[side] else []:
                self._say(f"    {passed:<8} {op['before']!r}")
                self._say(f"    {gave:<8} {op['after']!r}")
        self._say(
            f"  {seen['outcome']} in {ms['total']:.0f} ms"
            f" (provider {ms['upstream']:.0f}, policies {ms['policy']:.2f}, gateway {ms['gateway']:.2f})"
            f", call {answer.call_id}"
        )
        self._say(f"  {sign_in_link(self._address, self._settings, page)}")
        problem = what_is_wrong(call.ending, answer.text, seen, diff)
        if problem:
            self._say(f"  NOT AS EXPECTED: {problem}")
        else:
            self._well += 1

    def _stored(self, path: str) -> dict[str, Any]:
        """What the gateway says of a call, once all of it is stored."""
        ends = time.monotonic() + _STORED_WITHIN_S
        while True:
            response = self._debug.get(path)
            if response.status_code == 200:
                found: dict[str, Any] = response.json()
                return found
            if response.status_code != 202 or time.monotonic() > ends:
                raise LuthienError(f"{path} answered {response.status_code}: {response.text[:200]}")
            time.sleep(0.1)


def what_is_wrong(ending: Ending, text: str, call: dict[str, Any], diff: dict[str, Any]) -> str | None:
    """What is not as the demo's policies should have left it; None if nothing is."""
    if call["completeness"]["state"] != "complete":
        return f"the record is {call['completeness']['state']}"
    if ending is Ending.BLOCKED:
        return None if call["outcome"] == "blocked" else f"the call is {call['outcome']}, and not blocked"
    states = {stage: call["stages"][stage]["state"] for stage in _STAGES}
    if set(states.values()) != {"recorded"}:
        return f"the stages are {states}"
    replaced = {REAL_NAME: COVER_NAME, EMAIL: PLACEHOLDER}
    for own, told in replaced.items():
        if not _changes(diff["request"], own, told):
            return f"the diff does not show that the model was told {told!r} for {own!r}"
        if ending is Ending.GIVEN_BACK and (not _changes(diff["response"], told, own) or own not in text):
            return f"the diff does not show that the client was given {own!r} for {told!r}"
    if ending is Ending.KEPT and not any(each["shadow"] and each["action"] == "block" for each in call["decisions"]):
        return "no policy in shadow would have blocked it"
    return None


def _changes(diff: dict[str, Any], before: str, after: str) -> bool:
    return any(
        op["op"] == "change" and before in str(op["before"]) and after in str(op["after"]) for op in diff["ops"]
    )
