"""What personal data and secrets look like.

A pattern finds candidates, of which `checks` tells the real ones. Every pattern is bounded, so that a search is
linear in the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial

import regex
from stdnum import iban
from stdnum.ch import ssn as ch_ssn
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.se import personnummer
from stdnum.us import ssn

from stdnum.br import cpf  # isort: skip

from luthien.policies.builtin.open_pattern import OpenPattern
from luthien.policies.builtin.redaction.checks import Check, card, checked, email, longest, phone, secret, whole


class Kind(StrEnum):
    """What is found. Where two begin at the same place, the first of this list wins."""

    PRIVATE_KEY = "private_key"
    JWT = "jwt"
    API_KEY = "api_key"
    EMAIL = "email"
    IBAN = "iban"
    CARD = "card"
    NATIONAL_ID = "national_id"
    PHONE = "phone"
    SECRET = "secret"  # noqa: S105 - the name of a kind


@dataclass(frozen=True, slots=True)
class Pattern:
    """Candidates for one kind, and what tells real ones.

    Args:
        needle: what every candidate contains, if anything: a text without it need not be searched.
    """

    kind: Kind
    source: str
    check: Check
    needle: str = ""

    def compile(self) -> Compiled:
        return Compiled(self)


class Compiled:
    def __init__(self, pattern: Pattern) -> None:
        self.kind = pattern.kind
        self.check = pattern.check
        self.needle = pattern.needle
        # Without the interpreter's lock: others go on while a long text is searched.
        self.search = partial(regex.compile(pattern.source).search, concurrent=True)
        open_pattern = OpenPattern(pattern.source)
        self.open_match = open_pattern.pattern.match
        self.open_search = open_pattern.pattern.search
        self.lookbehind_chars = open_pattern.lookbehind_chars


def patterns(kinds: Iterable[Kind], phone_regions: tuple[str, ...]) -> list[Compiled]:
    """The patterns of these kinds, in the order in which they win."""
    wanted = frozenset(kinds)
    compiled = [_compiled(pattern) for pattern in _PATTERNS if pattern.kind in wanted]
    if Kind.PHONE in wanted:
        compiled += [_compiled(pattern) for pattern in _phones(phone_regions)]
    return sorted(compiled, key=lambda pattern: [*Kind].index(pattern.kind))


@cache
def _compiled(pattern: Pattern) -> Compiled:
    return pattern.compile()


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds secrets."""
    return _KEY_NAME.search(name) is not None


# Not inside a word; but after an escape such as \n, of a text that quotes another, a word begins.
_START = r"(?:(?<![\w\\])|(?<=\\[nrt]))"
# Not inside a decimal, a UUID, a version or a date.
_NUMBER_START = r"(?:(?<![\w\\.+#-])|(?<=\\[nrt])|(?<=[^\d\s]\.))"
_NUMBER_END = r"(?!\w|[-.]\w)"


def _phones(regions: tuple[str, ...]) -> list[Pattern]:
    return [
        Pattern(Kind.PHONE, _INTERNATIONAL, phone((None,)), needle="+"),
        *([Pattern(Kind.PHONE, _NATIONAL, phone(regions))] if regions else []),
    ]


_INTERNATIONAL = rf"(?=\+){_START}\+\d(?:[ ().\-/]{{0,3}}\d){{6,14}}{_NUMBER_END}"
_NO_DATE = r"(?!(?:19|20)\d\d[\-/.][01]?\d[\-/.][0-3]?\d(?!\d))"
# Only as people write them, in groups: any ten digits could be one.
_NATIONAL = (
    rf"(?=[(\d]){_NUMBER_START}{_NO_DATE}(?:1[ .-])?"
    r"(?:\(\d{2,5}\)[ .-]?|\d{2,5}[ .\-/])\d{2,8}(?:[ .-]\d{2,5}){0,3}"
    rf"(?!:\d){_NUMBER_END}"
)


# What providers begin their keys with.
_API_KEYS = (
    r"sk-ant-[A-Za-z0-9]{2,12}-[\w-]{20,256}",
    r"sk-(?:proj|svcacct|admin|or-v1|lf)-[\w-]{20,256}",
    r"sk-[A-Za-z0-9]{32,128}",
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",
    r"gh[pousr]_[A-Za-z0-9]{36,255}",
    r"github_pat_[A-Za-z0-9_]{22,255}",
    r"glpat-[\w-]{20,128}",
    r"xox[abeoprs]-[A-Za-z0-9-]{10,255}",
    r"xapp-\d-[A-Za-z0-9-]{10,255}",
    r"hooks\.slack\.com/services/T\w{6,16}/B\w{6,16}/\w{16,40}",
    r"AIza[\w-]{35}",
    r"ya29\.[\w-]{20,1024}",
    r"GOCSPX-[\w-]{20,40}",
    r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,255}",
    r"whsec_[A-Za-z0-9+/=]{24,128}",
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-AgE[\w-]{50,512}",
    r"hf_[A-Za-z0-9]{30,64}",
    r"gsk_[A-Za-z0-9]{32,128}",
    r"xai-[A-Za-z0-9]{32,128}",
    r"SG\.[\w-]{16,32}\.[\w-]{32,64}",
    r"do[opr]_v1_[a-f0-9]{64}",
)
_API_KEY = rf"{_START}(?:{'|'.join(_API_KEYS)})(?![A-Za-z0-9])"

_JWT = rf"{_START}eyJ[\w-]{{8,4096}}\.eyJ[\w-]{{8,4096}}\.[\w-]{{0,2048}}"

# A key cut short is one as well, if what follows looks like it.
_PEM_BODY = r"(?:[A-Za-z0-9+/=\s\\:,.]|-(?!-)){16,8000}+"
_PRIVATE_KEY = (
    r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    rf"(?:{_PEM_BODY}-----END (?:[A-Z0-9]{{1,16}} ){{0,3}}PRIVATE KEY(?: BLOCK)?-----"
    r"|(?:(?:\\[nr]|\s){1,4}[A-Za-z0-9+/=]{16,100}){1,200})"
)

_KEY_WORD = (
    r"(?:(?:api|access|auth|secret|private|signing|encryption|client|session|account|refresh)[_\- ]?"
    r"(?:key|token|secret)"
    r"|secret|token|passwd|password|passphrase|pwd|credential)"
)
_KEY_NAME = regex.compile(rf"(?i:{_KEY_WORD})s?$")
_KEY_VALUE = r"(?P<value>[A-Za-z0-9+/=_~!@#$%^&*\-]{12,2048})"
_SECRET = (
    rf"(?:(?i:{_KEY_WORD})[A-Za-z0-9_\-]{{0,24}}(?:\\{{0,3}}[\"'`])?\s{{0,4}}(?:=>|:=|[:=])\s{{0,4}}"
    rf"(?:\\{{0,3}}[\"'`])?(?:(?i:bearer|basic)\s{{1,4}})?|(?i:bearer)\s{{1,4}}){_KEY_VALUE}"
)

_PATTERNS = (
    Pattern(Kind.PRIVATE_KEY, _PRIVATE_KEY, whole, needle="-----BEGIN "),
    Pattern(Kind.JWT, _JWT, whole, needle="eyJ"),
    Pattern(Kind.API_KEY, _API_KEY, whole),
    Pattern(
        Kind.EMAIL,
        r"(?:(?<![\w.+\-\\])|(?<=\\[nrt]))[\w.+\-]{1,64}@"
        r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9_])",
        email,
        needle="@",
    ),
    Pattern(
        Kind.IBAN,
        rf"(?=[A-Z]){_START}[A-Z]{{2}}\d{{2}}(?: ?[A-Z0-9]{{4}}){{2,7}}(?: ?[A-Z0-9]{{1,3}})?(?![A-Za-z0-9])",
        lambda match: longest(match, iban.is_valid),
    ),
    Pattern(Kind.CARD, rf"(?=\d){_NUMBER_START}\d(?:[ -]?\d){{12,18}}{_NUMBER_END}", card),
    Pattern(Kind.NATIONAL_ID, rf"(?=\d){_NUMBER_START}\d{{3}}-\d{{2}}-\d{{4}}{_NUMBER_END}", checked(ssn)),
    Pattern(
        Kind.NATIONAL_ID,
        rf"(?=[A-Z]){_START}(?![DFIQUV]|[A-Z][DFIOQUV]|BG|GB|KN|NK|NT|TN|ZZ)[A-Z]{{2}}"
        r"(?:\d{6}| \d{2} \d{2} \d{2} ?)[A-D](?!\w)",
        whole,
    ),
    Pattern(Kind.NATIONAL_ID, rf"(?=\d){_NUMBER_START}\d{{3}} \d{{3}} \d{{4}}{_NUMBER_END}", checked(nhs)),
    Pattern(Kind.NATIONAL_ID, rf"(?=[XYZ0-9]){_START}[XYZ0-9]\d{{7}}-?[A-Z](?!\w)", checked(dni, nie)),
    Pattern(
        Kind.NATIONAL_ID,
        rf"(?=[12]){_NUMBER_START}[12] ?\d{{2}} ?\d{{2}} ?(?:\d{{2}}|2[AB]) ?\d{{3}} ?\d{{3}} ?\d{{2}}{_NUMBER_END}",
        checked(nir),
    ),
    Pattern(
        Kind.NATIONAL_ID,
        rf"(?=[A-Z]){_START}[A-Z]{{6}}\d{{2}}[A-EHLMPRST]\d{{2}}[A-Z]\d{{3}}[A-Z](?!\w)",
        checked(codicefiscale),
    ),
    Pattern(Kind.NATIONAL_ID, rf"(?=\d){_NUMBER_START}\d{{3}}\.\d{{3}}\.\d{{3}}-\d{{2}}{_NUMBER_END}", checked(cpf)),
    Pattern(Kind.NATIONAL_ID, rf"(?=\d){_NUMBER_START}\d{{2}} \d{{3}} \d{{3}} \d{{3}}{_NUMBER_END}", checked(idnr)),
    Pattern(Kind.NATIONAL_ID, rf"(?=\d){_NUMBER_START}\d{{4}} \d{{4}} \d{{4}}{_NUMBER_END}", checked(aadhaar)),
    Pattern(Kind.NATIONAL_ID, rf"(?=7){_NUMBER_START}756\.\d{{4}}\.\d{{4}}\.\d{{2}}{_NUMBER_END}", checked(ch_ssn)),
    Pattern(Kind.NATIONAL_ID, rf"(?=\d){_NUMBER_START}\d{{6}}[-+]\d{{4}}{_NUMBER_END}", checked(personnummer)),
    Pattern(Kind.SECRET, _SECRET, secret),
)
