"""What counts as personal data or a secret, and what only looks like it."""

from __future__ import annotations

import base64
import random
import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien.policies.builtin.redaction.checks import is_secret
from luthien.policies.builtin.redaction.detection import Detector
from luthien.policies.builtin.redaction.patterns import Kind, is_secret_name
from luthien.policies.builtin.substitution import TimeLimit

EVERYTHING = Detector(Kind, ("US", "GB"))


def found(text: str, detector: Detector = EVERYTHING) -> list[tuple[Kind, str]]:
    return [(match.kind, match.value) for match in detector.matches(text, 0, len(text), TimeLimit(10))]


PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA\n" * 8 + "-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
# Put together here, so that nobody who looks for keys finds them in this file.
KEYS = [
    "sk-" + "proj-" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cE1",
    "sk-" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0u1V2w3X4",
    "sk-" + "ant-api03-aB3dE5gH7jK9mN1pQ3sT5vX7zA9cE1-_AA",
    "AKIA" + "IOSFODNN7EXAMPLE",
    "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cE1gI3kM5",
    "github_pat_" + "11ABCDEFG0aB3dE5gH7jK9_mN1pQ3sT5vX7z",
    "xoxb-" + "123456789012-aB3dE5gH7jK9",
    "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "sk_" + "live_aB3dE5gH7jK9mN1pQ3sT5vX7",
    "glpat-" + "aB3dE5gH7jK9mN1pQ3sT",
]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.EMAIL, "jane.doe+news@mail.example.co.uk"),
        (Kind.EMAIL, "jörg@bücher.example"),
        (Kind.PHONE, "+1 415-555-2671"),
        (Kind.PHONE, "+4930901820"),
        (Kind.PHONE, "+49 (0)30 901820"),
        (Kind.PHONE, "(415) 555-2671"),
        (Kind.PHONE, "415-555-2671"),
        (Kind.PHONE, "020 7946 0958"),
        (Kind.CARD, "4111111111111111"),
        (Kind.CARD, "4111 1111 1111 1111"),
        (Kind.CARD, "5500-0000-0000-0004"),
        (Kind.CARD, "2223003122003222"),
        (Kind.CARD, "3782 822463 10005"),
        (Kind.CARD, "30569309025904"),
        (Kind.CARD, "6011111111111117"),
        (Kind.CARD, "3530111333300000"),
        (Kind.IBAN, "DE89 3704 0044 0532 0130 00"),
        (Kind.IBAN, "GB82WEST12345698765432"),
        (Kind.IBAN, "NO93 8601 1117 947"),
        (Kind.IBAN, "MT84MALT011000012345MTLCAST001S"),
        (Kind.NATIONAL_ID, "536-90-4399"),
        (Kind.NATIONAL_ID, "AB123456C"),
        (Kind.NATIONAL_ID, "AB 12 34 56 C"),
        (Kind.NATIONAL_ID, "943 476 5870"),
        (Kind.NATIONAL_ID, "54362315K"),
        (Kind.NATIONAL_ID, "X2482300W"),
        (Kind.NATIONAL_ID, "2 95 10 99 126 111 93"),
        (Kind.NATIONAL_ID, "RCCMNL83S18D969H"),
        (Kind.NATIONAL_ID, "390.533.447-05"),
        (Kind.NATIONAL_ID, "36 574 261 809"),
        (Kind.NATIONAL_ID, "2341 2341 2346"),
        (Kind.NATIONAL_ID, "756.9217.0769.85"),
        (Kind.NATIONAL_ID, "880320-0016"),
        (Kind.JWT, JWT),
        (Kind.PRIVATE_KEY, PEM),
        (Kind.PRIVATE_KEY, PEM.replace("\n", "\\n")),
        *((Kind.API_KEY, key) for key in KEYS),
    ],
)
@pytest.mark.parametrize(
    "around", ["{}", "It is {}.", "({})", '"{}",', "a: {}\nb", 'x\\n{}\\n"', "1,{},2", "{} {{}}"]
)
def test_is_found_whatever_stands_around(kind: Kind, value: str, around: str) -> None:
    assert found(around.format(value)) == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "41111111-1111-4111-8111-111111111111",
        "d41d8cd98f00b204e9800998ecf8427e",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "commit 4111111111111111111111111111111111111111",
        "1700000000",
        "1700000000000",
        "1700000000000000000",
        "2024-01-15T10:11:12.123456Z",
        "2024-01-15 10:11:12",
        "20240115101112",
        "15/01/2024",
        "$1,234,567.89",
        "1 234 567,89 EUR",
        "19.99",
        "v10.12.1234.5678",
        "1.2.3-4",
        "10.0.26100.2033",
        "192.168.100.200",
        "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
        "0.4111111111111111",
        "4111111111111112",
        "4111 1111 1111 1112",
        "1234567812345678",
        "ISBN 978-3-16-148410-0",
        "DE89 3704 0044 0532 0130 01",
        "000-12-3456",
        "666-12-3456",
        "logo@2x.png",
        "git@github.com:team/project.git",
        "@decorator",
        "a @ b",
        "lodash@4.17.21",
        "1000000000000000",
        "3.141592653589793238",
        "x = 12345678901234567890123",
        "max_tokens: 100000000000000",
        "token = self.client.get_token2(name)",
        "password: ${DB_PASSWORD_FILE_2}",
        "api_key: your-api-key-goes-here",
        "secret: /run/secrets/database_1",
        "the secret of a good life is not a token",
        "sk-learn, sk-short",
        "eyJ is how they begin",
        "-----BEGIN CERTIFICATE-----\nMIIEpAIBAAKCAQEA\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIIEpAIBAAKCAQEA\n-----END PUBLIC KEY-----",
        "+1234",
        "+ 1 + 2 + 3",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert found(text) == []
    assert found(f"See {text}, please.") == []


@pytest.mark.parametrize(
    "text",
    [
        "api_key = {}",
        "API-KEY: '{}'",
        '{{"client_secret": "{}"}}',
        '{{\\"client_secret\\": \\"{}\\"}}',
        "AWS_SECRET_ACCESS_KEY={}",
        "Authorization: Bearer {}",
        "password := `{}`",
        "db_password_main={}",
    ],
)
def test_what_is_hard_to_guess_in_the_place_of_a_key_is_a_secret(text: str) -> None:
    value = "wJalrXUtnFEMI/K7MDENG/bPxRfiCY7"
    assert found(text.format(value)) == [(Kind.SECRET, value)]
    assert found(text.format("aaaaaaaaaaaaaaaa1")) == []
    assert found(f"{value}") == []


def test_secrets_by_the_name_of_a_field() -> None:
    assert is_secret_name("api_key")
    assert is_secret_name("clientSecret")
    assert not is_secret_name("keyboard")
    assert is_secret("wJalrXUtnFEMI/K7MDENG")
    assert not is_secret("correct-horse-battery")


def test_a_number_behind_does_not_hide_the_one_before() -> None:
    assert found("4111 1111 1111 1111 123") == [(Kind.CARD, "4111 1111 1111 1111")]
    assert found("DE89 3704 0044 0532 0130 00 THANK YOU") == [(Kind.IBAN, "DE89 3704 0044 0532 0130 00")]
    assert found("2 4111 1111 1111 1111") == [(Kind.CARD, "4111 1111 1111 1111")]


def test_a_key_cut_short_is_a_key() -> None:
    cut = PEM.partition("\n-----END")[0]
    assert found(f"{cut}\n\nWhat is wrong with it?") == [(Kind.PRIVATE_KEY, cut)]


def test_national_phone_numbers_need_their_country() -> None:
    assert found("020 7946 0958", Detector([Kind.PHONE], ("US",))) == []
    assert found("+44 20 7946 0958", Detector([Kind.PHONE], ())) == [(Kind.PHONE, "+44 20 7946 0958")]


def luhn_digit(digits: str) -> str:
    """As ISO/IEC 7812-1 says it, and not as the library does it."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


@given(st.text("0123456789", min_size=14, max_size=14), st.integers(1, 9))
def test_cards_are_those_with_the_right_check_digit(digits: str, offset: int) -> None:
    number = f"4{digits}"
    right = luhn_digit(number)
    wrong = str((int(right) + offset) % 10)
    cards = Detector([Kind.CARD], ())
    assert found(number + right, cards) == [(Kind.CARD, number + right)]
    assert found(number + wrong, cards) == []


@given(st.text("0123456789", min_size=18, max_size=18), st.integers(1, 96))
def test_ibans_are_those_with_the_right_check_digits(bban: str, offset: int) -> None:
    right = 98 - int(f"{bban}131400") % 97  # DE is 13 14
    wrong = (right - 2 + offset) % 97 + 2
    ibans = Detector([Kind.IBAN], ())
    assert found(f"DE{right:02}{bban}", ibans) == [(Kind.IBAN, f"DE{right:02}{bban}")]
    assert found(f"DE{wrong:02}{bban}", ibans) == []


@given(st.uuids(), st.binary(min_size=32, max_size=32), st.datetimes())
def test_ids_hashes_and_times_are_never_found(identity: uuid.UUID, digest: bytes, when: object) -> None:
    for text in (str(identity), identity.hex, digest.hex(), str(when)):
        assert found(f"at {text};") == []


@pytest.mark.parametrize("kind", Kind)
def test_the_time_grows_with_the_text_alone(kind: Kind) -> None:
    """Five seconds of matching are far more than any of these texts needs when the search is linear."""
    random.seed(1)
    letters = "".join(random.choices(string.ascii_letters, k=40_000))
    hostile = [
        letters,
        "1 " * 20_000,
        "a@" * 20_000,
        "a." * 20_000,
        "-----BEGIN PRIVATE KEY-----\n" * 1_500,
        "eyJ" * 13_000,
        "secret" * 7_000,
        "token: " * 6_000,
        "+1(" * 13_000,
        "A1" * 20_000,
        base64.b64encode(random.randbytes(30_000)).decode(),
        "\\n" * 20_000,
        "a@" + "b-" * 20_000,
    ]
    detector = Detector([kind], ("US",))
    for text in hostile:
        limit = TimeLimit(5)
        assert len(list(detector.matches(text, 0, len(text), limit))) <= len(text)
