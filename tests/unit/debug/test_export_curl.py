"""Commands for curl: a shell reads out of them what the call had, and nothing in them is hidden."""

from __future__ import annotations

import base64
import shlex

from hypothesis import given
from hypothesis import strategies as st

from luthien.debug.export.curl import as_curl
from luthien.debug.export.parties import Asked, Party
from luthien.debug.showing.invisible import is_visible

HEADERS = [("accept", "*/*"), ("content-type", "application/json"), ("user-agent", "x")]


def asked(body: bytes, **other: object) -> Asked:
    told: dict[str, object] = {
        "party": Party.PROVIDER,
        "method": "POST",
        "url": "https://api.example/v1/x",
        "headers": HEADERS,
        "body": body,
        "provider": "openai",
        "gateway_key": None,
        "is_masked": False,
        "notes": [],
    }
    return Asked(**(told | other))  # type: ignore[arg-type]


def body_of(command: str) -> bytes:
    """The body as a shell and curl would have it."""
    if "<<'END_OF_BODY'" in command:
        _, _, after = command.partition("--data-binary @-\n")
        return base64.b64decode(after.partition("END_OF_BODY")[0])
    words = shlex.split(command.replace("\\\n", " ") if "\\\n" not in command.partition("--data-raw")[2] else command)
    return words[words.index("--data-raw") + 1].encode()


@given(st.one_of(st.binary(min_size=1), st.text(min_size=1).map(lambda text: text.encode("utf-8", "ignore") or b"x")))
def test_any_body_is_carried_whole_and_in_sight(body: bytes) -> None:
    command = as_curl(asked(body))
    assert body_of(command) == body
    assert is_visible(command)
    assert "\t" not in command
    assert "\r" not in command


@given(st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=50))
def test_any_header_is_one_word(value: str) -> None:
    command = as_curl(asked(b"{}", headers=[*HEADERS, ("x-odd", value)]))
    assert is_visible(command)
    if value.isascii() and value.isprintable() and value:
        assert f"x-odd: {value}" in shlex.split(command.replace("\\\n", " "))


def test_keys_are_variables_that_a_shell_fills_in() -> None:
    assert '-H "authorization: Bearer $OPENAI_API_KEY"' in as_curl(asked(b"{}"))
    assert '-H "x-api-key: $ANTHROPIC_API_KEY"' in as_curl(asked(b"{}", provider="anthropic"))
    ours = asked(b"{}", party=Party.CLIENT, gateway_key="team-a", provider="anthropic")
    assert '-H "x-api-key: $LUTHIEN_KEY"' in as_curl(ours)
    assert "$ANTHROPIC_API_KEY" in as_curl(asked(b"{}", gateway_key="team-a", provider="anthropic"))


def test_a_body_that_says_masked_without_being_so_stays_as_it_is() -> None:
    body = b'{"text": "[credential masked]"}'
    assert body_of(as_curl(asked(body))) == body
    assert "$MASKED_CREDENTIAL_1" in as_curl(asked(body, is_masked=True))


def test_a_note_is_a_command_that_does_nothing() -> None:
    command = as_curl(asked(b"{}", notes=["it's $(rm -rf /)\nand \x1b[2J more"]))
    first, _, rest = command.partition("\n")
    assert shlex.split(first)[0] == ":"
    assert len(shlex.split(first)) == 2
    assert rest.startswith("curl ")
    assert is_visible(command)
