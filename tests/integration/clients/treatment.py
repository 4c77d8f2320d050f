"""What policies do to an answer, in each wire format, and what a client must then have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.integration.clients.account import account_of, without_nulls
from tests.integration.clients.adversity import CHAT, MESSAGES, RESPONSES, STREAMS
from tests.integration.clients.setting import Script, Setting, ended, final
from tests.playbook import streams
from tests.wire_tools import anthropic_tools_stream, openai_tools_stream, responses_tools_stream

TOOLS = {CHAT: openai_tools_stream, RESPONSES: responses_tools_stream, MESSAGES: anthropic_tools_stream}

READ = ("read_file", {"path": "/etc/hosts"})
DELETE = ("delete_file", {"path": "/etc/hosts"})


@dataclass(frozen=True, slots=True)
class Treatment:
    """One policy, what the provider says under it, and what the client has in the end."""

    policies: str
    stream: Callable[[str], list[bytes]]
    text: str
    tools: tuple[tuple[str, Any], ...] = ()
    changed: bool = True

    def check(self, scene: Setting, script: Script, wire_format: str) -> None:
        """That a client has what the policy left, and nothing else, and that the record says so."""
        play = streams(*self.stream(wire_format))
        account, [call] = scene.recorded(script, play, policies=self.policies)
        assert account.failure is None
        # Where a response has but one text, what stands for a tool's call is a paragraph of it.
        assert (account.text.replace("\n\n", ""), account.tools) == (self.text, self.tools)
        assert ended([call]) == [("completed", None)]
        assert call["changed"]["response"] is self.changed
        assert account_of(final(call)).said == account.said
        assert account.final is None or without_nulls(account.final) == without_nulls(final(call))
        asked = scene.provider.turns[-1].body.decode()
        assert ("[email-1]" in asked, "jane" in asked) == (self.policies == "redact", self.policies != "redact")


def _tools(*calls: tuple[str, Any]) -> Callable[[str], list[bytes]]:
    return lambda wire_format: TOOLS[wire_format]("Wait.", *calls)


TREATMENTS = {
    "noop": Treatment("noop", lambda each: STREAMS[each]("a ", "b"), "a b", changed=False),
    "replaced across chunks": Treatment(
        "replace", lambda each: STREAMS[each]("the s", "ecr", "et!"), "the [hidden]!"
    ),
    "redacted and given back": Treatment(
        "redact",
        lambda each: STREAMS[each]("Write to [em", "ail-1], or not."),
        "Write to jane@example.com, or not.",
    ),
    "one of two tools dropped": Treatment(
        "drop_tools",
        _tools(DELETE, READ),
        "Wait.[The call of the tool delete_file was blocked by a policy.]",
        (READ,),
    ),
    "the only tool dropped": Treatment(
        "drop_tools", _tools(DELETE), "Wait.[The call of the tool delete_file was blocked by a policy.]"
    ),
}
