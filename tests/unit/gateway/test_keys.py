"""What becomes of the credentials that clients show, and every mistake in the keys of `luthien.yaml`."""

from __future__ import annotations

import hashlib
from textwrap import dedent

import pytest
from pydantic import SecretStr

from luthien.config_file import ConfigFile
from luthien.errors import ConfigError
from luthien.gateway.configuration import configured
from luthien.gateway.keys import GatewayKey, Keyring

OURS, THEIRS = "lk-0123456789abcdef", "sk-of-the-provider"
Headers = list[tuple[bytes, bytes]]


def ring(*, accepts: bool = True, **provider_keys: str) -> Keyring:
    secrets = {name: SecretStr(key) for name, key in provider_keys.items()}
    other = GatewayKey("other", hashlib.sha256(b"another").digest(), {}, is_trusted=True)
    return Keyring((other, GatewayKey("ours", hashlib.sha256(OURS.encode()).digest(), secrets)), accepts)


@pytest.mark.parametrize(
    "shown",
    [
        [(b"authorization", f"Bearer {OURS}".encode())],
        [(b"authorization", f"bearer   {OURS} ".encode())],
        [(b"x-api-key", OURS.encode())],
        [(b"x-api-key", b"something else"), (b"authorization", f"Bearer {OURS}".encode())],
        [(b"authorization", b"Basic abc"), (b"x-api-key", OURS.encode()), (b"x-mine", f"<{OURS}>".encode())],
    ],
)
@pytest.mark.parametrize(
    ("provider", "credential"),
    [("openai", (b"authorization", b"Bearer " + THEIRS.encode())), ("anthropic", (b"x-api-key", THEIRS.encode()))],
)
def test_a_key_is_replaced_by_the_providers_own(
    shown: Headers, provider: str, credential: tuple[bytes, bytes]
) -> None:
    """Wherever the client put it: of what it showed, nothing goes on."""
    admission = ring(openai=THEIRS, anthropic=THEIRS).admit([(b"accept", b"*/*"), *shown], b"beta=true", provider)
    assert (admission.key, admission.refusal) == ("ours", None)
    assert admission.headers == [(b"accept", b"*/*"), credential]


@pytest.mark.parametrize(
    "shown",
    [
        [],
        [(b"authorization", b"Bearer sk-mine"), (b"x-api-key", b"sk-mine")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", OURS.encode())],
        [(b"x-api-key", OURS.encode() + b"x")],
        [(b"x-other", OURS.encode())],
    ],
)
def test_what_is_no_gateway_key_goes_on_as_it_is_or_no_further(shown: Headers) -> None:
    admission = ring(openai=THEIRS).admit(shown, b"beta=true", "openai")
    assert (admission.headers, admission.key, admission.refusal) == (shown, None, None)
    refusal = ring(accepts=False, openai=THEIRS).admit(shown, b"beta=true", "openai").refusal
    assert refusal is not None
    assert (refusal.status, refusal.code) == (401, "invalid_api_key")


def test_a_key_that_has_none_of_the_provider_goes_no_further() -> None:
    admission = ring(openai=THEIRS).admit([(b"x-api-key", OURS.encode())], b"", "anthropic")
    assert admission.refusal is not None
    assert admission.refusal.status == 403
    assert "'ours' is not for anthropic" in str(admission.refusal)
    assert OURS not in str(admission.refusal)
    assert (admission.key, admission.headers) == ("ours", [])


@pytest.mark.parametrize(
    "query",
    [
        f"key={OURS}",
        f"a=b&api_key={OURS}&c",
        f"a;key={OURS}",
        OURS,
        f"authorization=Bearer+{OURS}",
        f"authorization=Bearer%20{OURS}",
        "key=" + "".join(f"%{ord(char):02x}" for char in OURS),
    ],
)
@pytest.mark.parametrize("shown", [[], [(b"x-api-key", b"another")], [(b"x-api-key", OURS.encode())]])
def test_a_key_in_the_query_goes_no_further(shown: Headers, query: str) -> None:
    """Neither with a key in the headers, whosever it is, nor where none is wanted."""
    for keyring in (ring(openai=THEIRS), ring(accepts=False, openai=THEIRS)):
        admission = keyring.admit(shown, query.encode(), "openai")
        assert admission.refusal is not None
        assert (admission.refusal.status, admission.refusal.code) == (400, "key_in_query")
        assert OURS not in str(admission.refusal)
    within = ring(openai=THEIRS).admit([(b"x-api-key", OURS.encode())], f"key=<{OURS}>".encode(), "openai")
    assert within.refusal is not None


def test_any_other_query_passes() -> None:
    for query in (b"", b"beta=true", b"key=sk-mine", b"%", b"=&;+", b"key=" + OURS[:-1].encode()):
        for shown in ([], [(b"x-api-key", OURS.encode())]):
            assert ring(openai=THEIRS).admit(shown, query, "openai").refusal is None


def test_some_keys_are_trusted() -> None:
    keyring = ring()
    assert keyring.trusts([(b"x-api-key", b"another")])
    assert not keyring.trusts([(b"x-api-key", OURS.encode())])
    assert not keyring.trusts([])
    assert not Keyring().trusts([(b"x-api-key", b"another")])


def test_every_mistake_has_its_line_and_key_and_none_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT", "short-secret")
    monkeypatch.setenv("SPACED", "a secret with spaces in it")
    monkeypatch.setenv("GOOD", OURS)
    monkeypatch.delenv("UNSET", raising=False)
    digest = hashlib.sha256(OURS.encode()).hexdigest().upper()
    text = f"""\
    keys:
      - name: a
        key: {{env: SHORT}}
        upstreams: {{openai: {{env: UNSET}}}}
      - name: b
        key: {{env: SPACED}}
      - name: a
        key: {{env: GOOD}}
      - name: c
        key: {{sha256: "{digest}"}}
      - name: d
        key: {{env: UNSET}}
    """
    with pytest.raises(ConfigError) as raised:
        configured(ConfigFile("l", dedent(text)))
    assert str(raised.value).splitlines()[1:] == [
        "  l:3: keys[0].key.env: SHORT is too easy to guess: a key has at least 16 characters",
        "  l:4: keys[0].upstreams.openai.env: the environment variable UNSET is not set",
        "  l:6: keys[1].key.env: the environment variable SPACED holds what no key has: a space, or no ASCII",
        "  l:7: keys[2].name: 'a' is taken",
        "  l:10: keys[3].key: is the key 'a' once more",
        "  l:12: keys[4].key.env: the environment variable UNSET is not set",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("keys: [{name: a, key: {}}]", "1: keys[0].key: must have `env` or `sha256`"),
        (
            f"keys: [{{name: a, key: {{env: A, sha256: '{'a' * 64}'}}}}]",
            "1: keys[0].key: must have `env` or `sha256`",
        ),
        (
            "keys: [{name: a, key: {sha256: abc}}]",
            "1: keys[0].key.sha256: must be 64 hexadecimal digits, as `printf %s KEY | sha256sum` says them",
        ),
        (
            f"keys:\n- name: a\n  key: {{sha256: '{'a' * 64}'}}\n  upstreams: {{azure: {{env: A}}}}",
            "4: keys[0].upstreams.azure: no such provider; known are anthropic, openai",
        ),
        (
            f"keys: [{{name: a, key: {{sha256: '{'a' * 64}'}}, trusted: 1}}]",
            "1: keys[0].trusted: must be true or false",
        ),
        ("accept_provider_keys: false", "1: accept_provider_keys: without keys, nobody could make a call"),
    ],
)
def test_the_shape_of_a_key_is_checked(text: str, mistake: str) -> None:
    with pytest.raises(ConfigError) as raised:
        configured(ConfigFile("l", text))
    assert str(raised.value).splitlines()[1:] == [f"  l:{mistake}"]
